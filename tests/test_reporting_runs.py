"""Reports of real runs: what is written, kept, and refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, DataError, Lg3dError, MissingDependencyError, SettingsError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.language.anchors_file import load_anchors
from lg3d_core.networks.checkpoint import CheckpointInfo, read_info, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.reporting import style
from lg3d_core.reporting.measure import find_anchors
from lg3d_core.reporting.runs import distinct_names, read_curves, read_runs
from lg3d_core.settings import EvalSettings, ReportSettings
from lg3d_core.store import SceneStore

pytest.importorskip("matplotlib", reason="not installed here")
pytest.importorskip("sklearn", reason="not installed here")

from lg3d_core.reporting.report import Report
from lg3d_core.reporting.report import report as report_runs
from tests.notes import Notes


def write_run(folder: Path, store_path: Path, *, seed: int = 0, anchors: Path | None = None) -> Path:
    """A run's folder as training leaves it: of fine-tuning, or of pre-training towards anchors."""
    torch.manual_seed(seed)
    store = SceneStore(store_path)
    classes = None if anchors else len(store.vocabulary)
    kind = "pretrain" if anchors else "finetune"
    info = CheckpointInfo(
        kind=kind,
        network="14A",
        num_classes=classes,
        voxel_size=0.2,
        vocabulary=store.vocabulary.name,
        vocabulary_digest=store.vocabulary.digest,
        anchors_digest=load_anchors(anchors).digest if anchors else None,
    )
    folder.mkdir(parents=True)
    save_checkpoint(folder / "checkpoint.safetensors", MinkUNet("14A", num_classes=classes), info)
    settings = {"command": kind, "store": str(store_path), "voxel_size": 0.2, "learning_rate": 0.1, "seed": seed}
    settings |= {"method": "language", "anchors": str(anchors)} if anchors else {"loss": "focal", "start": "scratch"}
    (folder / "settings.json").write_text(json.dumps(settings))
    card = {
        "kind": kind,
        "command": ["lg3d", kind, "<script>alert(1)</script>"],
        "store": {"path": str(store_path), "digest": store.digest},
        "vocabulary": {"name": store.vocabulary.name, "digest": store.vocabulary.digest},
    }
    (folder / "card.json").write_text(json.dumps(card))
    steps = [{"step": k, "epoch": 0, "lr": 0.1, "loss": 3.0 / k, "seconds": 1.0} for k in range(1, 6)]
    lines = [json.dumps(record) for record in [*steps, {"step": 5, "epoch": 1, "val_miou_present": 0.25}]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def tuned(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "läuft & läuft", store_path)


@pytest.fixture(scope="module")
def reported(tuned: Path, store_path: Path) -> Report:
    return report(tuned, rooms=0, store=store_path)


def report(*runs: Path, listener: Progress | None = None, **settings: object) -> Report:
    values = {"rooms": 0, "points": 60, "device": "cpu", **settings}
    return report_runs(ReportSettings(run=runs, **values), listener or Progress())  # type: ignore[arg-type]


def test_scores_are_those_of_eval(reported: Report, tuned: Path, store_path: Path) -> None:
    settings = EvalSettings(store=store_path, checkpoint=tuned, device="cpu")
    expected = evaluate_checkpoint(settings, Progress()).to_dict()
    found = reported.to_dict()["runs"][0]["evaluation"]
    for level in ("vertex", "voxel"):
        assert found[level] == expected[level]
    json.dumps(reported.to_dict(), allow_nan=False)


def test_page_and_figures_are_in_the_runs_folder_and_names_are_escaped(reported: Report, tuned: Path) -> None:
    assert reported.page == tuned / "report" / "report.html"
    assert {path.name for path in reported.figures} >= {"curves.png", "categories.png", "confusion.png", "features.png"}
    text = reported.page.read_text()
    assert "läuft &amp; läuft" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    for word in ("http://", "https://", "//cdn", "@import", "url("):
        assert word not in text, word


def test_a_second_report_measures_nothing_and_writes_the_same(
    reported: Report, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = reported.page.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("lg3d_core.reporting.measure.evaluate_scenes", refuse)
    monkeypatch.setattr("lg3d_core.reporting.report.embed", refuse)
    listener = Notes()
    assert report(tuned, listener=listener).page.read_bytes() == page
    assert "--fresh measures again" in listener.notes[0]
    with pytest.raises(AssertionError, match="measured again"):
        report(tuned, fresh=True)
    with pytest.raises(AssertionError, match="measured again"):
        report(tuned, split="train")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda data: b"PK" + data[9:]])
