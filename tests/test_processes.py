"""Work over several processes: all results, errors passed on, a dead worker named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from lg3d_core.errors import DataError
from lg3d_core.processes import num_cores, run_in_processes


class Job(NamedTuple):
    scene_id: str


def length(job: Job) -> int:
    return len(job.scene_id)


def complain(job: Job) -> int:
    raise DataError(f"cannot do {job.scene_id}")


def die(job: Job) -> int:
    if job.scene_id == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


JOBS = [Job("a" * k) for k in range(1, 6)]


@pytest.mark.parametrize("num_processes", [0, 1, 2])
def test_every_job_has_its_result(num_processes: int) -> None:
    results = dict(run_in_processes(length, JOBS, num_processes=num_processes))
    assert results == {job: len(job.scene_id) for job in JOBS}


def test_no_jobs_give_no_results() -> None:
    assert list(run_in_processes(length, [], num_processes=2)) == []
    assert num_cores() >= 1


def test_exceptions_of_workers_are_raised_in_the_parent() -> None:
    with pytest.raises(DataError, match="cannot do a"):
        list(run_in_processes(complain, JOBS, num_processes=2))


def test_the_death_of_a_worker_is_reported_with_its_scene() -> None:
    with pytest.raises(DataError, match=r"worker process died .* bad.*run the command again"):
        list(run_in_processes(die, [Job("bad"), Job("good")], num_processes=2))


def test_exceptions_of_workers_keep_their_type_and_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(run_in_processes(divide, JOBS, num_processes=2))
    assert "in divide" in "".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="Unpicklable"):
        list(run_in_processes(raise_unpicklable, JOBS, num_processes=2))


def divide(job: Job) -> float:
    return 1 / (len(job.scene_id) - len(job.scene_id))


def raise_unpicklable(job: Job) -> int:
    class Unpicklable(Exception):
        pass

    raise Unpicklable(job.scene_id)


def doze(job: Job) -> int:
    del job
    time.sleep(60)
    return 0


def test_closing_early_kills_the_workers() -> None:
    results = run_in_processes(quick_or_endless, [Job("a"), Job("endless")], num_processes=2)
    assert next(results) == (Job("a"), 0)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5


def quick_or_endless(job: Job) -> int:
    return doze(job) if job.scene_id == "endless" else 0


KILLED = """
import sys
from tests.test_processes import Job, doze
from lg3d_core.processes import run_in_processes
print("started", flush=True)
list(run_in_processes(doze, [Job("a"), Job("b"), Job("c")], num_processes=2))
"""


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 1.0])
def test_workers_of_a_killed_process_end_soon_and_leave_no_semaphore(delay: float) -> None:
    """Also those that are still starting; measured 0.25 s at most on a quiet machine."""
    root = Path(__file__).parents[1]
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=root, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while members_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.stdout.close()
    assert members_of(process.pid) == []
    assert time.monotonic() < deadline - 4
    assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("sem.")]


def members_of(session: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found
