"""Commands that are killed at random times and resumed; their results are compared with those of uninterrupted runs.

    python -m tests.interruption --kills 200 --stops 40

One process loads everything once and forks a child for every attempt, so an attempt costs what the command does. A kill
comes at a random time, or at a random change of a file (just before it, or up to 3 ms after it began); it hits all
processes of the command, or the first one alone, whose helpers must then end by themselves. A stop is SIGTERM or
SIGINT, to the first process or to its group: the command must end with exit code 130 within ten seconds.
After every kill nothing that is there may be torn, and at the end every file must be that of the undisturbed run but
for times, logs and locks. Of hundreds of files changed, some are too quick to be hit by time; hence the second way.
"""

import argparse
import ctypes
import hashlib
import importlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
TIMES = ("seconds", "data_wait", "voxels_per_second", "started", "command")
ORPHAN_SECONDS = 5.0
STOP_SECONDS = 10.0
LATEST_SECONDS = 0.003
"""A kill at a change of a file comes at most so long after the change began."""

LOADED = (
    "lg3d_cli.__main__",
    "lg3d_core.comparing.execute",
    "lg3d_core.comparing.table",
    "lg3d_core.inference.predict",
    "lg3d_core.synthetic.rooms",
    "lg3d_core.training.events",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "torch._dynamo",  # every optimiser does
)

QUICK = ("prepare", "predict", "rooms")
"""Commands that are disturbed three times as often."""


@dataclass(frozen=True)
class Case:
    """A command, its input, and how it is resumed.

    Attributes:
        name: In the table.
        words: Of the command line, run in a folder of the attempt's own.
        copies: What is copied into that folder before.
        run: Folder of a training run, which is resumed by `--resume`.
    """

    name: str
    words: tuple[str, ...]
    copies: tuple[Path, ...] = ()
    run: str = ""

    def next_words(self, folder: Path) -> list[str]:
        """The command that starts, or goes on, as the page on clusters has it."""
        if self.run and (folder / self.run / "settings.json").is_file():
            return [self.words[0], "--resume", self.run, "-q"]
        return list(self.words)


@dataclass
class Tally:
    """What became of the attempts at one command."""

    name: str
    seconds: float = 0.0
    changes: int = 0
    attempts: int = 0
    kills: int = 0
    stops: int = 0
    slowest_orphan: float = 0.0
    slowest_stop: float = 0.0
    faults: list[str] = field(default_factory=list)

    def to_row(self) -> str:
        """For the table."""
        return (
            f"{self.name:10} {self.seconds:6.2f} s {self.changes:5} {self.attempts:8} {self.kills:6} {self.stops:6} "
            f"{self.slowest_orphan:8.2f} s {self.slowest_stop:8.2f} s {len(self.faults):7}"
        )


HEADER = "command    undisturbed changes attempts kills stops  orphans  130 after  faults"


class Attempt:
    """One process that runs a command, forked from this one."""

    counter = mmap.mmap(-1, 16)
    """Shared with the children: changes of files so far, and that at which the first process is killed."""

    def __init__(self, words: list[str], folder: Path, log: Path, *, kill_at: int = 0, delay: float = 0.0) -> None:
        self.counter[:] = struct.pack("qq", 0, kill_at)
        self.log = log
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_child(words, folder, log, delay)

    @property
    def changes(self) -> int:
        """How many files the command has opened for writing, renamed or removed."""
        return int(struct.unpack("qq", self.counter[:])[0])

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds; orphans of earlier attempts are reaped on the way."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            if _reap(self):
                continue
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the first process, or to its group."""
        if self.code is None:
            (os.killpg if group else os.kill)(self.pid, number)

    def kill(self, *, everyone: bool) -> None:
        """Kill the first process, or it and all that it started."""
        helpers = _descendants(self.pid) if everyone else []
        for pid in [self.pid, *helpers]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.wait(10)


def _reap(attempt: Attempt) -> bool:
    """Take note of one ended child, if there is one."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    if pid == attempt.pid:
        attempt.code = os.waitstatus_to_exitcode(status)
    return pid != 0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            own = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in own:
            found += [child, *_descendants(child)]
    return found


