"""The bank of rare objects: what is cut, what a label budget leaves of it, and how it is kept and drawn from."""

import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import collate
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.instance_bank import (
    AGAIN,
    MIN_POINTS,
    InstanceBank,
    bank_key,
    cut_instances,
    ensure_bank,
    load_bank,
    stand_at_origin,
)
from lg3d_core.sampling.placement import open_pasting
from lg3d_core.store.budgets import ensure_budget
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore
from tests.notes import Notes


def make_scene(sizes: list[int], *, label: list[int], instance: list[int], segment: list[int], seed: int = 0) -> Scene:
    """Runs of random points; each run has one label, one instance and one segment."""
    count = sum(sizes)
    rng = np.random.default_rng(seed)
    return Scene(
        scene_id="made",
        split="train",
        xyz=rng.uniform(-3, 3, size=(count, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, size=(count, 3)).astype(np.uint8),
        normal=np.zeros((count, 3), dtype=np.float32),
        label=np.repeat(np.array(label, dtype=np.int16), sizes),
        instance=np.repeat(np.array(instance, dtype=np.int32), sizes),
        segment=np.repeat(np.array(segment, dtype=np.int32), sizes),
        faces=np.zeros((0, 3), dtype=np.int32),
    )


def test_objects_of_the_given_classes_are_cut_completely_and_stand_at_the_origin() -> None:
    scene = make_scene([30, 40, 50, 25], label=[2, 0, 2, 2], instance=[4, 5, 9, 4], segment=[1, 2, 3, 4])
    found = list(cut_instances(scene, np.array([2, 3])))
    assert [(one.category, len(one.xyz), bool(one.labelled.all())) for one in found] == [(2, 55, True), (2, 50, True)]
    rows = np.r_[0:30, 120:145]  # instance 4 comes in two runs
    np.testing.assert_array_equal(found[0].rgb, scene.rgb[rows])
    np.testing.assert_allclose(np.diff(found[0].xyz, axis=0), np.diff(scene.xyz[rows], axis=0), atol=1e-5)
    low, high = found[0].xyz.min(axis=0), found[0].xyz.max(axis=0)
    np.testing.assert_allclose([low[0] + high[0], low[1] + high[1], low[2]], 0, atol=1e-5)


def test_objects_with_too_few_points_are_skipped() -> None:
    sizes = [MIN_POINTS, MIN_POINTS - 1]
    scene = make_scene(sizes, label=[2, 2], instance=[1, 2], segment=[1, 2])
    assert [len(one.xyz) for one in cut_instances(scene, np.array([2]))] == [MIN_POINTS]
    assert list(cut_instances(make_scene([50], label=[-1], instance=[0], segment=[1]), np.array([2]))) == []


def test_unlabelled_points_are_included_if_their_segment_belongs_only_to_the_object() -> None:
    scene = make_scene(
        # own segment: 5 seen, 30 not; shared segment: 5 seen, 5 of another object, 30 not; none: 5 seen, 30 not
        [5, 30, 5, 5, 30, 5, 30],
        label=[2, -1, 2, 0, -1, 2, -1],
        instance=[7, 0, 7, 8, 0, 7, 0],
        segment=[1, 1, 2, 2, 2, -1, -1],
    )
    (one,) = cut_instances(scene, np.array([2]))
    assert len(one.xyz) == 5 + 30 + 5 + 5
    assert one.labelled.sum() == 15
    expected = np.zeros(45, dtype=bool)
    expected[[*range(5), *range(35, 45)]] = True
    np.testing.assert_array_equal(one.labelled, expected)


def test_objects_stand_on_the_bottom_of_their_box() -> None:
    xyz = np.array([[1, 2, 3], [3, 2, 5], [1, 6, 9]], dtype=np.float32)
    np.testing.assert_allclose(stand_at_origin(xyz), [[-1, -2, 0], [1, -2, 2], [-1, 2, 6]])


@pytest.fixture(scope="module")
def store(furnished_store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    path = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(furnished_store_path, path, ignore=shutil.ignore_patterns("instances", "budgets"))
    return SceneStore(path)


@pytest.fixture(scope="module")
def bank(store: SceneStore) -> InstanceBank:
    return ensure_bank(store, budget=None, progress=Progress())


def test_the_bank_holds_the_tail_objects_of_the_training_scenes(store: SceneStore, bank: InstanceBank) -> None:
    tail = store.vocabulary.groups["tail"]
    assert len(tail) == 66
    expected = []
    for scene_id in store.scene_ids("train"):
        scene = store.read(scene_id)
        for number in np.unique(scene.instance[scene.instance > 0]):
            rows = scene.instance == number
            (label,) = np.unique(scene.label[rows])
            if label in tail and rows.sum() >= MIN_POINTS:
                expected.append((scene_id.encode(), int(label), int(rows.sum())))
    found = list(zip(bank.scene.tolist(), bank.category.tolist(), np.diff(bank.offsets).tolist(), strict=True))
    assert len(found) >= 5
    assert sorted(found) == sorted(expected)
    for one, size in zip(bank.read(range(len(bank))), np.diff(bank.offsets), strict=True):
        assert len(one.xyz) == len(one.rgb) == len(one.labelled) == size
        assert one.labelled.all()
        assert one.xyz[:, 2].min() == 0


def test_a_bank_is_cut_once_and_equal_stores_have_equal_banks(store: SceneStore, bank: InstanceBank) -> None:
    before = bank.path.read_bytes()
    stamp = bank.path.stat().st_mtime_ns
    again = ensure_bank(store, budget=None, progress=Progress())
    assert again.path.stat().st_mtime_ns == stamp
    assert again.key == bank.key
    bank.path.unlink()
    assert ensure_bank(store, budget=None, progress=Progress()).path.read_bytes() == before
    assert [path.name for path in bank.path.parent.iterdir()] == [bank.path.name]  # nothing temporary is left


@pytest.mark.parametrize("damage", [b"", b"\x89HDF\r\n\x1a\n", None], ids=["empty", "cut short", "of another key"])
def test_a_damaged_bank_is_rebuilt_with_a_warning(store: SceneStore, bank: InstanceBank, damage: bytes | None) -> None:
    whole = bank.path.read_bytes()
    if damage is None:
        with h5py.File(bank.path, "r+") as file:
            file.attrs["key"] = np.bytes_(b"0" * 16)
    else:
        bank.path.write_bytes(damage)
    notes = Notes()
    ensure_bank(store, budget=None, progress=notes)
    assert bank.path.read_bytes() == whole
    assert len(notes.warnings) == 1
    assert AGAIN in notes.warnings[0]


def test_a_bank_with_inconsistent_row_counts_is_rejected(bank: InstanceBank, tmp_path: Path) -> None:
    copy = tmp_path / "bank.h5"
    shutil.copy(bank.path, copy)
    with h5py.File(copy, "r+") as file:
        offsets = file["offsets"][:]
        del file["offsets"]
        file["offsets"] = offsets + np.arange(len(offsets))
    with pytest.raises(DataError, match="expected the instance bank"):
        load_bank(copy, key=bank.key)
    shutil.copy(bank.path, copy)
    with h5py.File(copy, "r+") as file:
        file["points/xyz"][3, 1] = np.nan
    with pytest.raises(DataError, match="object 0 has missing or non-finite points"):
        load_bank(copy, key=bank.key).read([0])


def test_a_folder_that_cannot_be_created_is_a_one_line_error(bank: InstanceBank, store: SceneStore) -> None:
    kept = bank.path.read_bytes()
    shutil.rmtree(bank.path.parent)
    try:
        bank.path.parent.write_bytes(b"")  # a file where the folder should be
        with pytest.raises(DataError, match="cannot create the folder"):
            ensure_bank(store, budget=None, progress=Progress())
    finally:
        bank.path.parent.unlink()
        bank.path.parent.mkdir()
        bank.path.write_bytes(kept)


def test_the_key_depends_on_the_budget_and_the_scenes(store: SceneStore) -> None:
    budgets = [ensure_budget(store, 0.05, seed=seed, progress=Progress()) for seed in (0, 1)]
    assert len({bank_key(store, budget) for budget in (None, *budgets)}) == 3


def test_under_a_budget_objects_keep_their_surface_and_few_labels(store: SceneStore, bank: InstanceBank) -> None:
    budget = ensure_budget(store, 0.05, seed=0, progress=Progress())
    limited = ensure_bank(store, budget=budget, progress=Progress())
    assert 3 <= len(limited) <= len(bank)
    labelled = sum(int(one.labelled.sum()) for one in limited.read(range(len(limited))))
    tail = store.vocabulary.groups["tail"]
    kept = int(store.class_counts("train", budget=budget)[tail].sum())
    assert labelled <= kept  # fewer where an object is left out for its size
    assert labelled < 0.4 * limited.offsets[-1]


def test_classes_are_drawn_uniformly_and_never_from_the_scene_itself() -> None:
    bank = InstanceBank(
        path=Path("none"),
        key="",
        category=np.array([3, 3, 3, 5, 8], dtype=np.int16),
        scene=np.array([b"a", b"b", b"b", b"b", b"a"], dtype="|S100"),
        offsets=np.arange(6),
    )
    rng = np.random.default_rng(0)
    drawn = bank.draw(6000, rng, scene_id="c")
    assert np.bincount(bank.category[drawn], minlength=9)[[3, 5, 8]] == pytest.approx([2000] * 3, rel=0.08)
    assert np.bincount(drawn)[:3] == pytest.approx([667] * 3, rel=0.15)
    assert set(bank.draw(100, rng, scene_id="a").tolist()) == {1, 2, 3}
    assert set(bank.draw(100, rng, scene_id="b").tolist()) == {0, 4}
    only = InstanceBank(Path("none"), "", bank.category[:1], bank.scene[:1], bank.offsets[:2])
    assert len(only.draw(5, rng, scene_id="a")) == 0
    assert only.categories.tolist() == [3]


def test_a_store_without_rare_objects_has_an_empty_bank_and_a_warning(store_path: Path, tmp_path: Path) -> None:
    shutil.copytree(store_path, tmp_path / "data")
    notes = Notes()
    assert open_pasting(SceneStore(tmp_path / "data"), budget=None, count=5, progress=notes) is None
    assert notes.warnings == ["instance sampling is off: the training scenes have no objects of tail classes"]


def pasted_dataset(store: SceneStore, count: int = 5, **options: object) -> SceneDataset:
    return SceneDataset(
        store,
        store.scene_ids("train"),
        voxel_size=0.05,
        augmentation=Augmentation(),
        pasting=open_pasting(store, budget=None, count=count, progress=Progress()) if count else None,
        **options,  # type: ignore[arg-type]
    )


def test_samples_hold_the_objects_and_count_them(store: SceneStore, bank: InstanceBank) -> None:
    plain, pasted = pasted_dataset(store, 0), pasted_dataset(store)
    for index in range(3):
        without, sample = plain[index], pasted[index]
        assert (without.placed, without.skipped) == (0, 0)
        assert sample.placed + sample.skipped == 5
        assert sample.placed >= 2
        own = int(without.instances.max())
        assert sample.instances.max() <= own + sample.placed
        new = sample.instances > own
        assert set(sample.labels[new].tolist()) <= set(bank.categories.tolist())
        assert new.any()
    batch = collate([pasted[0], pasted[1]])
    assert (batch.placed, batch.skipped) == (
        pasted[0].placed + pasted[1].placed,
        pasted[0].skipped + pasted[1].skipped,
    )


def test_pasting_depends_on_seed_epoch_and_index_alone(store: SceneStore) -> None:
    one, other = pasted_dataset(store), pickle.loads(pickle.dumps(pasted_dataset(store)))
    one[0], one[2]
    for left, right in zip(one[1][1:7], other[1][1:7], strict=True):
        assert left.equal(right)
    other.set_epoch(1)
    assert not one[1].labels.equal(other[1].labels)
    assert not one[1].labels.equal(pasted_dataset(store, seed=1)[1].labels)
