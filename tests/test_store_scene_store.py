"""The store as readers see it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import SceneStore, prepare_store
from tests import box_rooms

IDS = [f"scene900{k}_00" for k in range(4)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    box_rooms.write_dataset(folder / "raw", train=2, val=1, test=1, spacing=0.5)
    prepare_store(PrepareSettings(raw=folder / "raw", store=folder / "data", jobs=1), Progress())
    return folder / "data"


@pytest.fixture
def path(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


def test_scenes_are_listed_by_split_and_sorted(prepared: Path) -> None:
    store = SceneStore(prepared)
    assert store.scene_ids() == IDS
    assert (store.scene_ids("train"), store.scene_ids("val"), store.scene_ids("test")) == (IDS[:2], [IDS[2]], [IDS[3]])
    assert store.split_of(IDS[2]) == "val"
    with pytest.raises(DataError, match="no split 'valid': expected one of train, val, test"):
        store.scene_ids("valid")


def test_an_unknown_scene_is_answered_with_those_like_it(prepared: Path) -> None:
    store = SceneStore(prepared)
    with pytest.raises(DataError, match=r"no scene 'scene9000_01' in .*did you mean scene9000_00 or"):
        store.read("scene9000_01")
    with pytest.raises(DataError, match="among its 4 scenes"):
        store.split_of("kitchen")


def test_class_counts_are_those_of_the_scenes(prepared: Path) -> None:
    store = SceneStore(prepared)
    expected = np.zeros(200, dtype=np.int64)
    for scene_id in IDS[:2]:
        for label in store.read(scene_id).label:
            if label >= 0:
                expected[label] += 1
    assert store.class_counts("train").tolist() == expected.tolist()
    assert store.class_counts("train").dtype == np.int64
    assert store.class_counts("test").sum() == 0


def test_instance_counts_are_the_objects_of_each_category(prepared: Path) -> None:
    store = SceneStore(prepared)
    expected = dict.fromkeys(range(len(store.vocabulary)), 0)
    for scene_id in IDS[:2]:
        scene = store.read(scene_id)
        for number in set(scene.instance.tolist()) - {0}:
            (label,) = set(scene.label[scene.instance == number].tolist())
            if label >= 0:
                expected[label] += 1
    assert store.instance_counts("train").tolist() == list(expected.values())
    chair = store.vocabulary.index_by_name["chair"]
    assert expected[chair] == 2  # one in each of the two training rooms
    assert store.instance_counts("test").sum() == 0


def test_a_store_survives_pickling_and_the_end_of_its_raw_folder(prepared: Path) -> None:
    store = pickle.loads(pickle.dumps(SceneStore(prepared)))
    assert store.digest == SceneStore(prepared).digest
    assert store.vocabulary.digest == SceneStore(prepared).vocabulary.digest
    assert store.vocabulary.categories[5].color == SceneStore(prepared).vocabulary.categories[5].color
    assert len(store.read(IDS[0]).xyz) > 0


def test_no_store_and_an_unfinished_one_are_answered_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no scene store at .*none: create one with lg3d prepare RAW"):
        SceneStore(tmp_path / "none")
    with pytest.raises(DataError, match=r"is not a scene store \(no store\.json\)"):
        SceneStore(tmp_path)
    (tmp_path / "scenes").mkdir()
    with pytest.raises(DataError, match="an unfinished scene store"):
        SceneStore(tmp_path)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        index = json.loads(data)
        change(index)
        return json.dumps(index).encode()

    return apply


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-9], "cannot be read"),
    "deep": (lambda _: b"[" * 10**6, "cannot be read"),
    "other json": (lambda _: b"[]", "not the index of a scene store"),
    "other version": (edit(lambda index: index.update(format_version=7)), "format version 7, expected 1"),
    "no vocabulary": (edit(lambda index: index.pop("vocabulary")), "damaged"),
    "renamed category": (edit(lambda index: index["vocabulary"]["categories"][0].update(name="x")), "damaged"),
    "scene without split": (edit(lambda index: index["scenes"][IDS[0]].pop("split")), "damaged"),
    "odd split": (edit(lambda index: index["scenes"][IDS[0]].update(split="dev")), "is invalid"),
    "path as id": (
        edit(lambda index: index["scenes"].update({"../x": index["scenes"][IDS[0]]})),
        r"scene '\.\./x' is invalid",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_refused(path: Path, name: str) -> None:
    change, reason = DAMAGE[name]
    index = path / "store.json"
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(DataError, match=rf"store\.json.*{reason}"):
        SceneStore(path)


def test_a_scene_file_that_is_another_ones_or_gone_is_refused(path: Path) -> None:
    store = SceneStore(path)
    shutil.copy(path / "scenes" / f"{IDS[1]}.h5", path / "scenes" / f"{IDS[0]}.h5")
    with pytest.raises(DataError, match=r"scene9000_00\.h5 does not fit store\.json"):
        store.read(IDS[0])
    (path / "scenes" / f"{IDS[1]}.h5").unlink()
    with pytest.raises(DataError, match=r"scene9001_00\.h5: missing"):
        store.read(IDS[1])
