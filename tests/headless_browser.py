"""A real browser without a window: Debian's chromium, spoken to over a pipe (Chrome DevTools Protocol)."""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--window-size=860,480",
    "--remote-debugging-pipe",
]
# The browser reads commands from descriptor 3 and answers on 4; first out of the way, lest one overwrite the other.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 13)
os.dup2(int(sys.argv[2]), 14)
os.dup2(13, 3)
os.dup2(14, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
DEADLINE = 60.0
READY = "document.body && (document.body.dataset.ready || document.body.dataset.failed)"


class Browser:
    """One page of a browser."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        arguments = [str(command_read), str(answer_write), CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *arguments, "about:blank"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._number, self._received = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path | str, address: str = "", *, until: str = READY) -> None:
        """Go to a page, and wait until a script that looks at it says that it is there."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=(page if isinstance(page, str) else page.as_uri()) + address)
        deadline = time.monotonic() + DEADLINE
        while not self.run(until):
            assert time.monotonic() < deadline, "the page is never ready"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def frame(self) -> None:
        """Wait until what was asked for has been drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float, **more: Any) -> None:
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1, **more)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1, **more)
        self.frame()

    def tap(self, x: float, y: float) -> None:
        """Touch a place with one finger, and lift it."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.frame()

    def be_a_phone(self, *, width: int = 390, height: int = 844) -> None:
        """Have a narrow screen that is touched, until `be_a_desktop`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        self.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)

    def be_a_desktop(self) -> None:
        """Undo `be_a_phone`."""
        self.call("Emulation.clearDeviceMetricsOverride")
        self.call("Emulation.setTouchEmulationEnabled", enabled=False)

    def key(self, name: str, *, shift: bool = False) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, modifiers=8 if shift else 0)
        self.frame()

    def pixels(self) -> np.ndarray:
        """The 3D view as it is shown, `(rows, columns, 3)`."""
        from PIL import Image

        self.frame()
        width, height = self.run("[canvas.clientWidth, canvas.clientHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = base64.b64decode(self.call("Page.captureScreenshot", clip=clip)["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def place(self, xyz: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point of the room is in the left view, in pixels; computed here, independently of the page."""
        camera = self.run("lg3d.state.camera")
        width, height = self.run("[canvas.clientWidth / (lg3d.state.beside ? 2 : 1), canvas.clientHeight]")
        a, e = np.deg2rad([camera["azimuth"], camera["elevation"]])
        back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0])
        offset = np.array(xyz) - (np.array(camera["target"]) + camera["distance"] * back)
        x, y, z = (offset @ axis for axis in (right, np.cross(back, right), back))
        tangent = np.tan(np.deg2rad(camera["fov"] / 2)) * max(1, 4 / 3 / (width / height))
        scale = height / 2 / tangent
        return float(width / 2 - x / z * scale), float(height / 2 + y / z * scale)

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self.call("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)


def open_browser(profile: Path) -> Browser:
    """A browser with an empty page; without chromium the test is skipped, or fails under LG3D_REQUIRE_BROWSER=1."""
    if CHROMIUM is None:
        reason = "no chromium here: apt-get install chromium"
        if os.environ.get("LG3D_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason} (LG3D_REQUIRE_BROWSER=1 forbids skipping)")
        pytest.skip(reason)
    return Browser(profile)
