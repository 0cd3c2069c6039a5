"""`lg3d bench`: check the result of every engine on every operation, then time the engines in turns."""

import datetime
import gc
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.errors import Lg3dError, first_line
from lg3d_core.files import write_text
from lg3d_core.progress import Progress
from lg3d_core.settings import BenchSettings
from lg3d_core.sparse_benchmark.agreement import Values, collect, compare, gradient_tolerance, tolerance
from lg3d_core.sparse_benchmark.engines import Engine, Lg3dEngine, Rows, Trial, find_backends
from lg3d_core.sparse_benchmark.machine import (
    PeakMemory,
    Rates,
    Taken,
    await_quiet,
    describe_machine,
    load_average,
    take_time,
)
from lg3d_core.sparse_benchmark.operations import Operation, plan_operations
from lg3d_core.sparse_benchmark.peers import Peer, find_peers
from lg3d_core.sparse_benchmark.report import Measured, Report, Result
from lg3d_core.sparse_benchmark.workload import Workload, gather_clouds, make_workload

WARM_UP_VOXELS = 2000
SHORT_SECONDS = 0.1
MAX_REPEAT_FACTOR = 5
"""Operations that take the slowest engine less than `SHORT_SECONDS` get up to this many times as many repeats."""
REFERENCE = "torch"
"""Backend whose fp32 results are the expected ones. Its own tests compare it with the definition."""
PEER_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    ImportError,
)
"""Exceptions that a peer engine may raise. They are reported, and the other engines continue."""


