"""Many scans over several processes: results as they come, and no process left behind."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from lg3d_core.errors import DataError
from lg3d_core.stopping import leave_stopping_to_parent


class NamedJob(Protocol):
    """Something to do for one scene. It must be picklable."""

    @property
    def scene_id(self) -> str:
        """Which scene."""


J = TypeVar("J", bound=NamedJob)
R = TypeVar("R")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(function: Callable[[J], R], jobs: Sequence[J], *, num_processes: int) -> Iterator[tuple[J, R]]:
    """Call a function for every job, in this process or in several, and give the results as they come.

    Args:
        function: Of a module, so that other processes find it; what it raises is raised here.
        jobs: What it is called with.
        num_processes: At most so many; 0 takes one per core.

    Ctrl-C, or closing the generator early, kills the processes, whatever they are at.

    Raises:
        DataError: A process died; the message names the scenes that it may have been at.
    """
    num_processes = min(num_processes or num_cores(), len(jobs))
    if num_processes <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    # Spawned, not forked: a process that has loaded torch holds threads and locks that a fork would copy half-way.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=leave_stopping_to_parent)
    waiting = iter(jobs)
    running: dict[Future[R], J] = {}
    try:
        while True:
            for job in itertools.islice(waiting, num_processes + 1 - len(running)):
                running[pool.submit(function, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
    except (KeyboardInterrupt, GeneratorExit):  # nobody wants the rest, and a large scene may take a minute
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    except BrokenProcessPool:
        names = ", ".join(sorted(job.scene_id for job in running.values()))
        raise DataError(
            f"a worker process died (killed, or out of memory) at one of {names}: "
            "run again, with fewer --jobs if memory is short; it continues"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
