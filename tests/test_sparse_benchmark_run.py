"""`lg3d bench`: results are compared before times are, and what was measured is told in full."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lg3d_core.sparse_benchmark.bench as run_module
from lg3d_core.errors import SettingsError
from lg3d_core.settings import BenchSettings
from lg3d_core.sparse_benchmark import machine
from lg3d_core.sparse_benchmark.agreement import Difference
from lg3d_core.sparse_benchmark.bench import bench as run_benchmarks
from lg3d_core.sparse_benchmark.bench import time_operation
from lg3d_core.sparse_benchmark.engines import Engine, Lg3dEngine, Rows, Trial
from lg3d_core.sparse_benchmark.machine import PeakMemory, Rates, Taken, await_quiet, describe_machine, take_time
from lg3d_core.sparse_benchmark.operations import Cost, Operation, plan_operations
from lg3d_core.sparse_benchmark.placement import Work
from lg3d_core.sparse_benchmark.report import FORMAT, Measured, Report, Result, bench_table
from lg3d_core.sparse_benchmark.workload import Workload
from tests.box_rooms import write_room
from tests.notes import Notes

CPU = torch.device("cpu")
WORKLOAD = Workload(
    ("two",), 0.1, torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32), torch.zeros(2, 3), 1, (16, 16, 16)
)


class FakeEngine(Engine):
    """Gives a number per call in place of a convolution."""

    def __init__(self, name: str, answers: Callable[[int], float], calls: list[str], *, is_peer: bool = True) -> None:
        self.name = name
        self.is_peer = is_peer
        self.answers = answers
        self.calls = calls
        self.count = 0

    def trial(self, precision: str) -> Trial:
        leaf = torch.ones(2, 1, requires_grad=True)

        def forward() -> Rows:
            self.calls.append(self.name)
            self.count += 1
            return Rows(leaf * self.answers(self.count), lambda: WORKLOAD.coordinates)

        return Trial(self.name, precision, forward, source=Rows(leaf, lambda: WORKLOAD.coordinates))

    def network_trial(self, *_args: Any, precision: str, training: bool) -> Trial:
        del training
        return self.trial(precision)

    def layer_trial(self, *_args: Any, precision: str, training: bool) -> Trial:
        del training
        return self.trial(precision)

    def chain_trial(self, *_args: Any, precision: str) -> Trial:
        return self.trial(precision)


def time_fakes(
    monkeypatch: pytest.MonkeyPatch, engines: Sequence[Engine], *, what: str = "layers", repeats: int = 2
) -> Result:
    """Time engines on an operation whose expected result is that of a fake that gives 1."""
    expected = FakeEngine("expected", lambda _: 1.0, [])
    monkeypatch.setattr(run_module, "Lg3dEngine", lambda *_args: expected)

    def build(engine: Engine, _workload: Workload, precision: str) -> Trial:
        return engine.network_trial(precision=precision, training=False)  # type: ignore[call-arg]

    operation = Operation("fake", what, WORKLOAD, build, Cost([Work(10, 2, 2, 1, 3, 4)]))
    monkeypatch.setattr(run_module, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(run_module.gc, "collect", lambda: 0)  # slow where much is imported
    return time_operation(operation, engines, device=CPU, precision="fp32", repeats=repeats)


def test_engines_take_turns_after_each_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    engines = [FakeEngine("a", lambda _: 1.0, calls, is_peer=False), FakeEngine("b", lambda _: 1.0, calls)]
    result = time_fakes(monkeypatch, engines)
    assert calls == ["a", "b", "a", "b", "a", "b"]  # each checked once, then twice in turns
    assert [len(one.taken) for one in result.measured] == [2, 2]
    assert all(one.agrees for one in result.measured)
    assert list(result.to_dict()["ratios"]) == ["a / b"]


def test_gradients_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [FakeEngine("a", lambda _: 1.0, [], is_peer=False), FakeEngine("b", lambda _: 1.5, [])]
    result = time_fakes(monkeypatch, engines, what="layers-train")
    assert result.measured[0].difference == Difference(0.0, 0.0)
    assert result.measured[1].difference == Difference(pytest.approx(0.5), pytest.approx(0.5))


def test_an_engine_that_is_sometimes_wrong_gets_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [
        FakeEngine("a", lambda _: 1.0, [], is_peer=False),
        FakeEngine("racy", lambda count: 1.25 if count == 3 else 1.0, []),
    ]
    result = time_fakes(monkeypatch, engines)
    racy = result.measured[1]
    assert racy.worst_difference == pytest.approx(0.25)
    assert not racy.agrees
    assert len(racy.taken) == 2  # its times are told, a ratio is not
    assert result.to_dict()["ratios"] == {}
    header, rows = bench_table(Report({}, {}, [], {}, None, "", [result]))
    assert rows[0][header.index("of racy")] == "DIFFERS 2.5e-01"


def test_an_exception_of_a_peer_is_its_failure_and_the_others_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(count: int) -> float:
        if count == 2:
            raise RuntimeError("CUDA error\nand more")
        return 1.0

    engines = [FakeEngine("a", lambda _: 1.0, [], is_peer=False), FakeEngine("broken", fail, [])]
    result = time_fakes(monkeypatch, engines)
    assert [len(one.taken) for one in result.measured] == [2, 0]
    assert result.measured[1].failure == "failed: RuntimeError: CUDA error"
    assert result.measured[1].to_dict() == {
        "engine": "broken",
        "peer": True,
        "precision": "fp32",
        "failure": "failed: RuntimeError: CUDA error",
    }
    header, rows = bench_table(Report({}, {}, [], {}, None, "", [result]))
    assert rows[1][4] == "failed: RuntimeError: CUDA error"
    assert len(rows[1]) == len(header)


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_count: int) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        time_fakes(monkeypatch, [FakeEngine("a", fail, [], is_peer=False)])
    refusing = FakeEngine("b", lambda _: 1.0, [])
    monkeypatch.setattr(refusing, "refusal", lambda *, training: "no CUDA" if not training else None)
    assert time_fakes(monkeypatch, [refusing]).measured[0].failure == "skipped: no CUDA"


def measured(name: str, seconds: Sequence[float], **others: Any) -> Measured:
    one = Measured(name, name != "ours", "fp32", difference=Difference(1e-7, None), tolerances=(1e-5, 1e-5), **others)
    one.taken = [Taken(value, 2 * value, 0.0) for value in seconds]
    return one


def test_ratios_are_of_best_and_of_median() -> None:
    ours, peer = measured("ours", [1.0, 2.0, 6.0]), measured("peer", [4.0, 5.0, 9.0])
    ours.floor = 0.5
    ours.peak_bytes = 3 << 20
    result = Result("layer", "layers", "5 cm", 10, Cost(), [ours, peer])
    assert result.ratio(ours, peer) == (0.25, 0.4)
    assert ours.spread == 5.0
    assert ours.cpu_seconds == 4.0
    assert ours.to_dict()["times_floor"] == 4.0
    header, rows = bench_table(Report({}, {}, [], {}, None, "", [result]))
    row = dict(zip(header, rows[0], strict=True))
    assert row["of peer"] == "0.25 / 0.40"
    assert row["MiB"] == "3"
    assert row["x floor"] == "4.0"
    narrow_header, narrow_rows = bench_table(Report({}, {}, [], {}, None, "", [result]), wide=False)
    assert len(narrow_rows[0]) == len(narrow_header) < len(header)
    alone = Result("layer", "layers", "5 cm", 10, Cost(), [ours])
    assert "of ours" not in bench_table(Report({}, {}, [], {}, None, "", [alone]))[0]


def test_a_machine_counts_as_loaded_after_a_measurable_time_of_other_load() -> None:
    busy, idle, brief = measured("ours", [1.0]), measured("ours", [1.0]), measured("ours", [1.0])
    busy.taken, brief.taken = [Taken(1.0, 1.0, 0.4)], [Taken(0.01, 0.01, 3.0)]
    assert math.isnan(brief.others)

    def report(one: Measured) -> Report:
        return Report({}, {}, [], {}, None, "", [Result("", "", "", 1, Cost(), [one])])

    assert report(busy).is_loaded
    assert report(busy).others == pytest.approx(0.4)
    assert not report(idle).is_loaded
    assert not report(brief).is_loaded


def test_the_floor_is_the_longer_of_computing_and_moving_product_by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rates, "flops", lambda *_args: 100.0)
    monkeypatch.setattr(Rates, "bandwidth", lambda *_args: 8.0)
    computing = Work(pairs=50, inputs=1, outputs=1, offsets=1, in_channels=1, out_channels=1)  # 1 s against 12 bytes
    moving = Work(pairs=1, inputs=2, outputs=2, offsets=0, in_channels=2, out_channels=2)  # 8 numbers
    rates = Rates(CPU)
    assert Cost([computing]).floor(rates, "fp32") == pytest.approx(1.5)  # 3 numbers of 4 bytes at 8 bytes a second
    assert Cost([computing]).floor(rates, "bf16") == pytest.approx(1.0)
    assert Cost([computing, moving]).floor(rates, "bf16") == pytest.approx(1.0 + 2.0)
    assert Cost(bytes=16).floor(rates, "fp32") == pytest.approx(2.0)
    assert Cost([computing, computing]).flops == 200


def test_rates_are_kept_when_a_later_attempt_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_SHAPES", ((64, 64, 64), (32, 32, 32)))
    rates = Rates(CPU)
    assert rates.to_dict() == {"matrix_flops": {}, "copy_bytes_per_second": None}
    seconds = iter([2.0, 1.0, 4.0, 0.5, 8.0])
    monkeypatch.setattr(rates, "_best", lambda _work: next(seconds))
    assert rates.flops("fp32") == pytest.approx(64**3)  # 2 * 64^3 in 2 s; the smaller one is slower
    copied = rates.bandwidth()
    rates.measure_again()  # 0.5 s for the product, 8 s for the copy
    assert rates.flops("fp32") == pytest.approx(4 * 64**3)
    assert rates.bandwidth() == copied
    monkeypatch.undo()
    assert Rates(CPU)._best(lambda: time.sleep(0.001)) >= 0.001


def test_time_cpu_time_and_memory_of_a_piece_of_work_are_measured() -> None:
    taken = take_time(lambda: time.sleep(0.05), CPU)
    assert 0.05 <= taken.seconds < 5
    assert taken.cpu_seconds < taken.seconds
    kept: list[Tensor] = []
    with PeakMemory(CPU) as memory:
        kept.append(torch.ones(16 << 20))  # 64 MiB
        kept.clear()
    if memory.bytes is not None:  # the system tells
        assert memory.bytes >= 60 << 20
    start = time.monotonic()
    await_quiet(0.0)
    assert time.monotonic() - start < 0.1


def test_facts_that_the_system_does_not_report_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> str:
        raise OSError

    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *args, **options: (refuse if path.is_relative_to("/proc") else read_text)(path, *args, **options),
    )
    monkeypatch.setattr(machine.os, "getloadavg", refuse)
    monkeypatch.setattr(machine.subprocess, "run", refuse)
    assert math.isnan(take_time(lambda: None, CPU).others)
    assert machine.load_average() is None
    with PeakMemory(CPU) as memory:
        pass
    assert memory.bytes is None
    facts = describe_machine(CPU)
    assert facts["commit"] is None
    assert facts["processor"]


def test_a_run_is_reported_completely_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(machine, "COPIED_MIB", {"cpu": 1})
    monkeypatch.setattr(run_module, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(run_module.gc, "collect", lambda: 0)  # slow where much is imported
    mesh = next(write_room(tmp_path / "raw", "scene0000_00").glob("*_vh_clean_2.ply"))
    settings = BenchSettings(
        what=("maps", "layers", "forward"),
        networks=("14A",),
        scene=(str(mesh),),
        voxel_size=(0.5,),
        batch=(2, 1),
        backends=("torch", "reference"),
        peers=("none",),
        device="cpu",
        precision="bf16",
        repeats=1,
        threads=1,
        out=tmp_path / "out.json",
    )
    listener = Notes()
    report = run_benchmarks(settings, listener)
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["format"] == FORMAT
    assert stored["settings"]["precision"] == "bf16"
    assert [workload["batch"] for workload in stored["workloads"]] == [2, 1]
    assert stored["workloads"][0]["voxels"] == 2 * stored["workloads"][1]["voxels"]
    assert len(stored["results"]) == 2 * (2 + 6 + 1)
    assert set(stored["rates"]["matrix_flops"]) == {"bf16"}
    for result in stored["results"]:
        assert [one["engine"] for one in result["engines"]] == ["lg3d torch", "lg3d reference"]
        for one in result["engines"]:
            assert one["agrees"] or result["what"] == "forward", (result["operation"], one)  # bf16 on a few voxels
            assert one["precision"] == "bf16"
            assert one["times_floor"] > 0
        if result["what"] != "forward":
            assert list(result["ratios"]) == ["lg3d reference / lg3d torch"]
    forward = next(result for result in stored["results"] if result["operation"] == "14A forward")
    assert forward["engines"][0]["peak_bytes"] is None or forward["engines"][0]["peak_bytes"] >= 0
    assert "timing lg3d torch, lg3d reference on cpu" in listener.notes


def test_a_wrong_result_gives_a_warning() -> None:
    listener = Notes()
    wrong, failed = measured("racy", [1.0], remark="; try one thread"), measured("broken", [])
    wrong.record(Difference(0.5, None))
    failed.failure = "failed: RuntimeError: no"
    run_module._warn_about(Result("layer", "layers", "", 1, Cost(), [measured("ours", [1.0]), wrong, failed]), listener)
    assert listener.warnings == [
        "layer, racy: its result differs by 5.0e-01, so no ratio is reported; try one thread",
        "layer, broken: failed: RuntimeError: no",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("what", ()),
        ("networks", ()),
        ("voxel_size", (0.05, -1.0)),
        ("batch", (0,)),
        ("backends", ()),
        ("peers", ()),
        ("repeats", 0),
        ("threads", 0),
        ("patience", -1.0),
    ],
)
def test_invalid_settings_are_rejected(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"--{field.replace('_', '-')} must be"):
        BenchSettings(**{field: value})  # type: ignore[arg-type]


def test_layers_alone_need_no_network() -> None:
    assert BenchSettings(what=("layers",), networks=()).networks == ()
    assert isinstance(Lg3dEngine("torch", CPU).remark(), str)


def test_an_ended_benchmark_leaves_the_operations_that_it_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = write_room(tmp_path / "raw", "scene0000_00") / "scene0000_00_vh_clean_2.ply"
    done: list[str] = []

    def measure(operation: Operation, *arguments: Any, **choices: Any) -> Result:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(operation.name)
        return time_operation(operation, *arguments, **choices)

    monkeypatch.setattr(run_module, "time_operation", measure)
    settings = BenchSettings(
        what=("layers",),
        scene=(str(mesh),),
        voxel_size=(0.5,),
        backends=("torch",),
        peers=("none",),
        device="cpu",
        repeats=1,
        out=tmp_path / "out.json",
    )
    with pytest.raises(KeyboardInterrupt):
        run_benchmarks(settings, Notes())
    saved = json.loads((tmp_path / "out.json").read_text())
    assert [result["operation"] for result in saved["results"]] == done
    assert all(one["floor_seconds"] > 0 for result in saved["results"] for one in result["engines"])
    assert saved["rates"]


@pytest.mark.parametrize(("networks", "wide"), [(("14A",), False), (("34C", "34D"), True)])
def test_the_wide_layers_of_34d_are_timed_where_it_is(networks: tuple[str, ...], wide: bool) -> None:
    names = [operation.name for operation in plan_operations(("layers",), networks, WORKLOAD, seed=0)]
    assert ("layer 512->512 3^3" in names) == ("layer 544->512 3^3" in names) == wide
    assert "layer 96->96 3^3" in names
