"""Furnishing, shapes and textures, without writing files."""

import numpy as np
import pytest

from lg3d_core.synthetic.furniture import BUILDERS, build
from lg3d_core.synthetic.furniture.catalog import UNANNOTATED, VARIANTS, label_of
from lg3d_core.synthetic.kinds import KINDS, furnish
from lg3d_core.synthetic.labels import OUTSIDE
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.rooms import kind_of, plan_splits, scene_id_of
from lg3d_core.synthetic.shapes import Part, triangulate
from lg3d_core.synthetic.textures import TEXTURES, hash_cells, paint_vertices
from lg3d_core.vocabulary import load_vocabulary

SHELL = ("wall", "floor", "ceiling", "door", "doorframe", "window", "windowsill", "blinds", "curtain")


def test_every_builder_stands_for_a_category_or_a_listed_outside_label() -> None:
    outside = {label for label, *_ in OUTSIDE}
    names = set(load_vocabulary().names)
    assert set(BUILDERS) <= names | outside
    assert {label_of(name) for name in VARIANTS} <= names | {UNANNOTATED}
    assert not outside & names
    assert not {raw_id for _, _, raw_id, _ in OUTSIDE} & set(load_vocabulary().ids.tolist())


@pytest.mark.parametrize("name", [*BUILDERS, *VARIANTS])
def test_things_stand_on_their_origin_and_have_the_size_of_furniture(name: str) -> None:
    for seed in range(3):
        low, high = build(name, Kit(np.random.default_rng(seed))).extent()
        assert -1e-9 <= low[2] < 0.12
        assert (high - low).min() > 0.004
        assert 0.04 < (high - low).max() < 2.8


@pytest.mark.parametrize("name", BUILDERS)
def test_surfaces_are_closed_and_face_outwards(name: str) -> None:
    for part in build(name, Kit(np.random.default_rng(0))).parts:
        surface = triangulate(part, 0.04)
        a, b, c = (surface.xyz[surface.faces[:, k]] for k in range(3))
        cross = np.cross(b - a, c - a)
        outward = (cross * surface.normal[surface.faces].mean(axis=1)).sum(axis=1)
        assert (outward >= -1e-9).mean() > 0.98
        if part.shape in ("box", "blob"):
            edges = np.sort(surface.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
            assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_the_volume_of_a_cut_box_is_that_of_the_box() -> None:
    model = Model("box")
    model.box((0, 0.3), (0, 0.2), (0, 0.5), Kit(np.random.default_rng(0)).white())
    surface = triangulate(model.parts[0], 0.03)
    a, b, c = (surface.xyz[surface.faces[:, k]] for k in range(3))
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(0.3 * 0.2 * 0.5)


def test_a_panel_leaves_its_openings_free() -> None:
    paint = Kit(np.random.default_rng(0)).white()
    part = Part("panel", np.zeros(3), np.array([2.0, 1.0, 0.0]), np.eye(3), paint, openings=((-0.5, -1.0, 0.5, 0.5),))
    surface = triangulate(part, 0.1)
    a, b, c = (surface.xyz[surface.faces[:, k]] for k in range(3))
    assert np.cross(b - a, c - a)[:, 2].sum() / 2 == pytest.approx(4 * 2 - 1.0 * 1.5)
    inside = (np.abs(surface.xyz[:, 0]) < 0.49) & (surface.xyz[:, 1] < 0.49)
    assert not inside.any()


@pytest.mark.parametrize("kind", KINDS)
def test_things_stay_within_the_walls_and_out_of_each_other(kind: str) -> None:
    for seed in range(3):
        room = furnish(KINDS[kind], rng=np.random.default_rng(seed), turn=seed)
        assert len(room.things) > 15
        furniture = [thing for thing in room.things if thing.label not in SHELL]
        boxes = [thing.boxes() for thing in furniture]
        for low, high in boxes:
            assert (low.min(axis=0) > -0.01).all()
            assert (high.max(axis=0) < np.array(room.size) + 0.01).all()
        for i, (low, high) in enumerate(boxes):
            for other_low, other_high in boxes[:i]:
                depth = np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low)
                assert depth.min(axis=2).max() < 0.01


def test_rooms_of_a_kind_differ_and_equal_seeds_repeat() -> None:
    def labels(seed: int) -> list[str]:
        return [thing.label for thing in furnish(KINDS["office"], rng=np.random.default_rng(seed), turn=seed).things]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


