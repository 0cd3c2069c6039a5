function axes(camera) {
  const a = camera.azimuth * Math.PI / 180, e = camera.elevation * Math.PI / 180;
  const back = [Math.cos(a) * Math.cos(e), Math.sin(a) * Math.cos(e), Math.sin(e)], right = [-Math.sin(a), Math.cos(a), 0];
  const up = [back[1] * right[2] - back[2] * right[1], back[2] * right[0] - back[0] * right[2], back[0] * right[1] - back[1] * right[0]];
  return { right, up, back, eye: camera.target.map((value, k) => value + camera.distance * back[k]) };
}
const tangent = aspect => Math.tan(scene.camera.fov * Math.PI / 360) * Math.max(1, 4 / 3 / aspect);

const planes = camera => [Math.max(0.02, camera.distance * 0.02), camera.distance + 4 * Math.hypot(...scene.size) + 10];

function matrix(camera, aspect) {
  const { right, up, back, eye } = axes(camera), t = tangent(aspect), [near, far] = planes(camera);
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
  const rows = [right.map(v => v / (t * aspect)), up.map(v => v / t), back], shift = rows.map(row => -dot(row, eye));
  const a = -(far + near) / (far - near), b = -2 * far * near / (far - near), columns = [];
  for (let k = 0; k < 3; k++) columns.push(rows[0][k], rows[1][k], a * rows[2][k], -rows[2][k]);
  return new Float32Array([...columns, shift[0], shift[1], a * shift[2] + b, -shift[2]]);
}
