"""What training draws on a terminal of 80 columns, and how it stops on Ctrl-C."""

import io
import math
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lg3d_cli import console
from lg3d_cli.live import AVERAGED_STEPS, Curve, DrawnTask, LiveProgress, format_seconds
from lg3d_core.progress import Progress, Topic
from tests.terminal import COLUMNS, CTRL_C, lg3d_on_terminal


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = COLUMNS) -> Console:
    return Console(record=True, force_terminal=True, width=width, file=io.StringIO())


def drawn(task: DrawnTask, width: int = COLUMNS) -> str:
    page = terminal(width)
    page.print(task)
    return page.export_text()


def a_training(clock: Clock, *, steps: int = 100) -> DrawnTask:
    """100 of 1000 steps, 400 of them done before, at 2 s a step of which 0.5 s are waiting."""
    task = DrawnTask("pretrain", 1000, "step", clock=clock)
    task.skip(400)
    for step in range(steps):
        clock.now += 2.0
        task.show(Topic.LOSSES, {"loss": 2.0 * math.exp(-step / 30), "positive": 0.31, "negative": 0.1212})
        task.show(Topic.SPEED, {"seconds": 2.0, "data_wait": 0.5, "voxels_per_second": 40_000.0})
        task.advance(status="epoch 3/10")
    return task


def test_the_panel_shows_all_values_of_the_training() -> None:
    task = a_training(Clock())
    task.show(Topic.VALIDATION, {"epoch": 2, "head": 0.212, "common": 0.169, "tail": math.nan, "all": 0.165})
    text = drawn(task)
    assert "pretrain, epoch 3/10" in text
    assert "500/1,000 steps" in text
    assert "0:03:20, 0:16:40 left" in text  # 200 s for 100 steps, so 1000 s for the 500 that are left
    assert "positive 0.31  negative 0.1212" in text
    assert "40,000 voxels/s, 2.00 s per step, 25\N{NO-BREAK SPACE}% waiting for data" in text
    assert "mIoU 16.5 %: head 21.2, common 16.9 (epoch 2)" in text
    assert "Ctrl-C saves the state and prints how to resume" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    task = a_training(Clock())
    lines = drawn(task, width).splitlines()
    assert max(map(len, lines)) == width
    counting = DrawnTask("a description", None, "scene", clock=Clock())
    counting.advance(3, status="scene0000_00")
    below = drawn(counting, width).splitlines()[1:]
    assert [line.strip() for line in below] == (["scene0000_00"] if width == 40 else [])
    counting.advance(3, status="long " * 100)
    assert max(map(len, drawn(counting, width).splitlines())) == width


def test_speed_is_that_of_the_latest_steps() -> None:
    task = a_training(Clock())
    for _ in range(AVERAGED_STEPS):
        task.show(Topic.SPEED, {"seconds": 1.0, "data_wait": 0.0, "voxels_per_second": 10.0})
    assert "10 voxels/s, 1.00 s per step, 0\N{NO-BREAK SPACE}% waiting" in drawn(task)


def test_a_request_to_stop_and_the_end_are_shown() -> None:
    clock = Clock()
    task = a_training(clock)
    task.stopping()
    assert "stopping: saving the state" in drawn(task)
    task.finish()
    clock.now += 1000
    assert "0:03:20  " in drawn(task)
    assert "left" not in drawn(task)


def test_the_rest_is_unknown_before_a_step_and_without_a_total() -> None:
    clock = Clock()
    task = DrawnTask("x", 10, "", clock=clock)
    task.skip(5)
    clock.now = 7.0
    assert task.left is None
    assert "5/10, 0:00:07" in drawn(task)
    endless = DrawnTask("x", None, "scene", clock=clock)
    endless.advance(1234)
    assert endless.left is None
    assert "1,234 scenes" in drawn(endless)


def test_terminals_without_unicode_get_no_curve() -> None:
    class Latin(io.StringIO):
        encoding = "latin-1"

    page = Console(record=True, force_terminal=True, width=80, file=Latin())
    page.print(a_training(Clock()))
    page.export_text().encode("latin-1")


def test_a_curve_keeps_the_whole_course_in_bounded_room() -> None:
    curve = Curve(cells=4)
    assert str(curve) == ""
    curve.add(1.0)
    curve.add(0.0)
    assert str(curve) == "█▁"
    for value in range(10_000):
        curve.add(float(value))
    assert len(curve.means) < 8
    assert len(str(curve)) <= 4
    assert list(str(curve)) == sorted(str(curve))  # rising all along
    constant = Curve()
    for value in (1.0, 1.0, math.nan):
        constant.add(value)
    assert str(constant) == "▁▁"