def _wait_for_orphans(attempt: Attempt) -> float:
    """Seconds until no process that the attempt started is left; they become children of this one."""
    start = time.monotonic()
    while time.monotonic() - start < 2 * ORPHAN_SECONDS:
        while _reap(attempt):
            pass
        if not _descendants(os.getpid()):
            return time.monotonic() - start
        time.sleep(0.002)
    for pid in _descendants(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    return time.monotonic() - start


def _run_child(words: list[str], folder: Path, log: Path, delay: float) -> None:
    """In the forked child: be the command, and never return."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        _redirect(log)
        sys.argv = ["lg3d", *words]
        _count_changes(folder, os.getpid(), delay)
        from lg3d_cli.__main__ import main
        from lg3d_core.comparing import run as comparing

        comparing.subprocess = SimpleNamespace(Popen=_ForkedStep, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 - it becomes an exit code
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect(log: Path) -> None:
    null, out = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _count_changes(folder: Path, leader: int, delay: float) -> None:
    """Count what is done to files below a folder in the shared counter, and kill the leader at the one asked for."""
    root = os.fsencode(folder)

    def kill() -> None:
        time.sleep(delay)
        os.kill(leader, signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike) or not os.path.abspath(os.fsencode(path)).startswith(root):
            return
        done, wanted = struct.unpack("qq", Attempt.counter[:])
        Attempt.counter[:8] = struct.pack("q", done + 1)
        if wanted and done + 1 == wanted:
            if delay:
                threading.Thread(target=kill, daemon=True).start()
            else:
                os.kill(leader, signal.SIGKILL)

    sys.addaudithook(watch)


class _ForkedStep:
    """Stands for the process of a comparison's step: what `subprocess.Popen` would start, forked."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            os.closerange(3, 256)  # as starting a program closes them: locks above all
            os.environ.clear()
            os.environ.update(env)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from lg3d_core.comparing.execute import main

            code = main(*command[3:])
        except BaseException:  # noqa: BLE001 - it becomes an exit code
            traceback.print_exc()
        os._exit(code)

    def poll(self) -> int | None:
        """See `subprocess.Popen`."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """See `subprocess.Popen`."""
        while self.poll() is None:
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """See `subprocess.Popen`."""
        os.kill(self.pid, signal.SIGTERM)


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of what every file says, but for times; a file that cannot be read whole raises.

    Locks, temporary files, logs and TensorBoard's files are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.startswith((".", "events.")) or path.suffix == ".log":
            continue
        digest = hashlib.sha256()
        for part in _content(path):
            digest.update(part)
        found[name] = digest.hexdigest()
    return found


def _content(path: Path) -> Iterator[bytes]:
    """What a file says, in pieces."""
    import numpy as np
    import torch
    from safetensors import safe_open

    from lg3d_core.store.scene_file import read_scene_file, require_whole

    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            yield json.dumps(file.metadata(), sort_keys=True).encode()
            for name in sorted(file.keys()):
                yield name.encode() + file.get_tensor(name).tobytes()
    elif path.suffix == ".pt":
        yield from _pieces(torch.load(path, weights_only=True))
    elif path.suffix == ".jsonl":
        lines = path.read_text().split("\n")
        yield repr([_without_times(json.loads(line)) for line in lines[:-1]]).encode()  # the last one may be torn
    elif path.suffix == ".json":
        yield json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True).encode()
    elif path.suffix == ".npz":
        with np.load(path) as stored:
            for name in sorted(stored):
                yield name.encode() + stored[name].tobytes()
    else:
        if path.suffix == ".h5":
            require_whole(path)
            if path.parent.name == "scenes":
                read_scene_file(path, num_classes=200)
        yield path.read_bytes()


def _pieces(value: Any) -> Iterator[bytes]:
    import torch

    if isinstance(value, torch.Tensor):
        yield repr((tuple(value.shape), str(value.dtype))).encode()
        yield value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        for own in value:
            yield from _pieces(own)
    else:
        yield repr(value).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(own) for key, own in value.items() if key not in TIMES}
    return [_without_times(own) for own in value] if isinstance(value, list) else value


def temporaries(folder: Path) -> list[str]:
    """Files and folders that only a killed process can have left."""
    ends = (".tmp", ".unfinished")
    return [
        str(path.relative_to(folder))
        for path in folder.rglob(".?*")
        if path.name.endswith(ends) and path.name not in ends
    ]


class Harness:
    """Runs the attempts at one command after another, in folders of their own."""

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place = place
        self.rng = rng
        self.number = 0

    def undisturbed(self, case: Case) -> tuple[Tally, dict[str, str]]:
        """Run the command as it is; its time, its changes of files, and what it leaves."""
        folder, log = self._fresh(case)
        start = time.monotonic()
        attempt = Attempt(case.next_words(folder), folder, log)
        if not attempt.wait(300) or attempt.code:
            raise RuntimeError(f"{case.name} ended with {attempt.code}: {log.read_text()[-2000:]}")
        tally = Tally(case.name, seconds=time.monotonic() - start, changes=attempt.changes)
        whole = snapshot(folder)
        shutil.rmtree(folder)
        return tally, whole

    def disturb(self, case: Case, tally: Tally, whole: dict[str, str], *, stop: bool, budget: int = 3) -> None:
        """One attempt: killed or stopped up to so many times, resumed, and compared with the uninterrupted run."""
        folder, log = self._fresh(case)
        tally.attempts += 1
        disturbances = 1
        while disturbances < budget and self.rng.random() < 0.4:
            disturbances += 1
        for _ in range(disturbances):
            ended = self._stop(case, tally, folder, log) if stop else self._kill(case, tally, folder, log)
            if ended:
                break
            self._require_whole(case, tally, folder, whole)
        attempt = Attempt(case.next_words(folder), folder, log)
        if not attempt.wait(300) or attempt.code:
            tally.faults.append(f"{folder}: the last run ended with {attempt.code}: {log.read_text()[-1500:]}")
            return
        tally.slowest_orphan = max(tally.slowest_orphan, _wait_for_orphans(attempt))
        if tally.slowest_orphan > ORPHAN_SECONDS:
            tally.faults.append(f"{folder}: processes are left after {tally.slowest_orphan:.1f} s")
        found = snapshot(folder)
        different = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
        left = temporaries(folder)
        if different or left:
            tally.faults.append(f"{folder}: differ {different}, left {left}")
            return
        shutil.rmtree(folder)
        log.unlink()

    def _fresh(self, case: Case) -> tuple[Path, Path]:
        self.number += 1
        folder = self.place / f"{case.name}-{self.number}"
        folder.mkdir()
        for source in case.copies:
            shutil.copytree(source, folder / source.name)
        return folder, self.place / f"{case.name}-{self.number}.log"

    def _kill(self, case: Case, tally: Tally, folder: Path, log: Path) -> bool:
        """Start or go on, and kill; whether the command had ended before."""
        everyone = self.rng.random() < 0.6
        if self.rng.random() < 0.5:
            attempt = Attempt(case.next_words(folder), folder, log)
            ended = attempt.wait(self.rng.uniform(0, tally.seconds))
            attempt.kill(everyone=everyone)
        else:
            delay = self.rng.choice((0.0, self.rng.uniform(0, LATEST_SECONDS)))
            kill_at = self.rng.randint(1, tally.changes)
            attempt = Attempt(case.next_words(folder), folder, log, kill_at=kill_at, delay=delay)
            attempt.wait(300)
            ended = attempt.code != -signal.SIGKILL
            if everyone:
                for pid in _descendants(os.getpid()):
                    os.kill(pid, signal.SIGKILL)
        if ended and attempt.code:
            tally.faults.append(f"{folder}: ended by itself with {attempt.code}: {log.read_text()[-1500:]}")
        if not ended:
            tally.kills += 1
        if self.rng.random() < 0.5:  # else the next run begins while helpers may still be there
            tally.slowest_orphan = max(tally.slowest_orphan, _wait_for_orphans(attempt))
        return ended

    def _stop(self, case: Case, tally: Tally, folder: Path, log: Path) -> bool:
        """Start or go on, and ask to stop; whether the command had ended before."""
        attempt = Attempt(case.next_words(folder), folder, log)
        if attempt.wait(self.rng.uniform(0.02, tally.seconds)):
            return True
        start = time.monotonic()
        attempt.signal(self.rng.choice((signal.SIGINT, signal.SIGTERM)), group=self.rng.random() < 0.5)
        if not attempt.wait(2 * STOP_SECONDS):
            tally.faults.append(f"{folder}: still there {2 * STOP_SECONDS:.0f} s after it was asked to stop")
            attempt.kill(everyone=True)
            return False
        seconds = time.monotonic() - start
        tally.slowest_stop = max(tally.slowest_stop, seconds)
        if attempt.code not in (0, 130) or seconds > STOP_SECONDS:
            last = log.read_text()[-1500:]
            tally.faults.append(f"{folder}: ended with {attempt.code} after {seconds:.1f} s: {last}")
        if attempt.code == 130:
            tally.stops += 1
            if "lg3d: stopped" not in log.read_text():
                tally.faults.append(f"{folder}: does not say that it was stopped, after {seconds:.1f} s")
        return attempt.code == 0

    def _require_whole(self, case: Case, tally: Tally, folder: Path, whole: dict[str, str]) -> None:
        """Whatever is there can be read; results that a command writes once are those of the undisturbed run."""
        try:
            found = snapshot(folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a torn file
            tally.faults.append(f"{folder}: torn: {error!r}")
            return
        if case.name in ("prepare", "prepare-2", "predict", "eval"):
            other = [name for name, digest in found.items() if digest != whole.get(name) and name != "data/store.json"]
            if other:
                tally.faults.append(f"{folder}: {other} are there, and not those of the undisturbed run")


def _case(name: str, line: str, *more: str, copies: tuple[Path, ...] = (), run: str = "") -> Case:
    return Case(name, (*line.split(), *more), copies, run)


def make_cases(place: Path) -> list[Case]:
    """Rooms, a store, anchors and a trained network, small, and the commands on them."""
    from lg3d_core.language.anchors import anchors as make_anchors
    from lg3d_core.progress import Progress
    from lg3d_core.settings import AnchorsSettings, PrepareSettings, RoomsSettings
    from lg3d_core.store.prepare import prepare as prepare_store
    from lg3d_core.synthetic.rooms import rooms as write_rooms

    raw, store, anchors = place / "raw", place / "data", place / "anchors.safetensors"
    write_rooms(RoomsSettings(out=raw, scenes=3, validation=0.34, vertices=3000, seed=1, jobs=1), Progress())
    prepare_store(PrepareSettings(raw=raw, store=store, jobs=1), Progress())
    make_anchors(AnchorsSettings(anchors=anchors, encoder="bundled", dim=96), Progress())
    recipes = []
    for name, text in (("ours", '[pretrain]\nmethod = "language"\n'), ("scratch", '[finetune]\nfrom = "scratch"\n')):
        recipes.append(place / f"{name}.toml")
        recipes[-1].write_text(f'[compare]\nlabel = "{name}"\n{text}')
    small = ("network=14A", "voxel_size=0.25", "batch_size=2", "jobs=0", "validate_every=1", "anchors.encoder=bundled")
    changes = [word for change in small for word in ("--set", change)]
    scans = [str(path) for path in sorted(raw.glob("scans/*/*_vh_clean_2.ply"))[:2]]
    train = "--network 14A --voxel-size 0.25 --batch-size 1 --device cpu --epochs 2 --validate-every 1 -q"
    prepare = f"prepare {raw} --store data -q --jobs"
    compare = f"compare {recipes[0]} {recipes[1]} --store {store} --out c --seeds 1 --device cpu --epochs 1"
    cases = [
        _case("prepare", f"{prepare} 1"),
        _case("prepare-2", f"{prepare} 2"),
        _case("pretrain", f"pretrain --store {store} --anchors {anchors} --name p --jobs 0 {train}", run="runs/p"),
        _case(
            "finetune",
            f"finetune --store data --from scratch --name f --jobs 1 --limited 0.5 --instances 1 {train}",
            copies=(store,),
            run="runs/f",
        ),
        _case("compare", f"{compare} --pretrain-epochs 1 --resamples 100 -q", *changes),
        _case("rooms", "rooms r --scenes 3 --vertices 2000 --jobs 1 -q"),
    ]
    known = f"--checkpoint {_untrained(place)} --store {store} --device cpu -q"
    formats = "--format ply --format npz --format txt"
    cases.insert(4, _case("predict", f"predict {' '.join(scans)} --out labels {formats} {known}"))
    cases.append(_case("eval", f"eval --split train --export labels {known}"))
    return cases


def _untrained(place: Path) -> Path:
    """A network that has learnt nothing, so that its labels depend on every voxel around."""
    import torch

    from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
    from lg3d_core.networks.minkunet import MinkUNet
    from lg3d_core.vocabulary import load_vocabulary

    torch.manual_seed(0)
    vocabulary = load_vocabulary("scannet200")
    info = CheckpointInfo(
        kind="finetune",
        network="14A",
        num_classes=len(vocabulary),
        voxel_size=0.25,
        vocabulary=vocabulary.name,
        vocabulary_digest=vocabulary.digest,
    )
    save_checkpoint(place / "untrained.safetensors", MinkUNet("14A", num_classes=len(vocabulary)), info)
    return place / "untrained.safetensors"


def load_everything() -> None:
    """Import what the commands import, so that forked children need not."""
    import torch

    for name in LOADED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would a child
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(*, kills: int, stops: int, seed: int, only: tuple[str, ...], tell: Callable[[str], None]) -> list[Tally]:
    """Disturb every command in turn until there were so many kills and stops."""
    load_everything()
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="lg3d-interruption-", dir=shared if shared.is_dir() else None))
    rng = random.Random(seed)
    harness = Harness(place, rng)
    cases = [case for case in make_cases(place) if not only or case.name in only]
    known = [(case, *harness.undisturbed(case)) for case in cases]
    tallies = [tally for _, tally, _ in known]
    told: dict[str, int] = {}
    for stop, wanted in ((False, kills), (True, stops)):
        while sum(tally.stops if stop else tally.kills for tally in tallies) < wanted:
            for case, tally, whole in known + 2 * [entry for entry in known if entry[0].name in QUICK]:
                if sum(tally.stops if stop else tally.kills for tally in tallies) < wanted:
                    harness.disturb(case, tally, whole, stop=stop)
                    if len(tally.faults) > told.get(case.name, 0):
                        tell("\n".join(tally.faults[told.get(case.name, 0) :]))
                        told[case.name] = len(tally.faults)
            tell("\n".join([HEADER, *(tally.to_row() for tally in tallies)]))
    if not any(tally.faults for tally in tallies):
        shutil.rmtree(place)
    return tallies


def main() -> int:
    """Print a table on stdout; the exit code is 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands, separated by commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def tell(text: str) -> None:
        sys.stderr.write(text + "\n")

    only = tuple(filter(None, options.only.split(",")))
    tallies = measure(kills=options.kills, stops=options.stops, seed=options.seed, only=only, tell=tell)
    if options.json:
        sys.stdout.write(json.dumps([tally.__dict__ for tally in tallies], indent=1) + "\n")
    else:
        sys.stdout.write("\n".join([HEADER, *(tally.to_row() for tally in tallies)]) + "\n")
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
