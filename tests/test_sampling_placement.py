"""Where objects are put: never into each other, never in the air, never out of the room or on its ceiling."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.progress import Progress
from lg3d_core.sampling import height_map
from lg3d_core.sampling.height_map import REACH, build_height_map, vertex_spacing
from lg3d_core.sampling.instance_bank import Instance
from lg3d_core.sampling.placement import (
    SHELL,
    FurnishedScene,
    InstancePasting,
    object_boxes,
    open_pasting,
    place_instances,
)
from lg3d_core.scans.scannet import MAX_ID
from lg3d_core.store.budgets import ensure_budget
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore

VOXEL = 0.02
UP = (0.0, 0.0, 1.0)


def level_surface(x: tuple[float, float], y: tuple[float, float], z: float, *, spacing: float = 0.02) -> np.ndarray:
    """Points of a horizontal rectangle."""
    u, v = np.meshgrid(np.arange(*x, spacing), np.arange(*y, spacing), indexing="ij")
    return np.stack([u.ravel(), v.ravel(), np.full(u.size, z)], axis=1).astype(np.float32)


def make_scene(
    *parts: np.ndarray, instance: list[int] | None = None, label: list[int] | None = None, normal: object = UP
) -> Scene:
    """A scene of some surfaces, all with one normal; a part is an object where it has a number."""
    xyz = np.concatenate(parts)
    sizes = [len(part) for part in parts]
    return Scene(
        scene_id="made",
        split="train",
        xyz=xyz,
        rgb=np.full((len(xyz), 3), 128, dtype=np.uint8),
        normal=np.broadcast_to(np.asarray(normal, dtype=np.float32), xyz.shape),
        label=np.repeat(np.array(label or [-1] * len(parts), dtype=np.int16), sizes),
        instance=np.repeat(np.array(instance or [0] * len(parts), dtype=np.int32), sizes),
        segment=np.full(len(xyz), -1, dtype=np.int32),
        faces=np.zeros((0, 3), dtype=np.int32),
    )


def make_block(size: tuple[float, float, float], *, category: int = 7) -> Instance:
    """The corners of a block that stands at the origin, and its centre."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)] + [[0, 0, 0.5]])
    xyz = (corners * size).astype(np.float32)
    return Instance(category, xyz, np.full((9, 3), 200, dtype=np.uint8), np.ones(9, dtype=bool))


def place(scene: Scene, *instances: Instance, seed: int = 0, **options: object) -> FurnishedScene:
    return place_instances(scene, instances, np.random.default_rng(seed), voxel_size=VOXEL, **options)  # type: ignore[arg-type]


def pasted_boxes(furnished: FurnishedScene) -> np.ndarray:
    """Smallest and largest corner of each object that was put in, by its own points."""
    own = furnished.xyz[furnished.num_own :]
    return np.array(
        [[own[furnished.part == k].min(axis=0), own[furnished.part == k].max(axis=0)] for k in range(furnished.placed)]
    ).reshape(-1, 2, 3)


FLOOR = level_surface((0, 4), (0, 3), 0.0)


def test_an_object_stands_on_the_floor_or_on_the_table_and_never_between() -> None:
    table = level_surface((1, 2), (1, 2), 0.75)
    bottoms = {
        round(float(pasted_boxes(place(make_scene(FLOOR, table), make_block((0.2, 0.2, 0.3)), seed=k))[0, 0, 2]), 4)
        for k in range(60)
    }
    assert bottoms == {0.0, 0.75}


def test_placed_objects_come_after_the_scene_with_their_label_and_a_new_instance_id() -> None:
    scene = make_scene(FLOOR, label=[3], instance=[41])
    block = make_block((0.2, 0.2, 0.3))
    furnished = place(scene, block, block._replace(category=9, labelled=np.arange(9) < 4))
    assert (furnished.num_own, furnished.placed, furnished.skipped) == (len(FLOOR), 2, 0)
    for own, new in zip((scene.xyz, scene.rgb, scene.label, scene.instance), furnished[1:5], strict=True):
        np.testing.assert_array_equal(new[: len(FLOOR)], own)
    assert furnished.label[len(FLOOR) :].tolist() == [7] * 9 + [9] * 4 + [-1] * 5
    assert furnished.instance[len(FLOOR) :].tolist() == [42] * 9 + [43] * 4 + [0] * 5
    assert furnished.part.tolist() == [0] * 9 + [1] * 9
    assert furnished.rgb[-1].tolist() == [200] * 3


