"""Bad bytes by the thousand, each format in a child process that may crash, hang or swell without harm.

`python -m tests.fuzz_runner --cases 10000` runs every format. The only good ends of a case are a success and an error
of lg3d's own in one line; a traceback, a warning, a crash, more than 20 seconds, or 2 GiB more memory than at the start
is a finding, which `--replay FORMAT:SEED` repeats in the open.
"""

import argparse
import collections
import faulthandler
import gc
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lg3d_core.errors import Lg3dError
from tests.fuzz_formats import FORMATS, Format, work_folder

MAX_SECONDS = 20.0
"""Of the processor: others may be at work on the machine."""
MAX_WAIT = 300.0
"""Seconds on the clock."""
MAX_GROWTH = 2 << 30
MAX_LINE = 2000
"""Characters of a message: a value of a hostile file is shortened before it is quoted."""
POLL = 0.02
STATE = struct.Struct("<qqdd")
"""What a child tells while it works: cases done, bytes in memory before the first, and when the present one began, in
seconds on the clock and of the processor."""


@dataclass
class Outcome:
    """What became of the cases of a format."""

    name: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, list[int]] = field(default_factory=dict)
    """Kind of failure, with the seeds that gave it."""
    slowest: float = 0.0
    growth: int = 0
    """Bytes, at most, that a child had more in memory than at its start."""
    seconds: float = 0.0

    def add(self, kind: str, seed: int) -> None:
        self.findings.setdefault(kind, []).append(seed)

    def line(self) -> str:
        found = sum(map(len, self.findings.values()))
        return (
            f"{self.name}: {self.cases} cases, {self.accepted} accepted, {self.refused} refused in one line, "
            f"{found} findings; slowest {self.slowest:.2f} s of CPU, memory {self.growth >> 20} MiB more at most, "
            f"{self.seconds:.0f} s"
        )


def run_case(form: Format, seed: int, folder: Path) -> str:
    """Make one bad file and read it: "accepted", "refused", or what went wrong."""
    rng = random.Random(f"{form.name} {seed}")
    data = form.mutate(rng)
    try:
        form.read(data, folder)
    except Lg3dError as error:
        text = str(error)
        if "\n" in text or not text.isprintable():
            return f"a message that is not one printable line: {text[:80]!r}"
        return "refused" if len(text) <= MAX_LINE else f"a message of {MAX_LINE} characters or more: {text[:80]!r}"
    except Exception as error:  # noqa: BLE001 - to be found is what it is here for
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = [entry for entry in traceback.extract_tb(error.__traceback__) if "lg3d_core" in entry.filename]
        place = own[-1] if own else last
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
    return "accepted"


def run_format(form: Format, seeds: Sequence[int]) -> Outcome:
    """Run a format's cases in children, a new one after each that had to be ended."""
    outcome = Outcome(form.name)
    work_folder()  # made here, it is this process's to remove
    began = time.monotonic()
    left = collections.deque(seeds)
    while left:
        _run_child(form, left, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def _run_child(form: Format, left: "collections.deque[int]", outcome: Outcome) -> None:
    """Fork, let the child work through `left`, and take off what it did; end it where it hangs or swells."""
    done = mmap.mmap(-1, STATE.size)
    results = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - shared with the child
    folder = Path(tempfile.mkdtemp(prefix="lg3d-fuzz-"))  # outlives a child that is killed
    gc.collect()
    gc.freeze()  # garbage of ours that the child collected would hide its growth, and be finalised twice
    child = os.fork()
    if child == 0:
        _work(form, list(left), done, results, folder)
        os._exit(0)
    gc.unfreeze()
    kind = ""
    ended = 0
    while not ended:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            kind = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
            break
        count, base, start, spent = STATE.unpack(done[:])
        growth = _resident(child) - base if base else 0
        outcome.growth = max(outcome.growth, growth)
        if growth > MAX_GROWTH:
            kind = "more than 2 GiB of memory"
        elif start and (_spent(child) - spent > MAX_SECONDS or time.monotonic() - start > MAX_WAIT):
            kind = f"more than {MAX_SECONDS:.0f} s"
        if kind:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(POLL)
    shutil.rmtree(folder, ignore_errors=True)
    count = STATE.unpack(done[:])[0]
    with results:
        results.seek(0)
        for line in results:
            seed, result, seconds = json.loads(line)
            outcome.slowest = max(outcome.slowest, seconds)
            if result in ("accepted", "refused"):
                setattr(outcome, result, getattr(outcome, result) + 1)
            else:
                outcome.add(result, seed)
    for _ in range(count):
        left.popleft()
    outcome.cases += count
    if kind or (left and not kind):
        outcome.add(kind or "the child ended early", left.popleft())
        outcome.cases += 1


def _resident(process: int) -> int:
    try:
        words = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0
    return int(words[1]) * resource.getpagesize()


def _spent(process: int) -> float:
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _work(form: Format, seeds: list[int], done: mmap.mmap, results: IO[str], folder: Path) -> None:
    """In the child: work through the cases, and say of each what became of it before the next begins."""
    warnings.simplefilter("error")
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    base = _resident(os.getpid())
    for k, seed in enumerate(seeds):
        start = time.process_time()
        done[:] = STATE.pack(k, base, time.monotonic(), start)
        result = run_case(form, seed, folder)
        results.write(json.dumps([seed, result, time.process_time() - start]) + "\n")
        results.flush()
        done[:] = STATE.pack(k + 1, base, 0.0, 0.0)


def findings(outcome: Outcome) -> Iterator[str]:
    """One line for each kind of failure, the most frequent first."""
    for kind, seeds in sorted(outcome.findings.items(), key=lambda item: -len(item[1])):
        yield f"  {len(seeds)} x {kind} (--replay {outcome.name}:{seeds[0]})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--format", action="append", choices=sorted(FORMATS))
    parser.add_argument("--replay", help="FORMAT:SEED, with the traceback")
    parser.add_argument("--keep", type=Path, help="file to write the replayed case to")
    words = parser.parse_args()
    if words.replay:
        name, _, seed = words.replay.partition(":")
        form = FORMATS[name]
        data = form.mutate(random.Random(f"{name} {seed}"))
        if words.keep:
            words.keep.write_bytes(data)
        warnings.simplefilter("error")
        with tempfile.TemporaryDirectory() as folder:
            form.read(data, Path(folder))
        return 0
    bad = 0
    for name in words.format or FORMATS:
        outcome = run_format(FORMATS[name], range(words.first, words.first + words.cases))
        print(outcome.line(), flush=True)  # noqa: T201 - a program for the terminal
        for line in findings(outcome):
            print(line, flush=True)  # noqa: T201
        bad += len(outcome.findings)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
