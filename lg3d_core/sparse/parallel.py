"""Parallel execution of independent pieces of one operation, with one Python thread per core.

PyTorch's own threads synchronise in every operation. A sparse convolution on the CPU is a thousand small operations:
each barrier costs time, and a whole time slice if another process occupies one of the cores. Therefore each piece is
computed by one thread, and the threads synchronise once, at the end. PyTorch releases the interpreter lock inside its
operations, so the threads run in parallel.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from lg3d_core.errors import SettingsError

MAX_WORKERS = 8  # more workers are limited by the interpreter lock

_lock = threading.Lock()
_chosen_workers: int | None = None
_owned_workers: ContextVar[int | None] = ContextVar("lg3d_owned_workers", default=None)
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def runs_on_workers(tensor: Tensor) -> bool:
    """Return whether operations on a tensor are cut into pieces: on the CPU. Other devices are parallel themselves.

    All code that is specific to the CPU calls this function, so that tests can take the GPU's branches on a CPU.
    """
    return tensor.device.type == "cpu"


def set_num_workers(count: int | None) -> None:
    """Set the number of threads that share a convolution; None, the default, uses PyTorch's number of threads.

    On a busy machine, `torch.set_num_threads(1)` with `set_num_workers(cores)` keeps PyTorch's own operations free of
    barriers while convolutions still use all cores. Results do not depend on the number.

    Raises:
        SettingsError: `count` is below 1.
    """
    global _chosen_workers
    if count is not None and count < 1:
        raise SettingsError(f"Expected at least one worker for sparse convolutions, got {count}.")
    _chosen_workers = count


def num_workers() -> int:
    """Return the number of threads that share a convolution."""
    chosen = _chosen_workers if _owned_workers.get() is None else _owned_workers.get()
    return min(MAX_WORKERS, torch.get_num_threads() if chosen is None else chosen)


@contextmanager
def owned_threads() -> Iterator[None]:
    """Give all cores to the workers within the context, and one thread to PyTorch's other operations.

    PyTorch's threads spin for a while after each operation, and so take cores from the workers, which do the heavy
    work. Use it around training and prediction on the CPU. Results are the same with and without it. Contexts can be
    nested, and several threads can be in one each; if PyTorch already has one thread, nothing changes.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        yield
        return
    token = _owned_workers.set(num_workers())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _owned_workers.reset(token)
        torch.set_num_threads(num_threads)


def run_pieces(task: Callable[[int], None], count: int, *, shared: bool = True) -> None:
    """Call `task(0)` to `task(count - 1)`, each once, in any order, on `num_workers()` threads.

    Tasks run without autograd and with one PyTorch thread, and must write to disjoint memory; the result then does not
    depend on the number of threads. The first exception of a task is raised here, after all threads have stopped.

    Args:
        task: Function of one piece; it must not call this function.
        count: Number of pieces.
        shared: Whether to use several threads; False runs all pieces in this thread, which is faster for little work.
    """
    workers = min(num_workers(), count) if shared else 1
    pieces = iter(range(count))
    inference = torch.is_inference_mode_enabled()

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            for piece in pieces:  # a range's iterator yields each number once, whichever thread asks
                task(piece)

    if workers <= 1 and torch.get_num_threads() == 1:
        work()
        return
    with _lock:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the result of matrix products depends on the number of threads
        try:
            futures = [_pool(workers - 1).submit(work) for _ in range(workers - 1)]
            try:
                work()
            finally:
                _wait(futures)
        finally:
            torch.set_num_threads(num_threads)
    for future in futures:
        future.result()


def _wait(futures: list[Future[None]]) -> None:
    for future in futures:
        future.exception()


def _pool(size: int) -> ThreadPoolExecutor:
    owner = (os.getpid(), size)  # threads do not survive a fork: a child creates its own
    if owner not in _pools:
        _pools[owner] = ThreadPoolExecutor(size, thread_name_prefix="lg3d-sparse")
    return _pools[owner]
