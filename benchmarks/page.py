"""The interactive page: time to build and write it, and what its frames cost in chromium, in seconds of CPU time.

    python -m benchmarks.page            # 82,000 and 301,000 vertices

CPU time, of all of the browser's processes, is what it takes on an idle core, whatever else the machine does. Needs
chromium; without a graphics card the figures are those of software.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.page import write_page
from tests import headless_browser
from tests.viewing_rooms import DOOR, VOCABULARY, make_room, predict

SPACINGS = (0.0298, 0.0154)
FRAMES = 3


def cpu_seconds(root: int) -> float:
    """CPU time of a process and all of its descendants."""
    parents, ticks = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(name)], ticks[int(name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine, grew = {root}, True
    while grew:
        more = {child for child, parent in parents.items() if parent in mine} - mine
        mine, grew = mine | more, bool(more)
    return sum(ticks.get(process, 0) for process in mine) / os.sysconf("SC_CLK_TCK")


def write_room(spacing: float, path: Path) -> None:
    """A noisy furnished room with a prediction and a heat, as a page; prints what that took."""
    room, rng = make_room(spacing=spacing), np.random.default_rng(0)
    xyz = (room.xyz + rng.normal(0, 0.002, room.xyz.shape)).astype(np.float32)
    room = room._replace(xyz=xyz, rgb=rng.integers(0, 255, room.rgb.shape).astype(np.uint8))
    prediction, heat = predict(room, table=DOOR), {"sit": np.linspace(0, 1, len(xyz))}
    start, cpu = time.perf_counter(), time.process_time()
    write_page(build_view(room, VOCABULARY, prediction, heat=heat), path)
    print(
        f"{len(xyz)} vertices, {len(room.faces)} faces: {path.stat().st_size / 1e6:.2f} MB in "
        f"{time.perf_counter() - start:.2f} s, {time.process_time() - cpu:.2f} s of CPU"
    )


def time_frames(browser: headless_browser.Browser) -> None:
    """Print the CPU time of a frame of each kind."""
    browser.run("clearTimeout(resting)")
    sync = "gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4))"

    def measure(name: str, script: str, prepare: Callable[[], object] = lambda: None) -> None:
        prepare()
        once = f"state.camera.azimuth += 3; {script}; {sync}"
        browser.run(once)
        before = cpu_seconds(browser._process.pid)
        for _ in range(FRAMES):
            browser.run(once)
        print(f"  {name}: {(cpu_seconds(browser._process.pid) - before) / FRAMES:.2f} s of CPU a frame", flush=True)

    measure("whole", "draw(1)")
    measure("pointing after a motion", "numbersStale = true; pick(300, 300)")
    measure("pointing again", "pick(300, 300)")
    for level in range(3):
        browser.run(f"makeCoarse(1.7 ** {level})")
        for factor in (1, 0.5):
            measure(
                f"stand-in {level + 1} ({browser.run('coarse.faces')} faces), resolution x {factor}",
                "draw(1, true)",
                lambda factor=factor: browser.run(f"resize({factor})"),
            )
    browser.run("resize(1)")


if __name__ == "__main__":
    headless_browser.DEADLINE = 300
    with tempfile.TemporaryDirectory() as folder:
        browser = headless_browser.open_browser(Path(folder))
        browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        for spacing in SPACINGS:
            page = Path(folder) / "room.html"
            write_room(spacing, page)
            browser.open(page, "#layer=truth")
            time_frames(browser)
        browser.close()
