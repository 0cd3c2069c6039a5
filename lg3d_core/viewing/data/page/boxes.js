// Boxes of objects. Each edge is a thin quad that faces the screen; where a surface hides it, it is faint.
const BOX_VERTEX = `#version 300 es
layout(location=0) in vec3 aFrom; layout(location=1) in vec3 aTo; layout(location=2) in vec2 aPlace; layout(location=3) in vec3 aColor;
uniform mat4 uMatrix; uniform vec2 uScreen; uniform float uWidth;
out vec3 vColor;
void main() {
  vec4 a = uMatrix * vec4(aFrom, 1.0), b = uMatrix * vec4(aTo, 1.0);
  float near = 0.01;
  if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < near) a = mix(a, b, (near - a.w) / (b.w - a.w));
  if (b.w < near) b = mix(b, a, (near - b.w) / (a.w - b.w));
  vec2 along = (b.xy / b.w - a.xy / a.w) * uScreen;
  along = length(along) > 0.0 ? normalize(along) : vec2(1.0, 0.0);
  vec4 end = aPlace.x > 0.5 ? b : a;
  vec2 aside = (vec2(-along.y, along.x) * aPlace.y + along * (2.0 * aPlace.x - 1.0)) * uWidth / uScreen;
  vColor = aColor;
  gl_Position = end + vec4(aside * end.w, -0.002 * end.w, 0.0);
}`;
const BOX_FRAGMENT = `#version 300 es
precision highp float;
in vec3 vColor;
uniform float uAlpha;
out vec4 color;
void main() { color = vec4(vColor, uAlpha); }`;
const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
const ENDS = [[0, -1], [1, -1], [1, 1], [0, -1], [1, 1], [0, 1]];  // two triangles: end of the edge, side
const MOST_NAMES = 40;
let boxProgram = null, inBoxes = {}, boxArray = null, boxBuffer = null;

// The layers of the annotation have annotated boxes, all others predicted ones if there are any.
const hasAnnotatedBoxes = layer => scene.objects === null || layer === "truth" || layer === "instances";
// With the near walls, the boxes of what belongs to them are cut away.
const isCut = (one, eye) => state.cut && Math.hypot(...one.outward) > 0.5 && one.outward.reduce((sum, value, k) => sum + value * (eye[k] - one.middle[k]), 0) > 0;
function boxesOf(layer, camera = state.camera) {
  if (!state.boxes) return [];
  const { eye } = axes(camera);
  const annotated = hasAnnotatedBoxes(layer), all = annotated ? scene.instances : scene.objects;
  if (state.object) return annotated ? [] : all.filter(one => one.number === state.object);
  if (state.part) return [];
  return all.filter(one => !isCut(one, eye) && (state.only.size === 0 || state.only.has(one.category)) && (annotated || one.confidence >= state.least));
}
const hasBoxes = () => scene.instances.length > 0 || scene.objects?.length > 0;
const inkOf = color => color.map(value => Math.round(0.72 * value));

function drawBoxes(layer, { camera, aspect, columns, rows }) {
  const boxes = boxesOf(layer, camera);
  if (boxes.length === 0) return;
  if (!boxProgram) {
    boxProgram = link(BOX_VERTEX, BOX_FRAGMENT);
    for (const name of ["Matrix", "Screen", "Width", "Alpha"]) inBoxes[name] = gl.getUniformLocation(boxProgram, "u" + name);
    boxArray = gl.createVertexArray();
    boxBuffer = gl.createBuffer();
    gl.bindVertexArray(boxArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, boxBuffer);
    [[3, 0], [3, 12], [2, 24], [3, 32]].forEach(([size, offset], place) => { gl.enableVertexAttribArray(place); gl.vertexAttribPointer(place, size, gl.FLOAT, false, 44, offset); });
  }
  const values = [];
  for (const { corners, color } of boxes) for (const [from, to] of EDGES) for (const end of ENDS)
    values.push(...corners[from], ...corners[to], ...end, ...inkOf(color).map(value => value / 255));
  gl.useProgram(boxProgram);
  gl.bindVertexArray(boxArray);
  gl.bindBuffer(gl.ARRAY_BUFFER, boxBuffer);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(values), gl.DYNAMIC_DRAW);
  gl.uniformMatrix4fv(inBoxes.Matrix, false, matrix(camera, aspect));
  gl.uniform2f(inBoxes.Screen, columns, rows);
  gl.uniform1f(inBoxes.Width, (state.object ? 2.2 : 1.5) * rows / Math.max(1, canvas.clientHeight));
  gl.depthMask(false);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  for (const [test, alpha] of [[gl.GREATER, 0.22], [gl.LEQUAL, 1]]) {
    gl.depthFunc(test);
    gl.uniform1f(inBoxes.Alpha, alpha);
    gl.drawArrays(gl.TRIANGLES, 0, 72 * boxes.length);
  }
  gl.disable(gl.BLEND);
  gl.depthMask(true);
  gl.depthFunc(gl.LESS);
}

// Names above the boxes, nearest first, each only where it covers no other.
function drawNames(target, width, height) {
  const pen = target.getContext("2d"), ratio = target.width / width, views = viewsOf(), each = width / views.length;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = '600 12px system-ui, "DejaVu Sans", sans-serif';
  pen.textAlign = "center";
  pen.textBaseline = "bottom";
  pen.lineJoin = "round";
  views.forEach(([, layer], k) => {
    const m = matrix(state.camera, each / height), taken = [], names = [];
    for (const { name, middle, size, color } of boxesOf(layer)) {
      const top = [middle[0], middle[1], middle[2] + size[2] / 2], clip = [0, 1, 3].map(row => m[row] * top[0] + m[row + 4] * top[1] + m[row + 8] * top[2] + m[row + 12]);
      if (clip[2] > 0.05) names.push({ name, color, away: clip[2], x: k * each + (clip[0] / clip[2] + 1) * each / 2, y: (1 - clip[1] / clip[2]) * height / 2 - 3 });
    }
    names.sort((a, b) => a.away - b.away);
    for (const { name, color, x, y } of names) {
      const wide = pen.measureText(name).width / 2 + 4, box = [x - wide, y - 15, x + wide, y + 1];
      if (taken.length >= MOST_NAMES || box[0] < k * each || box[2] > (k + 1) * each || box[1] < 0 || box[3] > height) continue;
      if (taken.some(other => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      pen.lineWidth = 4;
      pen.strokeStyle = "rgba(255,255,255,.92)";
      pen.strokeText(name, x, y);
      pen.fillStyle = css(color.map(value => Math.round(0.45 * value)));
      pen.fillText(name, x, y);
    }
    if (k === 0) page.named = taken.length;
  });
}
function showNames() {
  const { width, height } = $("stage").getBoundingClientRect(), names = $("names"), ratio = Math.min(window.devicePixelRatio || 1, 2);
  [names.width, names.height] = [Math.round(width * ratio), Math.round(height * ratio)];  // clears it
  page.named = 0;
  if (state.boxes) drawNames(names, width, height);
}
