"""Labels of several vocabularies side by side in one store."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from lg3d_core.errors import ChoiceError, DataError
from lg3d_core.evaluation.eval import evaluate
from lg3d_core.networks.checkpoint import read_info
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings, FinetuneSettings, PrepareSettings, StoreCheckSettings
from lg3d_core.store import PrepareReport, SceneStore, ensure_budget, merge_shards, prepare_store, verify_store
from lg3d_core.training.finetune import finetune
from tests import box_rooms

BOTH = ("scannet200", "scannet20")


def prepare(raw: Path, store: Path, **options: object) -> PrepareReport:
    return prepare_store(PrepareSettings(**({"raw": raw, "store": store, "jobs": 1} | options)), Progress())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rooms with the labels of both vocabularies, and with those of each."""
    place = tmp_path_factory.mktemp("vocabularies")
    box_rooms.write_dataset(place / "raw", train=2, val=1, test=1, spacing=0.2)
    prepare(place / "raw", place / "both", vocabulary=BOTH)
    prepare(place / "raw", place / "200")
    prepare(place / "raw", place / "20", vocabulary=("scannet20",))
    return place


@pytest.mark.parametrize(("name", "alone"), [(None, "200"), ("scannet200", "200"), ("scannet20", "20")])
def test_labels_are_those_of_a_store_with_one_vocabulary(stores: Path, name: str | None, alone: str) -> None:
    both, one = SceneStore(stores / "both", name), SceneStore(stores / alone)
    assert both.vocabulary == one.vocabulary
    assert (both.digest, both.train_digest) == (one.digest, one.train_digest)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(both.class_counts(split), one.class_counts(split))
        np.testing.assert_array_equal(both.instance_counts(split), one.instance_counts(split))
    for scene_id in one.scene_ids():
        mine, other = both.read(scene_id), one.read(scene_id)
        for key in ("xyz", "rgb", "normal", "label", "instance", "segment", "faces"):
            np.testing.assert_array_equal(getattr(mine, key), getattr(other, key))
    assert both.vocabularies[0].name == "scannet200"


def test_both_vocabularies_have_labels_and_they_differ(stores: Path) -> None:
    first, second = SceneStore(stores / "both"), SceneStore(stores / "both", "scannet20")
    scene_id = first.scene_ids("train")[0]
    a, b = first.read(scene_id).label, second.read(scene_id).label
    chair = a == first.vocabulary.index_by_name["chair"]
    assert chair.any()
    assert set(b[chair].tolist()) == {second.vocabulary.index_by_name["chair"]}
    assert first.digest != second.digest


def test_a_store_of_one_vocabulary_is_written_as_before(stores: Path) -> None:
    with h5py.File(next((stores / "200/scenes").glob("*.h5"))) as file:
        assert "labels" not in file
        assert "more_labels" not in file.attrs
    assert "more_" not in (stores / "200/store.json").read_text()


def test_a_vocabulary_that_the_store_lacks_lists_those_it_has(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(ChoiceError, match="no labels of the vocabulary nyu40, expected one of scannet200, scannet20"):
        SceneStore(stores / "both", "nyu40")
    file = tmp_path / "mine.tsv"
    names = SceneStore(stores / "20").vocabulary
    file.write_text("id\tname\n" + "".join(f"{c.id}\t{c.name}\n" for c in names.categories))
    assert SceneStore(stores / "both", str(file)).vocabulary.name == "scannet20"  # an equal file


def test_a_second_run_skips_everything_and_another_choice_prepares_again(stores: Path, tmp_path: Path) -> None:
    prepare(stores / "raw", tmp_path / "data")
    assert len(prepare(stores / "raw", tmp_path / "data", vocabulary=BOTH).prepared) == 4
    assert prepare(stores / "raw", tmp_path / "data", vocabulary=BOTH).prepared == []
    for name in ("store.json", "scenes/scene9000_00.h5"):
        mine, other = (tmp_path / "data" / name).read_bytes(), (stores / "both" / name).read_bytes()
        assert mine == other


def test_shards_with_two_vocabularies_merge(stores: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        prepare(stores / "raw", tmp_path / "data", vocabulary=BOTH, shard=shard)
    merge_shards(StoreCheckSettings(store=tmp_path / "data", jobs=1), Progress())
    assert SceneStore(tmp_path / "data", "scannet20").digest == SceneStore(stores / "20").digest


def test_verification_reads_the_labels_of_every_vocabulary(stores: Path, tmp_path: Path) -> None:
    prepare(stores / "raw", tmp_path / "data", vocabulary=BOTH)
    settings = StoreCheckSettings(store=tmp_path / "data", jobs=1)
    assert len(verify_store(settings, Progress()).whole) == 4
    path = tmp_path / "data/scenes/scene9000_00.h5"
    path.write_bytes((stores / "200/scenes/scene9000_00.h5").read_bytes())  # intact, without the second labels
    assert "no labels of the vocabulary scannet20" in verify_store(settings, Progress()).damaged["scene9000_00"]


def test_a_label_budget_belongs_to_the_chosen_labels(stores: Path) -> None:
    first, second = SceneStore(stores / "both"), SceneStore(stores / "both", "scannet20")
    budget200 = ensure_budget(first, 0.1, progress=Progress())
    budget20 = ensure_budget(second, 0.1, progress=Progress())
    assert [budget.path.name for budget in (budget200, budget20)] == ["0.1-seed0.h5", "0.1-seed0-scannet20.h5"]
    alone = ensure_budget(SceneStore(stores / "20"), 0.1, progress=Progress())
    assert budget20.digest == alone.digest
    for scene_id in second.scene_ids("train"):
        seen, whole = second.read(scene_id, budget=budget20), second.read(scene_id)
        rows = budget20.rows(scene_id)
        hidden = np.setdiff1d(np.arange(len(whole.label)), rows)
        np.testing.assert_array_equal(seen.label[rows], whole.label[rows])
        assert (seen.label[hidden] == -1).all()
        assert (seen.instance[hidden] == 0).all()
    with pytest.raises(DataError, match="was made for other training scenes"):
        second.read(second.scene_ids("train")[0], budget=budget200)


def test_training_chooses_the_labels_and_eval_follows_the_checkpoint(stores: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(
        store=stores / "both",
        vocabulary="scannet20",
        runs=tmp_path,
        start="scratch",
        network="14A",
        voxel_size=0.2,
        epochs=1,
        batch_size=2,
        limited=0.5,
        jobs=0,
        device="cpu",
    )
    checkpoint = finetune(settings, Progress())
    info = read_info(checkpoint)
    assert (info.vocabulary, info.num_classes) == ("scannet20", 20)
    found = evaluate(EvalSettings(store=stores / "both", checkpoint=checkpoint, device="cpu"), Progress())
    assert found.vertex.vocabulary.name == "scannet20"


def test_names_that_two_vocabularies_share_are_rejected(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two vocabularies have the same name \(scannet20, scannet20\)"):
        prepare(stores / "raw", tmp_path / "data", vocabulary=("scannet20", "scannet20"))
