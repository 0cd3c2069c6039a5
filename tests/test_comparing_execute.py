"""One step's process: how it ends, and what it says."""

import json
import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lg3d_core.comparing import execute as module
from lg3d_core.comparing.execute import LogProgress, execute, main, read_step
from lg3d_core.comparing.plan import ANCHORS_NAME, Step
from lg3d_core.errors import DataError, Interrupted
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings, FinetuneSettings


def describe(workplace: Path, **changes: object) -> Path:
    """A step's file, as a comparison writes it."""
    values = {
        "kind": "anchors",
        "folder": str(workplace / "anchors"),
        "settings": AnchorsSettings(encoder="bundled").to_json(),
        "needs": [str(workplace / "before")],
        "store": str(workplace / "data"),
        "split": "val",
        "network": "14A",
    }
    path = workplace / "step.json"
    path.write_text(json.dumps(values | changes))
    return path


def test_a_step_is_read_as_it_was_written(tmp_path: Path) -> None:
    step = read_step(describe(tmp_path))
    assert (step.kind, step.folder, step.network) == ("anchors", tmp_path / "anchors", "14A")
    assert step.needs == (tmp_path / "before",)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (DataError("the store is gone"), 1, "error: the store is gone\n"),
        (Interrupted("stopped and saved; resume"), 130, "stopped and saved; resume\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (MemoryError("Unable to allocate 3 GiB"), 1, "error: out of memory (Unable to allocate 3 GiB)\n"),
    ],
)
def test_the_outcome_is_an_exit_code_and_the_last_line(
    error: BaseException | None,
    code: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fake(step: Step, progress: Progress) -> None:
        del step, progress
        if error is not None:
            raise error

    parents: list[int] = []
    monkeypatch.setattr(module, "execute", fake)
    monkeypatch.setattr(module, "end_with_parent", parents.append)
    assert main(str(describe(tmp_path)), "4711") == code
    assert parents == [4711]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


def test_an_unwritable_log_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28 if text else 0, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    LogProgress().warn("the disk is nearly full")


def test_progress_is_written_to_the_pipe_without_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    clock = iter([10.0, 10.0, 10.5, 11.5, 11.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    progress = LogProgress(writing)
    with progress.task("finetune", total=480, unit="step") as task:
        task.skip(100)
        task.advance(20)  # too soon after
        task.advance(5)
    assert os.read(reading, 100) == b"100/480 steps\n125/480 steps\n"
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: 12.0)
    with progress.task("eval") as task:
        for _ in range(100_000):  # more than a pipe holds, read by nobody
            task.advance()
        assert os.read(reading, 4) == b"1\n2\n"
        os.close(reading)
        task.advance()  # nor does its end matter
    os.close(writing)


def test_anchors_are_as_wide_as_the_networks_features(tmp_path: Path) -> None:
    step = read_step(describe(tmp_path))
    execute(step, Progress())
    assert step.done
    written = (step.folder / ANCHORS_NAME).stat().st_mtime_ns
    assert any(vectors.shape == (200, 96) for vectors in load_file(step.folder / ANCHORS_NAME).values())
    execute(step, Progress())
    assert (step.folder / ANCHORS_NAME).stat().st_mtime_ns == written  # done: not run again


def test_anchors_like_others_have_their_width(tmp_path: Path) -> None:
    first = read_step(describe(tmp_path, network="34D"))
    execute(first, Progress())
    like = AnchorsSettings(like=first.folder / ANCHORS_NAME).to_json()
    step = read_step(describe(tmp_path, folder=str(tmp_path / "like"), settings=like))
    execute(step, Progress())
    shapes = [load_file(own.folder / ANCHORS_NAME)["anchors"].shape for own in (first, step)]
    assert shapes[0] == shapes[1]


def test_files_of_a_run_that_had_not_begun_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without settings cannot be resumed."""
    settings = FinetuneSettings(runs=tmp_path, name="run", start="scratch")
    step = read_step(describe(tmp_path, kind="finetune", folder=str(tmp_path / "run"), settings=settings.to_json()))
    step.folder.mkdir()
    (step.folder / "junk").write_text("x")
    seen: list[FinetuneSettings] = []

    def fake(settings: FinetuneSettings, progress: Progress) -> Path:
        del progress
        assert not step.folder.exists()
        seen.append(settings)
        raise Interrupted("stopped")

    monkeypatch.setattr(module, "finetune", fake)
    with pytest.raises(Interrupted):
        execute(step, Progress())
    assert seen[0].resume is None
