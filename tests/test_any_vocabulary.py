"""The whole pipeline with vocabularies of other sizes and groups than the benchmark's."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from lg3d_core.comparing import run as run_module
from lg3d_core.comparing.compare import compare
from lg3d_core.evaluation.eval import evaluate
from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.evaluation.table import group_table
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.progress import Progress
from lg3d_core.reporting.report import report as report_runs
from lg3d_core.settings import (
    AnchorsSettings,
    CompareSettings,
    EvalSettings,
    FinetuneSettings,
    PrepareSettings,
    PretrainSettings,
    ReportSettings,
    ViewSettings,
)
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.view import view
from tests.notes import Notes

NAMES = {3: "floor", 2: "chair", 4: "table", 6: "couch", 56: "trash can"}
FREQUENT = ("floor", "table")
TRAINING = {
    "network": "14A",
    "voxel_size": 0.2,
    "epochs": 1,
    "batch_size": 3,
    "device": "cpu",
    "jobs": 0,
    "precision": "fp32",
}


class Trained(NamedTuple):
    """A store of five classes and what was made from it."""

    groups: tuple[str, ...]
    folder: Path
    tuned: Path
    evaluation: Evaluation
    notes: Notes


@pytest.fixture(scope="module", params=["frequent and rare", "none"])
def trained(request: pytest.FixtureRequest, raw_rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Prepared, anchored, pre-trained and fine-tuned for objects, with instance sampling."""
    folder, notes = tmp_path_factory.mktemp("any"), Notes()
    groups = () if request.param == "none" else ("frequent", "rare")
    lines = [f"{id}\t{name}\t{groups[name not in FREQUENT] if groups else ''}" for id, name in NAMES.items()]
    classes = folder / "five.tsv"
    classes.write_text("id\tname\tgroup\n" + "\n".join(lines) + "\n")
    report = prepare_store(
        PrepareSettings(raw=raw_rooms, store=folder / "data", jobs=1, vocabulary=(str(classes),)), Progress()
    )
    assert not report.failed
    anchors = make_anchors(
        AnchorsSettings(anchors=folder / "a.safetensors", encoder="bundled", dim=96, vocabulary=str(classes)),
        Progress(),
    )
    shared = {**TRAINING, "store": folder / "data", "anchors": anchors, "runs": folder / "runs"}
    first = pretrain(PretrainSettings(**shared, name="p"), Progress())
    tuned = finetune(
        FinetuneSettings(**shared, name="f", task="instance", start=str(first), instances=2, loss="focal"), notes
    )
    evaluation = evaluate(EvalSettings(store=folder / "data", checkpoint=tuned, device="cpu"), Progress())
    return Trained(groups, folder, tuned, evaluation, notes)


def test_scores_have_the_classes_and_groups_of_the_vocabulary(trained: Trained) -> None:
    found = trained.evaluation.to_dict()
    assert found["vertex"]["num_classes"] == 5
    assert list(found["vertex"]["means"]) == [*trained.groups, "all"]
    assert {"miou_5", "miou_present"} <= set(found["vertex"])
    header = group_table(trained.evaluation).header
    assert header[1 : 2 + len(trained.groups)] == [f"mIoU {g.capitalize()}" for g in (*trained.groups, "all")]
    json.dumps(found, allow_nan=False)


def test_instance_sampling_draws_from_the_rarest_group_or_is_off(trained: Trained) -> None:
    if trained.groups:  # 3 rooms with a chair, a sofa and a trash can each
        assert any("2 objects per scene, from 9 of 3 rare classes" in note for note in trained.notes.notes)
    else:
        (warning,) = [text for text in trained.notes.warnings if "instance sampling" in text]
        assert "the vocabulary five has no groups" in warning


def test_a_report_shows_the_groups_and_the_objects_of_the_rarest(trained: Trained) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    settings = ReportSettings(run=(trained.tuned.parent,), rooms=0, points=60, device="cpu")
    found = report_runs(settings, Progress())
    text = found.page.read_text()
    for group in trained.groups:
        assert f"<td>{group}</td>" in text or group in text
    assert not {"head", "common", "tail"} & set(found.to_dict()["runs"][0]["evaluation"]["vertex"]["means"])
    assert {path.stem for path in found.figures} >= {"frequency", "categories", "precision", "recall"}


def test_a_page_lists_the_rarest_group_first(trained: Trained) -> None:
    page = trained.folder / "room.html"
    settings = ViewSettings(
        scene="scene9003_00", store=trained.folder / "data", checkpoint=trained.tuned, html=page, device="cpu"
    )
    view(settings, Progress())
    assert "trash can" in page.read_text()
    store = SceneStore(trained.folder / "data")
    shown = [part.group for part in build_view(store.read("scene9003_00"), store.vocabulary).gallery.parts]
    assert shown == (["rare"] * 3 + ["frequent"] * 2 if trained.groups else [""] * 5)


def test_a_comparison_has_a_column_per_group(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PROGRAM", "tests.fake_execute")
    for name in ("focal", "cross-entropy"):
        (trained.folder / f"{name}.toml").write_text(f'[finetune]\nfrom = "scratch"\nloss = "{name}"\n')
    comparison = compare(
        CompareSettings(
            recipes=tuple(str(trained.folder / f"{name}.toml") for name in ("focal", "cross-entropy")),
            store=trained.folder / "data",
            out=trained.folder / "out",
            seeds=1,
            resamples=100,
        ),
        Progress(),
    )
    assert comparison.groups == (*trained.groups, "all")
    assert "over the 5 present classes" in (trained.folder / "out" / "table.md").read_text()
