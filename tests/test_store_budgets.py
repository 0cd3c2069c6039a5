"""Label budgets: how many points each object keeps, which, and that nothing else is ever seen."""

import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import Budget, SceneStore, ensure_budget, prepare_store
from lg3d_core.store.budgets import choose_rows, sample_farthest
from lg3d_core.store.scene_file import checksum
from tests import box_rooms
from tests.notes import Notes

IDS = [f"scene900{k}_00" for k in range(3)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budgets")
    box_rooms.write_dataset(folder / "raw", train=2, val=1, spacing=0.2)
    prepare_store(PrepareSettings(raw=folder / "raw", store=folder / "data", jobs=1), Progress())
    return folder / "data"


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> SceneStore:
    shutil.copytree(prepared, tmp_path / "data")
    return SceneStore(tmp_path / "data")


def budget_of(store: SceneStore, ratio: float = 0.05, *, seed: int = 0, progress: Progress | None = None) -> Budget:
    return ensure_budget(store, ratio, seed=seed, progress=progress or Progress())


def slow_farthest(points: np.ndarray, num_kept: int, first: int) -> list[int]:
    """Farthest-point sampling as it is defined."""
    gaps = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    chosen = [first]
    while len(chosen) < num_kept:
        chosen.append(int(gaps[:, chosen].min(axis=1).argmax()))
    return chosen


@pytest.mark.parametrize(("size", "num_kept"), [(6, 5), (7, 5), (40, 5), (100, 20), (300, 40)])
def test_the_sampler_agrees_with_the_definition_from_one_of_the_points(size: int, num_kept: int) -> None:
    points = np.random.default_rng(size).random((size, 3)).astype(np.float32)
    found = sorted(sample_farthest(points, num_kept, rng=np.random.default_rng(1)).tolist())
    centred = (points - points.mean(axis=0)).astype(np.float64)
    assert found in [sorted(slow_farthest(centred, num_kept, first)) for first in found]


def test_the_first_point_is_random_but_follows_the_seed() -> None:
    points = np.random.default_rng(0).random((500, 3)).astype(np.float32)
    draws = [sample_farthest(points, 5, rng=np.random.default_rng(seed)).tolist() for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 4


def test_points_in_one_place_are_never_chosen_twice() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    chosen = sample_farthest(points, 30, rng=np.random.default_rng(0))
    assert len(np.unique(chosen)) == 30
    assert {int(row) // 20 for row in chosen} == {0, 1, 2}


# size, ratio -> kept: max(5, round(ratio x size)), at most size
@pytest.mark.parametrize(
    ("size", "ratio", "kept"),
    [
        (1, 0.05, 1),
        (4, 0.5, 4),
        (5, 0.05, 5),
        (6, 0.05, 5),
        (99, 0.05, 5),
        (150, 0.05, 8),
        (150, 0.5, 75),
        (150, 1, 150),
    ],
)
def test_an_object_keeps_its_share_but_at_least_five_points(size: int, ratio: float, kept: int) -> None:
    xyz = np.random.default_rng(0).random((size, 3)).astype(np.float32)
    rows = choose(xyz, [3] * size, [1] * size, ratio=ratio)
    assert len(rows) == len(np.unique(rows)) == kept


def choose(
    xyz: np.ndarray, label: Sequence[int], instance: Sequence[int], *, ratio: float, seed: int = 0
) -> np.ndarray:
    labels, instances = np.array(label, np.int16), np.array(instance, np.int32)
    return choose_rows(xyz, labels, instances, ratio=ratio, seed=seed, name="room")


def test_points_without_label_or_instance_keep_nothing() -> None:
    xyz = np.zeros((30, 3), np.float32)
    rows = choose(xyz, [-1] * 10 + [4] * 10 + [4] * 10, [1] * 10 + [0] * 10 + [2] * 10, ratio=1.0)
    assert rows.tolist() == list(range(20, 30))
    assert choose(xyz, [-1] * 30, [0] * 30, ratio=1.0).tolist() == []


def test_an_instance_of_two_labels_is_two_objects() -> None:
    xyz = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    rows = choose(xyz, [4] * 20 + [5] * 20, [1] * 40, ratio=0.05)
    assert (rows < 20).sum() == (rows >= 20).sum() == 5


def test_the_kept_points_of_an_object_do_not_depend_on_other_objects() -> None:
    xyz = np.random.default_rng(0).random((60, 3)).astype(np.float32)
    alone = choose(xyz, [4] * 20 + [-1] * 40, [7] * 20 + [0] * 40, ratio=0.3)
    among = choose(xyz, [4] * 20 + [5] * 40, [7] * 20 + [1] * 40, ratio=0.3)
    assert alone.tolist() == among[among < 20].tolist()


def test_only_the_kept_points_of_training_scenes_have_labels(store: SceneStore) -> None:
    budget = budget_of(store)
    for scene_id in IDS[:2]:
        whole, limited = store.read(scene_id), store.read(scene_id, budget=budget)
        kept = np.zeros(len(whole.label), dtype=bool)
        kept[budget.rows(scene_id)] = True
        assert (limited.label[kept] == whole.label[kept]).all()
        assert (limited.instance[kept] == whole.instance[kept]).all()
        assert (limited.label[kept] >= 0).all()
        assert (limited.label[~kept] == -1).all()
        assert (limited.instance[~kept] == 0).all()
        for name in ("xyz", "rgb", "normal", "segment", "faces"):
            assert np.array_equal(getattr(limited, name), getattr(whole, name))
        for instance in np.unique(whole.instance[whole.label >= 0]):
            size = int((whole.instance == instance).sum())
            assert int((limited.instance == instance).sum()) == min(size, max(5, round(0.05 * size)))


def test_class_counts_under_a_budget_are_those_of_the_kept_points(store: SceneStore) -> None:
    budget = budget_of(store, 0.1)
    expected = np.zeros(200, dtype=np.int64)
    for scene_id in IDS[:2]:
        labels = store.read(scene_id, budget=budget).label
        expected += np.bincount(labels[labels >= 0], minlength=200)
    assert store.class_counts("train", budget=budget).tolist() == expected.tolist()
    assert 0 < expected.sum() < store.class_counts("train").sum()


def test_validation_scenes_are_not_under_the_budget(store: SceneStore) -> None:
    budget = budget_of(store)
    assert np.array_equal(store.read(IDS[2], budget=budget).label, store.read(IDS[2]).label)
    assert np.array_equal(store.class_counts("val", budget=budget), store.class_counts("val"))
    with pytest.raises(DataError, match="has no training scene 'scene9002_00'"):
        budget.rows(IDS[2])
    with pytest.raises(DataError, match="has no training scene"):
        budget.class_counts("kitchen")


def test_no_label_outside_the_budget_can_be_seen_through_it(store: SceneStore) -> None:
    budget = budget_of(store)
    before = [store.read(scene_id, budget=budget) for scene_id in IDS[:2]]
    counts = store.class_counts("train", budget=budget)
    for scene_id in IDS[:2]:
        with h5py.File(store.scene_path(scene_id), "r+") as file:
            hidden = np.ones(file["points/label"].shape[0], dtype=bool)
            hidden[budget.rows(scene_id)] = False
            for name, values in (("points/label", 199), ("points/instance", 77)):
                changed = file[name][()]
                changed[hidden] = values
                file[name][...] = changed
            sums = {name: checksum(file[name][()]) for name in (*(f"points/{n}" for n in file["points"]), "mesh/faces")}
            file.attrs["checksums"] = repr(sums).replace("'", '"')
    assert (store.read(IDS[0]).label == 199).any()  # the labels did change
    for old in before:
        new = store.read(old.scene_id, budget=budget)
        assert all(np.array_equal(a, b) for a, b in zip(new, old, strict=True))
    assert np.array_equal(store.class_counts("train", budget=budget), counts)


def test_a_budget_is_written_once_and_read_back(store: SceneStore) -> None:
    first = budget_of(store)
    assert first.path == store.path / "budgets" / "0.05-seed0.h5"
    written = first.path.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(budget_of(store)))
    assert first.path.stat().st_mtime_ns == written
    assert (again.ratio, again.seed, again.digest) == (0.05, 0, first.digest)
    assert np.array_equal(again.rows(IDS[0]), first.rows(IDS[0]))
    data = first.path.read_bytes()
    first.path.unlink()
    assert budget_of(store).path.read_bytes() == data


def test_other_seeds_and_ratios_are_other_budgets(store: SceneStore) -> None:
    digests = {budget_of(store, ratio, seed=seed).digest for ratio, seed in ((0.05, 0), (0.05, 1), (0.1, 0), (0.5, 0))}
    assert len(digests) == 4
    assert sorted(path.name for path in (store.path / "budgets").iterdir()) == [
        "0.05-seed0.h5",
        "0.05-seed1.h5",
        "0.1-seed0.h5",
        "0.5-seed0.h5",
    ]


def test_a_damaged_budget_is_made_again(store: SceneStore) -> None:
    budget = budget_of(store)
    data = budget.path.read_bytes()
    budget.path.write_bytes(data[:700])
    listener = Notes()
    assert budget_of(store, progress=listener).digest == budget.digest
    assert "creating the label budget again" in listener.messages[0]
    with h5py.File(budget.path, "r+") as file:
        file.attrs["format_version"] = 99
    assert budget_of(store, progress=listener).digest == budget.digest
    assert "not a label budget of this version" in listener.messages[1]


def test_rows_that_make_no_sense_are_refused(store: SceneStore) -> None:
    budget = budget_of(store)
    with h5py.File(budget.path, "r+") as file:
        file["rows"][0] = 10**6
    with pytest.raises(DataError, match=r"0\.05-seed0\.h5: the rows of scene9000_00 are invalid; delete the file"):
        budget.rows(IDS[0])
    with h5py.File(budget.path, "r+") as file:
        file["rows"][0] = 0
        file["rows"][budget.extents[IDS[0]][1] - 1] = 10**6
    with pytest.raises(DataError, match="lists points that scene9000_00 does not have"):
        store.read(IDS[0], budget=budget)


def test_a_budget_of_other_training_scenes_is_refused_and_replaced(store: SceneStore, tmp_path: Path) -> None:
    old = budget_of(store)
    box_rooms.write_dataset(tmp_path / "raw", train=1, val=1, spacing=0.5)
    prepare_store(PrepareSettings(raw=tmp_path / "raw", store=store.path, jobs=1), Progress())
    new_store = SceneStore(store.path)
    for use in (lambda: new_store.read(IDS[0], budget=old), lambda: new_store.class_counts("train", budget=old)):
        with pytest.raises(DataError, match="made for other training scenes"):
            use()
    listener = Notes()
    assert budget_of(new_store, progress=listener).digest != old.digest
    assert "made for other training scenes and is created again" in listener.messages[0]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(store: SceneStore, ratio: float) -> None:
    with pytest.raises(SettingsError, match="--limited must be above 0 and at most 1"):
        budget_of(store, ratio)


def test_a_negative_seed_is_refused(store: SceneStore) -> None:
    with pytest.raises(SettingsError, match="--limited-seed"):
        budget_of(store, seed=-1)


def test_a_store_without_training_scenes_has_nothing_to_limit(tmp_path: Path) -> None:
    box_rooms.write_dataset(tmp_path / "raw", train=0, val=1, spacing=0.5)
    prepare_store(PrepareSettings(raw=tmp_path / "raw", store=tmp_path / "data", jobs=1), Progress())
    with pytest.raises(DataError, match="no training scenes"):
        budget_of(SceneStore(tmp_path / "data"))


def test_a_folder_that_cannot_be_made_is_an_error(store: SceneStore) -> None:
    (store.path / "budgets").write_text("in the way")
    with pytest.raises(DataError, match="cannot create the folder"):
        budget_of(store)


def test_labelled_points_without_an_object_are_reported(store: SceneStore) -> None:
    with h5py.File(store.scene_path(IDS[0]), "r+") as file:
        file["points/instance"][:3] = 0
        sums = {name: checksum(file[name][()]) for name in (*(f"points/{n}" for n in file["points"]), "mesh/faces")}
        file.attrs["checksums"] = repr(sums).replace("'", '"')
    listener = Notes()
    budget_of(store, progress=listener)
    assert listener.messages == ["scene9000_00: 3 labelled points have no instance and lose their label"]


def test_in_a_scene_without_instances_each_label_is_one_object() -> None:
    rng = np.random.default_rng(0)
    xyz, label = rng.random((300, 3), dtype=np.float32), np.repeat([0, 1, -1], 100).astype(np.int16)
    none = np.zeros(300, dtype=np.int32)
    rows = choose_rows(xyz, label, none, ratio=0.1, seed=0, name="s")
    assert [int((label[rows] == index).sum()) for index in (0, 1, -1)] == [10, 10, 0]
