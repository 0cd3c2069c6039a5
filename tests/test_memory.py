"""Out of memory: one line that says what was computed, what was held, and which setting to change."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lg3d_cli import __main__ as cli
from lg3d_core import memory
from lg3d_core.errors import MemoryLimitError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.memory import describe_peak, is_out_of_memory, memory_limits, peak_resident
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.training.finetune import finetune
from tests.fake_store import FakeScene, make_scene
from tests.notes import Notes

CPU = torch.device("cpu")
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(ALLOCATOR),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_kind_of_allocation_failure_becomes_one_line(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(MemoryLimitError) as caught, memory_limits(CPU, lambda: ("in a pass of 7 voxels", "do this")):
        raise error
    line = str(caught.value)
    assert line.startswith("out of memory in a pass of 7 voxels (peak ")
    assert line.endswith("): do this")
    assert "\n" not in line


def test_the_message_of_pytorch_on_this_machine_is_recognised() -> None:
    with pytest.raises(MemoryLimitError), memory_limits(CPU, lambda: ("", "")):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_limits(CPU, lambda: ("", "")):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_the_message_names_gpu_memory_on_a_gpu() -> None:
    limits = memory_limits(torch.device("cuda"), lambda: ("there", "so"))
    with pytest.raises(MemoryLimitError, match=r"^out of GPU memory there"), limits:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_peak_is_reported_with_the_machines_memory() -> None:
    assert peak_resident() > 50 * 2**20  # torch is loaded
    words = describe_peak(CPU).split()
    assert words[0] == "peak"
    assert float(words[1]) <= float(words[4])


def fail_above(monkeypatch: pytest.MonkeyPatch, limit: int, error: Exception) -> list[int]:
    """Let passes of more than `limit` voxels run out of memory, as a GPU would; returns the sizes of all passes."""
    forward, sizes = MinkUNet.forward, []

    def limited(self: MinkUNet, x: SparseTensor) -> Tensor:
        sizes.append(len(x.features))
        if sizes[-1] > limit:
            raise error
        return forward(self, x)

    monkeypatch.setattr(MinkUNet, "forward", limited)
    return sizes


def training(store_path: Path, runs: Path, **changes: Any) -> FinetuneSettings:
    values: dict[str, Any] = {
        "store": store_path,
        "runs": runs,
        "name": "run",
        "start": "scratch",
        "network": "14A",
        "voxel_size": 0.1,
        "batch_size": 3,
        "jobs": 0,
        "device": "cpu",
        "augment": False,
        "validate_every": 0,
    }
    return FinetuneSettings(**(values | changes))


def test_a_step_out_of_memory_names_the_setting_and_the_run_resumes_with_it(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = fail_above(monkeypatch, 3000, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(MemoryLimitError) as caught:
        finetune(training(store_path, tmp_path), Progress())
    line = str(caught.value)
    (whole,) = sizes
    half = whole // 2000 * 1000
    assert line.startswith(f"out of memory in a pass of {whole} voxels of scene900")
    assert all(f"scene900{k}_00" in line for k in range(3))
    assert f"--max-voxels {half} or --micro-batch 1 splits a batch into smaller passes" in line
    assert line.endswith(f"resume with: lg3d finetune --resume {tmp_path / 'run'} --max-voxels {half}")

    notes = Notes()
    monkeypatch.undo()
    sizes = fail_above(monkeypatch, half, torch.OutOfMemoryError("CUDA out of memory"))
    finetune(FinetuneSettings(resume=tmp_path / "run", max_voxels=half, device="cpu"), notes)
    assert f"resuming with --max-voxels {half}" in notes.notes
    saved = FinetuneSettings.from_json((tmp_path / "run" / "settings.json").read_text())
    assert saved.max_voxels == half
    assert sum(sizes[:2]) < whole + half


def test_a_network_that_does_not_fit_into_memory_raises(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 10, MemoryError())
    with pytest.raises(MemoryLimitError, match="pass a smaller --network"):
        finetune(training(store_path, tmp_path, max_voxels=1000), Progress())


def corridor() -> FakeScene:
    """A passage of 60 m and 3000 voxels."""
    scene = make_scene("corridor", points=12_000)
    x = np.random.default_rng(5).uniform(0, 60, size=12_000)
    return scene._replace(xyz=np.stack([x, scene.xyz[:, 1] * 0.2, scene.xyz[:, 2] * 0.1], axis=1).astype(np.float32))


def test_a_scene_predicted_in_tiles_has_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=3)
    whole = Predictor(network=network, voxel_size=0.1).predict(corridor())
    voxels = len(whole.voxel_label)
    notes = Notes()
    sizes = fail_above(monkeypatch, 2 * voxels // 3, torch.OutOfMemoryError("CUDA out of memory"))
    tiled = Predictor(network=network, voxel_size=0.1).predict(corridor(), progress=notes)
    assert sizes[0] == voxels
    assert max(sizes[1:]) <= voxels // 2
    np.testing.assert_array_equal(tiled.label, whole.label)
    np.testing.assert_allclose(tiled.confidence, whole.confidence, rtol=1e-4)
    (note,) = notes.notes
    assert note.startswith(f"corridor: {voxels} voxels do not fit into memory at once; predicting ")
    assert note.endswith("labels are the same as without tiles")


def test_a_scene_without_a_fitting_tile_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_above(monkeypatch, 100, RuntimeError(ALLOCATOR))
    network = MinkUNet("14A", num_classes=3)
    with pytest.raises(MemoryLimitError, match=r"voxels of corridor, and in tiles of it \(peak .*smaller network"):
        Predictor(network=network, voxel_size=0.1).predict(corridor())


def test_any_memory_error_becomes_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MemoryError("Unable to allocate 8.00 EiB for an array")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("lg3d: error: out of memory (Unable to allocate 8.00 EiB for an array): ")


DYING_WORKER = """
import os, sys
from pathlib import Path
from lg3d_core.errors import DataError
from lg3d_core.sampling import dataset
from lg3d_core.settings import FinetuneSettings
from lg3d_core.progress import Progress
from lg3d_core.training.finetune import finetune
dataset.sample_scene = lambda *a, **k: os.kill(os.getpid(), 9)
try:
    finetune(FinetuneSettings.from_json(sys.argv[1]), Progress())
