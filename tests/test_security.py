"""Nobody let in: what a file, a name or a web page from elsewhere must not be able to do."""

import ast
import html.parser
import http.client
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.networks.checkpoint import load_network, read_info
from lg3d_core.networks.torch_files import read_torch_file
from lg3d_core.progress import Progress
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.settings import PrepareSettings, ViewSettings
from lg3d_core.store import SceneStore, prepare_store
from lg3d_core.synthetic.modelled.library import inside, read_library
from lg3d_core.viewing.server import PageServer
from tests import box_rooms, sh3f_files

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("lg3d_core", "lg3d_cli") for path in (ROOT / folder).rglob("*.py")]
NASTY = "</script><script>alert(1)</script>\u2028\"'&<img src=x onerror=alert(2)>"


# Checkpoints.


class Call:
    """Makes a pickle call a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class State:
    """Makes a pickle call a function through the state of an object."""

    def __init__(self, attack: Any) -> None:
        self.attack = attack

    def __reduce__(self) -> Any:
        return (SimpleNamespace, (), {"hidden": self.attack})


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


GUISES = {
    "plain": lambda attack: attack,
    "in the settings of the run": lambda attack: {"hyper_parameters": {"model": {"deep": [attack]}}},
    "in the state of an object": lambda attack: {"hyper_parameters": State(attack)},
    "as a key": lambda attack: OrderedDict([("a", 1), (("k", 2), attack)]),
    "beside weights": lambda attack: {"state_dict": {"conv0p1s1.kernel": torch.ones(27, 3, 32), "x": attack}},
    "in the callbacks": lambda attack: {"callbacks": {"ModelCheckpoint": {"best": attack}}, "state_dict": {}},
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("guise", GUISES)
def test_a_malicious_checkpoint_runs_nothing_in_any_guise(tmp_path: Path, mark: Path, guise: str, is_zip: bool) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save(GUISES[guise](Call(os.mkdir, str(mark))), path, _use_new_zipfile_serialization=is_zip)
    torch.load(path, weights_only=False)
    assert mark.exists()  # the attack is real
    mark.rmdir()
    for read in (read_torch_file, read_info, load_network):
        try:
            read(path)
        except CheckpointError as error:
            assert str(error).isprintable()  # noqa: PT017 - either is right
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_of_any_protocol_runs_nothing(tmp_path: Path, mark: Path, protocol: int) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Call(os.mkdir, str(mark)), protocol=protocol))
    with pytest.raises(CheckpointError):
        load_network(path)
    assert not mark.exists()


BOMBS = {
    "a memo of two thousand million places": b"N" + b"r\xff\xff\xff\x7f" + b".",
    "an array of a terabyte": b"\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "a text of a terabyte": b"\x8d" + (1 << 40).to_bytes(8, "little") + b".",
    "a frame of a terabyte": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b".",
    "a key whose hash takes a year": b"}N\x85" + b"2\x86" * 60 + b"Ns.",
    "a key of an ordered dict, likewise": b"ccollections\nOrderedDict\n(]N\x85" + b"2\x86" * 60 + b"N\x86atR.",
    "a set of such": b"(N\x85" + b"2\x86" * 60 + b"\x91.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_gets_no_memory_or_time_by_a_number_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", BOMBS[name])
    try:
        read_torch_file(path)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017 - either is right


def test_weights_that_repeat_one_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.pt"
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)
    file = read_torch_file(path)
    with pytest.raises(CheckpointError, match=r"repeats its 1 numbers"):
        file.read(file.content)


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call in the package of what ends in a name, such as `torch.load`."""
    return [
        (path, node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_whatever_is_torchs_is_read_with_weights_only() -> None:
    found = calls("torch.load")
    assert found
    for path, node in found:
        chosen = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert chosen.get("weights_only") == "True", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "name",
    [
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load", "joblib.load", "eval"),
        *("exec", "os.system", "yaml.load", "marshal.loads", "tempfile.mktemp", "shelve.open", "compile"),
    ],
)
def test_nothing_runs_what_a_file_says(name: str) -> None:
    assert not calls(name)


def test_numpy_never_reads_objects() -> None:
    for path, node in calls("np.load"):
        chosen = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert chosen.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"


def test_no_command_goes_through_a_shell() -> None:
    for name in ("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.check_call"):
        for path, node in calls(name):
            assert not any(word.arg == "shell" for word in node.keywords), f"{path}:{node.lineno}"


# Names that would be paths.


@pytest.mark.parametrize("name", ["a\nb", "a b", "-rf", "a\x1b[2J", "~", "a" * 101, "ä", "a\u202eb", ".."])
def test_a_scan_whose_name_is_no_id_is_left_out_and_named_in_print(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw"
    box_rooms.write_dataset(raw, train=1, val=0, spacing=1.0)
    if name != "..":
        shutil.copytree(raw / "scans" / "scene9000_00", raw / "scans" / name)
    report = prepare_store(PrepareSettings(raw=raw, store=tmp_path / "data", jobs=1), Progress())
    assert report.prepared == ["scene9000_00"]
    assert [path.name for path in (tmp_path / "data/scenes").iterdir()] == ["scene9000_00.h5"]
    assert all(reason.isprintable() for reason in report.failed.values())
    assert len(report.failed) == (name != "..")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\nb", "a\0b", "..", ".", "", "a/b", "-x", "a\\b"])
def test_an_index_that_names_a_scene_outside_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    box_rooms.write_dataset(tmp_path / "raw", train=1, val=0, spacing=1.0)
    prepare_store(PrepareSettings(raw=tmp_path / "raw", store=tmp_path / "data", jobs=1), Progress())
    index = json.loads((tmp_path / "data/store.json").read_text())
    index["scenes"] = {name: index["scenes"]["scene9000_00"]}
    (tmp_path / "data/store.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"store\.json: scene .* is invalid"):
        SceneStore(tmp_path / "data")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret", "a/../../secret", "C:/x", "x\0", ""])
def test_a_member_of_an_archive_cannot_leave_its_folder(name: str) -> None:
    assert inside("lib/1", name) is None


def test_a_library_with_members_outside_and_links_writes_and_reads_nothing_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret.obj"
    secret.write_text(sh3f_files.box_obj())
    path = tmp_path / "folder" / "lib.sh3f"
    path.parent.mkdir()
    sh3f_files.write_library(
        path, [{"name": "Out", "model": "/../secret.obj"}, {"name": "Link", "model": "/lib/l.obj"}]
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../secret.obj", "")
        link = zipfile.ZipInfo("lib/l.obj")
        link.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(link, str(secret))
    before = sorted(tmp_path.rglob("*"))
    library = read_library(path)
    assert [entry.name for entry in library.entries] in (["Link"], [])
    assert sorted(tmp_path.rglob("*")) == before  # nothing is ever unpacked


def test_an_obj_cannot_take_in_files_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "outside.mtl").write_text("newmtl red\nKd 1 0 0\n")
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "link.mtl").symlink_to(tmp_path / "outside.mtl")
    (folder / "own.mtl").write_text("newmtl red\nKd 1 0 0\n")
    colors = {}
    for name in ("../outside.mtl", str(tmp_path / "outside.mtl"), "link.mtl", "own.mtl"):
        (folder / "a.obj").write_text(sh3f_files.box_obj().replace("box.mtl", name))
        surface = open_scan(folder / "a.obj")
        colors[name] = surface.colors(0, 1).tolist() if surface.colors is not None else None
    assert colors.pop("own.mtl") == [[255, 0, 0]]
    assert [[255, 0, 0]] not in colors.values()


# Pages.


class Finder(html.parser.HTMLParser):
    """Collects elements and what handles events."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = self.images = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def look_at(page: str) -> Finder:
    finder = Finder()
    finder.feed(page)
    return finder


def test_names_in_a_page_stay_text(store_path: Path) -> None:
    from lg3d_core.viewing.layers import build_view
    from lg3d_core.viewing.page import build_page

    store = SceneStore(store_path)
    scene = store.read(store.scene_ids()[0])
    plain = build_view(scene, store.vocabulary)
    spoilt = plain.__class__(
        **{
            **{name: getattr(plain, name) for name in plain.__dataclass_fields__},
            "scene_id": NASTY,
            "legend": tuple(entry._replace(name=NASTY) for entry in plain.legend),
        }
    )
    good, bad = look_at(build_page(plain)), look_at(build_page(spoilt))
    assert (bad.scripts, bad.images, bad.handlers) == (good.scripts, good.images, good.handlers)
    assert "alert(1)</script>" not in build_page(spoilt)
    assert "\u2028" not in build_page(spoilt).partition("</title>")[2]


def test_no_script_of_a_page_makes_elements_of_text() -> None:
    for folder in ("viewing", "reporting"):
        for path in [*(ROOT / "lg3d_core" / folder).rglob("*.js"), *(ROOT / "lg3d_core" / folder).rglob("*.html")]:
            text = path.read_text(encoding="utf-8")
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
                assert word not in text, f"{path}: {word}"


def ask(server: PageServer, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_name_that_was_made_to_mean_this_machine_is_refused() -> None:
    with PageServer("<p>secret") as server:
        good = f"/{server.token}/"
        for host in (
            "evil.example",
            f"evil.example:{server.port}",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "0.0.0.0",
        ):
            status, body = ask(server, good, Host=host)
            assert (status, b"secret" in body) == (403, False), host
        for host in ("127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:80"):
            assert ask(server, good, Host=host)[0] == 200, host


def test_every_path_needs_the_token_and_lists_nothing() -> None:
    with PageServer("<p>secret") as server:
        wrong = ("x" if server.token[0] != "x" else "y") + server.token[1:]
        for path in (
            "/",
            "/events",
            "/index.html",
            f"/{wrong}/",
            f"/{wrong}/events",
            "/.git/",
            "*",
        ):
            status, body = ask(server, path)
            assert (status, b"secret" in body, b"<a" in body) == (403, False, False), path


def test_the_token_is_compared_in_constant_time() -> None:
    text = (ROOT / "lg3d_core/viewing/server.py").read_text()
    assert not re.search(r"token\s*[!=]=|[!=]=\s*\S*token", text)
    assert "compare_digest" in text


def test_no_setting_makes_the_page_listen_elsewhere() -> None:
    assert not {"host", "bind", "address"} & set(ViewSettings.__dataclass_fields__)
    with PageServer("") as server:
        assert server._server.server_address[0] == "127.0.0.1"


# What is installed.


@pytest.mark.parametrize("part", ["", "-base", "-cpu", "-dev", "-docs"])
def test_dependencies_are_locked_by_exact_version_and_hash(part: str) -> None:
    name = f"requirements{part}.lock"
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    if part in ("", "-cpu"):
        lines.remove("-r requirements-base.lock")
    pin = r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.+!]*( +--hash=sha256:[0-9a-f]{64})+"
    wrong = [line for line in lines if not re.fullmatch(pin, line)]
    assert lines
    assert not wrong, f"{name}: {wrong}"
    assert len({line.partition("==")[0].lower() for line in lines}) == len(lines)


def test_make_installs_from_the_lock_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "INSTALL_LOCKED := install --quiet --disable-pip-version-check --require-hashes --no-deps" in makefile
    installs = re.findall(r"\S+ -r \S+\.lock", makefile)
    assert len(installs) == 4
    assert all(words.startswith("$(INSTALL_LOCKED) -r ") for words in installs)
    assert "--no-deps --editable ." in makefile


def test_direct_dependencies_are_those_of_the_design_page() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[<>=]", entry)[0] for entry in project["dependencies"]}
    page = (ROOT / "docs/design/0020-damaged-and-hostile-input.md").read_text()
    assert set(re.findall(r"^\| `([A-Za-z0-9_-]+)` \|", page, re.MULTILINE)) == named


def test_an_image_in_bytes_is_not_what_it_says() -> None:
    header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"
    assert len(np.frombuffer(header, np.uint8)) == 8 + 4 + 4 + 13
    from lg3d_core.synthetic.modelled.resample import _read_image

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("lib/x.png", header)
    with zipfile.ZipFile(stream) as archive:
        assert _read_image(archive, "lib", "x.png") is None


def test_a_name_in_a_warning_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from lg3d_cli import console

    console.error("scene \x1b[2J\nlg3d: all is well")
    console.progress(quiet=True).warn("a\x1b]0;x\x07b\u202ec")
    console.result_table("t", ["a"], [["x\ty\nz"]])
    found = capsys.readouterr()
    assert found.err == "lg3d: error: scene \\x1b[2J\\nlg3d: all is well\nlg3d: warning: a\\x1b]0;x\\x07b\\u202ec\n"
    assert found.out == "a\nx\\ty\\nz\n"