def test_ids_of_placed_objects_follow_the_largest_id_that_scans_may_have() -> None:
    floor = level_surface((0, 4), (0, 4), 0)
    table = level_surface((1, 2), (1, 2), 0.7)
    scene = place(make_scene(floor, table, instance=[0, MAX_ID], label=[2, 5]), *[make_block((0.3, 0.3, 0.3))] * 3)
    assert scene.placed == 3
    assert np.unique(scene.instance[scene.num_own :]).tolist() == [MAX_ID + 1, MAX_ID + 2, MAX_ID + 3]


def test_objects_avoid_earlier_ones_and_are_skipped_without_free_space() -> None:
    small_floor = make_scene(level_surface((0, 1), (0, 1), 0.0))
    block = make_block((0.7, 0.7, 0.3))  # a second one beside it cannot fit on 1 m
    furnished = place(small_floor, block, block, block, max_tries=200)
    assert (furnished.placed, furnished.skipped) == (1, 2)
    assert len(furnished.xyz) == len(small_floor.xyz) + 9
    too_large = place(small_floor, make_block((1.2, 0.2, 0.2)))
    assert (too_large.placed, too_large.skipped) == (0, 1)


def test_nothing_is_placed_on_placed_objects() -> None:
    plate = make_block((0.9, 0.9, 0.02))
    furnished = place(make_scene(level_surface((0, 1), (0, 1), 0.0)), plate, make_block((0.3, 0.3, 0.2)), max_tries=300)
    assert (furnished.placed, furnished.skipped) == (1, 1)


def test_boxes_of_other_objects_are_avoided_but_support_objects_on_top() -> None:
    """A bench and its back share a box of 1 m x 1 m x 1 m: the seat lies inside it, so it stays empty."""
    seat, back = level_surface((1, 2), (1, 2), 0.4), level_surface((1, 2), (1, 1.04), 1.0)
    block = make_block((0.2, 0.2, 0.3))
    for seed in range(60):
        box = pasted_boxes(place(make_scene(FLOOR, seat, back, instance=[0, 5, 5]), block, seed=seed))[0]
        assert box[0, 2] == 0.0
        assert (box[1, :2] <= 1.0).any() or (box[0, :2] >= 1.98).any()
    on_seat = [pasted_boxes(place(make_scene(FLOOR, seat, instance=[0, 5]), block, seed=k))[0, 0, 2] for k in range(60)]
    assert 0.3 < np.max(on_seat) < 0.5  # without the back the seat is the top of the box, and contact is allowed


def test_walls_floors_and_objects_that_span_the_room_are_no_obstacles() -> None:
    left, right = level_surface((0, 0.04), (0, 3), 2.5), level_surface((3.96, 4), (0, 3), 2.5)
    hung = make_scene(FLOOR, np.concatenate([left, right]), instance=[1, 2], label=[4, 5])
    assert len(object_boxes(hung, frozenset())) == 0  # both span more than half of the floor plan
    half = make_scene(FLOOR, left, level_surface((1, 2), (1, 2), 0.5), instance=[1, 2, 3], label=[4, 5, 6])
    assert len(object_boxes(half, frozenset())) == 2
    np.testing.assert_allclose(object_boxes(half, frozenset({5})), [[[1, 1, 0.5], [1.98, 1.98, 0.5]]], atol=1e-6)


