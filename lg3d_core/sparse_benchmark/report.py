"""Measurements of a benchmark run, as plain values for JSON and as a table."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lg3d_core.sparse_benchmark.agreement import Difference
from lg3d_core.sparse_benchmark.machine import Taken
from lg3d_core.sparse_benchmark.operations import Cost

FORMAT = "lg3d-bench-1"
LOADED = 0.15
"""Number of cores used by other processes above which times are not reliable."""
MIN_LOAD_SECONDS = 0.2
"""Minimum time for a measurement of other load; the system's clock of busy cores has steps of 10 ms."""


@dataclass
class Measured:
    """Measurements of one engine on one operation."""

    engine: str
    is_peer: bool
    precision: str
    remark: str = ""
    """Known cause of a difference, starting with punctuation."""
    failure: str | None = None
    """Reason for missing measurements."""
    is_skipped: bool = False
    """Whether the engine was not run at all, because it cannot do the operation."""
    difference: Difference | None = None
    """Largest difference of its results from lg3d's `torch` backend in fp32."""
    tolerances: tuple[float, float] = (0.0, 0.0)
    """Tolerances of output and gradients."""
    peak_bytes: int | None = None
    """Peak memory of its first full pass in bytes."""
    taken: list[Taken] = field(default_factory=list)
    """Time of each repetition."""
    floor: float = math.nan
    """Minimum seconds at the machine's measured peak rates."""

    def record(self, difference: Difference) -> None:
        """Record the difference of one more result; the largest is kept."""
        if self.difference is None:
            self.difference = difference
            return
        before, gradients = self.difference.gradients, difference.gradients
        worst = gradients if before is None or gradients is None else max(before, gradients)
        self.difference = Difference(max(self.difference.output, difference.output), worst)

    @property
    def agrees(self) -> bool:
        """Whether all results are within the tolerances."""
        if self.difference is None:
            return False
        gradients = self.difference.gradients
        return self.difference.output <= self.tolerances[0] and (gradients is None or gradients <= self.tolerances[1])

    @property
    def worst_difference(self) -> float:
        """Larger of the differences of output and gradients."""
        assert self.difference is not None
        return max(self.difference.output, self.difference.gradients or 0.0)

    @property
    def best(self) -> float:
        return min(one.seconds for one in self.taken)

    @property
    def median(self) -> float:
        return statistics.median(one.seconds for one in self.taken)

    @property
    def spread(self) -> float:
        """Slowest minus fastest repetition in seconds."""
        return max(one.seconds for one in self.taken) - self.best

    @property
    def cpu_seconds(self) -> float:
        """Median CPU time of all threads in seconds."""
        return statistics.median(one.cpu_seconds for one in self.taken)

    @property
    def total_seconds(self) -> float:
        """Total time of all repetitions in seconds."""
        return sum(one.seconds for one in self.taken)

    @property
    def others(self) -> float:
        """Mean number of cores used by other processes; nan if it cannot be measured."""
        if self.total_seconds < MIN_LOAD_SECONDS:
            return math.nan
        return sum(one.others * one.seconds for one in self.taken) / self.total_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; undefined ones are None."""
        values: dict[str, Any] = {"engine": self.engine, "peer": self.is_peer, "precision": self.precision}
        if self.failure is not None:
            return values | {"failure": self.failure}
        assert self.difference is not None
        return values | {
            "agrees": self.agrees,
            "difference": finite(self.difference.output),
            "gradient_difference": finite(self.difference.gradients),
            "tolerance": self.tolerances[0],
            "gradient_tolerance": None if self.difference.gradients is None else self.tolerances[1],
            "seconds": {
                "best": self.best,
                "median": self.median,
                "spread": self.spread,
                "all": [one.seconds for one in self.taken],
            },
            "cpu_seconds": self.cpu_seconds,
            "others": finite(self.others),
            "peak_bytes": self.peak_bytes,
            "floor_seconds": finite(self.floor),
            "times_floor": finite(self.median / self.floor if self.floor else math.nan),
        }


def finite(value: float | None) -> float | None:
    """Return None for values that JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


