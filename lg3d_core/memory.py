"""Out-of-memory errors as one line that names the setting to change, and reuse of freed memory."""

import ctypes
import functools
import re
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from lg3d_core import control_groups
from lg3d_core.errors import MemoryLimitError

ALLOCATION_FAILED = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|bad_alloc|ALLOC_FAILED",
    re.IGNORECASE,
)
"""Message texts of PyTorch, CUDA libraries and compiled code; on the CPU PyTorch raises a plain RuntimeError."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`."""
KEPT_BLOCK = 128 << 20
"""Size in bytes of the largest block that is kept. Larger blocks are mapped separately and do not fragment the heap."""
ADAPTED_BLOCK = 32 << 20
"""Threshold after `kept_memory`: that of glibc itself, once it has freed a block of this size."""

_lock = threading.Lock()
_keepers = 0
"""Number of contexts of `kept_memory` that are open, in all threads."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed memory allocation, on the GPU or the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and ALLOCATION_FAILED.search(str(error)) is not None


@contextmanager
def memory_limits(device: torch.device, describe: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into one line.

    Args:
        device: Device that the block computes on.
        describe: Returns what was computed ("in a pass of 120000 voxels") and what to change; called only on failure.

    Raises:
        MemoryLimitError: An allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise memory_limit_error(device, *describe()) from None


def memory_limit_error(device: torch.device, what: str, advice: str) -> MemoryLimitError:
    """Return the error that `memory_limits` raises."""
    kind = "GPU memory" if device.type == "cuda" else "memory"
    return MemoryLimitError(f"out of {kind} {what} ({describe_peak(device)}): {advice}")


def describe_peak(device: torch.device) -> str:
    """Return the peak memory use so far and the total, as text."""
    if device.type == "cuda" and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated(device)
        total: int | None = torch.cuda.get_device_properties(device).total_memory
    else:
        peak, total = peak_resident(), _total_memory()
    return f"peak {peak / 2**30:.1f} GiB" + (f" of {total / 2**30:.1f} GiB" if total else "")


def available_memory(device: torch.device) -> int:
    """Return the bytes available to new allocations on a device now.

    On the CPU, the limit of a container or batch job counts. The page cache counts as free, and so does GPU memory that
    PyTorch keeps after a tensor is freed: after training steps, that is most of a GPU.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    in_groups = (max(0, limit - used) for limit, used in control_groups.memory_limits())
    return min([int(psutil.virtual_memory().available), *in_groups])


def peak_resident() -> int:
    """Return the largest resident size of this process so far in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _total_memory() -> int | None:
    """Return the memory of this machine or of the process's control group in bytes."""
    limits = [limit for limit, _ in control_groups.memory_limits()]
    try:
        table = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return min(limits, default=None)
    found = re.search(r"MemTotal:\s+(\d+) kB", table)
    return min([*limits, *([int(found[1]) * 1024] if found else [])], default=None)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next allocations within the context, instead of returning it to the system.

    The C library returns large blocks when they are freed. Every training step allocates tensors of the same sizes
    again, and on the CPU the page faults take 5 % of its time. Within the context the process does not shrink; results
    are unchanged. Works with glibc and changes nothing elsewhere. Contexts can be nested.
    """
    global _keepers
    with _lock:
        _keepers += 1
        _set_thresholds(mmap=KEPT_BLOCK, trim=-1)  # never trim
    try:
        yield
    finally:
        with _lock:
            _keepers -= 1
            if not _keepers:
                _set_thresholds(mmap=ADAPTED_BLOCK, trim=2 * ADAPTED_BLOCK)


def _set_thresholds(*, mmap: int, trim: int) -> None:
    mallopt = _find_mallopt()
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, mmap)
        mallopt(M_TRIM_THRESHOLD, trim)


@functools.cache
def _find_mallopt() -> Callable[[int, int], int] | None:
    """Return glibc's `mallopt`; None with another C library."""
    process = ctypes.CDLL(None)
    return process.mallopt if hasattr(process, "gnu_get_libc_version") else None
