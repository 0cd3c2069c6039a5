// Vertex at a position on the canvas (CSS pixels), or -1.
function pick(x, y) {
  if (numbersStale) drawNumbers();
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width, read = new Uint8Array(100);
  const px = Math.floor(x * scale), py = canvas.height - 1 - Math.floor(y * scale);
  gl.bindFramebuffer(gl.FRAMEBUFFER, numbers.frame);
  gl.readPixels(px - 2, py - 2, 5, 5, gl.RGBA, gl.UNSIGNED_BYTE, read);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  let best = -1, closest = Infinity;
  for (let k = 0; k < 25; k++) {
    const id = read[4 * k] + 256 * read[4 * k + 1] + 65536 * read[4 * k + 2] + 16777216 * read[4 * k + 3] - 1;
    const distance = (k % 5 - 2) ** 2 + (Math.floor(k / 5) - 2) ** 2;
    if (id >= 0 && distance < closest) { closest = distance; best = id; }
  }
  return { vertex: best, side: state.beside && x > box.width / 2 ? "right" : "left" };
}
page.pick = pick;
const place = vertex => [0, 1, 2].map(k => scene.low[k] + scene.size[k] * arrays.position[3 * vertex + k] / 65535);
const categoryName = category => entryOf.get(category)?.name;

let hoverAt = null;
function hover() {
  const tip = $("tip");
  if (!hoverAt || !page.ready || (page.slow && numbersStale && page.moving)) { tip.hidden = true; return; }  // shown when the motion ends
  const { vertex } = pick(...hoverAt);
  if (vertex < 0) { tip.hidden = true; return; }
  const { label, predicted, confidence, instance } = arrays;
  const known = label[vertex] >= 0, guess = predicted && predicted[vertex] >= 0 ? categoryName(predicted[vertex]) : null;
  const lines = [element("b", "", known ? categoryName(label[vertex]) : scene.layers.some(layer => layer.name === "truth") ? "not annotated" : guess ?? "no annotation")];
  if (predicted) lines.push(element("div", known && predicted[vertex] !== label[vertex] ? "wrong" : "", `predicted ${guess ?? "nothing"}, confidence ${(confidence[vertex] / 255).toFixed(2)}`));
  if (instance && instance[vertex] > 0) lines.push(element("div", "", `instance ${instance[vertex]}`));
  const own = arrays.object?.[vertex] > 0 ? objects.find(one => one.number === arrays.object[vertex]) : null;
  if (own) lines.push(element("div", "", `object ${own.title}: ${own.name}, confidence ${own.confidence.toFixed(2)}`));
  for (const layer of scene.layers) if (isHeat(layer)) lines.push(element("div", "", `${layer.title} ${(arrays[layer.array][vertex] / 255).toFixed(2)}`));
  const group = entryOf.get(known ? label[vertex] : predicted?.[vertex])?.group;
  if (group) lines.push(element("div", "", `${group} class`));
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const stage = $("stage").getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(hoverAt[0] + 14, stage.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(hoverAt[1] + 16, stage.height - tip.offsetHeight - 4))}px`;
}
let hoverWaiting = false;
function askHover(x, y) {
  hoverAt = x === undefined ? null : [x, y];
  if (!hoverWaiting) { hoverWaiting = true; requestAnimationFrame(() => { hoverWaiting = false; hover(); }); }
}