@dataclass
class Result:
    """Measurements of all engines on one operation."""

    operation: str
    what: str
    workload: str
    num_voxels: int
    cost: Cost
    measured: list[Measured]

    def baselines(self) -> list[Measured]:
        """Return the measurements that lg3d's backends are compared with: every peer, and the first backend."""
        return [one for index, one in enumerate(self.measured) if one.is_peer or index == 0]

    def ratio(self, one: Measured, other: Measured) -> tuple[float, float] | None:
        """Return one time divided by the other, best and median; None if either engine has no valid result."""
        if one is other or one.failure or other.failure or not (one.agrees and other.agrees):
            return None
        return one.best / other.best, one.median / other.median

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; ratios only between engines with equal results."""
        ratios = {
            f"{one.engine} / {other.engine}": {"best": ratio[0], "median": ratio[1]}
            for one in self.measured
            for other in self.baselines()
            if not one.is_peer and (ratio := self.ratio(one, other)) is not None
        }
        return {
            "operation": self.operation,
            "what": self.what,
            "workload": self.workload,
            "voxels": self.num_voxels,
            "flops": self.cost.flops,
            "engines": [one.to_dict() for one in self.measured],
            "ratios": ratios,
        }


@dataclass
class Report:
    """Result of a whole run of `lg3d bench`."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    workloads: list[dict[str, Any]]
    missing: dict[str, str]
    """Unavailable engines and the reasons."""
    load_average: float | None
    """Load average before the run."""
    date: str
    results: list[Result] = field(default_factory=list)
    rates: dict[str, Any] = field(default_factory=dict)

    @property
    def others(self) -> float:
        """Largest number of cores that other processes used while an engine was timed on an operation."""
        seen = [one.others for result in self.results for one in result.measured if one.taken]
        return max((value for value in seen if math.isfinite(value)), default=0.0)

    @property
    def is_loaded(self) -> bool:
        """Whether other load was so high that the times are not reliable."""
        return self.others > LOADED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for storage."""
        return {
            "format": FORMAT,
            "date": self.date,
            "machine": self.machine,
            "settings": self.settings,
            "load": {"average_before": self.load_average, "others": self.others, "loaded": self.is_loaded},
            "rates": self.rates,
            "workloads": self.workloads,
            "missing": self.missing,
            "results": [result.to_dict() for result in self.results],
        }


Table = tuple[list[str], list[list[str]]]


def bench_table(report: Report, *, wide: bool = True) -> Table:
    """Return header and rows, one per engine and operation; `wide` adds spread, CPU time, memory and difference."""
    baselines: list[str] = []
    for result in report.results:
        baselines += [one.engine for one in result.baselines() if one.engine not in baselines]
    # A single engine has nothing to be compared with.
    if all(len(result.measured) < 2 for result in report.results):
        baselines = []
    header = ["operation", "voxels", "engine", "precision", "median s", "best s"]
    header += ["spread s", "CPU s", "others", "MiB", "difference"] if wide else []
    header += ["x floor", *(f"of {name}" for name in baselines)]
    rows = [_row(result, one, baselines, wide) for result in report.results for one in result.measured]
    return header, rows


def _row(result: Result, one: Measured, baselines: Sequence[str], wide: bool) -> list[str]:
    start = [result.operation, str(result.num_voxels), one.engine, one.precision]
    if one.failure is not None or not one.taken:
        return [*start, one.failure or "", *[""] * (1 + (5 if wide else 0) + 1 + len(baselines))]
    cells = [*start, _seconds(one.median), _seconds(one.best)]
    if wide:
        memory = "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f}"
        cells += [
            _seconds(one.spread),
            _seconds(one.cpu_seconds),
            "" if math.isnan(one.others) else f"{one.others:.2f}",
            memory,
        ]
        cells.append(f"{one.worst_difference:.1e}")
    cells.append("" if not one.floor else f"{one.median / one.floor:.1f}")
    return [*cells, *(_ratio(result, one, name) for name in baselines)]


def _ratio(result: Result, one: Measured, baseline: str) -> str:
    """Return `best / median` relative to the baseline's, or why there is no ratio."""
    other = next((other for other in result.measured if other.engine == baseline), None)
    if other is None or one is other or one.is_peer or other.failure is not None:
        return ""
    for suspect in (one, other):
        if not suspect.agrees:
            return f"DIFFERS {suspect.worst_difference:.1e}"
    ratio = result.ratio(one, other)
    return "" if ratio is None else f"{ratio[0]:.2f} / {ratio[1]:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.3f}"