def test_damaged_scores_are_measured_again(
    damage: Callable[[bytes], bytes], reported: Report, tuned: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tuned, tmp_path / "copy"))
    kept = copy / "report-val.npz"
    kept.write_bytes(damage(kept.read_bytes()))
    again = report(copy)
    assert again.to_dict()["runs"][0]["confusions"] == reported.to_dict()["runs"][0]["confusions"]


def test_two_runs_stand_side_by_side(tuned: Path, store_path: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", store_path, seed=1)
    found = report(tuned, other, out=tmp_path / "out", pdf=True)
    assert (tmp_path / "out" / "confusion-2.pdf").is_file()
    first, second = (run["evaluation"]["vertex"]["per_class"] for run in found.to_dict()["runs"])
    for a, b, change in zip(first, second, found.to_dict()["differences"][0]["iou"], strict=True):
        if a["support"]:
            assert change == pytest.approx((b["iou"] or 0) - (a["iou"] or 0))
        else:
            assert change is None
    assert "other − läuft &amp; läuft" in found.page.read_text()


def test_a_pretraining_run_is_scored_by_the_nearest_anchor(
    anchors_path: Path, store_path: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "runs" / "p", store_path, anchors=anchors_path)
    found = report(Path("p"), runs=tmp_path / "runs")
    assert found.runs[0].evaluation is not None
    assert -1 <= found.cohesion["p"].own <= 1
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(settings | {"anchors": "gone.safetensors"}))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors, which are missing: pass --anchors FILE"):
        report(run)
    assert report(run, anchors=anchors_path).runs[0].evaluation is not None


