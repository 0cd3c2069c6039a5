function refresh({ colors: changed = true } = {}) {
  if (changed) { recolor("left", state.layer, state); recolor("right", state.beside, state); }
  for (const button of $("layers").children) button.setAttribute("aria-pressed", button.dataset.layer === state.layer);
  $("compare").value = state.beside;
  $("caption-left").textContent = title(state.layer);
  $("caption-right").textContent = state.beside ? title(state.beside) : "";
  $("caption-right").hidden = $("divider").hidden = !state.beside;
  const [truth, guess] = pairOf();
  $("both").setAttribute("aria-pressed", state.layer === truth && state.beside === guess);
  $("both").hidden = !(layerOf.has(truth) && layerOf.has(guess));
  $("both").textContent = `${truth === "instances" ? "Instances" : "Truth"} | ${guess}`;
  showTab();
  $("legend").classList.toggle("isolating", state.only.size > 0);
  for (const row of $("legend").children) row.setAttribute("aria-pressed", state.only.has(Number(row.dataset.category)));
  $("all").hidden = !isolating();
  $("cut").checked = state.cut; $("mesh").checked = state.mesh; $("shade").checked = state.shade; $("boxes").checked = state.boxes;
  showKey();
  const address = [`layer=${state.layer}`];
  if (state.beside) address.push(`beside=${state.beside}`);
  if (state.only.size) address.push(`only=${[...state.only].join(",")}`);
  if (state.part) address.push(`part=${state.part}`);
  else if (state.object) address.push(`object=${state.object}`);
  else if (state.tab !== FIRST_TAB) address.push(`tab=${state.tab}`);
  if (state.boxes !== FIRST_BOXES) address.push(`boxes=${state.boxes ? 1 : 0}`);
  try { history.replaceState(null, "", "#" + address.join("&")); } catch { /* a sandboxed frame has no address to keep */ }
  redraw();
}

function showKey() {
  const rows = [];
  for (const name of new Set([state.layer, state.beside])) if (name) {
    const { swatches, ramp, low, high } = layerOf.get(name).key;
    for (const { color, name: meaning, share } of swatches) {
      const row = element("div"), swatch = element("span", "swatch");
      swatch.style.background = css(color);
      row.append(swatch, element("span", "name", meaning));
      if (share !== null) row.append(element("span", "quiet", percent(share)));
      rows.push(row);
    }
    if (ramp.length) {
      const row = element("div"), drawn = element("span", "ramp");
      drawn.style.background = `linear-gradient(to right, ${ramp.map(css).join(",")})`;
      if (/ 0$/.test(low) && /^1 /.test(high)) {  // a share of 0 to 1 is read off a scale
        const scale = element("span", "scale"), values = element("span", "ticks");
        values.append(...["0", "0.25", "0.5", "0.75", "1"].map(value => element("span", "quiet", value)));
        scale.append(drawn, values);
        row.append(element("span", "quiet", low.slice(0, -2)), scale, element("span", "quiet", high.slice(2)));
      } else row.append(element("span", "quiet", low), drawn, element("span", "quiet", high));
      rows.push(row);
    }
  }
  $("key").replaceChildren(...rows);
}

function isolate(category, several) {
  const only = state.only, alone = only.has(category) && only.size === 1;
  if (several) { if (!only.delete(category)) only.add(category); }
  else { only.clear(); if (!alone) only.add(category); }
  state.part = state.object = 0;
  refresh();
}
function showAll() { state.only.clear(); state.part = state.object = 0; refresh(); }
// Layers of the annotation and the prediction: of objects if one of these is shown, else of classes.
function pairOf() {
  const shown = [state.layer, state.beside];
  return layerOf.has("objects") && layerOf.has("instances") && (shown.includes("objects") || shown.includes("instances")) ? ["instances", "objects"] : ["truth", "prediction"];
}
function showBoth() {
  const [truth, guess] = pairOf(), both = state.layer === truth && state.beside === guess;
  [state.layer, state.beside] = both ? [guess, ""] : [truth, guess];
  refresh();
}
