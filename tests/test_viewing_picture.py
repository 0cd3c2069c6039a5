"""Pictures: which triangle is seen where, what colours come out, and what is said when something is missing."""

import subprocess
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from lg3d_core.errors import DataError, MissingDependencyError, SettingsError, ShapeError
from lg3d_core.inference.heat_colors import HEAT_STOPS
from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera
from lg3d_core.viewing.fonts import load_font
from lg3d_core.viewing.layers import RIGHT, WRONG, build_view
from lg3d_core.viewing.open3d_buffers import import_open3d, quiet_output, render_buffers, without_advice
from lg3d_core.viewing.picture import (
    MAX_LEGEND,
    compose,
    legend_lines,
    render_layers,
    render_picture,
    shade_normals,
    shorten,
)
from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category
from tests.viewing_rooms import COLORS, DOOR, TABLE, VOCABULARY, make_room, predict


@pytest.fixture(scope="module")
def open3d_draws() -> None:
    """Skips where open3d cannot be loaded."""
    try:
        import_open3d()
    except MissingDependencyError as error:
        pytest.skip(str(error))


needs_open3d = pytest.mark.usefixtures("open3d_draws")

# Looking along -x at the plane x = 0 from 4 m: 2 * 4 * tan(15 degrees) = 2.144 m are seen from top to bottom.
AHEAD = Camera((0.0, 0.0, 0.0), azimuth=0.0, elevation=0.0, distance=4.0)
SIZE = 200
PIXELS_PER_METRE = SIZE / (2 * 4 * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)))
# A small triangle half a metre nearer than the large square of two triangles.
CORNERS = np.array(
    [[0, -0.8, -0.8], [0, 0.8, -0.8], [0, 0.8, 0.8], [0, -0.8, 0.8], [0.5, -0.2, 0.3], [0.5, 0.2, 0.3], [0.5, 0, 0.6]],
    dtype=np.float32,
)
FACES = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]], dtype=np.int32)


def pixel(y: float, z: float) -> tuple[int, int]:
    """Row and column of a point of the plane x = 0: y runs to the right, z up."""
    return round(SIZE / 2 - 0.5 - z * PIXELS_PER_METRE), round(SIZE / 2 - 0.5 + y * PIXELS_PER_METRE)


@needs_open3d
def test_each_pixel_names_the_triangle_in_front() -> None:
    ramp = np.clip(CORNERS / 1.6 + 0.5, 0, 1)  # red x, green y, blue z
    seen = render_buffers(CORNERS, FACES, AHEAD, width=SIZE, height=SIZE, point_size=1, blends=[ramp])
    assert seen.primitive[pixel(0.4, -0.4)] == 0  # below the diagonal
    assert seen.primitive[pixel(-0.4, 0.4)] == 1
    assert seen.primitive[pixel(0.0, 0.42)] == 2
    assert seen.primitive[pixel(1.0, 1.0)] == -1
    assert set(np.unique(seen.primitive)) == {-1, 0, 1, 2}
    assert seen.depth[pixel(0.4, -0.4)] == pytest.approx(4.0, abs=0.01)
    assert seen.depth[pixel(0.0, 0.42)] == pytest.approx(3.5, abs=0.01)
    assert np.isinf(seen.depth[pixel(1.0, 1.0)])
    # Half a pixel is 0.0054 m, 0.0034 of the ramp; 8 bits are 0.002 more.
    assert seen.blends[0][pixel(0.4, -0.4)] == pytest.approx([0.5, 0.75, 0.25], abs=0.006)
    square = np.count_nonzero(seen.primitive >= 0)
    assert square == pytest.approx((1.6 * PIXELS_PER_METRE) ** 2, rel=0.02)


@needs_open3d
def test_points_are_named_likewise() -> None:
    none = np.zeros((0, 3), dtype=np.int32)
    seen = render_buffers(CORNERS, none, AHEAD, width=SIZE, height=SIZE, point_size=5, blends=[])
    for row in range(4):
        assert seen.primitive[pixel(*CORNERS[row, 1:])] == row


