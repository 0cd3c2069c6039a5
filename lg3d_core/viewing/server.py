"""HTTP server of a page, bound to this machine and protected by a token, for use through an SSH tunnel."""

import base64
import contextlib
import errno
import gzip
import hmac
import http.server
import json
import os
import secrets
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, Lg3dError, one_line
from lg3d_core.progress import Progress
from lg3d_core.viewing.layers import HEAT_KEY, SceneView, heat_title
from lg3d_core.viewing.page import COMPRESSION, build_page

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
EVENTS = "events"
QUESTIONS = "ask"
MAX_QUESTION_BYTES = 2000
REQUEST_SECONDS = 10.0
"""Time limit in seconds for receiving a request, however steadily its sender sends."""
MAX_CONNECTIONS = 64
"""Maximum number of connections; further ones are closed at once."""
CHUNK_BYTES = 1 << 16
"""Bytes that a slow reader must accept within the handler's timeout."""
KEPT_EVENTS = 6
"""Number of past events that a page which opens late receives."""
HEARTBEAT_SECONDS = 10.0
"""Interval in seconds of keep-alive messages on a silent stream, which detect a closed browser."""


class Event(NamedTuple):
    """Event for open pages: an increasing number, a kind, and one line of text."""

    number: int
    kind: str
    data: str

    def encode(self) -> bytes:
        """Return the event in the format of server-sent events."""
        return f"id: {self.number}\nevent: {self.kind}\ndata: {self.data}\n\n".encode()


class Feed:
    """Thread-safe queue of events for every listening page; the latest are kept for late ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: tuple[Event, ...] = ()
        self._number = 0
        self._closed = False

    def publish(self, kind: str, data: str) -> None:
        """Publish an event to all pages.

        Args:
            kind: Name of the event.
            data: One line of text.
        """
        assert "\n" not in data
        with self._changed:
            self._number += 1
            self._events = (*self._events, Event(self._number, kind, data))[-KEPT_EVENTS:]
            self._changed.notify_all()

    def after(self, number: int, *, seconds: float) -> tuple[Event, ...] | None:
        """Wait for events later than a number; return an empty list after a timeout, None once the feed is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > number, timeout=seconds)
            later = tuple(event for event in self._events if event.number > number)
            return None if self._closed and not later else later

    def close(self) -> None:
        """Close the feed and release all waiting threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class PageServer:
    """Server of one page at `address`, in a thread of its own, and of the events that are published in `feed`.

    Requests without the token get status 403. No files are served.

    Args:
        page: HTML of the page.
        port: Port to listen on; 0 chooses a free port.
        answer: Function that is called, from any thread, with a phrase that was typed on the page; it returns a line
            for the page or raises `Lg3dError`. None accepts no phrases.

    Raises:
        DataError: The port is in use or not permitted.
    """

    def __init__(self, page: str, *, port: int = 0, answer: Callable[[str], str] | None = None) -> None:
        self.token = secrets.token_urlsafe(24)
        self.answer = answer
        self.feed = Feed()
        self.plain_page = page.encode()
        self.packed_page = gzip.compress(self.plain_page, compresslevel=1)
        try:
            self._server = _LoopbackServer(self, port)
        except OSError as error:
            reason = "in use" if error.errno == errno.EADDRINUSE else f"unavailable ({error.strerror})"
            raise DataError(f"port {port} is {reason}: pass another --port, or --port 0 for any free port") from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Return the address of the page for a browser on this machine."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    @property
    def ssh_command(self) -> str:
        """Return the command for another machine that makes `address` reachable there."""
        return ssh_command(self.port, dict(os.environ))

    def wait(self) -> None:
        """Wait until the user presses Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._thread.join()

    def close(self) -> None:
        """Stop listening, and notify open pages."""
        self.feed.publish("end", "{}")
        self.feed.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """HTTP request handler of the page of `server.owner`."""

    server_version, sys_version = "lg3d", ""
    error_content_type, error_message_format = "text/plain; charset=utf-8", "%(code)d: %(message)s\n"
    timeout = 30  # seconds after which a silent connection is dropped

    @property
    def _owner(self) -> PageServer:
        assert isinstance(self.server, _LoopbackServer)
        return self.server.owner

    def handle(self) -> None:
        """Answer one request, unless it takes too long to arrive."""
        self._deadline = threading.Timer(REQUEST_SECONDS, self._drop)
        self._deadline.daemon = True
        self._deadline.start()
        try:
            super().handle()
        finally:
            self._deadline.cancel()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def end_headers(self) -> None:
        """Send the same headers with every response, also with errors of the library."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        """Send the page if the token is correct."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send the headers of the page."""
        self._answer(body=False)

    def do_POST(self) -> None:
        """Answer a phrase that was typed on the page."""
        if not self._is_local():
            return
        if self._owner.answer is None or not self._asks_for(QUESTIONS):
            self._refuse()
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAX_QUESTION_BYTES):
            self._send(413, b"413: expected a phrase of at most 500 characters\n", "text/plain")
            return
        phrase = self.rfile.read(int(length)).decode("utf-8", "replace").strip()
        self._deadline.cancel()
        try:
            status, line = 200, one_line(self._owner.answer(phrase))
        except Lg3dError as error:
            status, line = 422, str(error)
        except Exception as error:  # noqa: BLE001 - the page shows it instead of a lost connection
            status, line = 500, one_line(f"{type(error).__name__}: {error}")
        self._send(status, f"{line}\n".encode(), "text/plain")

    def _answer(self, *, body: bool) -> None:
        if not self._is_local(body=body):
            return
        self._deadline.cancel()
        if self._asks_for(EVENTS):
            self._stream(body=body)
        elif self._asks_for(""):
            packs = "gzip" in self.headers.get("Accept-Encoding", "")
            content = self._owner.packed_page if packs else self._owner.plain_page
            self._send(200, content, "text/html", body=body, encoding="gzip" if packs else "")
        else:
            self._refuse(body=body)

    def _asks_for(self, name: str) -> bool:
        path = self.path.partition("?")[0].encode("utf-8", "surrogateescape")
        return hmac.compare_digest(path, f"/{self._owner.token}/{name}".encode())

    def _is_local(self, *, body: bool = True) -> bool:
        if is_local(self.headers.get("Host", LOOPBACK)):
            return True  # otherwise a host name that resolves to this machine, as in DNS rebinding
        self._send(403, b"403: open this page as 127.0.0.1 or localhost\n", "text/plain", body=body)
        return False

    def _refuse(self, *, body: bool = True) -> None:
        self._send(403, b"403: the token in this address is wrong or missing\n", "text/plain", body=body)

    def _stream(self, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Accel-Buffering", "no")
        self.end_headers()
        last = self.headers.get("Last-Event-ID", "")
        number = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
        while body:
            events = self._owner.feed.after(number, seconds=HEARTBEAT_SECONDS)
            if events is None:
                return
            self.wfile.write(b"".join(event.encode() for event in events) or b": still here\n\n")
            self.wfile.flush()
            number = events[-1].number if events else number

    def _send(self, status: int, content: bytes, kind: str, *, body: bool = True, encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if body:
            for start in range(0, len(content), CHUNK_BYTES):
                self.wfile.write(content[start : start + CHUNK_BYTES])

    def log_message(self, *_: Any) -> None:
        """Log nothing, as the log would contain the token."""


class _LoopbackServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: PageServer, port: int) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.owner = owner
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a new thread, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Count the connection as closed when its thread ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, *_: Any) -> None:
        """Ignore errors of closed connections."""


