"use strict";
const $ = id => document.getElementById(id);
const scene = JSON.parse($("description").textContent);
const canvas = $("canvas");
const isHeat = layer => layer.text !== null;  // the layer shows the heat of a text
const layerOf = new Map(scene.layers.map(layer => [layer.name, layer]));
const layerNames = [...layerOf.keys()];
const entryOf = new Map(scene.legend.map(entry => [entry.category, entry]));
const state = {
  layer: layerNames.includes("objects") ? scene.layers.find(isHeat)?.name ?? "objects" : layerNames.includes("prediction") ? "prediction" : layerNames.includes("truth") ? "truth" : "colours",
  beside: "", only: new Set(), part: 0, object: 0, boxes: scene.objects?.length > 0, least: 0, tab: scene.objects?.length ? "objects" : "legend", group: "", cut: true, mesh: scene.faces > 0, shade: true, camera: { ...scene.camera, target: [...scene.camera.target] },
};
const page = window.lg3d = { ready: false, state, scene };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;  // names come from files: never as HTML
  return made;
}
const css = color => `rgb(${color.join(",")})`;
const percent = share => share >= 0.0995 ? `${Math.round(share * 100)} %` : share >= 0.00095 ? `${(share * 100).toFixed(1)} %` : share > 0 ? "<0.1 %" : "–";
const title = name => layerOf.get(name).title;
const parts = scene.gallery.parts;
