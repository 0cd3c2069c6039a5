// Coarse version for motion on a slow machine: one vertex per cell, and the remaining triangles.
function makeCoarse(factor = 1) {
  if (coarse) { gl.deleteBuffer(coarse.pointBuffer); gl.deleteBuffer(coarse.faceBuffer); }
  const cell = factor * Math.max(3 * scene.spacing, Math.max(...scene.size) / 180), grid = scene.size.map(size => Math.floor(size / cell) + 1);
  const { position } = arrays, keep = new Map(), of = new Uint32Array(scene.points);
  for (let i = 0; i < scene.points; i++) {
    let key = 0;
    for (let k = 0; k < 3; k++) key = key * grid[k] + Math.floor(position[3 * i + k] / 65535 * scene.size[k] / cell);
    let kept = keep.get(key);
    if (kept === undefined) keep.set(key, kept = i);
    of[i] = kept;
  }
  const fewer = [];
  if (faces) for (let i = 0; i < faces.length; i += 3) {
    const a = of[faces[i]], b = of[faces[i + 1]], c = of[faces[i + 2]];
    if (a !== b && b !== c && a !== c) fewer.push(a, b, c);
  }
  const buffer = data => { const made = gl.createBuffer(); gl.bindVertexArray(null); gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, made); gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, data, gl.STATIC_DRAW); return made; };
  coarse = { cell, points: keep.size, pointBuffer: buffer(Uint32Array.from(keep.values())), faces: fewer.length / 3, faceBuffer: faces ? buffer(Uint32Array.from(fewer)) : null };
  page.coarse = coarse;
}
