let gl, program, finish, inFinish = {}, target = null, at = {}, arrays, vertexArrays = {}, colorBuffers = {}, colors = {}, faces = null, coarse = null, pending = false;

function compile(kind, source) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
  return shader;
}

function link(vertex, fragment) {
  const linked = gl.createProgram();
  gl.attachShader(linked, compile(gl.VERTEX_SHADER, vertex));
  gl.attachShader(linked, compile(gl.FRAGMENT_SHADER, fragment));
  gl.linkProgram(linked);
  if (!gl.getProgramParameter(linked, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(linked));
  return linked;
}

// Framebuffer of the first pass: colours and depths.
function makeTarget(width, height) {
  if (target && target.width === width && target.height === height) return;
  if (target) { gl.deleteTexture(target.color); gl.deleteTexture(target.depth); gl.deleteFramebuffer(target.frame); }
  const texture = (inside, format, type) => {
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    gl.texImage2D(gl.TEXTURE_2D, 0, inside, width, height, 0, format, type, null);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    return made;
  };
  target = { width, height, frame: gl.createFramebuffer(), color: texture(gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE), depth: texture(gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT) };
  gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.color, 0);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, target.depth, 0);
}

function prepareDrawing() {
  program = link(VERTEX, FRAGMENT);
  finish = link(FINISH_VERTEX, FINISH_FRAGMENT);
  for (const name of ["Color", "Depth", "Fine", "Planes", "Edges"]) inFinish[name] = gl.getUniformLocation(finish, "u" + name);
  for (const name of ["Low", "Size", "Eye", "Right", "Matrix", "Point", "Cut", "Shade", "Smooth", "Round", "Fade", "Pass", "Pick"])
    at[name] = gl.getUniformLocation(program, "u" + name);
  const count = scene.points, positions = new Uint16Array(count * 4), normals = new Int8Array(count * 4), outwards = new Int8Array(count * 4);
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < 3; k++) {  // four bytes a row: what graphics hardware likes
      positions[4 * i + k] = arrays.position[3 * i + k];
      normals[4 * i + k] = arrays.normal[3 * i + k];
      outwards[4 * i + k] = arrays.outward[3 * i + k];
    }
  }
  const fill = (target, data) => { const buffer = gl.createBuffer(); gl.bindBuffer(target, buffer); gl.bufferData(target, data, gl.STATIC_DRAW); return buffer; };
  const positionBuffer = fill(gl.ARRAY_BUFFER, positions), normalBuffer = fill(gl.ARRAY_BUFFER, normals), outwardBuffer = fill(gl.ARRAY_BUFFER, outwards);
  let faceBuffer = null;
  if (scene.faces) {
    faces = new Uint32Array(arrays.face_steps.length);
    for (let i = 0, vertex = 0; i < faces.length; i++) faces[i] = vertex += arrays.face_steps[i];
    faceBuffer = fill(gl.ELEMENT_ARRAY_BUFFER, faces);
  }
  for (const side of ["left", "right", "card"]) {
    colors[side] = new Uint8Array(count * 4);
    colorBuffers[side] = gl.createBuffer();
    vertexArrays[side] = gl.createVertexArray();
    gl.bindVertexArray(vertexArrays[side]);
    const attribute = (place, buffer, size, type, stride) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, true, stride, 0);
    };
    attribute(0, positionBuffer, 3, gl.UNSIGNED_SHORT, 8);
    attribute(1, normalBuffer, 3, gl.BYTE, 4);
    attribute(3, outwardBuffer, 3, gl.BYTE, 4);
    attribute(2, colorBuffers[side], 4, gl.UNSIGNED_BYTE, 4);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, faceBuffer);
  }
  gl.bindVertexArray(null);
  page.buffers = { full: faceBuffer };
}