def bench(settings: BenchSettings, progress: Progress) -> Report:
    """Time lg3d's backends and every available peer.

    All engines compute each operation from the same voxels and weights. The first full pass of each engine is compared
    with lg3d's `torch` backend in fp32; then the engines take turns.

    Returns:
        The measurements, which are also written to `settings.out`, if it is set, after every operation.

    Raises:
        UsageError: A name is unknown.
        SettingsError: The device is not available.
        MissingDependencyError: A peer requested by name is not installed.
        DataError: A scene cannot be read, or a file cannot be written.
    """
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    threads = settings.threads or torch.get_num_threads()
    load = load_average()
    peers, missing_peers = find_peers(settings.peers, device)  # importing some of them changes the number of threads
    with _threads(threads):
        backends, missing = find_backends(settings.backends, device)
        missing |= missing_peers
        for name, reason in missing.items():
            progress.note(f"without {name}: {reason}")
        engines: list[Engine] = [*backends, *peers]
        progress.note(f"timing {', '.join(engine.name for engine in engines)} on {describe_machine(device)['device']}")
        workloads = _make_workloads(settings, device, progress)
        report = Report(
            settings=_record(settings) | {"device": str(device), "precision": precision},
            machine=describe_machine(device),
            workloads=[_describe(workload) for workload in workloads],
            missing=missing,
            load_average=load,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        rates = Rates(device)
        rates.bandwidth()
        for computed in {engine.precision(precision) for engine in engines}:
            rates.flops(computed)
        for workload in workloads:
            progress.note(f"{workload.describe()}: {', '.join(dict.fromkeys(workload.names))}")
            operations = plan_operations(settings.what, settings.networks, workload, seed=settings.seed)
            with progress.task("bench", unit="operation") as task:
                for operation in operations:
                    result = time_operation(
                        operation,
                        engines,
                        device=device,
                        precision=precision,
                        repeats=settings.repeats,
                        patience=settings.patience,
                    )
                    report.results.append(result)
                    rates.measure_again()
                    _save(report, rates, settings.out)
                    _warn_about(result, progress)
                    task.advance(status=operation.name)
        _save(report, rates, settings.out)
    if report.is_loaded:
        progress.warn(
            f"other processes used up to {report.others:.2f} cores (load average before the run: {_number(load)}): "
            "the times are not reliable; --patience SECONDS waits for an idle machine"
        )
    return report


def _save(report: Report, rates: Rates, path: Path | None) -> None:
    """Relate all times to the peak rates measured so far, and replace the file, so that a run may end at any time."""
    for result in report.results:
        for one in result.measured:
            if one.taken:
                one.floor = result.cost.floor(rates, one.precision)
    report.rates = rates.to_dict()
    if path is not None:
        write_text(path, json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n")


def time_operation(
    operation: Operation,
    engines: Sequence[Engine],
    *,
    device: torch.device,
    precision: str,
    repeats: int,
    patience: float = 0.0,
) -> Result:
    """Check every engine's result on one operation, then time the engines in turns.

    Args:
        operation: Operation to time.
        engines: The engines, lg3d's own first.
        device: Device of the workload.
        precision: Requested precision; an engine without it uses its closest one.
        repeats: Number of timed passes of each engine.
        patience: Maximum seconds to wait for an idle machine before each pass.
    """
    if operation.is_own:
        engines = [engine for engine in engines if not engine.is_peer]
    expected = _expect(operation, device)
    measured, timed, longest = [], [], 0.0
    for engine in engines:
        one = Measured(engine.name, engine.is_peer, engine.precision(precision), remark=engine.remark())
        one.tolerances = _tolerances(one.precision, operation, device)
        measured.append(one)
        refusal = _refusal(engine, operation)
        if refusal is not None:
            one.failure, one.is_skipped = f"skipped: {refusal}", True
            continue
        with _reporting(engine, one):
            trial, seconds = _warm_up(engine, one, operation, expected, device)
            longest = max(longest, seconds)
            timed.append(TimedEngine(engine, one, trial))
    turns = repeats * min(MAX_REPEAT_FACTOR, max(1, math.ceil(SHORT_SECONDS / longest))) if timed else 0
    for _ in range(turns):
        for entry in timed:
            if entry.measured.failure is None:
                await_quiet(patience)
                with _reporting(entry.engine, entry.measured):
                    entry.measured.taken.append(entry.take_turn(operation, expected, device))
    workload = operation.workload
    return Result(operation.name, operation.what, workload.describe(), workload.num_voxels, operation.cost, measured)


class TimedEngine:
    """An engine that is timed in turns on one operation."""

    def __init__(self, engine: Engine, measured: Measured, trial: Trial) -> None:
        self.engine = engine
        self.measured = measured
        self.trial = trial
        self._upstream = Upstream()

    def take_turn(self, operation: Operation, expected: Values, device: torch.device) -> Taken:
        """Time one pass and compare its result, because an engine may be wrong only occasionally."""
        outputs: list[Rows] = []
        self.trial.clear()
        if operation.is_network:
            gc.collect()
        taken = take_time(lambda: outputs.append(_run(self.trial, operation, self._upstream)), device)
        values = collect(self.trial, outputs[0], training=operation.training)
        self.measured.record(compare(values, expected))
        return taken


def _expect(operation: Operation, device: torch.device) -> Values:
    """Return the expected results, those of the reference backend in fp32."""
    trial = operation.build(Lg3dEngine(REFERENCE, device), operation.workload, "fp32")
    trial.clear()
    values = collect(trial, _run(trial, operation, Upstream()), training=operation.training)
    trial.clear()
    return values


@contextmanager
def _reporting(engine: Engine, one: Measured) -> Iterator[None]:
    """Record an exception of an engine as its failure, so that the other engines continue."""
    try:
        yield
    except Lg3dError as error:
        one.failure = f"failed: {error}"
    except PEER_FAILURES as error:
        if not engine.is_peer and not isinstance(error, torch.OutOfMemoryError):
            raise
        one.failure = f"failed: {type(error).__name__}: {first_line(error)}"


def _refusal(engine: Engine, operation: Operation) -> str | None:
    """Return why an engine is not run on an operation, if it is not."""
    if operation.layer is not None and isinstance(engine, Peer) and not engine.keeps_map(operation.layer.build()):
        return "it rebuilds this layer's map in each call"
    return engine.refusal(training=operation.training)


def _warm_up(
    engine: Engine, one: Measured, operation: Operation, expected: Values, device: torch.device
) -> tuple[Trial, float]:
    """Run once on a few voxels to load libraries; then run once on all voxels, check the result and measure memory.

    Returns:
        The trial, and the seconds of the pass over all voxels.
    """
    if operation.is_network:
        small = operation.build(engine, operation.workload.first(WARM_UP_VOXELS), one.precision)
        small.clear()
        _run(small, operation, Upstream())
        small.clear()
        del small
    trial = operation.build(engine, operation.workload, one.precision)
    trial.clear()
    outputs: list[Rows] = []
    with PeakMemory(device) as memory:
        taken = take_time(lambda: outputs.append(_run(trial, operation, Upstream())), device)
    one.peak_bytes = memory.bytes if operation.is_network else None
    one.record(compare(collect(trial, outputs[0], training=operation.training), expected))
    return trial, taken.seconds


def _tolerances(precision: str, operation: Operation, device: torch.device) -> tuple[float, float]:
    tf32 = device.type == "cuda" and (
        torch.backends.cuda.matmul.allow_tf32 or torch.get_float32_matmul_precision() != "highest"
    )
    network = operation.is_network
    return (
        tolerance(precision, network=network, may_be_tf32=tf32),
        gradient_tolerance(precision, network=network, may_be_tf32=tf32),
    )


def _run(trial: Trial, operation: Operation, upstream: "Upstream") -> Rows:
    return trial.train(upstream) if operation.training else trial.infer()


class Upstream:
    """The gradient of a loss: equal for every engine, drawn once, in the engine's row order."""

    def __init__(self) -> None:
        self._drawn: Tensor | None = None

    def __call__(self, output: Rows) -> Tensor:
        if self._drawn is None:
            features = output.features
            # Not divided by the number of values, as in the mean of a loss: float16 ends at 6e-8.
            drawn = 0.01 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
            self._drawn = torch.empty_like(features, requires_grad=False)
            self._drawn[output.order()] = drawn.to(features)
        return self._drawn


def _record(settings: BenchSettings) -> dict[str, Any]:
    """Return the settings as plain values; files by name only, since results are shared and folders are not."""
    values: dict[str, Any] = json.loads(settings.to_json())
    values["scene"] = [Path(scene).name for scene in values["scene"]]
    return values | {name: Path(values[name]).name for name in ("out", "store") if values[name] is not None}


def _make_workloads(settings: BenchSettings, device: torch.device, progress: Progress) -> list[Workload]:
    num_rooms = max(settings.batch)
    workloads = []
    for voxel_size in settings.voxel_size:
        clouds = gather_clouds(
            settings.scene,
            settings.store,
            num_rooms=num_rooms,
            voxel_size=voxel_size,
            seed=settings.seed,
            progress=progress,
        )
        workloads += [
            make_workload(
                clouds,
                voxel_size=voxel_size,
                batch_size=batch_size,
                device=device,
                max_voxels=settings.max_voxels,
            )
            for batch_size in settings.batch
        ]
    return workloads


def _describe(workload: Workload) -> dict[str, object]:
    return {
        "scenes": list(workload.names),
        "voxel_size": workload.voxel_size,
        "batch": workload.batch_size,
        "voxels": workload.num_voxels,
    }


def _warn_about(result: Result, progress: Progress) -> None:
    for one in result.measured:
        if one.is_skipped:
            continue
        if one.failure is not None:
            progress.warn(f"{result.operation}, {one.engine}: {one.failure}")
        elif not one.agrees:
            progress.warn(
                f"{result.operation}, {one.engine}: its result differs by {one.worst_difference:.1e}, "
                f"so no ratio is reported{one.remark}"
            )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
