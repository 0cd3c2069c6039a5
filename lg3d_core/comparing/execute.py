"""One step of a comparison in its own process: `python -m lg3d_core.comparing.execute STEP.json PARENT PIPE`."""

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lg3d_core.comparing.plan import ANCHORS_NAME, DONE_NAME, Step
from lg3d_core.comparing.record import COUNTS_NAME, SCORES_NAME
from lg3d_core.errors import Interrupted, Lg3dError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.evaluation.packed_matches import pack_matches
from lg3d_core.files import atomic_path, lock_file, sweep_temporaries, write_text
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.networks.minkunet import NETWORK_PLANS
from lg3d_core.progress import Progress, Task, whole_steps
from lg3d_core.settings import AnchorsSettings, EvalSettings, FinetuneSettings, PretrainSettings
from lg3d_core.stopping import end_with_parent
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain

PATIENCE = 5.0
"""Seconds that a step waits for its predecessor to end after its comparison was killed."""


REPORT_SECONDS = 1.0
"""Minimum interval in seconds between two progress reports to the comparison."""


class LogProgress(Progress):
    """Progress that writes notes and warnings to stderr, which is the step's log, and the step counts to a pipe.

    Args:
        pipe: Descriptor of the pipe's write end; None disables the step counts.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe
        if pipe is not None:
            os.set_blocking(pipe, False)  # a suspended comparison does not read the pipe; it must not block the step

    def note(self, message: str) -> None:
        with suppress(OSError):  # on a full disk, a failure to write the log must not hide the original error
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    def warn(self, message: str) -> None:
        self.note(f"warning: {message}")

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        del description
        yield Task() if self._pipe is None else _PipedTask(self._pipe, total, unit)


class _PipedTask(Task):
    """Task that writes lines such as `120/480 steps` to a pipe at intervals."""

    def __init__(self, pipe: int, total: int | None, unit: str) -> None:
        self._pipe = pipe
        self._of = ("" if total is None else f"/{total}") + (f" {unit}s" if unit else "")
        self._done = 0.0
        self._reported = 0.0

    def advance(self, steps: float = 1, *, status: str = "") -> None:
        del status
        self._done += steps
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._reported = time.monotonic()
            with suppress(OSError):
                os.write(self._pipe, f"{whole_steps(self._done)}{self._of}\n".encode())


def execute(step: Step, progress: Progress) -> None:
    """Run or resume a step. A step that is marked as done is not run again.

    Raises:
        Lg3dError: The step failed; its saved state is kept.
        Interrupted: The step was asked to stop and has saved its state.
    """
    step.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = step.folder.parent / f".{step.folder.name}.lock"
    with lock_file(lock, patience=PATIENCE, holder="the same run of another comparison"):
        if step.done:
            return
        sweep_temporaries(step.folder)
        if step.kind == "anchors":
            _execute_anchors(step, progress)
        else:
            _execute_training(step, progress)
        write_text(step.folder / DONE_NAME, json.dumps({"kind": step.kind, "needs": [f.name for f in step.needs]}))


def _execute_anchors(step: Step, progress: Progress) -> None:
    settings = AnchorsSettings.from_json(step.settings)
    # Anchors like others keep their width; training pads them to that of the features.
    width = NETWORK_PLANS[step.network].widths[-1] if settings.like is None else None
    make_anchors(dataclasses.replace(settings, anchors=step.folder / ANCHORS_NAME, dim=width), progress)


def _execute_training(step: Step, progress: Progress) -> None:
    resuming = (step.folder / "settings.json").is_file()
    if not resuming:
        shutil.rmtree(step.folder, ignore_errors=True)  # interrupted before its settings were written
    resume = step.folder if resuming else None
    if step.kind == "pretrain":
        pretrain(dataclasses.replace(PretrainSettings.from_json(step.settings), resume=resume), progress)
        return
    settings = dataclasses.replace(FinetuneSettings.from_json(step.settings), resume=resume)
    checkpoint = finetune(settings, progress)
    evaluation = evaluate_checkpoint(
        EvalSettings(
            store=step.store,
            checkpoint=checkpoint,
            split=step.split,
            device=settings.device,
            backend=settings.backend,
            precision=settings.precision,
        ),
        progress,
    )
    counts = evaluation.scenes
    with atomic_path(step.folder / COUNTS_NAME) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            scene_ids=np.array(counts.scene_ids),
            correct=counts.correct,
            support=counts.support,
            predicted=counts.predicted,
            matches=pack_matches(evaluation.matches or ()),
        )
    write_text(step.folder / SCORES_NAME, json.dumps(evaluation.to_dict(), indent=1) + "\n")


def main(argument: str, parent: str | None = None, pipe: str | None = None) -> int:
    """Run the step described by a file; return exit code 0, 1 after an error, or 130 after an interruption.

    Args:
        argument: Path of the step file.
        parent: Process id of the comparison, which this process must not outlive.
        pipe: Descriptor of the pipe for progress reports.
    """
    if parent is not None:
        end_with_parent(int(parent))
    progress = LogProgress(None if pipe is None else int(pipe))
    try:
        execute(read_step(Path(argument)), progress)
    except Lg3dError as error:
        progress.note(f"error: {error}")
        return 1
    except MemoryError as error:
        progress.note(f"error: out of memory ({error})")
        return 1
    except Interrupted as stop:
        progress.note(str(stop))
        return 130
    except KeyboardInterrupt:
        progress.note("stopped")
        return 130
    return 0


def read_step(path: Path) -> Step:
    """Read a step file written by `run_steps`."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Step(
        kind=values["kind"],
        folder=Path(values["folder"]),
        settings=values["settings"],
        needs=tuple(Path(folder) for folder in values["needs"]),
        store=Path(values["store"]),
        split=values["split"],
        network=values["network"],
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