def test_a_tuned_network_is_shown_with_the_anchors_of_the_run_it_started_from(
    anchors_path: Path, store_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").write_bytes(anchors_path.read_bytes())
    write_run(tmp_path / "runs" / "p", store_path, anchors=anchors_path)
    start = tmp_path / "runs" / "p" / "settings.json"
    start.write_text(json.dumps({"anchors": "a.safetensors"}))  # as seen from the folder in which it was trained
    tuned = write_run(tmp_path / "runs" / "f", store_path)
    (tuned / "card.json").write_text(json.dumps({"kind": "finetune", "from": "runs/p/checkpoint.safetensors"}))
    (run,) = read_runs([tuned], tmp_path, Progress())
    assert run.checkpoint is not None
    info = replace(read_info(run.checkpoint), anchors_digest=load_anchors(anchors_path).digest)
    found = find_anchors(run, info, None)
    assert found is not None
    assert found.digest == info.anchors_digest
    assert find_anchors(run, replace(info, anchors_digest="0" * 16), None) is None  # others than it was trained with
    start.write_text("{")
    assert find_anchors(run, info, None) is None
    with pytest.raises(CheckpointError, match="was trained with other anchors"):
        find_anchors(run, replace(info, anchors_digest="0" * 16, num_classes=None), anchors_path)


@pytest.mark.parametrize("classifier", ["anchors", "fixed-anchors"])
def test_the_anchors_of_an_anchored_classifier_are_those_of_its_settings(
    anchors_path: Path, store_path: Path, tmp_path: Path, classifier: str
) -> None:
    tuned = write_run(tmp_path / "f", store_path)
    settings = json.loads((tuned / "settings.json").read_text()) | {
        "classifier": classifier,
        "anchors": str(anchors_path),
        "from": "scratch",
    }
    (tuned / "settings.json").write_text(json.dumps(settings))
    (run,) = read_runs([tuned], tmp_path, Progress())
    assert run.checkpoint is not None
    info = replace(read_info(run.checkpoint), anchors_digest=load_anchors(anchors_path).digest)
    found = find_anchors(run, info, None)
    assert found is not None
    assert found.digest == info.anchors_digest


def test_anchors_are_found_after_a_move_and_missed_aloud(anchors_path: Path, store_path: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old place", tmp_path / "new place"
    anchors = old / "anchors.safetensors"
    old.mkdir()
    anchors.write_bytes(anchors_path.read_bytes())
    start = write_run(old / "runs" / "p", store_path, anchors=anchors)
    (start / "settings.json").write_text(json.dumps({"anchors": str(anchors)}))
    tuned = write_run(old / "runs" / "f", store_path)
    facts = {"kind": "finetune", "from": str(start / "checkpoint.safetensors")}
    (tuned / "card.json").write_text(json.dumps(facts))
    old.rename(new)  # absolute paths in settings and card lead nowhere now
    (run,) = read_runs([new / "runs" / "f"], tmp_path, Progress())
    assert run.checkpoint is not None
    info = replace(read_info(run.checkpoint), anchors_digest=load_anchors(anchors_path).digest)
    notes = Notes()
    found = find_anchors(run, info, None, notes)
    assert found is not None
    assert found.digest == info.anchors_digest
    assert notes.warnings == []
    (new / "anchors.safetensors").unlink()
    assert find_anchors(run, info, None, notes) is None
    (warning,) = notes.warnings
    assert "were not found" in warning
    assert warning.endswith("the report shows no anchors of this run; pass --anchors FILE")


def test_a_run_without_names_for_voxels_has_features_and_no_scores(store_path: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "csc", store_path)
    store = SceneStore(store_path)
    info = CheckpointInfo(
        kind="pretrain",
        network="14A",
        num_classes=None,
        voxel_size=0.2,
        vocabulary=store.vocabulary.name,
        vocabulary_digest=store.vocabulary.digest,
    )
    save_checkpoint(run / "checkpoint.safetensors", MinkUNet("14A"), info)
    (run / "settings.json").write_text(json.dumps({"command": "pretrain", "method": "csc", "store": str(store_path)}))
    (run / "card.json").unlink()
    found = report(run)
    assert found.runs[0].evaluation is None
    assert {path.name for path in found.figures} == {"curves.png", "features.png"}
    assert report(run).to_dict() == found.to_dict()


def test_scenes_are_drawn_and_later_ones_added(tuned: Path, store_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    first, second = SceneStore(store_path).scene_ids("val")
    copy = Path(shutil.copytree(tuned, tmp_path / "copy"))
    for scene in (first, second):
        found = report(copy, scene=(scene,))
        assert "rooms.png" in {path.name for path in found.figures}
    with np.load(copy / "report-val.npz") as file:
        assert {f"label/{first}", f"confidence/{second}"} <= set(file.files)
    train = SceneStore(store_path).scene_ids("train")[0]
    with pytest.raises(DataError, match=f"--scene {train} is in the split train, the report covers val"):
        report(copy, scene=(train,))


def test_scenes_without_ground_truth_make_a_report_without_scores_to_show(tuned: Path) -> None:
    found = report(tuned, split="test")
    assert found.to_dict()["runs"][0]["evaluation"]["vertex"]["miou_present"] is None
    assert any("none of the 1 scenes has ground truth" in note for note in found.notes)


def test_a_folder_that_cannot_be_written_is_warned_of(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise DataError(f"cannot write {path} of {len(data)} bytes")

    monkeypatch.setattr("lg3d_core.reporting.measure.write_bytes", refuse)
    listener = Notes()
    report(tuned, out=tmp_path, fresh=True, points=0, listener=listener)
    assert listener.warnings[0].startswith("the next report will measure läuft & läuft again: cannot write")


def test_runs_of_different_vocabularies_or_stores_are_refused(tuned: Path, store_path: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tuned, tmp_path / "other"))
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps(card | {"vocabulary": {"name": "x", "digest": "0" * 16}}))
    with pytest.raises(SettingsError, match=r"different vocabularies .* report each run separately"):
        report(tuned, other, store=store_path)
    (other / "card.json").write_text(json.dumps(card | {"store": {"path": "x", "digest": "0" * 16}}))
    with pytest.raises(SettingsError, match=r"different stores .* pass --store DIR"):
        report(tuned, other)
    listener = Notes()
    report(tuned, other, store=store_path, out=tmp_path / "out", listener=listener)
    assert "another version of the store" in listener.warnings[0]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda run: (run / "settings.json").unlink(), CheckpointError, "it has no settings.json"),
        (lambda run: shutil.rmtree(run), CheckpointError, "no such run: .*; expected a run's folder"),
        (lambda run: (run / "settings.json").write_text("{"), DataError, r"cannot read .*settings\.json"),
        (lambda run: (run / "settings.json").write_text("[]"), DataError, "expected a JSON object"),
        (lambda run: (run / "settings.json").write_text("{}"), DataError, "to name the command pretrain or finetune"),
        (
            lambda run: (run / "settings.json").write_text('{"command": "finetune", "store": "gone"}'),
            DataError,
            "pass --store DIR",
        ),
        (
            lambda run: [(run / name).unlink() for name in ("metrics.jsonl", "checkpoint.safetensors")],
            CheckpointError,
            "not finished a step yet",
        ),
        (lambda run: (run / "checkpoint.safetensors").write_bytes(b"x"), CheckpointError, "cannot read the checkpoint"),
    ],
)
def test_bad_runs_are_one_clear_line(
    spoil: Callable[[Path], object], error: type[Lg3dError], message: str, tuned: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "run"))
    (run / "card.json").unlink()
    spoil(run)
    with pytest.raises(error, match=message) as raised:
        report(run)
    assert "\n" not in str(raised.value)


