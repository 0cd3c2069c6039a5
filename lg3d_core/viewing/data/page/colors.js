// Three bytes per value of a layer's array.
const tables = new Map();
function tableOf(layer) {
  if (!tables.has(layer.name)) {
    let rows;
    if (layer.kind === "ramp") rows = Array.from({ length: 256 }, (_, value) => {
      const ramp = layer.key.ramp, spot = value / 255 * (ramp.length - 1), low = Math.min(Math.floor(spot), ramp.length - 2);
      return [0, 1, 2].map(k => ramp[low][k] + (spot - low) * (ramp[low + 1][k] - ramp[low][k]));
    });
    else if (layer.kind === "category") rows = Array.from({ length: highest + 2 }, (_, k) => entryOf.get(k - 1)?.color ?? scene.neutral);
    else if (layer.kind === "errors") rows = ["right", "wrong", "unannotated"].map(name => scene.errors.find(error => error.name === name).color);
    else rows = Array.from(arrays[`${layer.array}_number`], (_, k) => [...arrays[`${layer.array}_color`].subarray(3 * k, 3 * k + 3)]);
    tables.set(layer.name, Uint8Array.from(rows.flat().map(Math.round)));
  }
  return tables.get(layer.name);
}
const highest = Math.max(-1, ...entryOf.keys());
const instanceRows = new Map();  // of the arrays `instance` and `object`
function rowOfInstance(name) {
  if (!instanceRows.has(name)) {
    const row = new Map([...arrays[`${name}_number`]].map((number, k) => [number, k]));
    instanceRows.set(name, arrays[name].map(number => row.get(number)));
  }
  return instanceRows.get(name);
}

// One colour per vertex; alpha holds whether the vertex is faded by an isolation.
function recolor(side, name, { part = 0, object = 0, only = new Set() }) {
  if (!name) return;
  const layer = layerOf.get(name), { label, predicted } = arrays, values = arrays[layer.array], target = colors[side], count = scene.points;
  if (layer.kind === "rgb") {
    for (let i = 0, from = 0, to = 0; i < count; i++, to++) { target[to++] = values[from++]; target[to++] = values[from++]; target[to++] = values[from++]; }
  } else {
    const table = tableOf(layer), rows = layer.kind === "instance" ? rowOfInstance(layer.array) : values;
    const first = layer.kind === "category" ? 1 : 0, outcomes = layer.kind === "errors";
    for (let i = 0; i < count; i++) {
      const from = 3 * (outcomes ? (label[i] < 0 ? 2 : label[i] === predicted[i] ? 0 : 1) : rows[i] + first);
      target[4 * i] = table[from]; target[4 * i + 1] = table[from + 1]; target[4 * i + 2] = table[from + 2];
    }
  }
  const chosen = new Uint8Array(highest + 2);
  for (const category of only) chosen[category + 1] = 1;
  const byLabel = name !== "prediction" && name !== "objects", byGuess = name !== "truth" && predicted !== undefined;
  for (let i = 0; i < count; i++) {
    const lit = object ? arrays.object[i] === object : part ? arrays.part[i] === part : only.size === 0 || (byLabel && chosen[label[i] + 1]) || (byGuess && chosen[predicted[i] + 1]);
    target[4 * i + 3] = lit ? 255 : 0;
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, colorBuffers[side]);
  gl.bufferData(gl.ARRAY_BUFFER, target, gl.DYNAMIC_DRAW);
}
