"""Blocks that were measured on a device, and the file that keeps them."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.progress import Progress
from lg3d_core.sparse.coordinates import pack

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from triton.runtime.errors import OutOfResources

from lg3d_core.sparse.triton import launch, tuning
from lg3d_core.sparse.triton.configs import ConvolutionConfig, Layer, WeightGradientConfig, default_convolution
from lg3d_core.sparse.triton.neighbours import build_submanifold_map
from lg3d_core.sparse.triton.tuning import LayerCall, blocks_path, choose_convolution, layer_class, read_blocks
from tests.notes import Notes

CPU = torch.device("cpu")
LAYER = Layer(1000, 27, 32, 64, torch.bfloat16)

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="measures nothing: needs no GPU")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning._tuned.cache_clear()


def tiny_calls() -> list[LayerCall]:
    keys = pack(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])).sort().values
    call = LayerCall(build_submanifold_map(keys, 3, 1), 16, 32, torch.float32)
    return [call, call]


def test_the_quickest_blocks_are_kept_and_read_back():
    seen: list[Any] = []

    def measure(run: Any) -> float:
        config = run.__closure__[0].cell_contents  # what is measured
        seen.append(config)
        if config.num_stages == 4:
            raise OutOfResources(300 << 10, 227 << 10, "shared memory")
        return 1.0 if config.num_warps == 8 else 2.0

    notes = Notes()
    path = tuning.tune(tiny_calls(), CPU, notes, measure=measure)
    blocks = read_blocks(path)
    assert path == blocks_path(CPU)
    assert len(blocks.convolutions) == 2  # there and back
    assert {config.num_warps for config in blocks.convolutions.values()} == {8}
    assert {config.num_warps for config in blocks.weight_gradients.values()} == {8}
    assert all(config.num_stages != 4 for config in blocks.convolutions.values())
    assert len(notes.notes) == 3  # the second call is of the same class
    assert notes.notes[0].startswith("convolution, 16 to 32, 27 offsets, float32, forth, 2^1: 1.000 ms")
    assert {type(config) for config in seen} == {ConvolutionConfig, WeightGradientConfig}


def test_each_group_is_saved_before_the_next_one_is_measured():
    def measure(_: Any) -> float:
        if blocks_path(CPU).is_file() and len(read_blocks(blocks_path(CPU)).convolutions) == 2:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        tuning.tune(tiny_calls(), CPU, Progress(), measure=measure)
    assert len(read_blocks(blocks_path(CPU)).convolutions) == 2
    assert read_blocks(blocks_path(CPU)).weight_gradients == {}
    notes = Notes()
    tuning.tune(tiny_calls(), CPU, notes, measure=lambda _: 1.0)
    assert [note.partition(",")[0] for note in notes.notes] == ["weight gradient"]  # what was missing alone
    notes = Notes()
    tuning.tune(tiny_calls(), CPU, notes, measure=lambda _: 1.0, again=True)
    assert len(notes.notes) == 3


@pytest.mark.parametrize("error", [RuntimeError("no such instruction"), AssertionError("bad layout"), ValueError("K")])
def test_blocks_that_fail_are_reported_and_others_are_measured(error: Exception):
    def measure(run: Any) -> float:
        if run.__closure__[0].cell_contents.num_warps == 4:
            raise error
        return 1.0

    notes = Notes()
    blocks = read_blocks(tuning.tune(tiny_calls()[:1], CPU, notes, measure=measure))
    assert all(config.num_warps == 8 for config in blocks.convolutions.values())
    assert any(note.startswith("skipped: (") and str(error) in note for note in notes.notes)


def test_a_group_of_which_no_blocks_run_is_left_out():
    def measure(_: Any) -> float:
        raise RuntimeError("an illegal memory access was encountered")

    notes = Notes()
    assert not tuning.tune(tiny_calls()[:1], CPU, notes, measure=measure).exists()
    assert sum(note.endswith("no blocks run") for note in notes.notes) == 3


def test_the_budget_goes_to_the_layers_with_most_work(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(tuning.time, "monotonic", lambda: float(next(clock)))
    narrow = tiny_calls()[0]
    wide = narrow._replace(channels_out=128)
    notes = Notes()
    blocks = read_blocks(tuning.tune([narrow, wide], CPU, notes, measure=lambda _: 1.0, budget=5))
    assert list(blocks.convolutions) == ["16 to 128, 27 offsets, float32, forth, 2^1"]
    assert notes.notes[-1] == "the budget of 5 s is spent: 5 groups are not measured yet; run it again to continue"


def test_each_candidate_can_be_run():
    runs: list[int] = []

    def measure(run: Any) -> float:
        if len(runs) < 3 or len(runs) % 7 == 0:  # some of them: the interpreter is slow
            assert torch.isfinite(run()).all()
        runs.append(1)
        return 1.0

    tuning.tune(tiny_calls()[:1], CPU, Progress(), measure=measure)
    assert len(runs) > 20


def test_measured_blocks_replace_the_shipped_ones(monkeypatch: pytest.MonkeyPatch):
    mine = ConvolutionConfig(64, 64, 0, 32, 1, 8, 3)
    gradient = WeightGradientConfig(32, 32, 64, 2, 4, 3)
    found = tuning.TunedBlocks({layer_class(LAYER): mine}, {layer_class(LAYER): gradient})
    monkeypatch.setattr(tuning, "_tuned", lambda _: found)
    assert tuning.choose_convolution(LAYER, CPU) == mine
    assert tuning.choose_weight_gradient(LAYER, CPU) == gradient
    other = LAYER._replace(channels_out=96)
    assert tuning.choose_convolution(other, CPU) == default_convolution(other)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], torch.device]]:
    """Give a GPU whose programs may have so many bytes of shared memory."""

    def make(shared: int) -> torch.device:
        properties = SimpleNamespace(shared_memory_per_block_optin=shared)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        tuning._max_width.cache_clear()
        return torch.device("cuda", 0)

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    yield make
    tuning._max_width.cache_clear()
    tuning._tuned.cache_clear()


@pytest.mark.parametrize("network", NETWORK_PLANS)
def test_default_blocks_fit_into_the_shared_memory_of_consumer_gpus(network: str, gpu: Callable[[int], torch.device]):
    limit = 99 << 10
    device = gpu(limit)
    with torch.device("meta"):
        placed = list(place_convolutions(MinkUNet(network, num_classes=200)))
    for dtype in (torch.bfloat16, torch.float16):
        for convolution, outputs in itertools.product([one.convolution for one in placed], (340, 27_000, 800_000)):
            channels, offsets = convolution.kernel.shape[-2:], convolution.kernel_size**3
            for own in (channels, channels[::-1]):
                block = choose_convolution(Layer(outputs, offsets, *own, dtype), device)
                # Two buffers of both factors, as compiled for compute capability 8.9, and the indices of the rows.
                values = block.block_k * (block.block_m + block.block_n + block.block_rest)
                assert 2 * 2 * values + 1032 <= limit, (own, block)


def test_gpus_with_more_shared_memory_compute_wider_blocks(gpu: Callable[[int], torch.device]):
    layer = Layer(800_000, 27, 512, 544, torch.bfloat16, backwards=True)
    assert choose_convolution(layer, gpu(99 << 10))[1:3] == (128, 64)  # 3 * 192 = 576
    assert choose_convolution(layer, gpu(227 << 10))[1:3] == (256, 16)  # 2 * 272 = 544
    assert choose_convolution(layer, CPU) == choose_convolution(layer, gpu(163 << 10))


def test_a_kernel_that_does_not_fit_on_a_gpu_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda _: 1, raising=False)
    left: list[int] = []
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", left.append, raising=False)
    message = r"^--backend triton: a kernel needs more shared memory than this GPU has \(103432, limit 101376\): pass"
    with pytest.raises(SettingsError, match=message), launch._OnGpu(0):
        raise OutOfResources(103_432, 101_376, "shared memory")
    with launch._OnGpu(0):
        pass
    assert left == [1, 1]


def test_layers_of_one_class_differ_by_less_than_a_factor_of_two_in_outputs_alone():
    assert layer_class(LAYER) == "32 to 64, 27 offsets, bfloat16, forth, 2^10"
    assert layer_class(LAYER._replace(num_outputs=600)) == layer_class(LAYER)
    assert layer_class(LAYER._replace(num_outputs=1025)) != layer_class(LAYER)
    assert layer_class(LAYER._replace(backwards=True)) != layer_class(LAYER)
    assert layer_class(Layer(1, 8, 3, 4, torch.float32, tf32=True)) == "3 to 4, 8 offsets, tf32, forth, 2^0"


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"format": "other"}',
        '{"format": "lg3d-triton-blocks-1"}',
        '{"format": "lg3d-triton-blocks-1", "convolutions": {"a": [1, 2]}, "weight gradients": {}}',
        '{"format": "lg3d-triton-blocks-1", "convolutions": {"a": [64, 64, 0, 32, 1, -4, 3]}, "weight gradients": {}}',
    ],
)
def test_the_error_on_a_damaged_file_names_it_with_advice(tmp_path: Path, content: str):
    path = tmp_path / "blocks.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"blocks.json.*delete the file"):
        read_blocks(path)


def test_without_a_file_there_are_no_measured_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert read_blocks(tmp_path / "none.json") == tuning.TunedBlocks({}, {})
    (tmp_path / "file").touch()
    assert read_blocks(tmp_path / "file" / "none.json") == tuning.TunedBlocks({}, {})

    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError("the home folder of another user")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert read_blocks(tmp_path / "none.json") == tuning.TunedBlocks({}, {})


def test_a_user_without_a_home_folder_has_the_default_blocks(monkeypatch: pytest.MonkeyPatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(tuning, "_max_width", lambda _: 256)
    assert choose_convolution(LAYER, torch.device("cuda")) == default_convolution(LAYER, max_width=256)
    with pytest.raises(DataError, match="no home folder for a cache: set XDG_CACHE_HOME"):
        blocks_path(CPU)


@pytest.mark.parametrize("default", [default_convolution(LAYER), default_convolution(LAYER._replace(channels_in=3))])
def test_candidates_start_from_the_shipped_blocks_and_stay_within_what_a_product_takes(default: ConvolutionConfig):
    candidates = tuning.convolution_candidates(default)
    assert candidates[0] == default
    assert len(candidates) == len(set(candidates)) > 8
    assert all(min(config.block_m, config.block_n, config.block_k) >= 16 and config.split >= 1 for config in candidates)
