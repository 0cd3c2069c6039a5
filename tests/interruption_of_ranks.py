"""One process of a `torchrun` job is killed at random instants; the job's end is held against an undisturbed one.

    python -m tests.interruption_of_ranks --kills 6

Every job is `torchrun --nproc-per-node 2 --max-restarts 3 -m lg3d_cli finetune ...`, of which a random process is
killed by SIGKILL up to three times, each time at a random instant of a start: while PyTorch is loaded, while the
processes meet, between and within steps, while a state is written. torchrun starts both again, without a word from
here. The job must end with exit code 0, and every file of the run must be that of the undisturbed one but for times
and logs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import box_rooms
from tests.interruption import snapshot, temporaries

ROOT = Path(__file__).parents[1]
RESTARTS = 3
JOB_SECONDS = 600.0
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(RESTARTS), "-m", "lg3d_cli")
TRAIN = ("finetune", "--from", "scratch", "--store", "data", "--name", "f", "--network", "14A", "--voxel-size", "0.25")
TRAIN += ("--batch-size", "2", "--epochs", "6", "--jobs", "1", "--validate-every", "3", "--device", "cpu")


def start(folder: Path, store: Path) -> subprocess.Popen[bytes]:
    """A job that trains in a folder of its own."""
    folder.mkdir()
    (folder / "data").symlink_to(store)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    with (folder / "job.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *TORCHRUN, *TRAIN], cwd=folder, env=environment, stdout=log, stderr=log
        )


def find_ranks(job: subprocess.Popen[bytes]) -> list[int]:
    """The processes that train: children of torchrun that run lg3d."""
    found = []
    for task in Path(f"/proc/{job.pid}/task").glob("*/children"):
        for word in task.read_text().split():
            try:
                line = Path(f"/proc/{word}/cmdline").read_bytes()
            except OSError:
                continue
            if b"lg3d_cli" in line:
                found.append(int(word))
    return sorted(found)


def kill_one(job: subprocess.Popen[bytes], before: list[int], seconds: float, rng: random.Random) -> list[int]:
    """Kill a process at a random instant of the next start; the processes of that start, or none if it ended."""
    while job.poll() is None:
        ranks = find_ranks(job)
        if len(ranks) == 2 and not set(ranks) & set(before):
            break
        time.sleep(0.02)
    try:
        job.wait(rng.uniform(0, 0.8 * seconds))
        return []
    except subprocess.TimeoutExpired:
        pass
    try:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    except ProcessLookupError:
        return []
    return ranks


def measure(kills: int, seed: int) -> int:
    """Kill until there were so many; how many jobs did not end as the undisturbed one."""
    from lg3d_core.progress import Progress
    from lg3d_core.settings import PrepareSettings
    from lg3d_core.store.prepare import prepare as prepare_store

    rng = random.Random(seed)
    place = Path(tempfile.mkdtemp(prefix="lg3d-interruption-"))
    box_rooms.write_dataset(place / "raw", train=3, val=1, test=0)
    prepare_store(PrepareSettings(raw=place / "raw", store=place / "data", jobs=1), Progress())
    began = time.monotonic()
    code = start(place / "whole", place / "data").wait(JOB_SECONDS)
    seconds = time.monotonic() - began
    if code:
        raise RuntimeError((place / "whole" / "job.log").read_text()[-2000:])
    whole = snapshot(place / "whole" / "runs")
    done = faults = number = 0
    while done < kills:
        number += 1
        folder = place / f"job-{number}"
        job = start(folder, place / "data")
        own, ranks = 0, [0]
        for _ in range(min(kills - done, rng.randint(1, RESTARTS))):
            ranks = kill_one(job, ranks, seconds, rng)
            own += bool(ranks)
            if not ranks:
                break
        code = job.wait(JOB_SECONDS)
        done += own
        found = snapshot(folder / "runs")
        different = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
        left = temporaries(folder / "runs")
        fault = bool(code or different or left)
        faults += fault
        log = (folder / "job.log").read_text()
        goes_on = log.count("resuming ")
        sys.stdout.write(f"job {number}: {own} kills, {goes_on} resumes, exit code {code}, ")
        sys.stdout.write(f"differ {different}, left {left}: {log[-1500:]}\n" if fault else "equal\n")
        sys.stdout.flush()
        if not fault:
            shutil.rmtree(folder)
    sys.stdout.write(f"{done} kills in {number} jobs of {seconds:.0f} s, {faults} faults\n")
    if not faults:
        shutil.rmtree(place)
    return faults


def main() -> int:
    """The exit code is 1 where a job did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return int(measure(options.kills, options.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