@pytest.mark.parametrize(
    ("height", "fits"), [(0.9, True), (1.1, False)], ids=["below a lamp at 1.6 m with room", "taller than that"]
)
def test_surfaces_above_limit_the_height(height: float, fits: bool) -> None:
    low = level_surface((0, 1), (0, 1), 0.0)
    table, lamp = level_surface((0, 1), (0, 1), 0.6), level_surface((0, 1), (0, 1), 1.6)
    assert place(make_scene(low, table, lamp), make_block((0.2, 0.2, height))).placed == fits


def test_nothing_is_placed_on_a_ceiling_without_a_floor() -> None:
    corner = level_surface((0, 0.2), (0, 0.2), 0.0)
    ceiling = level_surface((0, 4), (0, 3), 2.4)
    furnished = place(make_scene(corner, ceiling), make_block((0.3, 0.3, 0.3)), max_tries=300)
    assert furnished.placed == 0


def test_steep_surfaces_and_holes_support_nothing() -> None:
    assert place(make_scene(FLOOR, normal=(1, 0, 0)), make_block((0.2, 0.2, 0.2))).placed == 0
    assert place(make_scene(FLOOR, normal=(0, 0, -1)), make_block((0.2, 0.2, 0.2))).placed == 1  # wound the other way
    assert place(make_scene(FLOOR, normal=(0, 0, 0)), make_block((0.2, 0.2, 0.2))).placed == 1  # no normals at all
    ring = FLOOR[~((FLOOR[:, 0] > 1) & (FLOOR[:, 0] < 3) & (FLOOR[:, 1] > 1) & (FLOOR[:, 1] < 2))]
    for seed in range(40):
        low, high = pasted_boxes(place(make_scene(ring), make_block((0.3, 0.3, 0.2)), seed=seed))[0]
        assert (high[:2] < (1.06, 1.06)).any() or (low[:2] > (2.94, 1.94)).any()


@pytest.mark.parametrize("turn", [0.0, 0.3, np.pi / 4, 1.2])
@pytest.mark.parametrize("spacing", [0.013, 0.02, 0.031])
def test_no_object_reaches_beyond_the_floor_however_the_room_is_turned(turn: float, spacing: float) -> None:
    """An L of 3 m x 2 m without its quarter: the corners of every box, turned back, lie on the floor's rectangles."""
    floor = level_surface((-1.5, 1.5), (-1, 1), 0.0, spacing=spacing)
    floor = floor[(floor[:, 0] < 0) | (floor[:, 1] < 0)]
    low, high = floor.min(axis=0), floor.max(axis=0)
    notch = floor[floor[:, 0] >= 0][:, 1].max(), floor[floor[:, 1] >= 0][:, 0].max()
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = (floor @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])).astype(np.float32)
    scene = make_scene(turned)
    boxes = np.concatenate([pasted_boxes(place(scene, make_block((0.4, 0.25, 0.3)), seed=k)) for k in range(150)])
    assert len(boxes) > 100
    corners = np.array([[box[i, 0], box[j, 1]] for box in boxes for i in (0, 1) for j in (0, 1)])
    x, y = (corners @ np.array([[cosine, -sine], [sine, cosine]])).T
    assert (x >= low[0] - 1e-5).all()
    assert (x <= high[0] + 1e-5).all()
    assert (y >= low[1] - 1e-5).all()
    assert (y <= high[1] + 1e-5).all()
    assert ((x <= notch[1] + 1e-5) | (y <= notch[0] + 1e-5)).all()


def test_an_empty_scene_and_an_empty_list_change_nothing() -> None:
    assert place(make_scene(FLOOR)).placed == 0
    empty = make_scene(FLOOR[:0])
    assert place(empty, make_block((0.1, 0.1, 0.1)))[-2:] == (0, 1)