def test_no_run_twice_the_same_and_an_empty_split_are_refused(tuned: Path, store_path: Path) -> None:
    with pytest.raises(SettingsError, match="RUN is missing"):
        report()
    with pytest.raises(CheckpointError, match="listed twice"):
        report(tuned, tuned.parent / "." / tuned.name)
    with pytest.raises(DataError, match="nosuch"):
        report(tuned, split="nosuch", store=store_path)


def test_a_damaged_line_is_skipped_with_a_warning(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "lo', '{"loss": 3}', "[]", '{"step": 3, "loss": NaN, "lr": 1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    listener = Notes()
    curves = read_curves(tmp_path / "metrics.jsonl", listener)
    assert curves["loss"].step.tolist() == [1]
    assert curves["lr"].value.tolist() == [1.0]
    assert "line 2 and 2 more lines cannot be read" in listener.warnings[0]
    with pytest.raises(DataError, match="cannot read"):
        read_curves(tmp_path / "none.jsonl", listener)


def test_numbers_beyond_the_range_of_float_and_int64_are_skipped(tmp_path: Path) -> None:
    huge = "1" + 400 * "0"
    lines = [f'{{"step": 1, "loss": {huge}, "lr": 1}}', f'{{"step": {huge}, "loss": 1}}', '{"step": -1, "loss": 1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    listener = Notes()
    curves = read_curves(tmp_path / "metrics.jsonl", listener)
    assert list(curves) == ["lr"]
    assert "line 2 and 1 more lines cannot be read" in listener.warnings[0]


def test_a_run_in_its_first_epoch_shows_its_curves(tuned: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint*", "report*")))
    found = report(run)
    assert [path.name for path in found.figures] == ["curves.png"]
    assert "has no checkpoint.safetensors yet" in found.notes[0]


def test_a_run_without_metrics_shows_its_scores(tuned: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "run"))
    (run / "metrics.jsonl").unlink()
    listener = Notes()
    assert read_runs([run], tmp_path, listener)[0].curves == {}
    assert "omits its learning curves" in listener.warnings[0]


def test_runs_with_the_same_name_get_distinct_names() -> None:
    assert distinct_names([Path("/a/runs/t0"), Path("/b/runs/t0"), Path("/b/runs/t1")]) == [
        "a/runs/t0",
        "b/runs/t0",
        "t1",
    ]


def test_a_missing_matplotlib_is_reported_before_any_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib scikit-learn"), style.drawing():
        pass
