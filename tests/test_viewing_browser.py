"""The page in a real browser: what is drawn, what the panel does, what the pointer is told."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.inference.heat_colors import HEAT_STOPS
from lg3d_core.viewing.layers import SceneView, build_view
from lg3d_core.viewing.page import build_page, write_page
from lg3d_core.viewing.server import PageServer, publish_heat
from tests.headless_browser import Browser, open_browser
from tests.viewing_rooms import DOOR, SIZE, TABLE, VOCABULARY, make_room, predict


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = open_browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def view_room() -> SceneView:
    """The room with its table taken for a door, and a heat that is 0.8 on the table."""
    room = make_room(spacing=0.08, scene_id="</script><b>scene</b>")
    heat = {"<i>put it down</i>": np.where(room.label == TABLE, 0.8, 0.1)}
    return build_view(room, VOCABULARY, predict(room, table=DOOR), heat=heat)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "room with spaces.html"
    write_page(view_room(), path)
    return path


TABLE_TOP = (2.0, 1.5, 0.7)
FLOOR_SPOT = (2.0, 0.6, 0.0)


def wait_for(browser: Browser, condition: str) -> None:
    deadline = time.monotonic() + 30
    while not browser.run(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def is_like(color: np.ndarray, wanted: tuple[int, ...]) -> bool:
    """The same hue, at any brightness of shading."""
    wanted_ = np.array(wanted, dtype=float)
    return bool(np.abs(color / max(color.max(), 1) - wanted_ / wanted_.max()).max() < 0.04)


def test_the_page_opens_from_disk_without_an_error_or_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.body.dataset.failed") is None
    assert browser.run("document.querySelector('#name').textContent") == "</script><b>scene</b>"
    problems = [
        event
        for event in browser.events
        if event["method"] == "Runtime.exceptionThrown"
        or (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error")
        or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error")
    ]
    assert problems == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert all(url == page.as_uri() or url.startswith("blob:") for url in asked)


def test_the_canvas_shows_the_room(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    pixels = browser.pixels()
    inked = (pixels < 250).any(axis=2)
    assert 0.2 < inked.mean() < 0.9
    colors = {entry["name"]: tuple(entry["color"]) for entry in browser.run("lg3d.scene.legend")}
    for name, spot in (("table", TABLE_TOP), ("floor", FLOOR_SPOT)):
        x, y = browser.place(spot)
        assert is_like(pixels[round(y), round(x)], colors[name]), name


def test_keys_and_buttons_switch_layers(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    table, door = VOCABULARY.categories[TABLE].color, VOCABULARY.categories[DOOR].color
    assert is_like(browser.pixels()[y, x], table)
    browser.key("3")
    assert browser.run("lg3d.state.layer") == "prediction"
    assert is_like(browser.pixels()[y, x], door)
    browser.run("document.querySelector('[data-layer=errors]').click()")
    wrong = next(error for error in browser.run("lg3d.scene.errors") if error["name"] == "wrong")
    assert is_like(browser.pixels()[y, x], wrong["color"])
    assert "wrong" in browser.run("document.querySelector('#key').textContent")
    for name in ("confidence", "instances", "colours"):
        before = browser.pixels()
        browser.run(f"document.querySelector('[data-layer={name}]').click()")
        assert (browser.pixels() != before).any()


def test_hover_shows_class_prediction_confidence_and_instance(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    browser.mouse("mouseMoved", *browser.place(TABLE_TOP))
    browser.frame()
    tip = browser.run("tip.hidden ? '' : [...tip.children].map(line => line.textContent).join('|')")
    assert tip == "table|predicted door, confidence 0.30|instance 7|“<i>put it down</i>” 0.80|head class"
    browser.mouse("mouseMoved", 3, 3)
    browser.frame()
    assert browser.run("tip.hidden")


def test_a_click_on_a_category_isolates_it_and_a_second_click_shows_all(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    table, floor = ([round(v) for v in browser.place(spot)] for spot in (TABLE_TOP, FLOOR_SPOT))
    row = "[...document.querySelectorAll('.entry')].find(row => row.textContent.startsWith('table'))"
    browser.run(f"{row}.click()")
    pixels = browser.pixels()
    assert is_like(pixels[table[1], table[0]], VOCABULARY.categories[TABLE].color)
    assert np.ptp(pixels[floor[1], floor[0]]) < 6  # faded to a pale grey
    assert pixels[floor[1], floor[0]].min() > 200
    assert browser.run(f"{row}.getAttribute('aria-pressed')") == "true"
    assert browser.run("location.hash") == f"#layer=truth&only={TABLE}"
    browser.run(f"{row}.click()")
    assert np.ptp(browser.pixels()[floor[1], floor[0]]) > 30


def test_a_click_on_a_surface_isolates_its_category_and_shift_adds(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    browser.click(*browser.place(TABLE_TOP))
    assert browser.run("[...lg3d.state.only]") == [TABLE]
    browser.click(*browser.place(FLOOR_SPOT), modifiers=8)
    assert sorted(browser.run("[...lg3d.state.only]")) == [1, TABLE]
    browser.key("Escape")
    assert browser.run("lg3d.state.only.size") == 0


def test_dragging_turns_shift_dragging_moves_and_the_wheel_zooms(browser: Browser, page: Path) -> None:
    browser.open(page)
    start = browser.run("lg3d.state.camera")

    def drag(**more: Any) -> dict[str, Any]:
        browser.mouse("mousePressed", 300, 300, button="left", buttons=1, clickCount=1, **more)
        browser.mouse("mouseMoved", 360, 320, button="left", buttons=1, **more)
        browser.mouse("mouseReleased", 360, 320, button="left", clickCount=1, **more)
        return dict(browser.run("lg3d.state.camera"))

    turned = drag()
    assert turned["azimuth"] == pytest.approx(start["azimuth"] - 60 * 0.35)
    assert turned["elevation"] == pytest.approx(start["elevation"] + 20 * 0.35)
    assert turned["target"] == start["target"]
    moved = drag(modifiers=8)
    assert moved["azimuth"] == turned["azimuth"]
    assert moved["target"] != turned["target"]
    browser.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=-60)
    browser.frame()
    assert browser.run("lg3d.state.camera.distance") < moved["distance"]
    browser.key("ArrowLeft")
    browser.key("ArrowLeft", shift=True)
    browser.key("+")
    browser.key("r")
    assert browser.run("lg3d.state.camera") == start


def test_two_fingers_pinch(browser: Browser, page: Path) -> None:
    browser.open(page)
    start = browser.run("lg3d.state.camera.distance")

    def touch(kind: str, *gap: float) -> None:
        points = [{"x": 300 - g, "y": 300, "id": 1} for g in gap] + [{"x": 300 + g, "y": 300, "id": 2} for g in gap]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 50)
    touch("touchMove", 100)
    touch("touchEnd")
    assert browser.run("lg3d.state.camera.distance") == pytest.approx(start / 2, rel=0.05)


def test_truth_and_prediction_stand_side_by_side_under_one_camera(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth&beside=prediction")
    pixels = browser.pixels()
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    half = pixels.shape[1] // 2
    assert is_like(pixels[y, x], VOCABULARY.categories[TABLE].color)
    assert is_like(pixels[y, x + half], VOCABULARY.categories[DOOR].color)
    browser.mouse("mouseMoved", x + half, y)
    browser.frame()
    assert browser.run("tip.firstChild.textContent") == "table"


def test_one_key_sets_truth_beside_prediction_and_one_camera_turns_both(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("b")
    assert browser.run("[lg3d.state.layer, lg3d.state.beside]") == ["truth", "prediction"]
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    browser.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", x + 40, y, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 40, y, button="left", clickCount=1)
    pixels = browser.pixels()
    moved_x, moved_y = (round(value) for value in browser.place(TABLE_TOP))
    assert (moved_x, moved_y) != (x, y)
    half = pixels.shape[1] // 2
    assert is_like(pixels[moved_y, moved_x], VOCABULARY.categories[TABLE].color)
    assert is_like(pixels[moved_y, moved_x + half], VOCABULARY.categories[DOOR].color)
    browser.key("b")
    assert browser.run("lg3d.state.beside") == ""


def test_heat_is_shown_with_its_ramp(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=heat-1")
    assert browser.run("document.querySelector('#caption-left').textContent") == "“<i>put it down</i>”"
    assert browser.run("document.querySelector('#key').textContent") == "cold00.250.50.751hot"
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    position = 0.8 * (len(HEAT_STOPS) - 1)
    low, share = int(position), position - int(position)
    expected = [a + share * (b - a) for a, b in zip(HEAT_STOPS[low], HEAT_STOPS[low + 1], strict=True)]
    assert is_like(browser.pixels()[y, x], tuple(round(value) for value in expected))


def test_the_gallery_jumps_to_each_object(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#tab-gallery').click()")
    names = browser.run("[...document.querySelectorAll('.card .name')].map(card => card.textContent)")
    assert names == ["ceiling", "door", "floor", "table", "wall", "wall", "wall", "wall", "wardrobe"]
    lines = browser.run("[...document.querySelectorAll('.card div:last-child')].map(line => line.textContent)")
    assert lines[3] == "predicted door"
    assert lines[1] == "100 % right"
    wait_for(browser, "document.querySelector('.card[data-drawn]') !== null")
    spread = "d.reduce((a, b) => Math.max(a, b)) - d.reduce((a, b) => Math.min(a, b))"
    drawn = "document.querySelector('.card[data-drawn] canvas')"
    assert browser.run(f"(d => {spread})({drawn}.getContext('2d').getImageData(0, 0, 264, 198).data)") > 40
    browser.run("document.querySelectorAll('.card')[3].click()")
    wait_for(browser, "!lg3d.flying")
    camera = browser.run("lg3d.state.camera")
    assert camera["target"] == pytest.approx([2.0, 1.5, 0.35], abs=0.03)  # the middle of the table
    assert browser.run("lg3d.state.part") == 4
    assert browser.run("location.hash").endswith("&part=4")
    x, y = browser.run("[canvas.clientWidth / 2, canvas.clientHeight / 2]")
    assert browser.run(f"lg3d.arrays.label[lg3d.pick({x}, {y}).vertex]") == TABLE
    browser.key("n")
    assert browser.run("lg3d.state.part") == 5
    browser.key("p")
    browser.key("p")
    assert browser.run("lg3d.state.part") == 3
    browser.key("Escape")
    assert browser.run("lg3d.state.part") == 0


def test_an_address_with_an_object_opens_at_it(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=colours&part=4")
    assert browser.run("[lg3d.state.part, lg3d.state.tab]") == [4, "gallery"]
    assert browser.run("lg3d.state.camera.target") == pytest.approx([2.0, 1.5, 0.35], abs=0.03)


def test_an_address_can_open_the_gallery(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=colours&tab=gallery")
    assert browser.run("[lg3d.state.tab, lg3d.state.part, document.querySelector('#gallery').hidden]") == [
        "gallery",
        0,
        False,
    ]
    assert browser.run("location.hash") == "#layer=colours&tab=gallery"


def test_a_slow_machine_gets_coarse_frames_while_things_move(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    wait_for(browser, "!lg3d.moving")  # until then, a busy machine may draw with fewer pixels
    browser.run("makeCoarse(); lg3d.slow = true")
    full, few = browser.run("[lg3d.scene.faces, lg3d.coarse.faces]")
    assert 0 < few < full / 3
    browser.run("clearTimeout(resting); draw(1, true)")
    coarse = browser.run("(() => { draw(1, true); const p = new Uint8Array(4); const [x, y] = "
                         f"{list(browser.place(TABLE_TOP))}; gl.readPixels(x, canvas.height - y, 1, 1, gl.RGBA, "
                         "gl.UNSIGNED_BYTE, p); return [...p]; })()")  # fmt: skip
    assert is_like(np.array(coarse[:3]), VOCABULARY.categories[TABLE].color)


def test_on_a_slow_machine_motion_is_coarse_and_rest_is_whole(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    wait_for(browser, "!lg3d.moving")
    width = browser.run("canvas.width")
    browser.run("SLOW.fill(-1); for (let k = 0; k < 3; k++) { timed = [0, 0]; drawMoving(); }")
    assert browser.run("[level, lg3d.slow]") == [3, True]
    cells = browser.run("[lg3d.coarse.cell, scene.spacing]")
    assert cells[0] > 1.7**2 * 3 * cells[1] - 1e-6
    assert browser.run("redraw(), drawMoving(), canvas.width") == pytest.approx(width / 2, abs=1)
    wait_for(browser, "!lg3d.moving")
    assert browser.run("canvas.width") == width
    x, y = (round(value) for value in browser.place(TABLE_TOP))
    assert is_like(browser.pixels()[y, x], VOCABULARY.categories[TABLE].color)
    assert browser.run(f"lg3d.arrays.label[lg3d.pick({x}, {y}).vertex]") == TABLE


def test_pointing_twice_at_a_still_picture_draws_once(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    wait_for(browser, "!lg3d.moving")
    browser.run("window.drawn = 0; const plain = gl.drawElements.bind(gl);"
                "gl.drawElements = (...args) => { drawn++; plain(...args); };")  # fmt: skip
    x, y = browser.place(TABLE_TOP)
    told = browser.run(f"[lg3d.pick({x}, {y}).vertex, lg3d.pick({x}, {y}).vertex, drawn]")
    assert told[0] == told[1] >= 0
    assert told[2] == 1
    browser.key("ArrowLeft")
    wait_for(browser, "!lg3d.moving")
    x, y = browser.place(TABLE_TOP)
    assert browser.run(f"lg3d.arrays.label[lg3d.pick({x}, {y}).vertex]") == TABLE


def test_the_served_page_is_the_same_page(browser: Browser) -> None:
    with PageServer(build_page(view_room())) as server:
        browser.open(server.address, "#layer=truth")
        assert browser.run("document.body.dataset.failed") is None
        x, y = (round(value) for value in browser.place(TABLE_TOP))
        assert is_like(browser.pixels()[y, x], VOCABULARY.categories[TABLE].color)
        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert {url for url in asked if not url.startswith("blob:")} <= {
            server.address,
            server.address + "#layer=truth",
        }
        browser.open(server.address.replace(server.token, "guess"), until="document.body?.textContent")
        assert "token in this address is wrong" in browser.run("document.body.textContent")


def test_heat_moves_on_the_open_page(browser: Browser) -> None:
    view = view_room()
    on_table = np.where(view.label == TABLE, 1.0, 0.0).astype(np.float32)
    with PageServer(build_page(view, live=True)) as server:
        browser.open(server.address, "#layer=truth", until="document.body?.dataset.ready && lg3d.listening")
        assert "Type a query at the prompt" in browser.run("document.querySelector('#live').textContent")
        x, y = (round(value) for value in browser.place(TABLE_TOP))
        publish_heat(server, "heat-2", "<b>to eat at</b>", on_table)
        wait_for(browser, "lg3d.state.layer === 'heat-2'")
        assert browser.run("document.querySelector('#caption-left').textContent") == "“<b>to eat at</b>”"
        assert is_like(browser.pixels()[y, x], HEAT_STOPS[-1])
        publish_heat(server, "heat-3", "to walk on", 1 - on_table)
        wait_for(browser, "lg3d.state.layer === 'heat-3'")
        assert is_like(browser.pixels()[y, x], HEAT_STOPS[0])
        browser.run("document.querySelector('[data-layer=heat-2]').click()")
        assert is_like(browser.pixels()[y, x], HEAT_STOPS[-1])
        publish_heat(server, "heat-4", "<b>to eat at</b>", 1 - on_table)  # asked again: the same layer, anew
        wait_for(browser, "lg3d.arrays['heat-2'][0] === 255")
        assert is_like(browser.pixels()[y, x], HEAT_STOPS[0])
        for k in range(6):
            publish_heat(server, f"heat-{5 + k}", f"text {k}", on_table)
        wait_for(browser, "lg3d.state.layer === 'heat-10'")
        names = browser.run("[...document.querySelectorAll('#layers button')].map(button => button.dataset.layer)")
        assert names[-7:] == ["heat-1", *(f"heat-{k}" for k in range(5, 11))]
        browser.open(server.address, until="document.body?.dataset.ready && lg3d.state.layer === 'heat-10'")
        browser.run("document.querySelector('[data-layer=heat-10]').title")
        problems = [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
        assert problems == []
    wait_for(browser, "!lg3d.listening")
    assert browser.run("document.querySelector('#live').textContent") == "The prompt has ended."


@pytest.fixture
def phone(browser: Browser) -> Iterator[Browser]:
    browser.be_a_phone()
    yield browser
    browser.be_a_desktop()


def test_a_tap_shows_details_until_the_next_tap(phone: Browser, page: Path) -> None:
    phone.open(page, "#layer=truth")
    phone.tap(*phone.place(TABLE_TOP))
    assert not phone.run("tip.hidden")
    assert phone.run("tip.querySelector('b').textContent") == "table"
    phone.tap(*phone.place(FLOOR_SPOT))
    assert phone.run("tip.querySelector('b').textContent") == "floor"
    assert phone.run("lg3d.state.only.size") == 0  # a mouse isolates, a finger asks


def test_on_a_phone_nothing_covers_the_gallery(phone: Browser, page: Path) -> None:
    phone.open(page, "#tab=gallery")
    boxes = phone.run(
        "[...document.querySelectorAll('.card'), document.querySelector('footer')]"
        ".map(one => { const box = one.getBoundingClientRect(); return [box.top, box.bottom]; })"
    )
    *cards, footer = boxes
    assert len(cards) > 2
    assert max(bottom for _, bottom in cards) <= footer[0]
    assert phone.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_phrase_typed_on_the_page_is_answered_there(browser: Browser) -> None:
    view = view_room()
    on_table = np.where(view.label == TABLE, 1.0, 0.0).astype(np.float32)
    asked: list[str] = []

    def answer(phrase: str) -> str:
        asked.append(phrase)
        if phrase == "nonsense":
            raise DataError("nothing is like <b>that</b>")
        publish_heat(server, "heat-2", phrase, on_table)
        return f"{phrase}: highest heat 1.00"

    with PageServer(build_page(view, live=True, asks=True), answer=answer) as server:
        browser.open(server.address, "#layer=truth", until="document.body?.dataset.ready && lg3d.listening")
        browser.run("document.querySelector('#phrase').focus()")
        for letter in "<i>eat</i> b":  # B is also a key of the page
            browser.call("Input.dispatchKeyEvent", type="char", text=letter)
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="b")
        for kind in ("rawKeyDown", "char", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13)
        wait_for(browser, "lg3d.state.layer === 'heat-2'")
        x, y = (round(value) for value in browser.place(TABLE_TOP))
        assert is_like(browser.pixels()[y, x], HEAT_STOPS[-1])
        assert browser.run("lg3d.state.beside") == ""
        wait_for(browser, "document.querySelector('#live').textContent === '<i>eat</i> b: highest heat 1.00'")
        browser.run("document.querySelector('#phrase').value = 'nonsense'; document.querySelector('#find').click()")
        wait_for(browser, "document.querySelector('#live').textContent === 'nothing is like <b>that</b>'")
        assert browser.run("document.querySelector('#live').className") == "quiet wrong"
        assert asked == ["<i>eat</i> b", "nonsense"]


def test_the_near_wall_is_cut_and_comes_back(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    cut = browser.pixels()
    browser.key("c")
    whole = browser.pixels()
    ceiling = VOCABULARY.categories[2].color
    x, y = (round(value) for value in browser.place((SIZE[0] / 2, SIZE[1] / 2, SIZE[2])))
    assert is_like(whole[y, x], ceiling)
    assert not is_like(cut[y, x], ceiling)


def test_points_can_be_shown_in_place_of_the_surface(browser: Browser, page: Path) -> None:
    browser.open(page, "#layer=truth")
    surface = browser.pixels()
    browser.key("f")
    points = browser.pixels()
    assert (points != surface).any()
    assert (points < 250).any(axis=2).mean() > 0.15
    x, y = browser.place(TABLE_TOP)
    assert browser.run(f"lg3d.pick({x}, {y}).vertex") >= 0


def test_save_gives_a_picture_twice_as_fine(browser: Browser, page: Path) -> None:
    browser.open(page)
    size = browser.run("[canvas.width, canvas.height]")
    made = browser.run(
        "new Promise(done => { const create = URL.createObjectURL;"
        "URL.createObjectURL = blob => { createImageBitmap(blob).then(image => done([image.width, image.height]));"
        "return create.call(URL, blob); };"
        "HTMLAnchorElement.prototype.click = function () { window.saved = this.download; };"
        "document.querySelector('#save').click(); })"
    )
    assert made == [2 * size[0], 2 * size[1]]
    assert browser.run("window.saved") == "_script_b_scene_b_-prediction.png"
    assert browser.run("[canvas.width, canvas.height]") == size


def test_an_old_browser_gets_a_message_with_the_missing_feature(browser: Browser, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    old = tmp_path / "old.html"
    old.write_text(text.replace('"use strict";', '"use strict"; delete window.DecompressionStream;'), encoding="utf-8")
    browser.open(old)
    assert "too old" in browser.run("document.querySelector('#message').textContent")


def test_a_bare_point_cloud_opens(browser: Browser, tmp_path: Path) -> None:
    room = make_room()
    bare = room._replace(
        faces=np.zeros((0, 3), dtype=np.int32),
        normal=np.zeros_like(room.normal),
        label=np.full_like(room.label, -1),
        instance=np.zeros_like(room.instance),
    )
    path = tmp_path / "bare.html"
    write_page(build_view(bare, VOCABULARY), path)
    browser.open(path)
    assert browser.run("document.body.dataset.failed") is None
    assert (browser.pixels() < 250).any(axis=2).mean() > 0.1
    browser.mouse("mouseMoved", *browser.place((2.0, 1.5, SIZE[2])))
    browser.frame()
    assert browser.run("tip.textContent") == "no annotation"
