"""Runs of a comparison: sequential or parallel, failed, stopped and resumed; real ones at the end."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lg3d_cli.__main__ import app
from lg3d_core.comparing import run as run_module
from lg3d_core.comparing.compare import compare
from lg3d_core.comparing.execute import execute, main, read_step
from lg3d_core.comparing.plan import plan_table
from lg3d_core.comparing.record import read_record
from lg3d_core.errors import DataError, SettingsError
from lg3d_core.progress import Progress, Task
from lg3d_core.settings import CompareSettings, PrepareSettings
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_store import SceneStore
from tests import box_rooms

ROOT = Path(__file__).parents[1]
PRETRAINED = '[compare]\nlabel = "Ours"\n[pretrain]\nmethod = "csc"\n'
SCRATCH = '[compare]\nlabel = "Scratch"\n[finetune]\nfrom = "scratch"\n'


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PROGRAM", "tests.fake_execute")


@pytest.fixture
def recipes(tmp_path: Path) -> tuple[str, ...]:
    """Scratch, and the same pre-training for two losses."""
    texts = {"a": SCRATCH, "b": PRETRAINED, "c": PRETRAINED.replace("Ours", "Others") + "[finetune]\nloss='focal'\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return tuple(str(tmp_path / f"{name}.toml") for name in texts)


def settings_of(store: Path, tmp_path: Path, recipes: tuple[str, ...], **values: Any) -> CompareSettings:
    return CompareSettings(
        recipes=recipes, store=store, out=tmp_path / "out", **{"seeds": 2, "resamples": 100, **values}
    )


def order(tmp_path: Path) -> list[str]:
    return (tmp_path / "out" / "order.txt").read_text().splitlines()


@pytest.mark.usefixtures("fake")
def test_a_table_is_made_and_repeated_without_new_runs(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    settings = settings_of(store_path, tmp_path, recipes, jobs=3)
    comparison = compare(settings, Progress())
    started = order(tmp_path)
    assert len(started) == len(set(started)) == 8  # 3 rows and one shared pre-training, 2 seeds
    first = [k for k, line in enumerate(started) if line.startswith("pretrain")]
    assert len(first) == 2
    # half of every category is right and as many points accused: 0.5 / 1.5; three quarters: 0.75 / 1.25
    assert [row.label for row in comparison.rows] == ["Scratch", "Ours", "Others"]
    assert comparison.rows[0].scores["iou"]["all"].mean == pytest.approx(1 / 3, abs=0.01)
    assert comparison.rows[1].scores["iou"]["all"].mean == pytest.approx(0.6, abs=0.01)
    assert comparison.rows[1].difference["all"].relative == pytest.approx(0.8, abs=0.05)
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == comparison.to_dict()
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Percent at vertices of 4 scenes, over the 200 present classes; mean ± deviation over 2 seeds." in text
    assert re.search(r"\| Ours \| \d\d\.\d\d ± 0\.\d\d \|", text)
    assert "Difference in mIoU from Scratch" in text
    assert compare(settings, Progress()).to_dict() == comparison.to_dict()
    assert order(tmp_path) == started


@pytest.mark.usefixtures("fake")
def test_after_a_failed_run_the_others_continue_and_the_log_is_named(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    Path(recipes[0]).write_text(SCRATCH + "gamma = 7\n")
    settings = settings_of(store_path, tmp_path, recipes, seeds=1)
    with pytest.raises(DataError, match=r"1 run failed: .*error: this loss is not for me \(log: .*\.log\)"):
        compare(settings, Progress())
    assert len(order(tmp_path)) == 4
    Path(recipes[0]).write_text(SCRATCH)
    compare(settings, Progress())
    assert len(order(tmp_path)) == 5


@pytest.mark.usefixtures("fake")
def test_steps_that_need_a_failed_run_are_not_started(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    for recipe in recipes[1:]:
        Path(recipe).write_text(Path(recipe).read_text().replace("[pretrain]\n", "[pretrain]\nlearning_rate = 7.0\n"))
    with pytest.raises(DataError, match=r"1 run failed, and 2 more depend on it: pretrain-csc.*no output"):
        compare(settings_of(store_path, tmp_path, recipes, seeds=1), Progress())
    assert [line.split()[0] for line in order(tmp_path)] == ["finetune"]


class Told(Progress, Task):
    """Keeps what tasks tell."""

    def __init__(self) -> None:
        self.skipped = self.done = 0.0
        self.statuses: list[str] = []

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        assert (description, total, unit) == ("compare", 2, "run")
        yield self

    def skip(self, steps: int) -> None:
        self.skipped += steps

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        self.done += steps
        self.statuses.append(status)


@pytest.mark.usefixtures("fake")
def test_the_status_of_every_run_is_reported_and_finished_runs_count_as_skipped(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "STATUS_SECONDS", 0.0)
    compare(settings_of(store_path, tmp_path, recipes[:1], seeds=1), Progress())
    Path(recipes[2]).write_text(SCRATCH.replace("Scratch", "Slow") + "gamma = 9\n")
    told = Told()
    compare(settings_of(store_path, tmp_path, recipes[::2], seeds=1), told)
    assert (told.skipped, told.done) == (
        1 + 120 / 480,
        1 - 120 / 480,
    )  # what the second run reported first was done earlier
    name = order(tmp_path)[-1].split()[1]
    assert f"{name} 120/480 steps" in told.statuses
    assert not [status for status in told.statuses if "130" in status]  # a line that was never ended


@pytest.mark.usefixtures("fake")
def test_anchors_do_not_enter_the_estimate_of_the_time_left(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    anchors = '[anchors]\nencoder = "bundled"\n'
    Path(recipes[0]).write_text(f'{anchors}{SCRATCH}classifier = "anchors"\n')
    told = Told()
    compare(settings_of(store_path, tmp_path, recipes[:1], seeds=1), told)
    assert (told.skipped, told.done) == (1, 1)


@pytest.mark.usefixtures("fake")
def test_what_a_failed_run_has_done_is_not_taken_back(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "STATUS_SECONDS", 0.0)
    Path(recipes[2]).write_text(SCRATCH.replace("Scratch", "Fails") + "gamma = 9\nclip_norm = 9\n")
    told = Told()
    with pytest.raises(DataError, match="1 run failed"):
        compare(settings_of(store_path, tmp_path, recipes[:3:2], seeds=1), told)
    assert (told.skipped, told.done) == (
        120 / 480,
        1,
    )  # the other run is done; a negative sum would give a negative time


def test_a_signal_stops_every_run_and_the_same_command_resumes(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    for recipe in recipes:
        text = Path(recipe).read_text()
        Path(recipe).write_text(text + ("" if "[finetune]" in text else "[finetune]\n") + "gamma = 8\n")
    code = (
        "import sys; from lg3d_core.comparing import run; run.PROGRAM = 'tests.fake_execute'\n"
        "from lg3d_cli.__main__ import main; sys.argv[0] = 'lg3d'; main()"
    )
    command = [sys.executable, "-c", code, "compare", *recipes[:1], "--store", str(store_path), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--seeds", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out/runs/*/waiting"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "run the same command again to resume" in error
    assert len(list(tmp_path.glob("out/runs/*/saved"))) == 2


@pytest.mark.usefixtures("fake")
def test_outside_the_main_thread_it_runs_too(store_path: Path, tmp_path: Path, recipes: tuple[str, ...]) -> None:
    results: list[Any] = []
    settings = settings_of(store_path, tmp_path, recipes[:1], seeds=1)
    thread = threading.Thread(target=lambda: results.append(compare(settings, Progress())))
    thread.start()
    thread.join(timeout=60)
    assert results[0].num_seeds == 1
    assert "±" not in (tmp_path / "out" / "table.md").read_text().split("\n", 1)[1]


@pytest.mark.usefixtures("fake")
def test_the_command_prints_the_table_json_or_markdown(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "compare",
        *recipes[:2],
        "--store",
        str(store_path),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "1",
        "-q",
    ]
    app(arguments, standalone_mode=False)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["", "Scratch", "Ours", "", "Ours"]
    assert lines[0][1:5] == ["mIoU Head", "mIoU Common", "mIoU Tail", "mIoU All"]
    assert len(lines[1]) == 13
    app([*arguments, "--json", "--classes", "all"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], found["rows"][0]["difference"]) == ("all", {})
    assert found["rows"][0]["scores"]["iou"]["tail"]["deviation"] is None
    app([*arguments, "--markdown"], standalone_mode=False)
    assert "| Scratch |" in capsys.readouterr().out


@pytest.mark.usefixtures("fake")
def test_the_command_prints_differences_in_ap_of_runs_of_the_instance_task(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe in recipes[:2]:
        text = Path(recipe).read_text()
        text += "" if "[finetune]" in text else "[finetune]\n"
        Path(recipe).write_text(text + 'task = "instance"\n')
    paths = ["--store", str(store_path), "--out", str(tmp_path / "out")]
    app(["compare", *recipes[:2], *paths, "--seeds", "1", "-q"], standalone_mode=False)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    differences = [line for line in lines if line[0] == "Ours"][-4:]  # mIoU, AP, AP50, AP25
    # every scene has one object: found by the pre-trained run alone with IoU 0.72, above 5 of the 9 thresholds of AP
    assert [line[-1] for line in differences[1:]] == [
        "+55.56 [+55.56, +55.56]",
        "+100.00 [+100.00, +100.00]",
        "+100.00 [+100.00, +100.00]",
    ]


@pytest.mark.usefixtures("fake")
def test_a_figure_is_drawn_and_an_invalid_one_is_rejected_before_any_run(
    store_path: Path, tmp_path: Path, recipes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="not installed here")
    out = tmp_path / "out"
    arguments = ["compare", *recipes[:2], "--store", str(store_path), "--out", str(out), "--seeds", "1", "--plot"]
    with pytest.raises(SettingsError, match=r"--plot must be .*, got 'curve\.bmp'"):
        app([*arguments, "curve.bmp"], standalone_mode=False)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"--plot .*curve\.svg: .*file is not a folder"):
        app([*arguments, str(tmp_path / "file" / "curve.svg")], standalone_mode=False)
    assert not out.exists()
    app([*arguments, str(tmp_path / "curve.svg"), "--markdown"], standalone_mode=False)
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    told = capsys.readouterr()
    assert "curve.svg" in told.err
    assert "curve.svg" not in told.out


def test_missing_scenes_and_damaged_scores_raise(store_path: Path, tmp_path: Path, recipes: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="no split 'nowhere'"):
        compare(settings_of(store_path, tmp_path, recipes, split="nowhere"), Progress())
    with pytest.raises(DataError, match="no readable scores"):
        read_record(tmp_path)


SMALL = (
    *("voxel_size=0.3", "batch_size=3", "jobs=0", "augment=false", "validate_every=0"),
    *("epochs=1", "anchors.encoder=bundled"),
)


def test_real_steps_leave_scores_and_are_not_run_twice(store_path: Path, tmp_path: Path) -> None:
    """The steps of a language-grounded row in this process, and one through its entry point."""
    recipe = tmp_path / "real.toml"
    recipe.write_text("[pretrain]\nepochs = 1\n[finetune]\nepochs = 1\n")
    settings = CompareSettings(
        recipes=(str(recipe),),
        store=store_path,
        out=tmp_path / "out",
        seeds=1,
        changes=SMALL,
        network="14A",
        device="cpu",
    )
    plan = plan_table(settings, store_digest=SceneStore(store_path).digest)
    assert [step.kind for step in plan.steps] == ["anchors", "pretrain", "finetune"]
    (plan.steps[2].folder).mkdir(parents=True)  # stopped before it had begun
    for step in plan.steps:
        assert not step.done
        execute(step, Progress())
        assert step.done
        execute(step, Progress())  # at once
    record = read_record(plan.rows[0].runs[0])
    assert record.scores["num_scenes"] == len(record.counts.scene_ids) == 2
    assert record.counts.support.sum() == record.scores["vertex"]["num_evaluated"]
    (plan.steps[2].folder / "done.json").unlink()  # stopped after its training, before its scores
    description = tmp_path / "step.json"
    description.write_text(json.dumps(dataclasses.asdict(plan.steps[2]), default=str))
    assert read_step(description) == plan.steps[2]
    assert main(str(description)) == 0
    again = read_record(plan.rows[0].runs[0])
    assert (again.counts.correct == record.counts.correct).all()


def test_anchors_of_another_vocabulary_than_the_store_are_rejected_before_any_run(tmp_path: Path) -> None:
    box_rooms.write_dataset(tmp_path / "raw", train=1, val=1, objects=("chair",))
    store = tmp_path / "data"
    prepare_store(
        PrepareSettings(raw=tmp_path / "raw", store=store, vocabulary=("scannet20", "scannet200"), jobs=1), Progress()
    )
    recipe = tmp_path / "ours.toml"
    recipe.write_text("[pretrain]\nepochs = 1\n")
    settings = CompareSettings(recipes=(str(recipe),), store=store, out=tmp_path / "out")
    with pytest.raises(
        SettingsError, match=r"vocabulary scannet200, and .* has labels of scannet20: pass --vocabulary"
    ):
        compare(settings, Progress())
    recipe.write_text("[finetune]\nfrom = 'scratch'\nvocabulary = 'scannet200'\n")
    with pytest.raises(SettingsError, match=r"'scannet200', but .* one vocabulary: remove the key"):
        compare(settings, Progress())
    recipe.write_text("[finetune]\nfrom = 'scratch'\n")
    for key, message in (("finetune.vocabulary", "pass --vocabulary instead"), ("vocabulary", "pass --vocabulary")):
        with pytest.raises(SettingsError, match=message):
            compare(dataclasses.replace(settings, changes=(f"{key}=scannet200",)), Progress())
    assert not (tmp_path / "out").exists()


def test_a_failing_step_reports_why_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "real.toml"
    recipe.write_text(SCRATCH)
    settings = CompareSettings(recipes=(str(recipe),), store=tmp_path / "none", out=tmp_path / "out", seeds=1)
    step = plan_table(settings, store_digest="").steps[0]
    description = tmp_path / "step.json"
    description.write_text(json.dumps(dataclasses.asdict(step), default=str))
    assert main(str(description)) == 1
    assert "error: " in capsys.readouterr().err
