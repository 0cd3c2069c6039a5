"""Cost of `prepare`, an epoch, `eval` and of starting, against the number of scenes; fails where it is not as claimed.

    python benchmarks/scale.py [--scenes 10,100,1000] [--keep FOLDER] [--out docs/results/NAME.json]
    python benchmarks/scale.py --check docs/results/NAME.json

Ten small rooms are made and copied under new ids, half of them for training, so that every number of scenes has the
same mix. Every command runs as a user runs it, in a process of its own, and is measured from outside: CPU seconds of
the process and its workers, seconds of the clock, and the most memory that all of them held at one time (pages that
they share counted once: PSS, read five times a second).

Claims that are checked:

- CPU seconds grow linearly: from the smallest number to the largest by at most `MARGIN` times what the first step, from
  the smallest to the next, lets expect; `NOISE` seconds of that step may be the noise of starting processes.
- Memory does not grow: from the last number but one to the largest by at most `ALLOWED_GROWTH`. The smallest is left
  out: its five training scenes do not fill a batch.
- Starting (until the first optimiser step is done; the best of `STARTS`) takes, at the largest number, at most
  `ALLOWED_DELAY` CPU seconds more than at the smallest.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lg3d_core.progress import Progress, Task
from lg3d_core.settings import FinetuneSettings, RoomsSettings
from lg3d_core.synthetic.rooms import rooms as write_rooms
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

ROOT = Path(__file__).parents[1]
ROOMS = 10
VERTICES = 3000
VOXEL_SIZE = 0.35
TRAINING = ("--network", "14A", "--voxel-size", str(VOXEL_SIZE), "--batch-size", "8", "--jobs", "1", "--device", "cpu")
MARGIN = 1.35
NOISE = 0.3
ALLOWED_GROWTH = 32 << 20
ALLOWED_DELAY = 1.0
STARTS = 3
"""Of which the one of least CPU time counts: differences between processes are what starting consists of."""
EVERY_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", default="10,100,1000", help="multiples of ten, rising")
    parser.add_argument("--keep", type=Path, help="work here and keep it, instead of in a temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--check", type=Path, help="a record to check again, instead of measuring")
    parser.add_argument("--first-step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        start_training(*arguments.first_step)
        return
    if arguments.check:
        report(json.loads(arguments.check.read_text(encoding="utf-8")))
        return
    numbers = [int(number) for number in arguments.scenes.split(",")]
    if any(number % ROOMS for number in numbers) or sorted(set(numbers)) != numbers or len(numbers) < 2:
        parser.error(f"--scenes takes rising multiples of {ROOMS}")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        write_rooms(
            RoomsSettings(out=folder / "rooms", scenes=ROOMS, vertices=VERTICES, validation=0.5, seed=0), Progress()
        )
        results = [measure_scenes(folder, number) for number in numbers]
    record = {
        "benchmark": "scale",
        "command": ["benchmarks/scale.py", "--scenes", arguments.scenes],
        "machine": machine(),
        "load": load,
        "rooms": {"different": ROOMS, "vertices": VERTICES, "voxel_size": VOXEL_SIZE},
        "results": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    report(record)


def report(record: dict[str, Any]) -> None:
    """Print a record's table, and exit with 1 where a claim does not hold."""
    results = record["results"]
    numbers = [result["scenes"] for result in results]
    fits = {name: fit(numbers, [one["operations"][name] for one in results]) for name in results[0]["operations"]}
    print_table(numbers, results, fits)
    failures = list(itertools.chain.from_iterable(check(name, numbers, own) for name, own in fits.items()))
    for failure in failures:
        sys.stderr.write(f"not as claimed: {failure}\n")
    sys.exit(1 if failures else 0)


def machine() -> dict[str, Any]:
    """As the records of `lg3d bench` say it."""
    import torch

    from lg3d_core.sparse_benchmark.machine import describe_machine

    return describe_machine(torch.device("cpu"))


def measure_scenes(folder: Path, number: int) -> dict[str, Any]:
    """All operations on so many scenes."""
    own = folder / str(number)
    raw, store, runs = own / "raw", own / "data", own / "runs"
    shutil.rmtree(own, ignore_errors=True)
    copy_rooms(folder / "rooms", raw, number)
    prepare = ("prepare", str(raw), "--store", str(store), "--jobs", "2")
    train = ("finetune", "--store", str(store), "--runs", str(runs), "--name", "run", "--from", "scratch", *TRAINING)
    evaluate = ("eval", "--store", str(store), "--runs", str(runs), "--device", "cpu")
    operations = {
        "prepare": lg3d(*prepare),
        "prepare, all done": lg3d(*prepare),
        "prepare --verify": lg3d("prepare", "--verify", "--store", str(store), "--jobs", "2"),
        "start": min((start_once(store, own / f"started{again}") for again in range(STARTS)), key=itemgetter("cpu")),
        "epoch": lg3d(*train, "--epochs", "1"),
        "eval": lg3d(*evaluate),
    }
    for name, taken in operations.items():
        sys.stderr.write(f"{number} scenes, {name}: {taken['cpu']:.2f} s CPU, {taken['peak'] / 2**20:.0f} MiB\n")
    bytes_stored = sum(path.stat().st_size for path in store.glob("scenes/*.h5"))
    return {"scenes": number, "stored_bytes": bytes_stored, "operations": operations}