@needs_open3d
def test_more_triangles_than_two_bytes_keep_their_numbers() -> None:
    copies = 70_000
    corners = np.concatenate([np.tile(CORNERS[4:] - [3, 0, 0], (copies, 1)), CORNERS[:3]]).astype(np.float32)
    faces = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    seen = render_buffers(corners, faces, AHEAD, width=SIZE, height=SIZE, point_size=1, blends=[])
    assert seen.primitive[pixel(0.4, -0.4)] == copies


def test_more_triangles_than_three_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.viewing.open3d_buffers.MAX_PRIMITIVES", 2)
    with pytest.raises(ShapeError, match="at most 2 triangles, got 3, or pass --html"):
        render_buffers(CORNERS, FACES, AHEAD, width=SIZE, height=SIZE, point_size=1, blends=[])


@needs_open3d
def test_layers_keep_the_hue_of_their_categories() -> None:
    room = make_room(spacing=0.08)
    view = build_view(room, VOCABULARY, predict(room, table=DOOR))
    truth, prediction, errors = render_layers(view, ("truth", "prediction", "errors"), width=240, height=180)
    assert truth.shape == prediction.shape == errors.shape
    assert (truth[0] == 255).all()  # a white margin

    def share(picture: np.ndarray, color: tuple[int, int, int]) -> float:
        bright = picture.max(axis=2, keepdims=True).clip(1)
        return float((np.abs(picture / bright - np.array(color) / max(color)).max(axis=2) < 0.03).mean())

    assert share(truth, COLORS[TABLE]) > 0.02
    assert share(prediction, COLORS[TABLE]) < 0.001
    assert share(prediction, COLORS[DOOR]) > share(truth, COLORS[DOOR]) + 0.015
    assert share(errors, WRONG) == pytest.approx(share(truth, COLORS[TABLE]), rel=0.2)
    assert share(errors, RIGHT) > 0.3
    assert share(truth, COLORS[2]) == 0  # the ceiling is cut


@needs_open3d
def test_the_picture_is_written_whole_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    room = make_room(spacing=0.15)
    path = tmp_path / "new folder" / "room.png"
    render_picture(build_view(room, VOCABULARY, predict(room, table=DOOR)), path, panel_width=300)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
    assert [one.name for one in path.parent.iterdir()] == ["room.png"]
    assert capfd.readouterr() == ("", "")


@needs_open3d
def test_a_cloud_without_annotation_is_one_panel(tmp_path: Path) -> None:
    room = make_room(spacing=0.15)
    bare = room._replace(
        faces=room.faces[:0], label=np.full_like(room.label, -1), instance=np.zeros_like(room.instance)
    )
    render_picture(build_view(bare, VOCABULARY), tmp_path / "one.png", panel_width=300)
    render_picture(build_view(room, VOCABULARY), tmp_path / "two.png", panel_width=300)
    half = room._replace(label=np.where(room.label == TABLE, -1, room.label).astype(np.int16))
    view = build_view(half, VOCABULARY, predict(half))
    render_picture(view, tmp_path / "chosen.png", layers=("confidence", "instances", "truth"), panel_width=300)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width > 1.8 * one.width


@needs_open3d
def test_heat_is_drawn_beside_the_colours(tmp_path: Path) -> None:
    room = make_room(spacing=0.15)
    hot = (room.label == TABLE).astype(np.float32)
    view = build_view(room, VOCABULARY, heat={"a long text that asks for somewhere to put a cup of tea down": hot})
    heat, _ = render_layers(view, ("heat-1", "colours"), width=240, height=180)
    # The hottest colour is a dark plum, the coldest a light grey; shading keeps the hue.
    bright = heat.max(axis=2, keepdims=True).clip(1)
    plum = np.array(HEAT_STOPS[-1]) / max(HEAT_STOPS[-1])
    assert 0.02 < (np.abs(heat / bright - plum).max(axis=2) < 0.05).mean() < 0.3
    render_picture(view, tmp_path / "heat.png", panel_width=300)
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.width > 500  # two panels


