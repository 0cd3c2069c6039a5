"""Worker processes: results are yielded as they arrive, and no process is left behind."""

import copy
import json
import math
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

from lg3d_core.control_groups import core_limits
from lg3d_core.errors import DataError, Lg3dError
from lg3d_core.stopping import leave_stopping_to_parent


class NamedJob(Protocol):
    """A job for one scene. It must be picklable."""

    @property
    def scene_id(self) -> str:
        """Id of the scene."""


J = TypeVar("J", bound=NamedJob)
R = TypeVar("R")

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from lg3d_core.processes import work; work(int(sys.argv[2]), int(sys.argv[3]))"
)
"""Program of a worker. Before it watches its parent it imports only this module, and never the main module."""
_workers: "set[_Worker]" = set()


def num_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and the limit of a container or job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(limit)) for limit in core_limits())])


class _Worker:
    """A process that runs one job after another, and the socket to it.

    A socket is used because a queue has semaphores, which a killed process leaves in shared memory. If either process
    dies, the other reads the end of the stream.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.job: Any = None
        own, other = socket.socketpair()
        self.connection = Connection(own.detach())
        with other:
            command = [sys.executable, "-c", START, json.dumps(sys.path), str(other.fileno()), str(os.getpid())]
            # Signals to the process group stay pending until the worker has installed its handlers.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _workers.add(self)
        self.connection.send(function)

    def start(self, job: Any) -> None:
        """Send a job. Its result is received later.

        Raises:
            OSError: The process died.
        """
        self.job = job
        self.connection.send(job)

    def receive(self) -> Any:
        """Return the result of the current job.

        Raises:
            Exception: The function raised it.
            EOFError: The process died; `OSError` is also possible.
        """
        succeeded, result = self.connection.recv()
        if not succeeded:
            raise result
        return result

    def end(self, *, kill: bool) -> None:
        """Wait until the process has ended. Without `kill` it finishes its job first."""
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
    """Call a function for every job, in this process or in several, and yield the results as they arrive.

    Ctrl-C, or closing the generator early, kills the processes immediately.

    Args:
        function: Function of an importable module. Its exceptions are raised here.
        jobs: Arguments of the calls.
        num_processes: Maximum number of processes; 0 uses one per core.

    Raises:
        DataError: A process died; the message names its scene.
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
            workers.append(_Worker(function))  # noqa: PERF401 - if one fails to start, the earlier ones are ended
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
    except Exception:  # the other workers finish their current job
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
        "run the command again to resume, with fewer --jobs if memory is short"
    )


def work(descriptor: int, parent: int) -> None:
    """Run the jobs that arrive on a socket. Called in a worker process, which ends with the socket or its parent.

    Args:
        descriptor: File descriptor of the socket.
        parent: Process id of the parent, which may have ended already.
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
    os._exit(0)  # there is nothing to clean up, and unloading large libraries takes time


def _call(function: Callable[[Any], Any], job: Any) -> tuple[bool, Any]:
    try:
        return True, function(job)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        if not isinstance(error, Lg3dError):
            error.add_note(traceback.format_exc())
        try:
            pickle.dumps(copy.copy(error))  # copying rebuilds it from its arguments, like unpickling does
        except Exception:  # noqa: BLE001 - pickling may call anything
            return False, RuntimeError("".join(traceback.format_exception(error)))
        return False, error
