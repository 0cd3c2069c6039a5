"""Objects of a view: their numbers, boxes and matches, and how the page shows them in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.boxes import Box, fit_box
from lg3d_core.inference.objects import FoundObject
from lg3d_core.viewing.layers import SceneView, build_view
from lg3d_core.viewing.objects import PredictedObjects
from lg3d_core.viewing.page import write_page
from tests.headless_browser import Browser, open_browser
from tests.test_viewing_browser import is_like, wait_for
from tests.viewing_rooms import DOOR, NAMES, TABLE, VOCABULARY, WARDROBE, make_room, predict

ROOM = make_room(spacing=0.08, scene_id="</script><b>scene</b>")
HIGH_BOX = Box(np.array([2.0, 1.5, 0.8]), np.array([1.6, 1.2, 1.6]), 0.0)
"""A box around the table, larger than it: its upper edges are in the air."""


def found(id_: int, category: int, confidence: float, *, box: Box | None = None) -> FoundObject:
    rows = ROOM.label == category
    return FoundObject(
        id=id_,
        category=category,
        name=NAMES[category],
        label=category + 1,
        confidence=confidence,
        box=fit_box(ROOM.xyz[rows]) if box is None else box,
        points=int(rows.sum()),
        names=((NAMES[category], confidence), ("<i>floor</i>", 0.05)),
    )


def view_objects(*, annotated: bool = True) -> SceneView:
    """The table, half of the wardrobe, and the door taken for a table."""
    owner = np.full(len(ROOM.xyz), -1)
    owner[ROOM.label == TABLE] = 0
    owner[(ROOM.label == WARDROBE) & (ROOM.xyz[:, 2] < 0.9)] = 1
    owner[ROOM.label == DOOR] = 2
    objects = [
        found(0, TABLE, 0.9, box=HIGH_BOX),
        found(1, WARDROBE, 0.6),
        found(2, TABLE, 0.3, box=fit_box(ROOM.xyz[ROOM.label == DOOR])),
    ]
    room = ROOM
    if not annotated:
        room = ROOM._replace(label=np.full_like(ROOM.label, -1), instance=np.zeros_like(ROOM.instance))
    return build_view(room, VOCABULARY, predict(ROOM, door=TABLE), objects=PredictedObjects(objects, owner))


def test_objects_are_matched_with_the_annotation_they_overlap_most() -> None:
    view = view_objects()
    table, wardrobe, door = view.objects
    assert (table.truth, table.iou) == ("table", 1.0)
    whole = (ROOM.label == WARDROBE).sum()
    half = ((ROOM.label == WARDROBE) & (ROOM.xyz[:, 2] < 0.9)).sum()
    assert (wardrobe.truth, wardrobe.iou) == ("wardrobe", pytest.approx(half / whole))
    assert (door.name, door.truth, door.iou) == ("table", "door", 1.0)
    assert wardrobe.points == half


def test_the_layer_has_one_colour_per_object() -> None:
    view = view_objects()
    assert view.object_number is not None
    colors = [view.layers["objects"][view.object_number == k] for k in range(4)]
    assert all((own == own[0]).all() for own in colors)
    assert len({tuple(own[0].tolist()) for own in colors}) == 4
    row = int(np.flatnonzero(view.object_number == 2)[0])
    assert "object 1: wardrobe, confidence 0.60" in view.describe(row)


def test_walls_and_floors_have_no_annotated_box() -> None:
    boxes = {one.name: one.box for one in view_objects().boxes("instances")}
    assert set(boxes) == {"ceiling", "table", "door", "wardrobe"}
    np.testing.assert_allclose(boxes["table"].size, [1.0, 0.8, 0.7], atol=1e-5)
    np.testing.assert_allclose(boxes["wardrobe"].size, [0.8, 0.6, 1.8], atol=1e-5)


def test_each_layer_has_the_boxes_of_its_side() -> None:
    view = view_objects()
    assert [one.name for one in view.boxes("prediction")] == ["table", "wardrobe", "table"]
    assert view.boxes("truth") == view.boxes("instances")
    without = build_view(ROOM, VOCABULARY, predict(ROOM))
    assert without.boxes("colours") == without.annotated_objects


def test_the_gallery_of_a_scan_without_annotation_shows_its_objects() -> None:
    gallery = view_objects(annotated=False).gallery
    assert sorted(part.name for part in gallery.parts) == ["table", "table", "wardrobe"]
    assert not gallery.annotated


def test_an_object_without_predicted_classes_is_not_in_the_gallery() -> None:
    room = ROOM._replace(label=np.full_like(ROOM.label, -1), instance=np.zeros_like(ROOM.instance))
    prediction = predict(ROOM)
    prediction.label[ROOM.label == TABLE] = -1
    objects = PredictedObjects([found(0, TABLE, 0.9)], np.where(ROOM.label == TABLE, 0, -1))
    assert build_view(room, VOCABULARY, prediction, objects=objects).gallery.parts == ()


@pytest.mark.parametrize("owner", [np.zeros(3), np.full(len(ROOM.xyz), 5), np.full(len(ROOM.xyz), -2)])
def test_owners_of_another_scene_are_refused(owner: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"expected the object of each of \d+ vertices, -1 to 0"):
        build_view(ROOM, VOCABULARY, predict(ROOM), objects=PredictedObjects([found(0, TABLE, 0.9)], owner))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = open_browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "objects.html"
    write_page(view_objects(), path)
    return path


def color_of(browser: Browser, number: int) -> tuple[int, ...]:
    return tuple(browser.run(f"objects.find(one => one.number === {number}).color"))


TABLE_TOP = (2.0, 1.5, 0.7)
UPPER_EDGE = (2.0, 0.9, 1.6)  # middle of an upper edge of HIGH_BOX


def test_a_view_with_objects_opens_at_their_list(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.body.dataset.failed") is None
    assert browser.run("[lg3d.state.layer, lg3d.state.tab, lg3d.state.boxes]") == ["objects", "objects", True]
    rows = browser.run("[...document.querySelectorAll('.object')].map(row => row.textContent)")
    assert rows == [
        "tableconfidence 0.90 · 1.60 × 1.20 × 1.60 mIoU 1.00 with table",
        f"wardrobeconfidence 0.60 · 0.80 × 0.60 × 1.80 mIoU {view_objects().objects[1].iou:.2f} with wardrobe",
        f"tableconfidence 0.30 · {' × '.join(f'{side:.2f}' for side in view_objects().objects[2].box.size)} m"
        "IoU 1.00 with door",
    ]
    kinds = browser.run(
        "[...document.querySelectorAll('.object')].map(row => row.querySelector('.words').lastChild.className)"
    )
    assert kinds[0] == "rightly"
    assert kinds[2] == "wrongly"
    browser.key("x")
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    assert is_like(browser.pixels()[y, x], color_of(browser, 1))


def test_boxes_are_drawn_and_can_be_hidden(browser: Browser, page: Path) -> None:
    browser.open(page)
    wait_for(browser, "!lg3d.moving")
    x, y = (round(value) for value in browser.place(UPPER_EDGE))
    with_boxes = browser.pixels()[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
    browser.key("x")
    wait_for(browser, "!lg3d.moving")
    without = browser.pixels()[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
    ink = 0.72 * np.array(color_of(browser, 1))
    assert np.abs(with_boxes - ink).max(axis=1).min() < 60
    assert np.abs(without - ink).max(axis=1).min() > 60
    assert browser.run("location.hash").endswith("boxes=0")
    assert browser.run("document.querySelector('#boxes').checked") is False
    assert browser.run("lg3d.named") == 0


def test_names_stand_above_the_boxes(browser: Browser, page: Path) -> None:
    browser.open(page)
    wait_for(browser, "!lg3d.moving")
    assert browser.run("lg3d.named") >= 2
    x, y = browser.place((2.0, 1.5, 1.6))  # the top of HIGH_BOX
    box = f"{round(x) - 12}, {round(y) - 16}, 24, 12"
    drawn = f"document.querySelector('#names').getContext('2d').getImageData({box}).data.filter((_, k) => k % 4 === 3)"
    assert browser.run(f"{drawn}.some(alpha => alpha > 200)")


def test_a_click_on_the_list_flies_to_the_object_and_fades_the_rest(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('.object')[1].click()")
    wait_for(browser, "!lg3d.flying")
    middle = view_objects().objects[1].box.centre.tolist()
    assert browser.run("lg3d.state.camera.target") == pytest.approx(middle, abs=1e-3)
    assert browser.run("[lg3d.state.object, lg3d.state.part]") == [2, 0]
    assert browser.run("location.hash").endswith("&object=2")
    pressed = "[...document.querySelectorAll('.object')].map(row => row.getAttribute('aria-pressed'))"
    assert browser.run(pressed) == ["false", "true", "false"]
    assert browser.run("boxesOf('objects').map(one => one.name)") == ["wardrobe"]
    browser.key("n")
    assert browser.run("lg3d.state.object") == 3
    browser.key("p")
    browser.key("p")
    assert browser.run("lg3d.state.object") == 1
    browser.key("Escape")
    assert browser.run("lg3d.state.object") == 0
    assert len(browser.run("boxesOf('objects')")) > 1


def test_an_address_with_an_object_opens_at_it(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=colours&object=2")
    assert browser.run("[lg3d.state.layer, lg3d.state.object, lg3d.state.tab]") == ["colours", 2, "objects"]
    middle = view_objects().objects[1].box.centre.tolist()
    assert browser.run("lg3d.state.camera.target") == pytest.approx(middle, abs=1e-3)


def test_truth_and_prediction_stand_side_by_side_with_their_own_boxes(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.querySelector('#both').textContent") == "Instances | objects"
    browser.key("b")
    assert browser.run("[lg3d.state.layer, lg3d.state.beside]") == ["instances", "objects"]
    names = "boxesOf('%s').map(one => one.name).sort()"
    browser.key("c")  # nothing is cut away
    assert browser.run(names % "instances") == ["ceiling", "door", "table", "wardrobe"]
    assert browser.run(names % "objects") == ["table", "table", "wardrobe"]
    browser.key("b")
    browser.run("document.querySelector('[data-layer=prediction]').click()")
    assert browser.run("document.querySelector('#both').textContent") == "Truth | prediction"
    browser.key("b")
    assert browser.run("[lg3d.state.layer, lg3d.state.beside]") == ["truth", "prediction"]


def test_the_boxes_of_what_is_cut_away_are_cut_away(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=instances")
    shown = "boxesOf('instances').map(one => one.name)"
    assert "ceiling" not in browser.run(shown)
    browser.key("c")
    assert "ceiling" in browser.run(shown)


def test_less_confident_objects_can_be_hidden(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("least.value = 0.5; least.dispatchEvent(new Event('input'))")
    assert browser.run("[...document.querySelectorAll('.object .name')].map(name => name.textContent)") == [
        "table",
        "wardrobe",
    ]
    browser.key("c")  # nothing is cut away
    assert browser.run("boxesOf('objects').length") == 2
    assert browser.run("document.querySelector('#object-count').textContent") == "2 of 3 objects"


def test_a_click_on_an_object_in_the_scene_selects_it_in_the_list(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(*browser.place(TABLE_TOP))
    assert browser.run("lg3d.state.object") == 1


def test_hovering_names_the_object(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.mouse("mouseMoved", *browser.place(TABLE_TOP))
    browser.frame()
    assert "object 0: table, confidence 0.90" in browser.run("[...tip.children].map(line => line.textContent)")


def accessible(browser: Browser) -> list[dict[str, Any]]:
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    return [
        {"role": node["role"]["value"], "name": node.get("name", {}).get("value", ""), "node": node}
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]


def test_a_screen_reader_finds_the_list_and_the_keyboard_works_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = accessible(browser)
    tabs = [node["name"] for node in nodes if node["role"] == "tab"]
    assert tabs == ["Classes", "Objects", "Gallery"]
    buttons = [node["name"] for node in nodes if node["role"] == "button"]
    assert any(name.startswith("table confidence 0.90") for name in buttons)
    assert all(buttons)
    (slider,) = (node for node in nodes if node["role"] == "slider")
    assert slider["name"] == "confidence from"
    browser.run("document.querySelectorAll('.object')[2].focus()")
    for kind in ("rawKeyDown", "char", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13)
    assert browser.run("lg3d.state.object") == 3
    browser.key("o")
    assert browser.run("lg3d.state.tab") == "legend"
    browser.key("o")
    assert browser.run("lg3d.state.tab") == "objects"


def test_the_saved_picture_has_the_names(browser: Browser, page: Path) -> None:
    browser.open(page)
    wait_for(browser, "!lg3d.moving")
    saved = (
        "new Promise(done => { const before = HTMLCanvasElement.prototype.toBlob;"
        "HTMLCanvasElement.prototype.toBlob = function () { HTMLCanvasElement.prototype.toBlob = before;"
        "const { width, height } = this; const scale = width / canvas.clientWidth;"
        "done([width, height, [...this.getContext('2d').getImageData(%s, %s, %s, %s).data]]); }; savePicture(); })"
    )
    x, y = browser.place((2.0, 1.5, 1.6))
    box = [round(2 * value) for value in (x - 12, y - 16, 24, 12)]
    width, height, named = browser.run(saved % tuple(box))
    assert [width, height] == [2 * value for value in browser.run("[canvas.clientWidth, canvas.clientHeight]")]
    browser.key("x")
    wait_for(browser, "!lg3d.moving")
    assert browser.run(saved % tuple(box))[2] != named


def test_a_scan_without_objects_says_so(browser: Browser, tmp_path: Path) -> None:
    nothing = PredictedObjects([], np.full(len(ROOM.xyz), -1))
    path = tmp_path / "nothing.html"
    write_page(build_view(ROOM, VOCABULARY, predict(ROOM), objects=nothing), path)
    browser.open(path)
    assert browser.run("document.body.dataset.failed") is None
    browser.run("document.querySelector('#tab-objects').click()")
    assert browser.run("document.querySelector('#object-rows').textContent") == "No object was found."