except DataError as error:
    print(error)
"""


def test_a_killed_loader_process_is_a_one_line_error(store_path: Path, tmp_path: Path) -> None:
    text = training(store_path, tmp_path, jobs=1).to_json()
    command = [sys.executable, "-c", DYING_WORKER, text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.stdout.startswith("a data loading process died, possibly because memory ran out"), done.stderr
    assert "Traceback" not in done.stderr


REUSE = """
import resource, torch
from lg3d_core.memory import kept_memory

with kept_memory(), kept_memory():
    torch.empty(25 << 20).fill_(1)  # larger: an aligned block of the same size may not fit into its own hole
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(memory._find_mallopt() is None, reason="the C library is not glibc")
def test_kept_memory_is_reused_without_page_faults():
    # A process of its own: in this one, a failed allocation of another test moves this thread to a smaller heap.
    done = subprocess.run([sys.executable, "-c", REUSE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 64 MiB have 16384 pages


def test_memory_is_returned_after_the_outermost_context_even_if_it_fails(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_find_mallopt", lambda: lambda *call: calls.append(call))

    def fail() -> None:
        with memory.kept_memory():
            with memory.kept_memory():
                pass
            assert calls[-2:] == [(-3, 128 << 20), (-1, -1)]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert calls[-2:] == [(-3, 32 << 20), (-1, 64 << 20)]


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_find_mallopt", lambda: None)
    with memory.kept_memory():
        pass


def test_the_limit_of_a_container_bounds_the_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    for groups, available in (((), 9000), (((4000, 1500), (5000, 100)), 2500), (((2000, 3000),), 0)):
        monkeypatch.setattr(memory.control_groups, "memory_limits", lambda groups=groups: iter(groups))
        assert memory.available_memory(CPU) == available


def test_memory_that_pytorch_keeps_on_a_gpu_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    # 80 bytes, of which PyTorch took 70 and uses 30: 10 are free, and 40 are kept for the next tensors.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    assert memory.available_memory(torch.device("cuda")) == 50
