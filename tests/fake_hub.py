"""Local server with the part of Hugging Face's HTTP API that a download uses."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """Repositories of files by revision; `main` is the default one.

    Attributes:
        files: Content by (repository, revision, file).
        requests: Method and path of every request for a file.
        gated: Repositories that refuse access.
        cuts: Number of next downloads that break off after half of the content.
        ranges: `Range` header of every download, empty if it had none.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.gated: set[str] = set()
        self.cuts = 0
        self.ranges: list[str] = []
        self.address = ""

    def put(self, repository: str, file: str, content: bytes, *, revision: str = "main") -> None:
        self.files[repository, revision, file] = content

    def commit_of(self, repository: str, revision: str) -> str:
        """Return the commit of a revision, 40 digits that depend on its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for (owner, name, file), content in sorted(self.files.items()):
            if (owner, name) == (repository, revision):
                digest.update(file.encode() + content)
        return digest.hexdigest()


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Serve an empty hub on a local port."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            owner, _, rest = self.path.lstrip("/").partition("/")
            name, _, rest = rest.partition("/resolve/")
            revision, _, file = rest.partition("/")
            repository = f"{owner}/{name}"
            if not file:  # the check whether the site answers
                self.refuse(200, "")
                return
            hub.requests.append((self.command, self.path))
            known = {key[1] for key in hub.files if key[0] == repository}
            by_commit = {hub.commit_of(repository, other): other for other in known}
            revision = by_commit.get(revision, revision)
            content = hub.files.get((repository, revision, file))
            if repository in hub.gated:
                self.refuse(403, "GatedRepo")
            elif not known:
                self.refuse(404, "RepoNotFound")
            elif revision not in known:
                self.refuse(404, "RevisionNotFound")
            elif content is None:
                self.refuse(404, "EntryNotFound", commit=hub.commit_of(repository, revision))
            else:
                self.send(content, hub.commit_of(repository, revision), body=body)

        def send(self, content: bytes, commit: str, *, body: bool) -> None:
            start = 0
            span = self.headers.get("Range")
            if span:
                start = int(span.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if span else 200)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) - start))
            if span:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            hub.ranges.append(span or "")
            if hub.cuts > 0:
                hub.cuts -= 1
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(content[start:])

        def refuse(self, code: int, error: str, *, commit: str = "") -> None:
            self.send_response(code)
            if error:
                self.send_header("X-Error-Code", error)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
