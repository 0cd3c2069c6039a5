"""Machine facts, measured peak rates of memory and matrix products, and load by other processes."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lg3d_core import __version__

PACKAGES = (
    "torch",
    "numpy",
    "triton",
    "MinkowskiEngine",
    "spconv",
    "cumm",
    "spconv-triton",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ATTEMPTS = 3
CPU_SHAPES = ((1536, 1536, 1536), (16384, 384, 384))
CUDA_SHAPES = ((8192, 8192, 8192), (262144, 512, 512))
"""Rows, inner size and columns of products that come close to the peak rate."""
COPIED_MIB = {"cuda": 1024, "cpu": 128}
"""Size of the copied array in MiB, much larger than the caches."""


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return device, processor, threads, versions and commit as plain values."""
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "lg3d": __version__,
    }
    facts["versions"] = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return facts | _commit()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Return the commit of the running source tree and whether files differ from it; None outside a git tree."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "changed": None}
    try:
        commit, changed = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "lg3d_core"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": bool(changed)}


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Rates:
    """Peak rates of the device: the best of many attempts during a run, because of other load on the machine."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._products: dict[str, dict[tuple[int, int, int], float]] = {}
        self._bandwidth = 0.0
        self._shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES

    def flops(self, precision: str) -> float:
        """Return the FLOP/s of a large matrix product."""
        if precision not in self._products:
            self._products[precision] = {shape: self._multiply(shape, precision) for shape in self._shapes}
        return max(self._products[precision].values())

    def bandwidth(self) -> float:
        """Return the bytes per second that a copy reads and writes."""
        if not self._bandwidth:
            self._bandwidth = self._copy()
        return self._bandwidth

    def measure_again(self) -> None:
        """Repeat the earlier measurements, each product at its best shape, and keep the higher rates."""
        for precision, rates in self._products.items():
            shape = max(rates, key=lambda shape: rates[shape])
            rates[shape] = max(rates[shape], self._multiply(shape, precision))
        if self._bandwidth:
            self._bandwidth = max(self._bandwidth, self._copy())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: FLOP/s by precision, and bytes per second."""
        flops = {precision: self.flops(precision) for precision in self._products}
        return {"matrix_flops": flops, "copy_bytes_per_second": self._bandwidth or None}

    def _multiply(self, shape: tuple[int, int, int], precision: str) -> float:
        rows, inner, columns = shape
        left = torch.randn(rows, inner, device=self._device).to(DTYPES[precision])
        right = torch.randn(inner, columns, device=self._device).to(DTYPES[precision])
        output = torch.empty(rows, columns, device=self._device, dtype=DTYPES[precision])
        return 2 * rows * inner * columns / self._best(lambda: torch.mm(left, right, out=output))

    def _copy(self) -> float:
        source = torch.ones(COPIED_MIB[self._device.type] << 18, device=self._device)
        target = torch.empty_like(source)
        return 2 * source.numel() * 4 / self._best(lambda: target.copy_(source))

    def _best(self, work: Callable[[], object]) -> float:
        work()
        return min(take_time(work, self._device).seconds for _ in range(ATTEMPTS))


class Taken(NamedTuple):
    """Time of one call.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: CPU time of all threads of this process.
        others: Mean number of cores used by other processes; nan if the system does not report it.
    """

    seconds: float
    cpu_seconds: float
    others: float


def take_time(work: Callable[[], object], device: torch.device) -> Taken:
    """Run a function and measure its time until the device has finished."""
    synchronize(device)
    busy, cpu, start = _busy_seconds(), time.process_time(), time.perf_counter()
    work()
    synchronize(device)
    seconds, own = time.perf_counter() - start, time.process_time() - cpu
    others = (_busy_seconds() - busy - own) / seconds
    return Taken(seconds, own, 0.0 if others < 0 else others)  # the system's clock of busy cores is coarse


def _busy_seconds() -> float:
    """Return the busy seconds of all cores since the machine started (Linux; nan elsewhere)."""
    try:
        ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return float("nan")
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def await_quiet(patience: float) -> None:
    """Wait until other processes are idle, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and take_time(lambda: time.sleep(0.3), torch.device("cpu")).others > 0.1:
        time.sleep(0.2)


def load_average() -> float | None:
    """Return the load average of the last minute; None if the system does not report it."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


class PeakMemory:
    """Peak memory of the block above the memory in use before it, in bytes.

    On CUDA it is the memory of PyTorch's allocator. On the CPU (Linux) it is the growth of the process; free memory is
    returned to the system first, because it would hide a peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before: int | None = torch.cuda.memory_allocated(self._device)
        else:
            self._before = _reset_peak()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status_bytes("VmHWM")
        if self._before is not None and peak is not None:
            self.bytes = max(0, peak - self._before)


def _reset_peak() -> int | None:
    """Release free memory and reset the process's peak; return the bytes in use, or None if this is not supported."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")]
    return sizes[0] if sizes else None
