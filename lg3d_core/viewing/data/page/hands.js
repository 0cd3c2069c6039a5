function turn(dx, dy) {
  state.camera.azimuth -= dx * 0.35;
  state.camera.elevation = Math.min(89.5, Math.max(-89.5, state.camera.elevation + dy * 0.35));
  redraw();
}
function move(dx, dy) {
  const { right, up } = axes(state.camera), box = canvas.getBoundingClientRect(), w = state.beside ? box.width / 2 : box.width;
  const metres = 2 * state.camera.distance * tangent(w / box.height) / box.height;
  state.camera.target = state.camera.target.map((value, k) => value + metres * (-dx * right[k] + dy * up[k]));
  redraw();
}
function zoom(factor) {
  const size = Math.hypot(...scene.size);
  state.camera.distance = Math.min(20 * size + 1, Math.max(0.02 * size + 0.01, state.camera.distance * factor));
  redraw();
}

const held = new Map();
let travelled = 0;
const local = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  stopFlight();
  if (held.size === 0) travelled = 0;
  held.set(event.pointerId, local(event));
  canvas.classList.add("held");
  askHover();
});
canvas.addEventListener("pointermove", event => {
  const now = local(event), before = held.get(event.pointerId);
  if (!before) { if (event.pointerType === "mouse") askHover(...now); return; }
  const dx = now[0] - before[0], dy = now[1] - before[1];
  travelled += Math.hypot(dx, dy);
  if (held.size === 2) {
    const other = [...held].find(([id]) => id !== event.pointerId)[1];
    const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(now[0] - other[0], now[1] - other[1]);
    if (was > 5 && is > 5) zoom(was / is);
    move(dx / 2, dy / 2);
  } else if (held.size === 1) (event.shiftKey || event.ctrlKey || event.buttons & 6 ? move : turn)(dx, dy);
  held.set(event.pointerId, now);
});
function release(event) {
  if (!held.delete(event.pointerId)) return;
  if (held.size === 0) canvas.classList.remove("held");
  if (event.type !== "pointerup" || travelled > 4 || held.size || event.button !== 0 || !page.ready) return;
  const [x, y] = local(event), { vertex, side } = pick(x, y);
  if (event.pointerType !== "mouse") { askHover(x, y); return; }  // touch has no hover: a tap shows the details
  if (vertex < 0) return;
  const layer = side === "left" ? state.layer : state.beside;
  if (layer === "objects" && arrays.object[vertex] > 0) { flyTo(arrays.object[vertex] === state.object ? 0 : arrays.object[vertex]); return; }
  const category = layer === "prediction" || layer === "objects" || layer === "confidence" || isHeat(layerOf.get(layer)) || arrays.label[vertex] < 0 ? arrays.predicted?.[vertex] : arrays.label[vertex];
  if (category !== undefined && entryOf.has(category)) isolate(category, event.shiftKey);
}
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") askHover(); });  // touch input leaves whenever a finger is lifted
canvas.addEventListener("contextmenu", event => event.preventDefault());
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  stopFlight();
  zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY * (event.deltaMode ? 16 : 1))) * 0.0022));
  askHover(...local(event));
}, { passive: false });
canvas.addEventListener("dblclick", event => {
  const { vertex } = pick(...local(event));
  if (vertex >= 0) { state.camera.target = place(vertex); state.camera.distance *= 0.6; redraw(); }
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName) && event.target.type !== "checkbox" || !page.ready) return;
  const go = event.shiftKey ? move : turn, key = event.key.toLowerCase();
  const actions = {
    arrowleft: () => go(-20, 0), arrowright: () => go(20, 0), arrowup: () => go(0, -20), arrowdown: () => go(0, 20),
    "+": () => zoom(0.87), "=": () => zoom(0.87), "-": () => zoom(1.15),
    r: resetView, s: savePicture, escape: showAll,
    b: () => { if (!$("both").hidden) showBoth(); }, g: () => openTab(state.tab === "gallery" ? "legend" : "gallery"), o: () => openTab(state.tab === "objects" ? "legend" : "objects"),
    n: () => state.tab === "objects" ? stepObject(1) : step(1), p: () => state.tab === "objects" ? stepObject(-1) : step(-1),
    x: () => { state.boxes = hasBoxes() && !state.boxes; refresh({ colors: false }); },
    c: () => { state.cut = !state.cut; refresh({ colors: false }); },
    f: () => { state.mesh = scene.faces > 0 && !state.mesh; refresh({ colors: false }); },
    t: () => { state.camera.elevation = 89.5; redraw(); },
    v: () => { state.beside = state.beside ? "" : layerNames[(layerNames.indexOf(state.layer) + 1) % layerNames.length]; refresh(); },
  };
  const layer = layerNames[Number(key) - 1];
  if (layer) { state.layer = layer; refresh(); }
  else if (actions[key]) actions[key]();
  else return;
  event.preventDefault();
});
new ResizeObserver(() => { if (page.ready) { resize(); draw(); } }).observe($("stage"));