def copy_rooms(rooms: Path, raw: Path, number: int) -> None:
    """A raw folder of so many scenes; meshes are hard links."""
    originals = {
        split: (rooms / f"scannetv2_{split}.txt").read_text(encoding="utf-8").split() for split in ("train", "val")
    }
    raw.mkdir(parents=True)
    shutil.copy(rooms / LABEL_TABLE_NAME, raw)
    ids = itertools.count()
    for split, names in originals.items():
        chosen = [(f"scene{next(ids):04d}_00", names[k % len(names)]) for k in range(number // 2)]
        (raw / f"scannetv2_{split}.txt").write_text("".join(f"{new}\n" for new, _ in chosen), encoding="utf-8")
        for new, old in chosen:
            target = raw / "scans" / new
            target.mkdir(parents=True)
            for path in (rooms / "scans" / old).iterdir():
                name = path.name.replace(old, new)
                if path.suffix == ".json":
                    text = path.read_text(encoding="utf-8").replace(old, new)
                    (target / name).write_text(text, encoding="utf-8")
                else:
                    os.link(path, target / name)


def start_once(store: Path, runs: Path) -> dict[str, float]:
    return measure([sys.executable, __file__, "--first-step", str(store), str(runs)])


def lg3d(*words: str) -> dict[str, float]:
    return measure([sys.executable, "-m", "lg3d_cli", *words, "--quiet"])


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; seconds of the clock, CPU seconds with all its processes, and the most bytes they held."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(EVERY_SECONDS):
            peak = max(peak, held_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return {"wall": round(wall, 3), "cpu": round(usage.ru_utime + usage.ru_stime, 3), "peak": peak}


def held_bytes(process: int) -> int:
    """Proportional set size of a process and all that it started, in bytes; what has just ended counts nothing."""
    total = 0
    waiting = [process]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            lines = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text(encoding="ascii").split())
        except OSError:
            continue
    return total


class _Started(Exception):
    """The first step is done."""


class _FirstStep(Progress):
    """Ends a training run after its first step."""

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        with super().task(description, total=total, unit=unit) as task:
            if description == "finetune":
                stop: Callable[..., None] = _stop
                task.advance = stop  # type: ignore[method-assign]
            yield task


def _stop(steps: int = 1, *, status: str = "") -> None:
    del status
    if steps:
        raise _Started


def start_training(store: str, runs: str) -> None:
    """Train one step of a run that would take a hundred epochs."""
    from lg3d_core.training.finetune import finetune  # the processes that make rooms load this file, too

    settings = FinetuneSettings(
        store=Path(store),
        runs=Path(runs),
        start="scratch",
        network="14A",
        voxel_size=VOXEL_SIZE,
        jobs=1,
        device="cpu",
        epochs=100,
    )
    try:
        finetune(settings, _FirstStep())
    except _Started:
        return
    raise SystemExit("the run ended before its first step")


def fit(numbers: list[int], taken: list[dict[str, float]]) -> dict[str, Any]:
    """A line through CPU seconds and one through peaks, by least squares, and how much both grow."""
    lines = {name: np.polyfit(numbers, [one[name] for one in taken], 1) for name in ("cpu", "peak")}
    return {
        "cpu_per_scene": float(lines["cpu"][0]),
        "cpu_fixed": float(lines["cpu"][1]),
        "bytes_per_scene": float(lines["peak"][0]),
        "first": taken[1]["cpu"] - taken[0]["cpu"],
        "whole": taken[-1]["cpu"] - taken[0]["cpu"],
        "growth": taken[-1]["peak"] - taken[-2]["peak"],
    }


def check(name: str, numbers: list[int], own: dict[str, Any]) -> Iterator[str]:
    """What does not hold of the claims."""
    if own["growth"] > ALLOWED_GROWTH:
        yield f"{name}: memory grows by {own['growth'] / 2**20:.0f} MiB"
    if name == "start":
        if own["whole"] > ALLOWED_DELAY:
            yield f"start: takes {own['whole']:.2f} CPU seconds longer"
        return
    expected = (own["first"] + NOISE) * (numbers[-1] - numbers[0]) / (numbers[1] - numbers[0])
    if own["whole"] > MARGIN * expected:
        yield f"{name}: takes {own['whole']:.1f} CPU seconds more, the first scenes let expect {expected:.1f}"


def print_table(numbers: list[int], results: list[dict[str, Any]], fits: dict[str, Any]) -> None:
    heads = [f"{number} scenes" for number in numbers]
    print(f"{'':18}" + "".join(f"{head:>22}" for head in heads) + f"{'line through CPU s':>26}{'memory a scene':>18}")
    for name, own in fits.items():
        cells = [result["operations"][name] for result in results]
        line = f"{own['cpu_fixed']:.2f} + {1000 * own['cpu_per_scene']:.2f} ms n"
        print(
            f"{name:18}"
            + "".join(f"{cell['cpu']:>11.2f} s {cell['peak'] / 2**20:>5.0f} MiB" for cell in cells)
            + f"{line:>26}{own['bytes_per_scene'] / 2**10:>14.1f} KiB"
        )


if __name__ == "__main__":
    main()