def is_local(host: str) -> bool:
    """Return whether the `Host` of a request is this machine; any port is allowed, as tunnels may change it."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in (LOOPBACK, "localhost", "[::1]")


def ssh_command(port: int, environ: dict[str, str]) -> str:
    """Return the SSH command for a tunnel to this machine, from the current SSH session or else the host name.

    Args:
        port: Port on both machines.
        environ: Environment; `SSH_CONNECTION` holds the client's address and port, then the server's.
    """
    user = environ.get("USER") or environ.get("LOGNAME") or ""
    connection = environ.get("SSH_CONNECTION", "").split()
    host, ssh_port = (connection[2], connection[3]) if len(connection) == 4 else (socket.gethostname(), "22")
    other_port = "" if ssh_port == "22" else f" -p {ssh_port}"
    return f"ssh -N -L {port}:{LOOPBACK}:{port}{other_port} {user}{'@' if user else ''}{host}"


def serve_view(
    view: SceneView, progress: Progress, *, port: int = 0, answer: Callable[[str], str] | None = None
) -> PageServer:
    """Serve a scene's page and report its address; the caller closes the server.

    Args:
        view: Scene to show.
        progress: Receives the instructions for opening the page.
        port: Port to serve on; 0 chooses a free port.
        answer: Function for phrases that are typed on the page, see `PageServer`; such a page accepts heat that is
            published while it is open. None makes a page without a text box.

    Raises:
        DataError: The port is in use.
    """
    server = PageServer(build_page(view, live=answer is not None, asks=answer is not None), port=port, answer=answer)
    progress.note(f"to open it on another machine, first run there: {server.ssh_command}")
    if answer is None:
        progress.note("open the address in a browser; press Ctrl-C to stop the server")
    return server


def publish_heat(server: PageServer, name: str, text: str, heat: npt.NDArray[np.float32]) -> None:
    """Show the heat of a text on the open pages.

    Args:
        server: Server of a live page.
        name: Name of the layer, see `heat_name`; not in use.
        text: Text of the heat, used as title.
        heat: Heat at the page's vertices, shape `(points,)`, 0..1.
    """
    layer = {
        "name": name,
        "title": heat_title(text),
        "text": text,
        "smooth": True,
        "kind": "ramp",
        "array": name,
        "key": HEAT_KEY._asdict(),
    }
    packed = zlib.compress(np.round(heat * 255).astype(np.uint8).tobytes(), COMPRESSION)
    server.feed.publish("heat", json.dumps({"layer": layer, "data": base64.b64encode(packed).decode("ascii")}))
