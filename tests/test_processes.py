"""Work over several processes: all results, errors passed on, a dead worker named."""

import os
import signal
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


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(DataError, match="cannot do a"):
        list(run_in_processes(complain, JOBS, num_processes=2))


def test_a_worker_that_dies_is_named_by_its_scene() -> None:
    with pytest.raises(DataError, match=r"worker process died .* bad.*run again"):
        list(run_in_processes(die, [Job("bad"), Job("good")], num_processes=2))
