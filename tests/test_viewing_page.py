"""The page's text: self-contained, safe against hostile names, small, and true to the scene."""

import base64
import json
import re
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lg3d_core import viewing
from lg3d_core.errors import DataError
from lg3d_core.viewing.layers import SceneView, build_view
from lg3d_core.viewing.page import build_page, write_page
from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category
from tests.viewing_rooms import DOOR, VOCABULARY, make_room, predict

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&"


class Scripts(HTMLParser):
    """Collects the text of scripts by id, and every attribute of every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.title = ""
        self._inside: tuple[str, str] = ("", "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = (tag, dict(attrs).get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = ("", "")

    def handle_data(self, data: str) -> None:
        tag, name = self._inside
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag == "title":
            self.title += data


def read_page(text: str) -> Scripts:
    parser = Scripts()
    parser.feed(text)
    parser.close()
    return parser


def unpack(page: Scripts) -> dict[str, np.ndarray]:
    """The arrays as the page's script reads them, byte by byte."""
    inflated = zlib.decompress(base64.b64decode(page.scripts["data"]))
    arrays = {}
    for entry in json.loads(page.scripts["description"])["arrays"]:
        rows, width, offset = entry["rows"], entry["width"], entry["offset"]
        body = bytearray(rows * width)
        for column in range(width):
            body[column::width] = inflated[offset + column * rows : offset + (column + 1) * rows]
        array = np.frombuffer(bytes(body), dtype=np.dtype(entry["type"]).newbyteorder("<"))
        arrays[entry["name"]] = array.reshape(rows, -1)
    return arrays


@pytest.fixture(scope="module")
def view() -> SceneView:
    room = make_room()
    return build_view(room, VOCABULARY, predict(room, table=DOOR))


