const CARD = [264, 198], MOST_CARDS = 80, CONTEXT = 0.42;  // visibility of an object's surroundings
const GROUPS = [...new Set(parts.map(part => part.group))];  // tail first: the parts come in that order
let cardGroup = null, cardFrame = null, waiting = [];

// From the centre of the room, so that a wall is behind the object.
function partCamera(part, room = 2) {
  const [x, y] = [0, 1].map(k => scene.low[k] + scene.size[k] / 2 - part.middle[k]);
  const azimuth = Math.hypot(x, y) > 0.25 ? Math.atan2(y, x) * 180 / Math.PI : scene.camera.azimuth;
  return { ...scene.camera, target: [...part.middle], azimuth, elevation: 35, distance: Math.max(0.8 * room, room * part.radius / Math.sin(scene.camera.fov * Math.PI / 360)) };
}

function drawCard(part, card) {
  if (!cardFrame) {
    const texture = gl.createTexture();
    cardFrame = gl.createFramebuffer();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, ...CARD, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, cardFrame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  }
  const [width, height] = CARD, camera = partCamera(part, 1.3), read = new Uint8ClampedArray(4 * width * height), image = new ImageData(width, height);
  recolor("card", "colours", { part: part.number });
  render([["card", "colours"]], { camera, width, height, fine: 2, isolating: true, fade: CONTEXT, frame: cardFrame });
  gl.bindFramebuffer(gl.FRAMEBUFFER, cardFrame);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(read.buffer));
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  for (let row = 0; row < height; row++) image.data.set(read.subarray(4 * width * (height - 1 - row), 4 * width * (height - row)), 4 * width * row);
  card.querySelector("canvas").getContext("2d").putImageData(image, 0, 0);
  card.dataset.drawn = "yes";
}
// One at a time, visible ones first, so that the page stays responsive.
function drawCards() {
  if (!page.ready || state.tab !== "gallery" || waiting.length === 0) return;
  const box = $("cards").getBoundingClientRect();
  const seen = waiting.findIndex(([, card]) => { const own = card.getBoundingClientRect(); return own.bottom > box.top && own.top < box.bottom; });
  if (seen < 0) return;  // the rest when they are scrolled to
  const [[part, card]] = waiting.splice(seen, 1);
  if (pending || held.size) waiting.unshift([part, card]);
  else drawCard(part, card);
  setTimeout(drawCards, 0);
}

function describePart(part) {
  if (part.right !== null) return part.predicted === part.name ? ["rightly", `${percent(part.right)} right`] : ["wrongly", `predicted ${part.predicted}`];
  return part.confidence !== null ? ["quiet", `confidence ${part.confidence.toFixed(2)}`] : ["quiet", `${part.vertices.toLocaleString("en")} vertices`];
}

function fillCards() {
  cardGroup = state.group;
  waiting = [];
  const shown = parts.filter(part => part.group === state.group), cards = [];
  for (const part of shown.slice(0, MOST_CARDS)) {
    const card = element("button", "card"), picture = element("canvas"), [kind, line] = describePart(part);
    [picture.width, picture.height] = CARD;
    card.dataset.part = part.number;
    card.title = `${part.name}: ${part.vertices.toLocaleString("en")} vertices` + (part.predicted === null ? "" : `, most of them predicted ${part.predicted}`);
    card.append(picture, element("div", "name", part.name), element("div", kind, line));
    card.onclick = () => jump(part.number === state.part ? 0 : part.number);
    cards.push(card);
    waiting.push([part, card]);
  }
  if (shown.length > MOST_CARDS) { const more = element("div", "quiet", `and ${shown.length - MOST_CARDS} more`); more.id = "more"; cards.push(more); }
  $("cards").replaceChildren(...cards);
  $("cards").scrollTop = 0;
}

function showTab() {
  for (const tab of TABS) { $(tab).hidden = state.tab !== tab; $("tab-" + tab).setAttribute("aria-selected", state.tab === tab); }
  $("heads").hidden = state.tab !== "legend" || scene.legend.length === 0;
  showObjects();
  if (state.tab !== "gallery") return;
  if (cardGroup !== state.group) fillCards();
  for (const button of $("groups").children) button.setAttribute("aria-pressed", button.dataset.group === state.group);
  for (const card of $("cards").children) card.setAttribute("aria-pressed", Number(card.dataset.part) === state.part);
  setTimeout(drawCards, 0);
}
const TABS = ["legend", "objects", "gallery"], FIRST_TAB = state.tab, FIRST_BOXES = state.boxes;
const hasTab = tab => tab === "legend" || (tab === "objects" ? scene.objects !== null : tab === "gallery" && parts.length > 0);
function openTab(tab) { if (hasTab(tab)) { state.tab = tab; refresh({ colors: false }); } }

// Move to one object and fade everything else, or without an object show the whole room.
function jump(number) {
  const part = parts.find(one => one.number === number);
  state.only.clear();
  state.part = part ? number : 0;
  state.object = 0;
  if (part) { state.tab = "gallery"; state.group = part.group; }
  refresh();
  if (part) [...$("cards").children].find(card => Number(card.dataset.part) === number)?.scrollIntoView({ block: "nearest" });
  fly(part ? partCamera(part) : { ...scene.camera, target: [...scene.camera.target] });
}
function step(by) {
  const group = parts.filter(part => part.group === state.group), now = group.findIndex(part => part.number === state.part);
  if (group.length) jump(group[(now < 0 ? (by > 0 ? 0 : group.length - 1) : now + by + group.length) % group.length].number);
}
