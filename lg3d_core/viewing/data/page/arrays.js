async function unpack() {
  const text = $("data").textContent;
  $("data").remove();
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = new Uint8Array(await new Response(inflated).arrayBuffer());
  const sizes = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array };
  const arrays = {};
  for (const { name, type, rows, width, offset } of scene.arrays) {
    const rowBytes = new Uint8Array(rows * width);
    for (let column = 0; column < width; column++)  // equal bytes were stored together
      for (let row = 0, from = offset + column * rows; row < rows; row++) rowBytes[row * width + column] = all[from + row];
    arrays[name] = new sizes[type](rowBytes.buffer);
  }
  return arrays;
}
