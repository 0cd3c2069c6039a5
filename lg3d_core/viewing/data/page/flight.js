// Animates the camera to its new position; user input stops it.
let flight = 0;
function fly(goal) {
  const from = state.camera, number = ++flight, start = performance.now(), turn = ((goal.azimuth - from.azimuth) % 360 + 540) % 360 - 180;
  const time = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 450;
  page.flying = true;
  const frame = () => {
    if (number !== flight) return;
    const share = time ? Math.min(1, (performance.now() - start) / time) : 1, eased = share * share * (3 - 2 * share), mix = (a, b) => a + eased * (b - a);
    state.camera = share === 1 ? goal : { ...goal, target: goal.target.map((value, k) => mix(from.target[k], value)), azimuth: from.azimuth + eased * turn,
      elevation: mix(from.elevation, goal.elevation), distance: Math.exp(mix(Math.log(from.distance), Math.log(goal.distance))) };
    redraw();
    if (share < 1) requestAnimationFrame(frame); else page.flying = false;
  };
  frame();
}
function stopFlight() { flight++; page.flying = false; }
