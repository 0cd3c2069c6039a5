"""Fast sampling against the same steps written plainly, the slow side of the benchmark, from equal random numbers."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the plain way interpolates with scipy")

from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation, distort
from lg3d_core.sampling.height_map import vertex_spacing
from lg3d_core.sampling.placement import InstancePasting, object_boxes, open_pasting, place_instances
from lg3d_core.sampling.voxels import voxelize
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "plain_sampling.py"
    spec = importlib.util.spec_from_file_location("plain_sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store(furnished_store_path: Path) -> SceneStore:
    return SceneStore(furnished_store_path)


@pytest.fixture(scope="module")
def scene(store: SceneStore) -> Scene:
    return store.read(store.scene_ids("train")[0])


@pytest.fixture(scope="module")
def pasting(store: SceneStore) -> InstancePasting:
    made = open_pasting(store, budget=None, count=8, progress=Progress())
    assert made is not None
    return made


def make_room(plain: ModuleType, scene: Scene) -> object:
    spacing = vertex_spacing(scene.xyz, scene.faces)
    return plain.PlainRoom(scene.xyz, scene.rgb, scene.normal, scene.label, scene.instance, spacing)


@pytest.mark.parametrize(("granularity", "magnitude"), [(0.2, 0.4), (0.8, 1.6)])
def test_distortions_agree(plain: ModuleType, scene: Scene, granularity: float, magnitude: float) -> None:
    fast, slow = (
        function(scene.xyz, np.random.default_rng(5), granularity=granularity, magnitude=magnitude)
        for function in (distort, plain.distort)
    )
    assert np.abs(slow - scene.xyz).max() > 0.1
    np.testing.assert_allclose(fast, slow, atol=2e-5)  # float32 against float64; measured 4e-6


def test_motions_agree(plain: ModuleType, scene: Scene) -> None:
    for seed in range(4):
        fast = Augmentation().move(scene.xyz, np.random.default_rng(seed))
        slow = plain.move(scene.xyz.astype(np.float64), np.random.default_rng(seed))
        np.testing.assert_allclose(fast, slow, atol=1e-4)  # a grid may get another node where an extent is a multiple


@pytest.mark.parametrize("voxel_size", [0.02, 0.1, 0.5])
def test_voxels_and_the_points_they_keep_agree(plain: ModuleType, scene: Scene, voxel_size: float) -> None:
    fast = voxelize(scene.xyz, voxel_size, rng=np.random.default_rng(1))
    cells, point = plain.voxelize(scene.xyz.astype(np.float64), voxel_size, np.random.default_rng(1))
    np.testing.assert_array_equal(fast.cells, cells)
    np.testing.assert_array_equal(fast.point, point)


def test_mirroring_and_colours_agree(plain: ModuleType, scene: Scene) -> None:
    voxels = voxelize(scene.xyz, 0.1)
    for seed in range(8):
        fast = Augmentation().mirror(voxels.cells, scene.xyz[voxels.point], np.random.default_rng(seed), voxel_size=0.1)
        np.testing.assert_array_equal(fast.cells, plain.mirror(voxels.cells, np.random.default_rng(seed)))
        colors = Augmentation().recolor(scene.rgb, np.random.default_rng(seed))
        np.testing.assert_allclose(colors, plain.recolor(scene.rgb, np.random.default_rng(seed)), atol=2e-3)  # of 255


def test_boxes_agree(plain: ModuleType, scene: Scene, pasting: InstancePasting) -> None:
    boxes = object_boxes(scene, pasting.shell)
    np.testing.assert_array_equal(boxes, np.stack(plain.object_boxes(make_room(plain, scene), pasting.shell)))


@pytest.mark.parametrize("seed", range(4))
def test_objects_find_the_same_places(
    plain: ModuleType, store: SceneStore, pasting: InstancePasting, seed: int
) -> None:
    scene = store.read(store.scene_ids()[seed])
    rows = pasting.bank.draw(8, np.random.default_rng(seed), scene_id=scene.scene_id)
    objects = pasting.bank.read(rows.tolist())
    things = [plain.PlainObject(one.category, one.xyz, one.rgb) for one in objects]
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    varied = [pasting.vary(thing, one) for thing in objects]
    fast = place_instances(scene, varied, one, voxel_size=0.02, shell=pasting.shell)
    slowly = [plain.vary(thing, other) for thing in things]
    placed, skipped = plain.place_objects(make_room(plain, scene), slowly, other, voxel_size=0.02, shell=pasting.shell)
    assert fast.placed >= 4
    assert (fast.placed, fast.skipped) == (len(placed), skipped)
    np.testing.assert_allclose(fast.xyz[fast.num_own :], np.concatenate(placed), atol=1e-5)


def test_classes_are_counted_separately(plain: ModuleType, store: SceneStore) -> None:
    ids = store.vocabulary.ids
    raw = np.array([ids[3], 0, ids[199], -1, ids[0], 99_999])
    assert plain.number_categories(raw, ids).tolist() == [3, -1, 199, -1, 0, -1]
