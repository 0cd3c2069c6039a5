// Heat of queries while the page is open, pushed by the server of the page.
const ASKED_AT_ONCE = 6, asked = [];  // names of these layers, oldest first

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
}

function forget(name) {
  scene.layers.splice(scene.layers.findIndex(layer => layer.name === name), 1);
  layerNames.splice(layerNames.indexOf(name), 1);
  layerOf.delete(name);
  tables.delete(name);
  delete arrays[name];
  [...$("layers").children].find(button => button.dataset.layer === name)?.remove();
  [...$("compare").options].find(option => option.value === name)?.remove();
  if (state.beside === name) state.beside = "";
  nameKeys();
}

async function takeHeat({ layer, data }) {
  const values = await inflate(data);
  if (values.length !== scene.points) throw new Error(`heat of ${values.length} vertices for a scene of ${scene.points}`);
  const again = scene.layers.find(known => known.text === layer.text);
  if (again) layer = again;
  arrays[layer.array] = values;
  if (!again) {
    scene.layers.push(layer);
    layerOf.set(layer.name, layer);
    layerNames.push(layer.name);
    addLayer(layer);
    asked.push(layer.name);
    if (asked.length > ASKED_AT_ONCE) forget(asked.shift());
  }
  state.layer = layer.name;
  refresh();
}

// In order, and not before the scene is ready.
let turnOf = Promise.resolve();
function listen() {
  const source = new EventSource("events");
  source.addEventListener("heat", event => {
    turnOf = turnOf.then(() => takeHeat(JSON.parse(event.data))).catch(error => console.error(error));
  });
  source.addEventListener("end", () => { source.close(); page.listening = false; $("ask").hidden = true; tell(scene.asks ? "lg3d ask has ended." : "The prompt has ended."); });
  source.onopen = () => { page.listening = true; tell(scene.asks ? "Type a query here or at the prompt of lg3d ask." : "Type a query at the prompt of lg3d ask to see its heat here."); };
  source.onerror = () => tell("No connection to lg3d ask.", true);
  $("live").hidden = false;
  $("ask").hidden = !scene.asks;
}
function tell(text, wrong = false) { $("live").textContent = text; $("live").classList.toggle("wrong", wrong); }

// The server sends the heat of a phrase to every open page, including this one.
async function askServer() {
  const text = $("phrase").value.trim();
  if (!text || $("find").disabled) return;
  $("find").disabled = true;
  tell("Searching …");
  try {
    const answer = await fetch("ask", { method: "POST", headers: { "Content-Type": "text/plain;charset=utf-8" }, body: text });
    const words = (await answer.text()).trim();
    tell(words, !answer.ok);
    if (answer.ok) $("phrase").select();
  } catch { tell("No connection to lg3d ask.", true); }
  $("find").disabled = false;
}
$("ask").addEventListener("submit", event => { event.preventDefault(); askServer(); });
started.then(() => { if (page.ready) listen(); });
