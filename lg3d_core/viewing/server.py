"""The page over HTTP, for a browser at the other end of an SSH connection: this machine alone, behind a token."""

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
"""A request that has not arrived as a whole after this time is dropped, however steadily its sender sends."""
MAX_CONNECTIONS = 64
"""Further connections are closed at once."""
CHUNK_BYTES = 1 << 16
"""Bytes that a slow reader has the handler's timeout for."""
KEPT_EVENTS = 6
"""Of which a page that opens late is told."""
HEARTBEAT_SECONDS = 10.0
"""After which a silent stream says something, so that a browser that has gone is noticed."""


class Event(NamedTuple):
    """What open pages are told: a number that grows, a kind, and one line of text."""

    number: int
    kind: str
    data: str

    def encode(self) -> bytes:
        """As server-sent events are written."""
        return f"id: {self.number}\nevent: {self.kind}\ndata: {self.data}\n\n".encode()


class Feed:
    """Hands what is published to every page that listens, from any thread; the latest is kept for late ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: tuple[Event, ...] = ()
        self._number = 0
        self._closed = False

    def publish(self, kind: str, data: str) -> None:
        """Tell all pages.

        Args:
            kind: Name of the event.
            data: One line.
        """
        assert "\n" not in data
        with self._changed:
            self._number += 1
            self._events = (*self._events, Event(self._number, kind, data))[-KEPT_EVENTS:]
            self._changed.notify_all()

    def after(self, number: int, *, seconds: float) -> tuple[Event, ...] | None:
        """Wait for events later than a number; none came in time: empty; none will ever come: None."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > number, timeout=seconds)
            later = tuple(event for event in self._events if event.number > number)
            return None if self._closed and not later else later

    def close(self) -> None:
        """Let everyone who waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class PageServer:
    """Serves one page at `address` from a thread of its own, until it is closed, and what is published in `feed`.

    Whoever does not know the token gets 403 and nothing else; there are no files behind it, so no path leads anywhere.

    Args:
        page: HTML.
        port: To listen on; 0 takes any that is free.
        answer: Called, from any thread, with a phrase that was typed on the page; returns a line for the page, and
            raises `Lg3dError` with one where it cannot answer. None takes no phrases.

    Raises:
        DataError: The port is in use, or may not be used.
    """

    def __init__(self, page: str, *, port: int = 0, answer: Callable[[str], str] | None = None) -> None:
        self.token = secrets.token_urlsafe(24)
        self.answer = answer
        self.feed = Feed()
        self._plain = page.encode()
        self._packed = gzip.compress(self._plain, compresslevel=1)
        try:
            self._server = _LoopbackServer((LOOPBACK, port), self._handler())
        except OSError as error:
            reason = "in use" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
            raise DataError(
                f"port {port} is {reason}: choose another with --port, or --port 0 for any that is free"
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the page is, for a browser on this machine."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    @property
    def ssh_command(self) -> str:
        """What to type on another machine, so that `address` holds there too."""
        return ssh_command(self.port, dict(os.environ))

    def wait(self) -> None:
        """Return when the user presses Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._thread.join()

    def close(self) -> None:
        """Stop listening, and tell open pages so."""
        self.feed.publish("end", "{}")
        self.feed.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers for `owner`."""

            server_version, sys_version = "lg3d", ""
            error_content_type, error_message_format = "text/plain; charset=utf-8", "%(code)d: %(message)s\n"
            timeout = 30  # seconds: a connection that says nothing is dropped

            def handle(self) -> None:
                """Answer one request, unless its sender takes too long to send it."""
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
                """Send the same headers with every answer, errors of the library among them."""
                for name, value in HEADERS.items():
                    self.send_header(name, value)
                super().end_headers()

            def do_GET(self) -> None:
                """Send the page to who knows the token."""
                self._answer(body=True)

            def do_HEAD(self) -> None:
                """The same without the page."""
                self._answer(body=False)

            def do_POST(self) -> None:
                """Answer a phrase that was typed on the page."""
                if not self._is_local():
                    return
                if owner.answer is None or not self._asks_for(QUESTIONS):
                    self._refuse()
                    return
                length = self.headers.get("Content-Length", "")
                if not (length.isascii() and length.isdigit() and int(length[:9]) <= MAX_QUESTION_BYTES):
                    self._send(413, b"413: expected a phrase of at most 500 characters\n", "text/plain")
                    return
                phrase = self.rfile.read(int(length)).decode("utf-8", "replace").strip()
                self._deadline.cancel()
                try:
                    self._send(200, f"{one_line(owner.answer(phrase))}\n".encode(), "text/plain")
                except Lg3dError as error:
                    self._send(422, f"{error}\n".encode(), "text/plain")

            def _answer(self, *, body: bool) -> None:
                if not self._is_local(body=body):
                    return
                self._deadline.cancel()
                if self._asks_for(EVENTS):
                    self._stream(body=body)
                elif self._asks_for(""):
                    packs = "gzip" in self.headers.get("Accept-Encoding", "")
                    content = owner._packed if packs else owner._plain
                    self._send(200, content, "text/html", body=body, encoding="gzip" if packs else "")
                else:
                    self._refuse(body=body)

            def _asks_for(self, name: str) -> bool:
                path = self.path.partition("?")[0].encode("utf-8", "surrogateescape")
                return hmac.compare_digest(path, f"/{owner.token}/{name}".encode())

            def _is_local(self, *, body: bool = True) -> bool:
                if is_local(self.headers.get("Host", LOOPBACK)):
                    return True  # otherwise: a name that was made to mean this machine
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
                    events = owner.feed.after(number, seconds=HEARTBEAT_SECONDS)
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
                """Nothing: the token would be in the log."""

        return Handler


class _LoopbackServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread of its own, if there are not too many."""
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
        """A browser that hangs up in the middle is nobody's concern."""


