"""The served page: only through its token, only on this machine, and a plain word when the port is taken."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.settings import ViewSettings
from lg3d_core.viewing.server import PageServer, publish_heat, ssh_command

PAGE = "<!DOCTYPE html><title>Büro</title>"


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer(PAGE) as opened:
        yield opened


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_the_address_gives_the_page(server: PageServer) -> None:
    assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/"
    status, body, headers = ask(server, f"/{server.token}/")
    assert (status, body.decode()) == (200, PAGE)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in headers["Server"]


def test_it_is_packed_for_those_who_can_unpack_it(server: PageServer) -> None:
    _, body, headers = ask(server, f"/{server.token}/", Accept_Encoding="gzip, deflate")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).decode() == PAGE


def test_head_has_no_body(server: PageServer) -> None:
    status, body, headers = ask(server, f"/{server.token}/", "HEAD")
    assert (status, body, int(headers["Content-Length"])) == (200, b"", len(PAGE.encode()))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/wrong/",
        "/{token}",
        "/{token}x/",
        "/{token}/../",
        "/{token}/page.html",
        "/%2e%2e/",
        "/events",
        "/x/events",
    ],
)
def test_another_path_is_rejected_without_content(server: PageServer, path: str) -> None:
    status, body, _ = ask(server, path.format(token=server.token))
    assert status == 403
    assert server.token.encode() not in body
    assert b"token in this address is wrong" in body


def test_paths_out_of_the_folder_lead_nowhere(server: PageServer) -> None:
    for path in ("/../../../../etc/passwd", f"/{server.token}/../../../../etc/passwd", "/etc/passwd", "/\xff"):
        status, body, _ = ask(server, path.encode("latin-1").decode("latin-1") if path.isascii() else "/%ff")
        assert status == 403
        assert b"root:" not in body


def read_events(server: PageServer, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", f"/{server.token}/events", headers={k.replace("_", "-"): v for k, v in headers.items()})
    return connection.getresponse()


def test_heat_reaches_pages_that_listen_and_those_that_come_later(server: PageServer) -> None:
    stream = read_events(server)
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.headers["Cache-Control"] == "no-store"
    publish_heat(server, "heat-1", "</script>\nsit", np.array([0, 0.5, 1], dtype=np.float32))
    lines = [stream.readline().decode() for _ in range(4)]
    assert lines[:2] == ["id: 1\n", "event: heat\n"]
    assert lines[3] == "\n"
    message = json.loads(lines[2].removeprefix("data: "))
    assert message["layer"]["title"] == "\u201c</script>\nsit\u201d"
    assert list(zlib.decompress(base64.b64decode(message["data"]))) == [0, 128, 255]
    publish_heat(server, "heat-2", "lie", np.array([1, 0, 0], dtype=np.float32))
    assert stream.readline() == b"id: 2\n"
    late = read_events(server)
    assert [late.readline() for _ in range(5)][::4] == [b"id: 1\n", b"id: 2\n"]
    again = read_events(server, Last_Event_ID="1")
    assert again.readline() == b"id: 2\n"
    assert read_events(server, Last_Event_ID="-1; DROP").readline() == b"id: 1\n"


def test_open_pages_are_notified_of_the_end() -> None:
    with PageServer(PAGE) as server:
        stream = read_events(server)
    assert b"event: end\n" in stream.read()


def test_a_late_page_receives_the_latest_six_events(server: PageServer) -> None:
    for k in range(9):
        server.feed.publish("heat", str(k))
    assert [event.data for event in server.feed.after(0, seconds=0) or ()] == ["3", "4", "5", "6", "7", "8"]
    assert server.feed.after(9, seconds=0) == ()


def test_a_silent_stream_shows_that_it_is_alive(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.viewing.server.HEARTBEAT_SECONDS", 0.05)
    assert read_events(server).readline() == b": still here\n"


def test_nothing_but_reading_is_answered(server: PageServer) -> None:
    assert ask(server, f"/{server.token}/", "DELETE")[0] == 501


def test_tokens_are_long_and_differ(server: PageServer) -> None:
    with PageServer(PAGE) as other:
        assert other.token != server.token
        assert len(other.token) >= 32


def test_it_listens_on_the_loopback_interface_alone(server: PageServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_gives_one_line_with_the_remedy(server: PageServer) -> None:
    with pytest.raises(DataError, match=rf"^port {server.port} is in use: pass another --port.*--port 0") as error:
        PageServer(PAGE, port=server.port)
    assert "\n" not in str(error.value)


def test_an_invalid_port_is_rejected() -> None:
    with pytest.raises(SettingsError, match="--port must be between 0 and 65535, got 70000"):
        ViewSettings(scene="x", port=70000)


def test_after_it_is_closed_nobody_answers() -> None:
    with PageServer(PAGE) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def test_a_browser_that_hangs_up_is_passed_over(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /\0")
    assert ask(server, f"/{server.token}/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_the_tunnel_uses_the_address_of_the_ssh_session() -> None:
    environ = {"USER": "ada", "SSH_CONNECTION": "10.0.0.9 50000 192.0.2.7 22"}
    assert ssh_command(8731, environ) == "ssh -N -L 8731:127.0.0.1:8731 ada@192.0.2.7"
    environ["SSH_CONNECTION"] = "10.0.0.9 50000 192.0.2.7 2222"
    assert ssh_command(8731, environ) == "ssh -N -L 8731:127.0.0.1:8731 -p 2222 ada@192.0.2.7"
    assert ssh_command(9000, {}) == f"ssh -N -L 9000:127.0.0.1:9000 {socket.gethostname()}"


def test_the_command_serves_until_ctrl_c_and_ends_well(store_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lg3d_cli", "view", "scene9003_00", "--store", str(store_path), "--serve"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--runs", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    address = process.stdout.readline().strip() if ready else ""
    assert address.startswith("http://127.0.0.1:"), process.stderr
    _, _, host, token, _ = address.split("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", f"/{token}/")
    assert connection.getresponse().read().startswith(b"<!DOCTYPE html>")
    connection.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert f"ssh -N -L {host.partition(':')[2]}:127.0.0.1:" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT", "X"])
@pytest.mark.parametrize("path", ["/", "/TOKEN/", "/TOKEN/ask", "/TOKEN/nothing"])
def test_every_answer_bears_the_same_headers(server: PageServer, method: str, path: str) -> None:
    status, body, headers = ask(server, path.replace("TOKEN", server.token), method)
    expected = {"GET": 200, "HEAD": 200}.get(method) if path == "/TOKEN/" else None
    assert status == (expected or (501 if method in ("DELETE", "PUT", "X") else 403))
    for name in ("X-Frame-Options", "X-Content-Type-Options", "Content-Security-Policy", "Cache-Control"):
        assert name in headers, name
    assert b"<html" not in body


def question(server: PageServer, body: bytes, *, path: str = "", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", path or f"/{server.token}/ask", body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_phrase_is_answered_for_those_who_know_the_token_alone() -> None:
    asked: list[str] = []

    def answer(phrase: str) -> str:
        asked.append(phrase)
        if not phrase:
            raise DataError("nothing was asked")
        return f"found {phrase}\n\x1b"

    with PageServer(PAGE, answer=answer) as server:
        assert question(server, " Büro \n".encode()) == (200, "found Büro\\n\\x1b\n".encode())
        assert question(server, b"\xff") == (200, "found \N{REPLACEMENT CHARACTER}\\n\\x1b\n".encode())
        assert question(server, b" ") == (422, b"nothing was asked\n")
        assert asked == ["Büro", "\N{REPLACEMENT CHARACTER}", ""]
        assert question(server, b"x", path="/guess/ask")[0] == 403
        assert question(server, b"x", path=f"/{server.token}/")[0] == 403
        assert question(server, b"x", Host="evil.example")[0] == 403
        assert question(server, b"x" * 2001)[0] == 413
        for length in ("-1", "", "1e3", "0000000009999"):
            assert question(server, b"x", **{"Content-Length": length})[0] == 413
        assert len(asked) == 3


def test_an_unexpected_error_is_an_answer_of_one_line() -> None:
    def answer(_: str) -> str:
        raise RuntimeError("out of\nmemory")

    with PageServer(PAGE, answer=answer) as server:
        assert question(server, b"a chair") == (500, b"RuntimeError: out of\\nmemory\n")


def test_a_slow_sender_is_dropped_however_steadily_it_sends(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lg3d_core.viewing.server.REQUEST_SECONDS", 0.5)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as sender:
        sender.settimeout(5)
        with contextlib.suppress(OSError):  # the server hung up
            while time.monotonic() - start < 5:
                sender.sendall(b"E")
                time.sleep(0.05)
    assert time.monotonic() - start < 3
    assert ask(server, f"/{server.token}/")[0] == 200


def test_a_slow_body_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.viewing.server.REQUEST_SECONDS", 0.3)
    with PageServer(PAGE, answer=str) as server, socket.create_connection(("127.0.0.1", server.port)) as sender:
        sender.sendall(f"POST /{server.token}/ask HTTP/1.0\r\nContent-Length: 100\r\n\r\n".encode())
        sender.settimeout(5)
        sender.recv(1000)  # ends when the server hangs up
        deadline = time.monotonic() + 5
        while any("process_request_thread" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_more_connections_than_it_has_threads_for_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.viewing.server.MAX_CONNECTIONS", 3)
    with PageServer(PAGE) as small:
        idle = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(3)]
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", small.port)) as fourth:
            fourth.settimeout(5)
            assert fourth.recv(10) == b""
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 5
        while True:
            try:
                assert ask(small, f"/{small.token}/")[0] == 200
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline
                time.sleep(0.1)
