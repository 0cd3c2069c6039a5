function addLayer(layer) {
  const button = element("button", "", layer.title);
  button.dataset.layer = layer.name;
  button.onclick = () => { state.layer = layer.name; refresh(); };
  $("layers").append(button);
  $("compare").append(new Option(`beside: ${layer.title}`, layer.name));
  nameKeys();
}
function nameKeys() {
  [...$("layers").children].forEach((button, k) => { button.title = button.textContent + (k < 9 ? ` (key ${k + 1})` : ""); });
}

function buildPanel() {
  $("name").textContent = scene.scene;
  const count = number => number.toLocaleString("en");
  $("counts").textContent = `${count(scene.points)} vertices` + (scene.faces ? ` · ${count(scene.faces)} faces` : "");
  if (scene.scores) $("scores").textContent = `accuracy ${(scene.scores.accuracy * 100).toFixed(1)} % · mIoU ${(scene.scores.miou * 100).toFixed(1)} (${scene.scores.num_categories} classes)`;
  $("compare").append(new Option("nothing beside", ""));
  for (const layer of scene.layers) addLayer(layer);
  $("both").onclick = showBoth;
  $("compare").onchange = event => { state.beside = event.target.value; refresh(); };
  const hasIou = scene.legend.some(entry => entry.iou !== null);
  $("iou-head").hidden = !hasIou;
  for (const tab of TABS) { $("tab-" + tab).onclick = () => openTab(tab); $("tab-" + tab).hidden = !hasTab(tab); }
  $("tabs").hidden = TABS.filter(hasTab).length < 2;
  fillObjects();
  $("least").oninput = event => { state.least = Number(event.target.value); fillObjects(); refresh({ colors: false }); };
  $("tab-gallery").title = scene.gallery.annotated ? "Every annotated object" : "Every region of one predicted class";
  state.group = GROUPS[0] ?? "";
  for (const group of GROUPS) {
    const button = element("button", "", `${group || "all"} ${parts.filter(part => part.group === group).length}`);
    button.dataset.group = group;
    button.onclick = () => { state.group = group; refresh({ colors: false }); };
    $("groups").append(button);
  }
  $("cards").onscroll = () => setTimeout(drawCards, 0);
  for (const entry of scene.legend) {
    const row = element("button", "entry"), swatch = element("span", "swatch");
    row.dataset.category = entry.category;
    row.title = entry.name + (entry.group ? ` (${entry.group})` : "") + (entry.predicted_share === null ? "" : `: predicted on ${percent(entry.predicted_share)}`);
    swatch.style.background = css(entry.color);
    row.append(swatch, element("span", "name", entry.name), element("span", "number", percent(entry.share)));
    if (hasIou) {
      const cell = element("span", "number bar", entry.iou === null ? "–" : (entry.iou * 100).toFixed(0)), bar = element("i");
      bar.style.width = `${Math.round((entry.iou ?? 0) * 44)}px`;
      cell.append(bar);
      row.append(cell);
    }
    row.onclick = event => isolate(entry.category, event.shiftKey || event.ctrlKey || event.metaKey);
    $("legend").append(row);
  }
  $("mesh-label").hidden = scene.faces === 0;
  $("boxes-label").hidden = !hasBoxes();
  for (const name of ["cut", "mesh", "shade", "boxes"]) $(name).onchange = event => { state[name] = event.target.checked; refresh({ colors: false }); };
  $("all").onclick = showAll;
  $("reset").onclick = resetView;
  $("save").onclick = savePicture;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (layerNames.includes(given.get("layer"))) state.layer = given.get("layer");
  if (layerNames.includes(given.get("beside"))) state.beside = given.get("beside");
  for (const text of (given.get("only") ?? "").split(",")) if (text && entryOf.has(Number(text))) state.only.add(Number(text));
  if (TABS.includes(given.get("tab")) && hasTab(given.get("tab"))) state.tab = given.get("tab");
  if (hasBoxes() && ["0", "1"].includes(given.get("boxes"))) state.boxes = given.get("boxes") === "1";
  const one = objects.find(each => each.number === Number(given.get("object")));
  if (one) { state.only.clear(); Object.assign(state, { object: one.number, tab: "objects", camera: partCamera(one) }); }
  const part = parts.find(one => one.number === Number(given.get("part")));
  if (part) { state.only.clear(); Object.assign(state, { part: part.number, object: 0, tab: "gallery", group: part.group, camera: partCamera(part) }); }
}

function resetView() { stopFlight(); state.camera = { ...scene.camera, target: [...scene.camera.target] }; redraw(); }

// At twice the resolution of the screen, on white.
function savePicture() {
  const shown = [canvas.width, canvas.height];
  resize(2);
  draw();
  const paper = element("canvas");  // the scene, and the names above it
  [paper.width, paper.height] = [canvas.width, canvas.height];
  paper.getContext("2d").drawImage(canvas, 0, 0);
  if (state.boxes) drawNames(paper, canvas.clientWidth, canvas.clientHeight);
  paper.toBlob(blob => {
    const link = element("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${scene.scene}-${state.layer}${state.beside ? "-" + state.beside : ""}.png`.replace(/[^\w.-]+/g, "_");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  [canvas.width, canvas.height] = shown;
  draw();
}