def test_seconds_are_written_as_clocks_are() -> None:
    assert [format_seconds(s) for s in (0, 59.6, 3723, 200_000)] == ["0:00:00", "0:01:00", "1:02:03", "2 d 7:33:20"]


def test_notes_scroll_past_above_what_is_drawn() -> None:
    page = terminal()
    progress = LiveProgress(page, clock=Clock())
    with progress.task("check", total=2, unit="scene") as task:
        task.advance(status="[scene]")
        progress.note("a [note]")
        progress.warn("odd")
        task.show(Topic.LOSSES, {"x": 1.5})
        task.show(Topic.VALIDATION, {})
    text = page.export_text()
    assert "a [note]" in text
    assert "warning: odd" in text
    assert "x 1.5" in text


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False), ("", False)])
def test_only_terminals_that_can_be_drawn_on_are(term: str, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(console.progress(), LiveProgress) is live


def test_a_log_counts_the_rest_from_the_steps_of_this_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock)
    progress = console.progress()
    with progress.task("pretrain", total=1000, unit="step") as task:
        task.skip(900)
        clock.now = 20.0
        task.show(Topic.LOSSES, {"loss": 1.0})
        task.stopping()
        task.advance(10, status="epoch 9/10")
    assert "910/1000 steps in 20 s, 180 s left (epoch 9/10, loss 1.0000)" in capsys.readouterr().err


def test_a_silent_progress_takes_everything() -> None:
    with Progress().task("x", total=1) as task:
        for told in (task.skip, task.advance):
            told(1)
        task.show(Topic.LOSSES, {"loss": 1.0})
        task.stopping()


def test_training_on_a_terminal_stops_on_ctrl_c_and_resumes(
    store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    words: list[object] = ["pretrain", "--store", store_path, "--anchors", anchors_path, "--recipe", "demo"]
    words += ["--voxel-size", "0.15", "--epochs", "500", "--jobs", "1", "--name", "p", "--batch-size", "3"]
    # Ctrl-C goes to the loader's process, too: it must not disturb the step that is under way.
    done = lg3d_on_terminal(*words, cwd=tmp_path, replies=[("waiting for data", CTRL_C)])
    assert done.code == 130, done.screen
    assert done.stdout == ""
    assert "resume with: lg3d pretrain --resume runs/p" in done.screen
    assert "Traceback" not in done.screen
    assert "left" in done.screen
    assert (tmp_path / "runs" / "p" / "resume.pt").is_file()
    assert "\x1b[2J" not in done.raw  # the screen is never cleared: nothing flickers
    panel = [line for line in done.screen.replace("^C", "").split("\n") if line.startswith(("╭", "│", "╰"))]
    assert {len(line) for line in panel} == {COLUMNS}  # but for the terminal's own echo of Ctrl-C


def test_a_status_is_rewritten_in_place_and_gone_in_the_end() -> None:
    page = terminal()
    with LiveProgress(page).status() as tell:
        for message in ("bed", "bed", "floor\x1b[2J", ""):
            tell(message)
        tell("x" * 200)
    written = page.file.getvalue()
    assert written.count("bed") == 1  # what does not change is not drawn again
    assert "floor\\x1b[2J" in written
    assert "x" * (COLUMNS - 1) + "…" in written
    assert "x" * COLUMNS not in written
    assert written.endswith("\x1b[2K")  # the line is cleared


def test_a_status_in_a_log_is_a_line_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with console.progress().status() as tell:
        for now, message in (
            (0, "bed"),
            (0.5, "floor"),
            (1, ""),
            (1.5, "desk"),
            (2, "chair"),
            (3, "desk"),
            (9, "lamp\n"),
        ):
            clock.now = now
            tell(message)
    assert capsys.readouterr().err == "lg3d: bed\nlg3d: desk\nlg3d: lamp\\n\n"
    with console.progress(quiet=True).status() as tell:
        tell("bed")
    assert capsys.readouterr().err == ""


def test_parts_of_steps_enter_the_remaining_time_but_not_the_count() -> None:
    clock = Clock()
    task = DrawnTask("compare", 3, "run", clock=clock)
    task.skip(1.25)  # one run was done, and a quarter of the second one
    for _ in range(5):
        task.advance(0.1)
    clock.now = 60.0
    assert task._count() == "1/3 runs"
    assert task.left == pytest.approx(60 / 0.5 * 1.25)
    task.advance(0.25)
    assert task._count() == "2/3 runs"
