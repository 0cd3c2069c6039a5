function drawSide(side, { layer, camera, aspect, height, isolating, fade = 0.16, few = false, pick = false }) {
  const view = axes(camera);
  gl.useProgram(program);
  gl.uniform3fv(at.Low, scene.low); gl.uniform3fv(at.Size, scene.size); gl.uniform3fv(at.Eye, view.eye);
  gl.uniform3fv(at.Right, view.right);
  gl.uniformMatrix4fv(at.Matrix, false, matrix(camera, aspect));
  gl.uniform1f(at.Point, 1.5 * (few ? coarse.cell : scene.spacing) * height / (2 * tangent(aspect)));
  gl.uniform1f(at.Cut, state.cut ? 1 : 0);
  gl.uniform1f(at.Shade, !state.shade ? 0 : layer === "colours" ? 0.6 : 1);
  gl.uniform1f(at.Smooth, layerOf.get(layer).smooth ? 1 : 0);
  gl.uniform1f(at.Round, state.mesh ? 0 : 1);
  gl.uniform1f(at.Fade, fade);
  gl.uniform1i(at.Pick, pick ? 1 : 0);
  gl.bindVertexArray(vertexArrays[side]);
  if (few) gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, state.mesh ? coarse.faceBuffer : coarse.pointBuffer);
  for (const pass of isolating ? [1, 2] : [0]) {
    if (pass === 2) gl.clear(gl.DEPTH_BUFFER_BIT);  // the isolated part is visible through the faded rest
    gl.uniform1i(at.Pass, pass);
    if (state.mesh) gl.drawElements(gl.TRIANGLES, 3 * (few ? coarse.faces : scene.faces), gl.UNSIGNED_INT, 0);
    else if (few) gl.drawElements(gl.POINTS, coarse.points, gl.UNSIGNED_INT, 0);
    else gl.drawArrays(gl.POINTS, 0, scene.points);
  }
  if (few) gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, page.buffers.full);
}

// Draws views beside each other, each pixel `fine` x `fine` times and averaged, into the canvas or another frame.
function render(views, { camera, width, height, fine, isolating, fade, frame = null, few = false }) {
  const columns = width * fine, rows = height * fine, each = views.length > 1 ? Math.floor(columns / 2) : columns;
  makeTarget(columns, rows);
  gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(1, 1, 1, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.SCISSOR_TEST);
  views.forEach(([side, layer], k) => {
    const x = k ? columns - each : 0;
    gl.viewport(x, 0, each, rows);
    gl.scissor(x, 0, each, rows);
    drawSide(side, { layer, camera, aspect: each / rows, height: rows, isolating, fade, few });
    if (!frame) drawBoxes(layer, { camera, aspect: each / rows, columns: each, rows });
  });
  gl.disable(gl.SCISSOR_TEST);
  gl.disable(gl.DEPTH_TEST);
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  gl.viewport(0, 0, width, height);
  gl.useProgram(finish);
  gl.bindVertexArray(null);
  gl.activeTexture(gl.TEXTURE1);
  gl.bindTexture(gl.TEXTURE_2D, target.depth);
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, target.color);
  gl.uniform1i(inFinish.Color, 0); gl.uniform1i(inFinish.Depth, 1); gl.uniform1i(inFinish.Fine, fine);
  gl.uniform2fv(inFinish.Planes, planes(camera)); gl.uniform1f(inFinish.Edges, state.shade ? 14 / 16 : 0);
  gl.drawArrays(gl.TRIANGLES, 0, 3);
}

// Each pixel is drawn once during motion, and otherwise four times and averaged.
function draw(fine = 2, few = false) {
  if (Math.max(canvas.width, canvas.height) * fine > gl.getParameter(gl.MAX_TEXTURE_SIZE)) fine = 1;
  render(viewsOf(), { camera: state.camera, width: canvas.width, height: canvas.height, fine, isolating: isolating(), fade: state.part || state.object ? CONTEXT : undefined, few });
  showNames();
}
const viewsOf = () => state.beside ? [["left", state.layer], ["right", state.beside]] : [["left", state.layer]];
const isolating = () => state.only.size > 0 || state.part > 0 || state.object > 0;

// The first frames of a motion are timed. A slow machine then uses a coarse version at half the resolution, and an even
// coarser one if necessary.
const SLOW = [45, 100, 100];  // milliseconds per frame: complete scene, first coarse versions
let level = 0, timed = [];
function drawMoving() {
  const started = performance.now();
  if (page.slow) resize(0.5);
  draw(1, page.slow === true);
  if (timed.length >= 6 || level === SLOW.length) return;
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  timed.push(performance.now() - started);
  if (timed.length < 3 || !timed.slice(-3).every(milliseconds => milliseconds > SLOW[level])) return;
  makeCoarse(1.7 ** level++);
  timed = [];
  page.slow = true;
}
let resting = 0;
function redraw() {
  numbersStale = page.moving = true;
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; drawMoving(); });
  clearTimeout(resting);
  resting = setTimeout(() => requestAnimationFrame(() => { if (!pending) { page.moving = false; resize(); draw(2); hover(); } }), 150);
}

function resize(factor = 1) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2) * factor, box = $("stage").getBoundingClientRect();
  const width = Math.max(2, Math.round(box.width * ratio)), height = Math.max(2, Math.round(box.height * ratio));
  if (canvas.width === width && canvas.height === height) return;  // setting it would clear it
  canvas.width = width;
  canvas.height = height;
  numbersStale = true;
}

// Vertex numbers as colours: drawn for picking, and kept until the picture changes.
let numbers = null, numbersStale = true;
function drawNumbers() {
  const { width, height } = canvas, views = viewsOf(), each = views.length > 1 ? Math.floor(width / 2) : width;
  if (!numbers || numbers.width !== width || numbers.height !== height) {
    if (numbers) { gl.deleteTexture(numbers.color); gl.deleteRenderbuffer(numbers.depth); gl.deleteFramebuffer(numbers.frame); }
    numbers = { width, height, color: gl.createTexture(), depth: gl.createRenderbuffer(), frame: gl.createFramebuffer() };
    gl.bindTexture(gl.TEXTURE_2D, numbers.color);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindRenderbuffer(gl.RENDERBUFFER, numbers.depth);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT24, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, numbers.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, numbers.color, 0);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, numbers.depth);
  }
  gl.bindFramebuffer(gl.FRAMEBUFFER, numbers.frame);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  gl.enable(gl.SCISSOR_TEST);
  views.forEach(([side, layer], k) => {
    const x = k ? width - each : 0;
    gl.viewport(x, 0, each, height);
    gl.scissor(x, 0, each, height);
    drawSide(side, { layer, camera: state.camera, aspect: each / height, height, isolating: isolating(), pick: true });
  });
  gl.disable(gl.SCISSOR_TEST);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  numbersStale = false;
}