@needs_open3d
def test_the_legend_is_limited_and_counts_omitted_classes() -> None:
    names = [f"thing {k}" for k in range(50)]
    categories = tuple(Category(k, k + 1, names[k], "", True, (k, 2 * k, 3 * k)) for k in range(50))
    room = make_room(spacing=0.15)
    label = (np.arange(len(room.xyz)) % 50).astype(np.int16)
    view = build_view(room._replace(label=label), Vocabulary("fifty", "id", categories))
    panel = np.zeros((4, 4, 3), dtype=np.uint8)
    entries = legend_lines(view, {"truth": panel})
    assert len(entries) == MAX_LEGEND + 1
    assert entries[-1] == (None, f"and {50 - MAX_LEGEND} more", "")
    few = build_view(room, VOCABULARY)
    assert [name for _, name, _ in legend_lines(few, {"truth": panel})] == [entry.name for entry in few.legend]


def test_a_title_that_is_too_long_is_cut() -> None:
    font = ImageFont.load_default(20)
    assert shorten("short", font, 500) == "short"
    cut = shorten("a very long title that does not fit", font, 120)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 120


def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Returns a list that receives the text, and the left and right edge, of everything that is written."""
    from PIL import ImageDraw

    drawn: list[tuple[str, float, float]] = []
    write = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **options: object) -> None:
        wide = options["font"].getlength(text)  # type: ignore[attr-defined]
        left = xy[0] - wide if options.get("anchor") == "rm" else xy[0]
        if self.im.size[0] > 1:
            drawn.append((text, left, left + wide))
        write(self, xy, text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return drawn


def test_long_names_end_within_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawn_texts(monkeypatch)
    long = Vocabulary("long", "id", (Category(0, 1, "name " * 60, "", True, (9, 9, 9)),))
    room = make_room(spacing=0.3)._replace(scene_id="scene " * 60)
    view = build_view(room._replace(label=np.zeros(len(room.xyz), dtype=np.int16)), long)
    panel = np.zeros((30, 300, 3), dtype=np.uint8)
    picture = compose(view, {"colours": panel, "truth": panel})
    assert sum(text.endswith("…") for text, _, _ in drawn) == 2
    assert all(left >= 0 and right <= picture.width for _, left, right in drawn)


def test_the_title_of_a_text_of_two_lines_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawn_texts(monkeypatch)
    room = make_room(spacing=0.3)
    view = build_view(room, VOCABULARY, heat={"somewhere\nto sit": np.zeros(len(room.xyz))})
    compose(view, {"heat-1": np.zeros((30, 900, 3), dtype=np.uint8)})
    assert "“somewhere to sit”" in [text for text, _, _ in drawn]


def test_letters_of_other_scripts_are_drawn() -> None:
    font = load_font(20)
    missing = bytes(font.getmask("\U0010fffd"))
    assert all(bytes(font.getmask(letter)) != missing for letter in "äßéñøłΩжЯ")
    assert len({bytes(font.getmask(letter)) for letter in "äßéñøłΩжЯ"}) == 9


@needs_open3d
def test_the_same_scene_gives_the_same_picture() -> None:
    view = build_view(make_room(spacing=0.15), VOCABULARY)
    first, second = (render_layers(view, ("truth",), width=160, height=120)[0] for _ in range(2))
    assert (first == second).all()


@needs_open3d
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*room\.png"):
        render_picture(build_view(make_room(spacing=0.3), VOCABULARY), tmp_path / "taken" / "room.png", panel_width=100)


def test_an_unknown_layer_is_named_beside_those_there_are(tmp_path: Path) -> None:
    view = build_view(make_room(spacing=0.3), VOCABULARY)
    with pytest.raises(SettingsError, match="no layer prediction: it has colours, truth, instances"):
        render_picture(view, tmp_path / "room.png", layers=("prediction",))


def test_shading_darkens_what_is_turned_away_and_minds_no_winding() -> None:
    backward = AHEAD.axes[2]
    towards, away, sideways, none = shade_normals(
        np.array([backward, -backward, AHEAD.axes[0], np.zeros(3)]), AHEAD
    ).tolist()
    assert towards == pytest.approx(away)
    assert sideways < towards
    assert none == 1.0


class Refuse(MetaPathFinder):
    """Makes the import of open3d fail as a missing library of the system does."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname == "open3d":
            raise ImportError("libusb-1.0.so.0: cannot open shared object file: No such file or directory")