def is_local(host: str) -> bool:
    """Whether the `Host` of a request names this machine itself; the port may be any, at the other end of a tunnel."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in (LOOPBACK, "localhost", "[::1]")


def ssh_command(port: int, environ: dict[str, str]) -> str:
    """The tunnel to this machine, by what the SSH session here says of itself, else by the machine's name.

    Args:
        port: On this machine, and on the other.
        environ: Environment; `SSH_CONNECTION` holds client, its port, this machine as the client sees it, and its port.
    """
    user = environ.get("USER") or environ.get("LOGNAME") or ""
    connection = environ.get("SSH_CONNECTION", "").split()
    host, ssh_port = (connection[2], connection[3]) if len(connection) == 4 else (socket.gethostname(), "22")
    other_port = "" if ssh_port == "22" else f" -p {ssh_port}"
    return f"ssh -N -L {port}:{LOOPBACK}:{port}{other_port} {user}{'@' if user else ''}{host}"


def serve_view(
    view: SceneView, progress: Progress, *, port: int = 0, answer: Callable[[str], str] | None = None
) -> PageServer:
    """Serve a scene's page and say how to reach it; to be closed by the caller.

    Args:
        view: What it shows.
        progress: Told how to reach it.
        port: To serve on; 0 takes any that is free.
        answer: Of phrases that are typed on the page, as `PageServer` calls it; such a page takes heat that is
            published while it is open. None makes a page without a text box.

    Raises:
        DataError: The port is in use.
    """
    server = PageServer(build_page(view, live=answer is not None, asks=answer is not None), port=port, answer=answer)
    progress.note(f"from another machine, first: {server.ssh_command}")
    if answer is None:
        progress.note("open the address in a browser; Ctrl-C ends")
    return server


def publish_heat(server: PageServer, name: str, text: str, heat: npt.NDArray[np.float32]) -> None:
    """Show heat of a text on the pages that are open, at once.

    Args:
        server: Of a page that listens.
        name: Of the layer, `heat-` and a number that the page does not have yet.
        text: Titles it.
        heat: At the page's vertices, shape `(points,)`, 0..1.
    """
    layer = {
        "name": name,
        "title": heat_title(text),
        "smooth": True,
        "kind": "ramp",
        "array": name,
        "key": HEAT_KEY._asdict(),
    }
    packed = zlib.compress(np.round(heat * 255).astype(np.uint8).tobytes(), COMPRESSION)
    server.feed.publish("heat", json.dumps({"layer": layer, "data": base64.b64encode(packed).decode("ascii")}))