def test_a_room_holds_only_what_is_allowed() -> None:
    allowed = frozenset({"wall", "floor", "door", "doorframe", "bed", "pillow"})
    room = furnish(KINDS["bedroom"], rng=np.random.default_rng(0), turn=0, allowed=allowed)
    assert {thing.label for thing in room.things} - {UNANNOTATED} <= allowed
    assert room.named("bed")


def test_a_thing_is_refused_where_another_stands_or_beyond_a_wall() -> None:
    room = Room((3.0, 3.0, 2.5), np.random.default_rng(0))
    kit = Kit(room.rng)
    bed = build("bed", kit)
    assert room.put(bed, np.array([1.5, 1.5, 0.0]), 0.0)
    assert not room.put(build("desk", kit), np.array([1.5, 1.6, 0.0]), 0.0)
    assert not room.put(build("chair", kit), np.array([3.0, 0.3, 0.0]), 0.0)
    assert not room.along_wall(build("couch", kit), z=3.0)


def test_a_kitchen_has_its_sink_in_the_hole_of_its_worktop() -> None:
    room = furnish(KINDS["kitchen"], rng=np.random.default_rng(1), turn=0)
    (sink,) = room.named("sink")
    low, high = sink.boxes()
    tops = [
        (corner[0].min(axis=0), corner[1].max(axis=0)) for t in room.named("kitchen counter") for corner in [t.boxes()]
    ]
    over = [t for t in tops if (t[0][:2] < low.min(axis=0)[:2]).all() and (t[1][:2] > high.max(axis=0)[:2]).all()]
    assert len(over) == 1
    assert low[:, 2].min() < over[0][0][2] < high[:, 2].max()


def test_a_room_that_is_full_takes_nothing_more() -> None:
    room = Room((2.0, 2.0, 2.5), np.random.default_rng(0))
    kit = Kit(room.rng)
    host = room.at_wall("north", build("chair", kit), 1.0)
    assert host
    room.reserve(np.zeros((1, 3)), np.array([[2.0, 2.0, 2.5]]))
    cup, lamp = build("cup", kit), build("ceiling light", kit)
    assert room.on_floor(cup) is room.on_floor(cup, middle=True) is room.under(host, cup) is None
    assert room.beside(host, cup) is room.before(host, cup) is room.on_top(host, cup) is None
    assert room.hang(cup, 1.0, 1.2) is room.hang_by(host, cup, 1.0, 1.2) is room.from_ceiling(lamp) is None
    assert room.around(host, cup, 2) == []


@pytest.mark.parametrize("texture", [name for name in TEXTURES if name != "as it is"])
def test_textures_vary_about_their_base_colour(texture: str) -> None:
    rng = np.random.default_rng(0)
    local = rng.uniform(-0.5, 0.5, size=(4000, 3))
    code = np.full(4000, list(TEXTURES).index(texture))
    colors = paint_vertices(np.full((4000, 3), 120.0), code, local, np.full(4000, 5))
    assert np.isfinite(colors).all()
    assert np.abs(colors.mean() - 120.0) < 45
    assert 0 < colors.std() < 75


def test_hashes_repeat_and_are_uniform() -> None:
    cells = np.arange(30_000).reshape(-1, 3)
    seed = np.full(len(cells), 9)
    values = hash_cells(cells, seed)
    assert (values == hash_cells(cells, seed)).all()
    assert values.mean() == pytest.approx(0.5, abs=0.02)  # 0.003 is the standard error of 10,000 uniform numbers
    assert values.std() == pytest.approx(12**-0.5, abs=0.02)


def test_splits_are_even_and_kinds_take_turns_in_both() -> None:
    splits = plan_splits(48, 0.25)
    assert splits[:8] == ["train", "train", "train", "val", "train", "train", "train", "val"]
    assert plan_splits(1, 0.9) == ["train"]
    assert plan_splits(5, 0.0) == ["train"] * 5
    train = [kind_of(splits, k)[0] for k, split in enumerate(splits) if split == "train"]
    assert train[: len(KINDS)] == list(KINDS)
    assert kind_of(splits, 3) == (next(iter(KINDS)), 1000)


def test_ids_stay_four_digits_long() -> None:
    assert [scene_id_of(k) for k in (0, 999, 1000, 25_001)] == [
        "scene9000_00",
        "scene9999_00",
        "scene9000_01",
        "scene9001_25",
    ]