def test_the_height_map_is_that_of_the_definition() -> None:
    """Against loops over points and cells."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-1, 2, 0), (0.7, 3.1, 2.5), size=(4000, 3)).astype(np.float32)
    normal = np.where(rng.random((4000, 1)) < 0.5, (0, 0, -1), (1, 0, 0)).astype(np.float32)
    ground = build_height_map(xyz, normal, np.zeros((0, 3), np.int32), tolerance=0.05)
    some_level = np.sort(xyz[normal[:, 2] != 0, 2])
    limit = np.percentile(some_level, height_map.FLOOR_PERCENTILE) + REACH
    low = xyz[:, :2].min(axis=0)
    for i in range(ground.height.shape[0]):
        for j in range(ground.height.shape[1]):
            inside = (np.floor((xyz[:, :2] - low) / np.float32(0.05)) == (i, j)).all(axis=1)
            below, above = inside & (xyz[:, 2] < limit), inside & (xyz[:, 2] >= limit)
            top = xyz[below, 2].max(initial=-np.inf)
            assert ground.height[i, j] == top
            assert ground.free[i, j] == xyz[above, 2].min(initial=np.inf)
            held = below & (normal[:, 2] != 0) & (xyz[:, 2] >= top - np.float32(0.05))
            assert ground.support[i, j] == held.any()


def test_cells_are_wider_than_the_mesh() -> None:
    """Vertices 10 cm apart along the axes: the median edge of such triangles is 10 cm, a cell one and a half of it."""
    xyz = level_surface((0, 4), (0, 3), 0.0, spacing=0.1)
    corner = np.array([0, 30, 1])
    faces = (corner + np.arange(29)[:, None]).astype(np.int32)
    assert vertex_spacing(xyz, faces) == pytest.approx(0.1, rel=1e-5)
    ground = build_height_map(xyz, np.broadcast_to(np.float32(UP), xyz.shape), faces, tolerance=0.01)
    assert ground.cell == pytest.approx(0.15, rel=1e-5)
    assert ground.support.all()


def test_a_distant_outlier_does_not_make_a_giant_map() -> None:
    xyz = np.concatenate([FLOOR, np.array([[9000, 9000, 0]], dtype=np.float32)])
    ground = build_height_map(xyz, np.zeros_like(xyz), np.zeros((0, 3), np.int32), tolerance=0.01)
    assert ground.height.size < 1.01 * height_map.MAX_CELLS


@pytest.fixture(scope="module")
def furnished_store(furnished_store_path: Path) -> SceneStore:
    return SceneStore(furnished_store_path)


@pytest.fixture(scope="module")
def pasting(furnished_store: SceneStore) -> InstancePasting:
    made = open_pasting(furnished_store, budget=None, count=8, progress=Progress())
    assert made is not None
    return made


@pytest.mark.parametrize("voxel_size", [0.02, 0.05])
def test_on_procedural_rooms_nothing_overlaps_floats_leaves_or_stands_on_a_ceiling(
    furnished_store: SceneStore, pasting: InstancePasting, voxel_size: float
) -> None:
    """Checked point by point, without the height map: 4 rooms x 6 seeds x 8 objects."""
    names = furnished_store.vocabulary.index_by_name
    shell = [names[name] for name in SHELL if name in names]
    contact = min(voxel_size, 0.03) + 1e-4
    num_placed = 0
    for scene_id in furnished_store.scene_ids():
        scene = furnished_store.read(scene_id)
        objects = [
            scene.xyz[scene.instance == k]
            for k in np.unique(scene.instance[~np.isin(scene.label, shell) & (scene.instance > 0)])
        ]
        known = [np.stack([points.min(axis=0), points.max(axis=0)]) for points in objects]
        plan = np.ptp(scene.xyz[:, :2], axis=0).prod()
        known = [box for box in known if np.ptp(box[:, :2], axis=0).prod() < 0.5 * plan]
        floor = np.percentile(scene.xyz[scene.label == names["floor"], 2], 5)
        step = 2 * vertex_spacing(scene.xyz, scene.faces)
        for seed in range(6):
            furnished = pasting.furnish(scene, np.random.default_rng(seed), voxel_size=voxel_size)
            assert furnished.placed + furnished.skipped == 8
            boxes = pasted_boxes(furnished)
            num_placed += len(boxes)
            for k, (low, high) in enumerate(boxes):
                over = ((scene.xyz[:, :2] > low[:2]) & (scene.xyz[:, :2] < high[:2])).all(axis=1)
                z = scene.xyz[over, 2]
                # overlaps no point of the room, no box of its objects, and none of the others that were put in
                assert not ((z > low[2] + 1e-4) & (z < high[2] - 1e-4)).any()
                others = [*known, *np.delete(boxes, k, axis=0)]
                for other in others:
                    meets = (np.minimum(high, other[1]) - np.maximum(low, other[0])) > (0, 0, contact)
                    assert not meets.all()
                # does not float: something of the room is within a voxel below its box
                near = ((scene.xyz[:, :2] > low[:2] - step) & (scene.xyz[:, :2] < high[:2] + step)).all(axis=1)
                near &= (scene.xyz[:, 2] <= low[2] + 1e-4) & (scene.xyz[:, 2] >= low[2] - contact)
                assert near.any()
                # is in the room: every corner has a floor, or something else, below it
                for x in (low[0], high[0]):
                    for y in (low[1], high[1]):
                        below = scene.xyz[:, 2] <= low[2] + 1e-4
                        assert np.hypot(*(scene.xyz[below, :2] - (x, y)).T).min() < step
                assert (low[:2] >= scene.xyz[:, :2].min(axis=0)).all()
                assert (high[:2] <= scene.xyz[:, :2].max(axis=0)).all()
                # stands on no ceiling
                assert low[2] < floor + REACH + 0.02
                assert high[2] < scene.xyz[:, 2].max()
    assert num_placed > 0.75 * 4 * 6 * 8  # measured 0.9


def test_under_a_budget_objects_avoid_the_visible_points_of_others(furnished_store: SceneStore) -> None:
    budget = ensure_budget(furnished_store, 0.05, seed=0, progress=Progress())
    scene_id = furnished_store.scene_ids("train")[0]
    seen, whole = furnished_store.read(scene_id, budget=budget), furnished_store.read(scene_id)
    boxes, all_boxes = object_boxes(seen, frozenset()), object_boxes(whole, frozenset())
    assert len(boxes) > 5
    # Farthest points span their object: of the whole boxes' volume most is known from 5 % of the points.
    assert (
        np.prod(boxes[:, 1] - boxes[:, 0], axis=1).sum()
        > 0.5 * np.prod(all_boxes[:, 1] - all_boxes[:, 0], axis=1).sum()
    )


def test_a_varied_object_stays_at_the_origin_with_its_size_within_a_tenth(pasting: InstancePasting) -> None:
    rng = np.random.default_rng(0)
    block = make_block((0.4, 0.2, 0.6))._replace(rgb=np.arange(27, dtype=np.uint8).reshape(9, 3) * 9)
    factors = []
    for _ in range(200):
        varied = pasting.vary(block, rng)
        assert varied.xyz[:, 2].min() == 0
        factor = float(varied.xyz[:, 2].max() / 0.6)
        spread = np.linalg.norm(varied.xyz[:, :2], axis=1).max() / np.hypot(0.2, 0.1)
        assert spread == pytest.approx(factor, rel=1e-5)  # one factor for all axes
        assert np.abs(varied.rgb.astype(int) - block.rgb).max() < 0.2 * 127 + 0.06 * 255 + 1
        factors.append(factor)
    assert 0.9 <= min(factors) < 0.92
    assert 1.08 < max(factors) <= 1.1


def test_equal_generators_place_the_same_objects(furnished_store: SceneStore, pasting: InstancePasting) -> None:
    scene = furnished_store.read(furnished_store.scene_ids("train")[0])
    one, other, third = (pasting.furnish(scene, np.random.default_rng(k), voxel_size=VOXEL) for k in (3, 3, 4))
    np.testing.assert_array_equal(one.xyz, other.xyz)
    np.testing.assert_array_equal(one.rgb, other.rgb)
    assert one.xyz.shape != third.xyz.shape or not np.array_equal(one.xyz, third.xyz)
