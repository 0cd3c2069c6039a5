"""`lg3d bench`: every engine on every operation, checked first, then timed in turns."""

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
from lg3d_core.errors import Lg3dError
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
MAX_MORE_TURNS = 5
"""An operation that takes the slowest engine less than `SHORT_SECONDS` is repeated up to so many times as often."""
REFERENCE = "torch"
"""The backend whose results in fp32 are the expected ones; its own tests hold it against the definition."""
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
"""What an engine of others may raise; it is reported, and the others go on."""


def bench(settings: BenchSettings, progress: Progress) -> Report:
    """Time lg3d's backends and every peer that is at hand.

    On each operation all engines compute the same from the same voxels and weights. The first full pass of each is
    checked against lg3d's `torch` backend in fp32; then they take turns.

    Returns:
        What was measured; it is also written to `settings.out`, if that is given.

    Raises:
        SettingsError: An unknown name, or a device that is not there.
        MissingDependencyError: A peer was asked for by name that is not installed.
        DataError: A scene that cannot be read, or a file that cannot be written.
    """
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    threads = settings.threads or torch.get_num_threads()
    load = load_average()
    peers, missing_peers = find_peers(settings.peers, device)  # to import some of them changes the number of threads
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
            with progress.task("operations", unit="operation") as task:
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
                    _warn_of(result, progress)
                    task.advance(status=operation.name)
        for result in report.results:
            for one in result.measured:
                if one.taken:
                    one.floor = result.cost.floor(rates, one.precision)
    report.rates = rates.to_dict()
    if report.is_loaded:
        progress.warn(
            f"other processes kept up to {report.others:.2f} cores busy (load average {_number(load)} before): "
            "do not trust these figures; --patience SECONDS waits for a quiet machine"
        )
    if settings.out is not None:
        write_text(settings.out, json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n")
    return report


def time_operation(
    operation: Operation,
    engines: Sequence[Engine],
    *,
    device: torch.device,
    precision: str,
    repeats: int,
    patience: float = 0.0,
) -> Result:
    """Check every engine's result on one operation, then let them take turns.

    Args:
        operation: What to time.
        engines: Those of lg3d first.
        device: Where the workload is.
        precision: What is wanted; an engine that does not have it takes its nearest.
        repeats: Timed passes of each engine.
        patience: Seconds to wait for a quiet machine before each pass, at most.
    """
    if operation.is_own:
        engines = [engine for engine in engines if not engine.is_peer]
    expected = _expect(operation, device)
    measured, racers, longest = [], [], 0.0
    for engine in engines:
        one = Measured(engine.name, engine.is_peer, engine.precision(precision), remark=engine.remark())
        one.tolerances = _tolerances(one.precision, operation, device)
        measured.append(one)
        one.failure = _refusal(engine, operation)
        if one.failure is not None:
            continue
        with _reporting(engine, one):
            trial, seconds = _warm_up(engine, one, operation, expected, device)
            longest = max(longest, seconds)
            racers.append(Racer(engine, one, trial))
    turns = repeats * min(MAX_MORE_TURNS, max(1, math.ceil(SHORT_SECONDS / longest))) if racers else 0
    for _ in range(turns):
        for racer in racers:
            if racer.measured.failure is None:
                await_quiet(patience)
                with _reporting(racer.engine, racer.measured):
                    racer.measured.taken.append(racer.take_turn(operation, expected, device))
    workload = operation.workload
    return Result(operation.name, operation.what, workload.describe(), workload.num_voxels, operation.cost, measured)


class Racer:
    """An engine that takes its turns on one operation."""

    def __init__(self, engine: Engine, measured: Measured, trial: Trial) -> None:
        self.engine = engine
        self.measured = measured
        self.trial = trial
        self._upstream = Upstream()

    def take_turn(self, operation: Operation, expected: Values, device: torch.device) -> Taken:
        """Compute the operation once, timed, and compare the result: an engine may be wrong only now and then."""
        outputs: list[Rows] = []
        self.trial.clear()
        if operation.is_network:
            gc.collect()
        taken = take_time(lambda: outputs.append(_run(self.trial, operation, self._upstream)), device)
        values = collect(self.trial, outputs[0], training=operation.training)
        self.measured.saw(compare(values, expected))
        return taken


def _expect(operation: Operation, device: torch.device) -> Values:
    """What every engine must compute: the result of the reference in fp32."""
    trial = operation.build(Lg3dEngine(REFERENCE, device), operation.workload, "fp32")
    trial.clear()
    values = collect(trial, _run(trial, operation, Upstream()), training=operation.training)
    trial.clear()
    return values


@contextmanager
def _reporting(engine: Engine, one: Measured) -> Iterator[None]:
    """Turn what an engine raises into its failure; the others go on."""
    try:
        yield
    except Lg3dError as error:
        one.failure = f"failed: {error}"
    except PEER_FAILURES as error:
        if not engine.is_peer and not isinstance(error, torch.OutOfMemoryError):
            raise
        first_line = str(error).splitlines()[0] if str(error) else ""
        one.failure = f"failed: {type(error).__name__}: {first_line}"


def _refusal(engine: Engine, operation: Operation) -> str | None:
    if operation.layer is not None and isinstance(engine, Peer) and not engine.keeps_map(operation.layer.build()):
        return "left out: it builds this layer's map anew in each call"
    reason = engine.refusal(training=operation.training)
    return None if reason is None else f"left out: {reason}"


def _warm_up(
    engine: Engine, one: Measured, operation: Operation, expected: Values, device: torch.device
) -> tuple[Trial, float]:
    """Compute once on a few voxels, so that libraries are loaded; then once on all, checked, its memory measured.

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
    one.saw(compare(collect(trial, outputs[0], training=operation.training), expected))
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
    """The gradient that a loss would hand back: equal for every engine, drawn once, in the engine's order of rows."""

    def __init__(self) -> None:
        self._drawn: Tensor | None = None

    def __call__(self, output: Rows) -> Tensor:
        if self._drawn is None:
            features = output.features
            drawn = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)) / features.numel()
            self._drawn = torch.empty_like(features, requires_grad=False)
            self._drawn[output.order()] = drawn.to(features)
        return self._drawn


def _record(settings: BenchSettings) -> dict[str, Any]:
    """What was asked for, as plain values; files by name, since results are handed around and folders are not."""
    asked: dict[str, Any] = json.loads(settings.to_json())
    asked["scene"] = [Path(scene).name for scene in asked["scene"]]
    return asked | {name: Path(asked[name]).name for name in ("out", "store") if asked[name] is not None}


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
            make_workload(clouds, voxel_size=voxel_size, batch_size=batch_size, device=device)
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


def _warn_of(result: Result, progress: Progress) -> None:
    for one in result.measured:
        if one.failure is not None and one.failure.startswith("failed"):
            progress.warn(f"{result.operation}, {one.engine}: {one.failure}")
        elif one.failure is None and not one.agrees:
            progress.warn(
                f"{result.operation}, {one.engine}: its result differs by {one.worst_difference:.1e}, "
                f"so no ratio is given{one.remark}"
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
