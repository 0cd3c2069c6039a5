const started = (async () => {
  buildPanel();
  readAddress();
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old: it lacks DecompressionStream (available since 2023).");
  gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
  if (!gl) throw new Error("This browser has no WebGL2: enable hardware acceleration, or use another browser.");
  arrays = await unpack();
  page.arrays = arrays;
  prepareDrawing();
  canvas.addEventListener("webglcontextlost", () => { $("message").textContent = "The graphics driver was reset: reload the page."; $("message").hidden = false; });
  resize();
  refresh();
  draw();
  page.ready = true;
  document.body.dataset.ready = "yes";
  $("message").hidden = true;
})().catch(error => { $("message").textContent = error.message; document.body.dataset.failed = error.message; console.error(error); });
