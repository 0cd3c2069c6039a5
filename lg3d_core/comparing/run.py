"""Run the steps of a comparison in separate processes, up to a maximum number at a time."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lg3d_core.comparing.plan import Step
from lg3d_core.errors import DataError, Interrupted
from lg3d_core.files import write_text
from lg3d_core.progress import Progress, Task

POLL_SECONDS = 0.1
STATUS_SECONDS = 2.0
"""Interval in seconds between two status updates."""
LOGS = "logs"
PROGRAM = "lg3d_core.comparing.execute"
"""Module that runs one step."""


class _Running:
    """Process of a step. It has its own session, so that Ctrl-C reaches it only through this process.

    The process reports its progress through a pipe. Neither end blocks, and both processes end together.
    """

    def __init__(self, step: Step, out: Path) -> None:
        description = out / LOGS / f"{step.folder.name}.json"
        write_text(description, json.dumps(dataclasses.asdict(step), default=str, indent=1))
        reading, reporting = os.pipe()
        os.set_blocking(reading, False)
        self._reports = os.fdopen(reading, "rb", buffering=0)
        command = [sys.executable, "-m", PROGRAM, str(description), str(os.getpid()), str(reporting)]
        try:
            with _log(step, out).open("ab") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=_environment(),
                    pass_fds=[reporting],
                )
        except BaseException:
            self._reports.close()
            raise
        finally:
            os.close(reporting)
        self._name = step.folder.name
        self._takes_time = step.kind != "anchors"
        self._status = ""
        self._unread = b""
        self._counted = 0.0

    @property
    def status(self) -> str:
        """Name of the run and its last reported progress, such as `finetune-focal-seed0-4f2a 120/480 steps`."""
        while received := self._reports.read(4096):
            self._unread += received
        *lines, self._unread = self._unread.split(b"\n")
        if lines:
            self._status = " " + lines[-1].decode(errors="replace")
        return self._name + self._status

    def count(self, task: Task) -> str:
        """Count the training steps since the last call, as a share of the run, and return the status.

        Steps before the first report are skipped, because a resumed run did them earlier.
        """
        status = self.status
        if reported := re.fullmatch(r".* (\d+)/(\d+) steps", status):
            share = int(reported[1]) / int(reported[2])
            if self._counted:
                task.advance(share - self._counted)
            else:
                task.skip(share)
            self._counted = share
        return status

    def count_rest(self, task: Task) -> None:
        """Count the rest of a finished run; anchors take seconds and do not enter the estimate of the time left."""
        if self._takes_time:
            task.advance(1 - self._counted, status=self._name)
        else:
            task.skip(1)

    def ended(self) -> bool:
        """Return whether the process has ended. If so, its pipe is closed."""
        if self.process.poll() is None:
            return False
        self._reports.close()
        return True


def run_steps(steps: Sequence[Step], out: Path, *, jobs: int, progress: Progress) -> None:
    """Run every step that is not done, each after the steps it needs. If a step fails, independent steps still run.

    Raises:
        DataError: Some steps failed; the message names the first one's log and its last line.
        Interrupted: Ctrl-C or SIGTERM was received; every run was asked to save its state and has ended.
    """
    waiting = [step for step in steps if not step.done]
    finished = {step.folder for step in steps if step.done}
    if len(finished) and waiting:
        progress.note(f"{len(finished)} of {len(steps)} runs are done already")
    running: dict[Step, _Running] = {}
    shown_at = time.monotonic()
    failed: list[Step] = []
    with _interrupted_by_signals(), progress.task("compare", total=len(steps), unit="run") as task:
        task.skip(len(finished))
        try:
            while waiting or running:
                for step in [step for step in waiting if set(step.needs) <= finished][: jobs - len(running)]:
                    waiting.remove(step)
                    running[step] = _Running(step, out)
                if not running:
                    break  # the remaining steps need a failed one
                for step in [step for step, run in running.items() if run.ended()]:
                    run = running.pop(step)
                    if run.process.returncode:
                        failed.append(step)
                        progress.warn(_explain(step, out))
                    else:
                        finished.add(step.folder)
                        run.count_rest(task)
                if time.monotonic() - shown_at >= STATUS_SECONDS:
                    shown_at = time.monotonic()
                    task.advance(0, status=", ".join([run.count(task) for run in running.values()]))
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            _stop(running)
            raise Interrupted("stopped and saved; run the same command again to resume") from None
        except BaseException:
            _stop(running)
            raise
    if failed:
        several = len(failed) > 1
        left = f", and {len(waiting)} more depend on {'them' if several else 'it'}" if waiting else ""
        number = f"{len(failed)} runs failed{left}; the first" if several else f"1 run failed{left}"
        raise DataError(f"{number}: {_explain(failed[0], out)}")


def _environment() -> dict[str, str]:
    """Return this environment with this lg3d first on the path, and without settings, which steps read from files."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LG3D_")}
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH", "")]))
    return kept


def _log(step: Step, out: Path) -> Path:
    return out / LOGS / f"{step.folder.name}.log"


def _explain(step: Step, out: Path) -> str:
    path = _log(step, out)
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"{step.folder.name}: {last.strip()} (log: {path})"


def _stop(running: dict[Step, _Running]) -> None:
    """Ask every process once to save and end, and wait for it.

    SIGTERM is used rather than SIGINT: a training run saves its state, and a run that is still importing or loading
    ends at once, where a KeyboardInterrupt would be raised inside the loading code.
    """
    for run in running.values():
        if run.process.poll() is None:
            run.process.terminate()
    for run in running.values():
        run.process.wait()
        run.ended()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Turn the first SIGTERM into KeyboardInterrupt while the context is open. Only the main thread can do so.

    A second SIGTERM is ignored. A second Ctrl-C stops waiting for the runs, which then end without saving.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if not asked or number == signal.SIGINT:
            asked.append(number)
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