def test_the_page_asks_nothing_of_the_network(view: SceneView) -> None:
    text = build_page(view)
    page = read_page(text)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    (nonce,) = {value for tag, name, value in page.attributes if name == "nonce"}
    assert policy.startswith(f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src")
    assert "unsafe" not in policy
    assert len(nonce) >= 22  # 128 bits and more, and others in the next page
    assert nonce not in build_page(view)
    assert "connect-src" not in policy
    assert not [one for one in page.attributes if one[1] in ("src", "href", "srcset", "action", "data")]
    assert not re.search(r"https?://|@import|url\(|import\(|fetch\(|XMLHttpRequest|WebSocket", text)


def test_a_page_that_listens_may_ask_its_own_server_alone(view: SceneView) -> None:
    page = read_page(build_page(view, live=True))
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    assert policy.endswith("; connect-src 'self'")
    assert policy.count("connect-src") == 1
    assert "EventSource" not in build_page(view)


def test_every_part_of_the_page_is_in_it(view: SceneView) -> None:
    page = build_page(view, live=True)
    parts = sorted((Path(viewing.__file__).parent / "data" / "page").iterdir())
    assert len(parts) > 10
    for part in parts:
        text = part.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 150
        if part.suffix != ".html":
            assert text in page, part.name


def test_the_page_holds_the_scene(view: SceneView) -> None:
    page = read_page(build_page(view))
    description, arrays = json.loads(page.scripts["description"]), unpack(page)
    xyz = arrays["position"] / 65535 * np.array(description["size"]) + np.array(description["low"])
    assert np.abs(xyz - view.xyz).max() <= 0.5 * max(description["size"]) / 65535 + 1e-6  # half a step of 16 bits
    assert (arrays["label"].ravel() == view.label).all()
    assert view.predicted is not None
    assert (arrays["predicted"].ravel() == view.predicted).all()
    assert view.confidence is not None
    assert np.abs(arrays["confidence"].ravel() / 255 - view.confidence).max() <= 0.5 / 255 + 1e-6
    assert (arrays["rgb"] == view.layers["colours"]).all()
    assert (arrays["instance"].ravel() == view.instance).all()
    assert (np.cumsum(arrays["face_steps"].ravel()) == view.faces.ravel()).all()
    assert np.abs(arrays["normal"] / 127 - view.normal).max() < 0.005
    assert [layer["name"] for layer in description["layers"]] == list(view.layers)
    assert [entry["name"] for entry in description["legend"]] == [entry.name for entry in view.legend]
    assert description["scores"]["accuracy"] == view.scores.accuracy if view.scores else False


def test_the_page_holds_heat_and_the_gallery() -> None:
    room = make_room()
    hot = np.linspace(0, 1, len(room.xyz))
    seen = build_view(room, VOCABULARY, predict(room, table=DOOR), heat={HOSTILE: hot})
    text = build_page(seen)
    page = read_page(text)
    description, arrays = json.loads(page.scripts["description"]), unpack(page)
    layer = description["layers"][-1]
    assert [layer["text"] for layer in description["layers"]] == [None] * (len(seen.layers) - 1) + [HOSTILE]
    assert (layer["name"], layer["title"], layer["array"]) == ("heat-1", f"\u201c{HOSTILE}\u201d", "heat-1")
    assert np.abs(arrays["heat-1"].ravel() / 255 - hot).max() <= 0.5 / 255 + 1e-6
    assert "<img" not in text
    assert (arrays["part"].ravel() == seen.gallery.number).all()
    table = next(part for part in description["gallery"]["parts"] if part["name"] == "table")
    assert (table["right"], table["predicted"]) == (0.0, "door")


def test_hostile_names_stay_text() -> None:
    categories = (Category(0, 1, HOSTILE, "", True, (1, 2, 3)), *VOCABULARY.categories[1:])
    room = make_room(scene_id=HOSTILE)
    text = build_page(build_view(room, Vocabulary("hostile", "id", categories)))
    page = read_page(text)
    description = json.loads(page.scripts["description"])
    assert description["scene"] == HOSTILE
    assert HOSTILE in [entry["name"] for entry in description["legend"]]
    assert page.title == f"{HOSTILE} · lg3d"
    assert "<img" not in text
    assert text.count("</script>") == 3
    assert "innerHTML" not in text


def test_a_name_of_undecodable_bytes_makes_a_page(tmp_path: Path) -> None:
    view = build_view(make_room(spacing=0.3)._replace(scene_id="caf\udce9"), VOCABULARY)
    write_page(view, tmp_path / "page.html")
    page = read_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.title == "caf\\udce9 · lg3d"
    assert json.loads(page.scripts["description"])["scene"] == "caf\udce9"


def test_marks_of_the_template_in_names_do_no_harm() -> None:
    page = read_page(build_page(build_view(make_room(scene_id="__DATA__ __DESCRIPTION__"), VOCABULARY)))
    assert json.loads(page.scripts["description"])["scene"] == "__DATA__ __DESCRIPTION__"
    assert len(unpack(page)["label"]) > 0


def test_points_without_anything_else_make_a_page() -> None:
    room = make_room()
    bare = room._replace(
        faces=np.zeros((0, 3), dtype=np.int32),
        normal=np.zeros_like(room.normal),
        label=np.full_like(room.label, -1),
        instance=np.zeros_like(room.instance),
    )
    page = read_page(build_page(build_view(bare, VOCABULARY)))
    description = json.loads(page.scripts["description"])
    assert [layer["name"] for layer in description["layers"]] == ["colours"]
    assert (description["faces"], description["legend"], description["scores"]) == (0, [], None)
    assert "face_steps" not in unpack(page)


def test_one_point_makes_a_page(tmp_path: Path) -> None:
    room = make_room()
    point = type(room)(room.scene_id, room.split, *(array[:1] for array in room[2:8]), room.faces[:0])
    write_page(build_view(point, VOCABULARY), tmp_path / "point.html")
    assert (unpack(read_page((tmp_path / "point.html").read_text()))["position"] == 0).all()


def test_a_room_of_100_000_vertices_is_small_and_quick(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    room = make_room(spacing=0.0256)
    assert 95_000 < len(room.xyz) < 110_000
    # The noise of a sensor: nothing about a real scan compresses as well as a model of flat boxes.
    room = room._replace(
        xyz=room.xyz + rng.normal(0, 0.005, room.xyz.shape).astype(np.float32),
        rgb=np.clip(room.rgb + rng.normal(0, 12, room.rgb.shape), 0, 255).astype(np.uint8),
        normal=(room.normal + rng.normal(0, 0.1, room.normal.shape)).astype(np.float32),
    )
    prediction = predict(room, table=DOOR)
    prediction = prediction._replace(confidence=rng.random(len(room.xyz)).astype(np.float32))
    start = time.perf_counter()
    write_page(build_view(room, VOCABULARY, prediction), tmp_path / "room.html")
    seconds = time.perf_counter() - start
    assert (tmp_path / "room.html").stat().st_size < 6_000_000
    assert seconds < 3


def test_a_page_that_cannot_be_written_leaves_nothing(view: SceneView, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    with pytest.raises(DataError, match=r"cannot write .*page\.html"):
        write_page(view, tmp_path / "taken" / "page.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_page(view, tmp_path / "folder.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "taken"]


def test_a_name_with_spaces_and_umlauts_is_a_fine_place(view: SceneView, tmp_path: Path) -> None:
    write_page(view, tmp_path / "neuer Ordner" / "Büro [1].html")
    assert (tmp_path / "neuer Ordner" / "Büro [1].html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
