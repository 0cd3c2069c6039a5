"""Jobs over several processes: results as they come, and no process left behind."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from lg3d_core.errors import DataError, Lg3dError
from lg3d_core.stopping import leave_stopping_to_parent


class NamedJob(Protocol):
    """Something to do for one scene. It must be picklable."""

    @property
    def scene_id(self) -> str:
        """Which scene."""


J = TypeVar("J", bound=NamedJob)
R = TypeVar("R")

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from lg3d_core.processes import work; work(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Program of a worker. It imports no more than this module before it follows its parent, and not the main module."""
_workers: "set[_Worker]" = set()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that does one job after the other, and the socket to it.

    A socket and no queue: a queue has semaphores, which a killed process leaves in shared memory. When either end dies,
    the other reads the end of the stream.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.job: Any = None
        own, other = socket.socketpair()
        self.connection = Connection(own.detach())
        with other:
            command = [sys.executable, "-c", START, json.dumps(sys.path), str(other.fileno()), str(os.getpid())]
            # What is sent to the whole group before the worker has its handlers waits until then.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _workers.add(self)
        self.connection.send(function)

    def start(self, job: Any) -> None:
        """Send a job; its result is received later.

        Raises:
            OSError: The process died.
        """
        self.job = job
        self.connection.send(job)

    def receive(self) -> Any:
        """Return the result of the job.

        Raises:
            Exception: What the function raised.
            EOFError: The process died, as does `OSError`.
        """
        succeeded, result = self.connection.recv()
        if not succeeded:
            raise result
        return result

    def end(self, *, kill: bool) -> None:
        """Wait until the process has ended; unless it is killed, it finishes its job."""
        if kill:
            self.process.kill()
        self.connection.close()
        self.process.wait()
        _workers.discard(self)


def kill_workers() -> None:
    """Kill the workers of all unfinished calls of `run_in_processes`."""
    for worker in list(_workers):
        worker.process.kill()


def run_in_processes(function: Callable[[J], R], jobs: Sequence[J], *, num_processes: int) -> Iterator[tuple[J, R]]:
    """Call a function for every job, in this process or in several, and yield the results as they come.

    Args:
        function: Of a module, so that other processes find it; what it raises is raised here.
        jobs: What it is called with.
        num_processes: At most so many; 0 takes one per core.

    Ctrl-C, or closing the generator early, kills the processes, whatever they are at.

    Raises:
        DataError: A process died; the message names the scene that it was at.
    """
    num_processes = min(num_processes or num_cores(), len(jobs))
    if num_processes <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    waiting = iter(jobs)
    workers: list[_Worker] = []
    finished = False
    try:
        for _ in range(num_processes):
            workers.append(_Worker(function))  # noqa: PERF401 - those before one that fails are ended
        busy = {}
        for worker in workers:
            job = next(waiting)
            busy[worker.connection] = worker
            _start(worker, job)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                done = worker.job
                result = _receive(worker)
                following = next(waiting, None)
                if following is None:
                    del busy[connection]
                else:
                    _start(worker, following)
                yield done, result
        finished = True
    except Exception:  # the others finish what they are writing
        finished = True
        raise
    finally:
        for worker in workers:
            worker.end(kill=not finished)


def _start(worker: _Worker, job: Any) -> None:
    try:
        worker.start(job)
    except OSError:
        raise _describe_death(worker) from None


def _receive(worker: _Worker) -> Any:
    try:
        return worker.receive()
    except (EOFError, ConnectionError):
        raise _describe_death(worker) from None


def _describe_death(worker: _Worker) -> DataError:
    return DataError(
        f"a worker process died (killed, or out of memory) at {worker.job.scene_id}: "
        "run again, with fewer --jobs if memory is short; it continues"
    )


def work(descriptor: int, parent: int) -> None:
    """Do the jobs that come through a socket; called in a worker process, which ends with the socket or its parent.

    Args:
        descriptor: Of the socket.
        parent: Process id of the parent, which may be gone already.
    """
    leave_stopping_to_parent(parent)
    connection = Connection(descriptor)
    try:
        function = connection.recv()
        while True:
            connection.send(_call(function, connection.recv()))
    except (EOFError, ConnectionError):
        pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # nothing is left to tidy up, and unloading large libraries takes time


def _call(function: Callable[[Any], Any], job: Any) -> tuple[bool, Any]:
    try:
        return True, function(job)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        if not isinstance(error, Lg3dError):
            error.add_note(traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - pickling may call anything
            return False, RuntimeError("".join(traceback.format_exception(error)))
        return False, error