def test_without_open3d_the_message_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"open3d.*pip install 'lg3d\[view-cpu\]'.*--html FILE"):
        render_picture(build_view(make_room(spacing=0.3), VOCABULARY), tmp_path / "room.png")
    assert list(tmp_path.iterdir()) == []


def test_a_report_gets_the_message_without_an_option_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError) as raised:
        import_open3d()
    message = without_advice(raised.value)
    assert "pip install 'lg3d[view-cpu]'" in message
    assert "--html" not in message


def test_without_libusb_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(MissingDependencyError, match=r"libusb-1\.0\.so\.0.*apt-get install libusb-1\.0-0.*--html FILE"):
        import_open3d()


def test_without_pillow_the_message_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from lg3d_core.viewing.picture import compose

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="pip install pillow, or pass --html FILE"):
        compose(build_view(make_room(spacing=0.3), VOCABULARY), {})


AFTER_A_PICTURE = """
import torch
from tests.test_viewing_picture import AHEAD, CORNERS, FACES, render_buffers
render_buffers(CORNERS, FACES, AHEAD, width=8, height=8, point_size=1, blends=[])
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
"""


@needs_open3d
def test_an_optimizer_can_be_made_after_a_picture() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER_A_PICTURE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # it crashed when Triton was loaded after Mesa's renderer


@needs_open3d
def test_without_opengl_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    o3d = import_open3d()
    monkeypatch.setattr(o3d.visualization.Visualizer, "get_render_option", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"no OpenGL.*apt-get install libegl1.*--html FILE"):
        render_buffers(CORNERS, FACES, AHEAD, width=SIZE, height=SIZE, point_size=1, blends=[])


def test_what_libraries_print_below_python_is_dropped_and_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with quiet_output():
        os.write(1, b"noise")
        os.write(2, b"noise")
    os.write(1, b"result")
    with quiet_output(stderr=False):
        os.write(1, b"noise")
        os.write(2, b"warning")
    assert capfd.readouterr() == ("result", "warning")


@pytest.mark.parametrize("width", [220, 400, 640])
def test_a_title_leaves_out_nothing_for_the_note_beside_it(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    import dataclasses

    from PIL import ImageDraw

    view = build_view(make_room(spacing=0.3), VOCABULARY)
    view = dataclasses.replace(view, layers=view.layers | {"augmentation": view.layers["colours"]})
    drawn: list[tuple[str, float, float]] = []
    write = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **options: object) -> None:
        if self.im.size[0] > 1:
            right = xy[0] if options.get("anchor") == "rm" else xy[0] + options["font"].getlength(text)  # type: ignore[attr-defined]
            left = right - options["font"].getlength(text)  # type: ignore[attr-defined]
            drawn.append((text, left, xy[1]))
        write(self, xy, text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    compose(view, {"augmentation": np.zeros((30, width, 3), dtype=np.uint8)})
    (title,) = [one for one in drawn if one[0] == "Augmentation"]
    notes = [one for one in drawn if one[0] in ("inserted", "shifted 0", "40 cm")]
    assert len(notes) == 3
    font = load_font(round(max(12, round((width + 200) / 50)) * 1.25))
    beside = [left for _, left, top in notes if abs(top - title[2]) < font.size]
    assert all(left > title[1] + font.getlength(title[0]) for left in beside)
