const objects = scene.objects ?? [];
const objectList = () => objects.filter(one => one.confidence >= state.least);
const sizeOf = one => one.size.map(value => value.toFixed(2)).join(" × ") + " m";

function describeObject(one) {
  const lines = [`confidence ${one.confidence.toFixed(2)}`, sizeOf(one)];
  if (scene.instances.length) lines.push(one.iou === null ? "no annotated object here" : `IoU ${one.iou.toFixed(2)} with ${one.truth ?? "an object of another vocabulary"}`);
  return lines;
}

function fillObjects() {
  const rows = objectList().map(one => {
    const row = element("button", "object"), swatch = element("span", "swatch"), words = element("span", "words"), [first, size, match] = describeObject(one);
    swatch.style.background = css(one.color);
    words.append(element("span", "name", one.name), element("span", "quiet", `${first} · ${size}`));
    if (match) words.append(element("span", one.truth === one.name && one.iou > 0.5 ? "rightly" : "wrongly", match));
    row.dataset.object = one.number;
    row.title = `object ${one.title}: ${one.points.toLocaleString("en")} points; ` + one.names.map(([name, share]) => `${name} ${share.toFixed(2)}`).join(", ");
    row.append(swatch, words);
    row.onclick = () => flyTo(one.number === state.object ? 0 : one.number);
    return row;
  });
  $("object-rows").replaceChildren(...(rows.length ? rows : [element("div", "quiet", objects.length ? "No object has this confidence." : "No object was found.")]));
  $("object-count").textContent = `${rows.length} of ${scene.num_objects} objects`;
}

function showObjects() {
  $("least-value").textContent = state.least.toFixed(2);
  for (const row of $("object-rows").children) if (row.dataset.object) row.setAttribute("aria-pressed", Number(row.dataset.object) === state.object);
}

// Move to a predicted object and fade everything else, or without an object show the whole room.
function flyTo(number) {
  const one = objects.find(each => each.number === number);
  state.only.clear();
  state.part = 0;
  state.object = one ? number : 0;
  if (one) state.tab = "objects";
  refresh();
  if (one) [...$("object-rows").children].find(row => Number(row.dataset.object) === number)?.scrollIntoView({ block: "nearest" });
  fly(one ? partCamera(one) : { ...scene.camera, target: [...scene.camera.target] });
}
function stepObject(by) {
  const list = objectList(), now = list.findIndex(one => one.number === state.object);
  if (list.length) flyTo(list[(now < 0 ? (by > 0 ? 0 : list.length - 1) : now + by + list.length) % list.length].number);
}
