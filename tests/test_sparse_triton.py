"""The kernels in Triton against the reference in float64: interpreted on the CPU, or compiled by `make test-gpu`.

Memory that the kernels get uninitialised is poisoned: NaN, and indices that lie far outside.
"""

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lg3d_core.errors import MissingDependencyError, SettingsError, ShapeError
from lg3d_core.sparse import (
    CoordinateCache,
    KernelMap,
    SparseBatchNorm,
    SparseConvolution,
    SparseTensor,
    backends,
    convolve_and_normalize,
    kernel_maps,
    resolve_backend,
    sparse_convolution,
    use_backend,
)
from lg3d_core.sparse.coordinates import pack
from lg3d_core.sparse.reference import ReferenceBackend

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("kernels in Triton need their interpreter (TRITON_INTERPRET=1) or CUDA", allow_module_level=True)

from lg3d_core.sparse.triton import backend as triton_backend
from lg3d_core.sparse.triton import configs, tiles
from lg3d_core.sparse.triton.configs import ConvolutionConfig, WeightGradientConfig
from lg3d_core.sparse.triton.convolution import Epilogue, convolve
from lg3d_core.sparse.triton.levels import build_levels
from lg3d_core.sparse.triton.neighbours import build_submanifold_map
from lg3d_core.sparse.triton.pairs import pair_lists
from lg3d_core.sparse.triton.weight_gradient import weight_gradient

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
LARGE = [pytest.param(size, marks=pytest.mark.gpu) for size in (4_099, 100_003, 1_000_000)]
LAYERS = ["3^3", "2^3 down", "2^3 up"]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `new_empty` and `empty` give with values that spoil any result they reach."""

    def poison(tensor: Tensor) -> Tensor:
        with torch.no_grad():
            return tensor.fill_(float("nan") if tensor.is_floating_point() else 1 << 30)

    new_empty, empty = Tensor.new_empty, torch.empty
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *size, **choices: poison(new_empty(self, *size, **choices)))
    monkeypatch.setattr(torch, "empty", lambda *size, **choices: poison(empty(*size, **choices)))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def few_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, a step takes as long whatever its size: let there be few. Compiled, nothing changes."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(
            triton_backend, "choose_convolution", lambda *_: ConvolutionConfig(64, 128, 0, 128, 1, 4, 2)
        )
        monkeypatch.setattr(
            triton_backend, "choose_weight_gradient", lambda *_: WeightGradientConfig(128, 128, 128, 1, 4, 2)
        )


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def scatter_voxels(num_voxels: int, *, batches: int = 2) -> Tensor:
    """Draw distinct voxels in shuffled order around the origin, about half of their neighbourhoods filled."""
    extent = 8
    while batches * extent**3 < 2 * num_voxels:
        extent *= 2
    cells = torch.randperm(batches * extent**3, generator=torch.Generator().manual_seed(0))[:num_voxels]
    columns = [cells // extent**3, *(cells // extent**axis % extent - extent // 2 for axis in (2, 1, 0))]
    return torch.stack(columns, dim=1).to(DEVICE, torch.int32)


def make_map(layer: str, coordinates: Tensor) -> KernelMap:
    cache = CoordinateCache(pack(coordinates).sort().values)
    if layer == "2^3 down":
        return cache.downward_map(1)
    return cache.upward_map(2) if layer == "2^3 up" else cache.submanifold_map(1, int(layer[0]))


def run(name: str, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> tuple[Tensor, Tensor, Tensor]:
    """Give the output and both gradients of a backend."""
    features, weight = features.detach().requires_grad_(), weight.detach().requires_grad_()
    backend = ReferenceBackend() if name == "reference" else resolve_backend(name, DEVICE)
    output = backend.convolve(features, weight, kernel_map)
    weighting = draw(*output.shape, seed=5, dtype=torch.float32).to(output.dtype)
    output.backward(weighting)
    assert features.grad is not None
    assert weight.grad is not None
    return output.detach(), features.grad, weight.grad


def assert_close_to_reference(features: Tensor, weight: Tensor, kernel_map: KernelMap, tolerance: float) -> None:
    """Compare values and both gradients with float64, as norms: `|ours - exact| < tolerance * |exact|`."""
    exact = run("reference", features.double(), weight.double(), kernel_map)
    for ours, expected in zip(run("triton", features, weight, kernel_map), exact, strict=True):
        assert ours.dtype == features.dtype
        assert ours.shape == expected.shape
        assert torch.isfinite(ours).all()
        assert (ours.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.usefixtures("few_large_blocks")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("channels", [(3, 32), (32, 96), (96, 96)], ids=str)
@pytest.mark.parametrize("num_voxels", [0, 1, 63, 130, *LARGE])
def test_values_and_gradients_equal_the_reference(num_voxels: int, channels: tuple[int, int], layer: str):
    kernel_map = make_map(layer, scatter_voxels(num_voxels))
    features = draw(kernel_map.num_inputs, channels[0])
    weight = draw(kernel_map.num_offsets, *channels, seed=2) / channels[0] ** 0.5
    # Measured: 1.8e-7 at most, interpreted. The weight gradient of a million voxels has sums of up to 125,000 products
    # one after the other, which lose 5e-6 in float32 (simulated with NumPy).
    assert_close_to_reference(features, weight, kernel_map, 1e-5 if num_voxels == 1_000_000 else 2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("num_voxels", [63, *LARGE])
def test_half_precision_is_summed_in_float32(num_voxels: int, layer: str, dtype: torch.dtype):
    kernel_map = make_map(layer, scatter_voxels(num_voxels))
    features = draw(kernel_map.num_inputs, 32, dtype=dtype)
    weight = draw(kernel_map.num_offsets, 32, 96, seed=2).to(dtype) / 8
    # One rounding at the end: half of 2^-8 (bfloat16, measured 3.9e-3 at most) or of 2^-11 (float16).
    assert_close_to_reference(features, weight, kernel_map, 5e-3 if dtype == torch.bfloat16 else 6e-4)


@pytest.mark.usefixtures("few_large_blocks")
def test_under_autocast_the_gradient_of_a_weight_is_not_rounded():
    x, weight = SparseTensor(draw(63, 16), scatter_voxels(63)), draw(27, 16, 32, seed=2).requires_grad_()
    with use_backend("triton"), torch.autocast(DEVICE.type, torch.bfloat16):
        output = sparse_convolution(x, weight, kernel_size=3).features
    assert output.dtype == torch.bfloat16
    upstream = draw(63, 32, seed=5, dtype=torch.bfloat16)
    output.backward(upstream)
    exact = weight.detach().double().requires_grad_()
    kernel_map = x.cache.submanifold_map(1, 3)
    ReferenceBackend().convolve(x.features.bfloat16().double(), exact, kernel_map).backward(upstream.double())
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert exact.grad is not None
    # Products of bfloat16 are exact in float32, whose sums lose 1e-7; rounding to bfloat16 would lose 2e-3.
    assert (weight.grad.double() - exact.grad).norm() < 1e-6 * exact.grad.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [(512, 512), (544, 512), (128, 96), (256, 384)], ids=str)
def test_wide_layers_equal_the_reference(channels: tuple[int, int]):
    kernel_map = make_map("3^3", scatter_voxels(30_011))
    features = draw(kernel_map.num_inputs, channels[0], dtype=torch.bfloat16)
    weight = (draw(27, *channels, seed=2) / channels[0] ** 0.5).to(torch.bfloat16)
    assert_close_to_reference(features, weight, kernel_map, 5e-3)


@pytest.mark.gpu
def test_tf32_is_used_where_the_process_allows_it():
    kernel_map = make_map("3^3", scatter_voxels(30_011))
    features, weight = draw(kernel_map.num_inputs, 64), draw(27, 64, 64, seed=2) / 8
    torch.set_float32_matmul_precision("high")
    assert_close_to_reference(features, weight, kernel_map, 2e-3)  # 10 bits of mantissa: 2^-11 per factor
    rounded = run("triton", features, weight, kernel_map)[0]
    torch.set_float32_matmul_precision("highest")
    assert not torch.equal(rounded, run("triton", features, weight, kernel_map)[0])


@pytest.mark.usefixtures("few_large_blocks")
@pytest.mark.parametrize("layer", ["3^3", "5^3"])
def test_isolated_voxels_see_the_centre_of_the_kernel_only(layer: str):
    corners = torch.tensor([[0, x, y, z] for x in (-90, 90) for y in (-90, 90) for z in (-90, 90)], device=DEVICE)
    features, weight = draw(8, 3), draw(int(layer[0]) ** 3, 3, 16, seed=2)
    output = run("triton", features, weight, make_map(layer, corners))[0]
    torch.testing.assert_close(output, features @ weight[len(weight) // 2])


@pytest.mark.parametrize(
    "config",
    [
        ConvolutionConfig(16, 16, 0, 16, 1, 4, 2),
        ConvolutionConfig(64, 16, 16, 16, 1, 4, 2),
        ConvolutionConfig(64, 32, 16, 32, 2, 4, 2),
        ConvolutionConfig(32, 64, 0, 32, 3, 4, 2),
        ConvolutionConfig(128, 32, 0, 64, 8, 4, 2),
        ConvolutionConfig(64, 128, 0, 32, 1, 4, 2),
    ],
    ids=str,
)
def test_any_blocks_give_the_same_sums(config: ConvolutionConfig):
    kernel_map = make_map("3^3", scatter_voxels(63))
    features, weight = draw(63, 40), draw(27, 40, 24, seed=2)
    expected = ReferenceBackend().convolve(features.double(), weight.double(), kernel_map)
    torch.testing.assert_close(convolve(features, weight, kernel_map, config).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "config", [WeightGradientConfig(16, 32, 16, 3, 4, 2), WeightGradientConfig(64, 16, 64, 1, 4, 2)]
)
def test_any_blocks_give_the_same_weight_gradient(config: WeightGradientConfig):
    kernel_map = make_map("3^3", scatter_voxels(63))
    features, gradient = draw(63, 20), draw(63, 24, seed=5)
    weight = torch.zeros(27, 20, 24, dtype=torch.float64, device=DEVICE, requires_grad=True)
    ReferenceBackend().convolve(features.double(), weight, kernel_map).backward(gradient.double())
    ours = weight_gradient(features, gradient, kernel_map, config)
    torch.testing.assert_close(ours.double(), weight.grad, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_voxels", [63, *LARGE])
def test_repeated_runs_are_bit_equal(num_voxels: int):
    coordinates = scatter_voxels(num_voxels)
    features, weight = draw(num_voxels, 16), draw(27, 16, 32, seed=2)
    first, second = (run("triton", features, weight, make_map("3^3", coordinates)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_only_the_wanted_gradients_are_computed():
    kernel_map = make_map("3^3", scatter_voxels(63))
    backend = resolve_backend("triton", DEVICE)
    features, weight = draw(63, 16), draw(27, 16, 16).requires_grad_()
    backend.convolve(features, weight, kernel_map).sum().backward()
    assert weight.grad is not None
    features = draw(63, 16).requires_grad_()
    backend.convolve(features, weight.detach(), kernel_map).sum().backward()
    assert features.grad is not None


@pytest.mark.parametrize(
    ("num_voxels", "kernel_size", "stride"), [(0, 3, 1), (1, 3, 1), (2, 5, 1), (63, 3, 4), (63, 5, 1), (130, 3, 1)]
)
def test_neighbours_are_those_that_plain_torch_finds(num_voxels: int, kernel_size: int, stride: int):
    _compare_neighbours(num_voxels, kernel_size, stride)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("num_voxels", [4_099, 100_003, 1_000_000])
def test_neighbours_of_large_sets_are_those_that_plain_torch_finds(num_voxels: int, kernel_size: int):
    _compare_neighbours(num_voxels, kernel_size, 4)


def _compare_neighbours(num_voxels: int, kernel_size: int, stride: int) -> None:
    coordinates = scatter_voxels(num_voxels)
    coordinates[:, 1:] *= stride
    keys = pack(coordinates).sort().values
    ours = build_submanifold_map(keys, kernel_size, stride)
    expected = kernel_maps.build_submanifold_map(keys, kernel_size, stride)
    assert torch.equal(ours.neighbours, expected.neighbours)
    assert ours.num_inputs == num_voxels


def test_a_voxel_at_the_end_of_the_range_meets_no_other_row_of_its_bit_fields():
    edge = (1 << 17) - 257
    ends = torch.tensor([[0, edge, edge, edge], [1, -edge, -edge, -edge], [1, edge, -edge, 0]], device=DEVICE)
    neighbours = build_submanifold_map(pack(ends).sort().values, 3, 1).neighbours
    assert (neighbours >= 0).sum(dim=1).nonzero().tolist() == [[13]]


@pytest.mark.parametrize("num_voxels", [0, 1, 63, 130, *LARGE])
def test_levels_are_those_that_plain_torch_finds(num_voxels: int):
    keys = pack(scatter_voxels(num_voxels)).sort().values
    with use_backend("reference"):
        cache = CoordinateCache(keys)
        expected = [(cache.keys(2 << level), cache._parents[1 << level]) for level in range(4)]
    for ours, (level_keys, parents) in zip(build_levels(keys, 1, 4), expected, strict=True):
        assert torch.equal(ours[0], level_keys)
        assert torch.equal(ours[1], parents)


def test_zero_levels_give_an_empty_list():
    assert build_levels(torch.arange(3, device=DEVICE), 1, 0) == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("num_voxels", [1, 130, *LARGE])
def test_tiles_hold_every_output_once_and_skip_only_what_none_of_them_has(num_voxels: int, layer: str):
    kernel_map, block = make_map(layer, scatter_voxels(num_voxels)), 32
    table = tiles.tile_table(kernel_map, block)
    rows = table.rows.flatten()
    assert torch.equal(
        rows[: kernel_map.num_outputs].sort().values.long(), torch.arange(kernel_map.num_outputs).to(rows.device)
    )
    assert (rows[kernel_map.num_outputs :] == -1).all()
    for tile in range(0, len(table.counts), max(1, len(table.counts) // 8)):
        real = table.rows[tile][table.rows[tile] >= 0].long()
        wanted = kernel_map.neighbours[:, real]
        active = (wanted >= 0).any(dim=1).nonzero().squeeze(1)
        count = int(table.counts[tile])
        assert table.offsets[tile, :count].tolist() == active.tolist()
        assert torch.equal(table.neighbours[tile, :count, : len(real)], wanted[active])
        assert (table.neighbours[tile, :count, len(real) :] == -1).all()


def test_ordering_by_mask_lets_tiles_skip_offsets():
    box = [[0, x, y, z] for x in range(12) for y in range(12) for z in range(12) if {x, y, z} & {0, 11}]
    table = make_map("3^3", torch.tensor(box, device=DEVICE)).neighbours
    in_order = tiles.order_by_mask(table)
    assert _steps(table[:, in_order]) < 0.75 * _steps(table)  # measured: 0.66
    assert torch.equal(in_order, tiles.order_by_mask(table))


def _steps(neighbours: Tensor) -> int:
    """Offsets in use, summed over tiles of 16 outputs, without the last few."""
    whole = neighbours[:, : neighbours.shape[1] // 16 * 16]
    return int((whole >= 0).unflatten(1, (-1, 16)).any(dim=2).sum())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("num_voxels", [1, 130, *LARGE])
def test_pairs_are_listed_by_offset_in_the_order_of_the_outputs(num_voxels: int, layer: str):
    kernel_map = make_map(layer, scatter_voxels(num_voxels))
    lists = pair_lists(kernel_map)
    for offset in range(kernel_map.num_offsets):
        outputs = (kernel_map.neighbours[offset] >= 0).nonzero().squeeze(1)
        count = int(lists.counts[offset])
        assert count == len(outputs)
        assert torch.equal(lists.outputs[offset, :count].long(), outputs)
        assert torch.equal(lists.inputs[offset, :count], kernel_map.neighbours[offset, outputs])


@pytest.mark.parametrize("num_voxels", [63, *LARGE])
@pytest.mark.parametrize(("with_residual", "relu"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("split", [1, 4])
def test_a_fused_convolution_is_scaled_shifted_and_clipped(
    num_voxels: int, with_residual: bool, relu: bool, split: int
):
    kernel_map = make_map("3^3", scatter_voxels(num_voxels))
    features, weight = draw(num_voxels, 16), draw(27, 16, 24, seed=2)
    scale, shift = draw(24, seed=3), draw(24, seed=4)
    residual = draw(num_voxels, 24, seed=6) if with_residual else None
    expected = ReferenceBackend().convolve(features.double(), weight.double(), kernel_map) * scale + shift
    expected = expected if residual is None else expected + residual
    expected = expected.relu() if relu else expected
    config = ConvolutionConfig(32, 32, 0, 16, split, 4, 2)
    ours = convolve(features, weight, kernel_map, config, epilogue=Epilogue(scale, shift, residual, relu))
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-5)


def test_nan_is_not_clipped_by_the_relu():
    kernel_map = make_map("3^3", scatter_voxels(1))
    features, ones, zeros = draw(1, 16), torch.ones(16, device=DEVICE), torch.zeros(16, device=DEVICE)
    backend = triton_backend.TritonBackend()
    weight = torch.full((27, 16, 16), float("nan"), device=DEVICE)
    assert backend.convolve_fused(features, weight, kernel_map, scale=ones, shift=zeros, relu=True).isnan().all()


class Miniature(torch.nn.Module):
    """Down and up again, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SparseConvolution(3, 8, kernel_size=3)
        self.down = SparseConvolution(8, 16, kernel_size=2, stride=2)
        self.up = SparseConvolution(16, 8, kernel_size=2, stride=2, transposed=True)
        self.norms = torch.nn.ModuleList([SparseBatchNorm(8), SparseBatchNorm(16), SparseBatchNorm(8)])

    def forward(self, x: SparseTensor) -> SparseTensor:
        stem = convolve_and_normalize(self.stem, self.norms[0], x, relu=True)
        low = convolve_and_normalize(self.down, self.norms[1], stem, relu=True)
        return convolve_and_normalize(self.up, self.norms[2], low, residual=stem)


@pytest.fixture
def miniature() -> Miniature:
    torch.manual_seed(0)
    network = Miniature().to(DEVICE)
    for norm in network.norms:
        norm.bn.running_mean.uniform_(-1, 1)
        norm.bn.running_var.uniform_(0.5, 2)
    return network


def test_inference_takes_one_step_and_gives_what_training_mode_code_gives(miniature: Miniature):
    x = SparseTensor(draw(63, 3), scatter_voxels(63))
    miniature.eval()
    with use_backend("triton"):
        stepwise = miniature(x).features
        with torch.no_grad():
            fused = miniature(x).features
        with torch.inference_mode():
            again = miniature(x).features
    assert stepwise.requires_grad
    torch.testing.assert_close(fused, stepwise, atol=1e-5, rtol=1e-5)
    assert torch.equal(fused, again)


def test_folded_statistics_follow_the_parameters(miniature: Miniature):
    norm = miniature.norms[0]
    before = norm.fold()
    assert norm.fold()[0] is before[0]
    with torch.no_grad():
        norm.bn.weight.mul_(2)
    torch.testing.assert_close(norm.fold()[0], 2 * before[0])
    with torch.inference_mode():
        frozen = SparseBatchNorm(4)
        torch.testing.assert_close(frozen.fold()[1], torch.zeros(4))


SHAPED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")


class CountWaits(TorchDispatchMode):
    """Lists the operations for whose result a GPU would have to finish first: values decide on shapes or branches."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if by_mask or name in (*SHAPED_BY_VALUES, "_local_scalar_dense", "is_nonzero"):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def test_a_training_step_waits_for_the_device_once_to_size_the_levels(
    miniature: Miniature, monkeypatch: pytest.MonkeyPatch
):
    x = SparseTensor(draw(63, 3), scatter_voxels(63))
    lists: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: [lists.append(self.numel()), tolist(self)][1])
    with use_backend("triton"), CountWaits() as counted:
        miniature(x).features.sum().backward()
    assert lists == [4]  # the lengths of four levels
    assert counted.waits == []


def test_plain_torch_waits_more_often(miniature: Miniature):
    x = SparseTensor(draw(63, 3), scatter_voxels(63))
    with use_backend("torch"), CountWaits() as counted:
        miniature(x).features.sum().backward()
    assert len(counted.waits) > 10


@pytest.mark.gpu
def test_a_training_step_on_sized_levels_never_waits_for_the_device(miniature: Miniature):
    x = SparseTensor(draw(63, 3), scatter_voxels(63))
    with use_backend("triton"):
        x.cache.keys(2)
        miniature(x.replace(x.features)).features.sum().backward()  # compiles
        fresh = SparseTensor(draw(63, 3), scatter_voxels(63))
        fresh.cache.keys(2)
        torch.cuda.synchronize()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns that the mode is a prototype
                torch.cuda.set_sync_debug_mode("error")
            miniature(fresh).features.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("coordinates", "features", "message"),
    [
        ([[0.0, 1.0, 2.0, 3.0]], [[1.0]], "integer coordinates"),
        ([[0, 1 << 18, 0, 0]], [[1.0]], "voxel coordinates within"),
        ([[-1, 0, 0, 0]], [[1.0]], "batch indices"),
        ([[0, 0, 0, 0]], [[float("nan")]], "finite features"),
        ([[0, 0, 0, 0]], [[1.0], [2.0]], "one row of features per voxel"),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], [[1.0], [2.0]], "distinct voxels"),
    ],
)
def test_bad_voxels_are_refused_before_a_kernel_starts(coordinates: Any, features: Any, message: str):
    with use_backend("triton"), pytest.raises(ShapeError, match=message):
        SparseTensor(torch.tensor(features, device=DEVICE), torch.tensor(coordinates, device=DEVICE))


def test_float64_is_refused():
    x = SparseTensor(draw(10, 3, dtype=torch.float64), scatter_voxels(10))
    with use_backend("triton"), pytest.raises(ShapeError, match="float64: use --backend torch"):
        sparse_convolution(x, draw(27, 3, 4, dtype=torch.float64), kernel_size=3)


def test_a_scale_or_residual_that_does_not_fit_is_refused(miniature: Miniature):
    x = SparseTensor(draw(10, 3), scatter_voxels(10))
    miniature.eval()
    with use_backend("triton"), torch.no_grad():
        with pytest.raises(ShapeError, match="scale and a shift of 8 values, got 16 and 16"):
            convolve_and_normalize(miniature.stem, miniature.norms[1], x)
        with pytest.raises(ShapeError, match=r"residual of shape \(10, 8\), got \(10, 3\)"):
            convolve_and_normalize(miniature.stem, miniature.norms[0], x, residual=x)


def test_tensors_on_the_cpu_are_refused_without_the_interpreter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="--backend triton: expected a CUDA device"):
        triton_backend.TritonBackend()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernel_map = make_map("3^3", scatter_voxels(1).cpu())
    with pytest.raises(SettingsError, match="got tensors on cpu; use --backend auto"):
        triton_backend.TritonBackend().convolve(torch.zeros(1, 3), torch.zeros(27, 3, 4), kernel_map)


def test_without_triton_the_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    monkeypatch.setattr(backends, "_instances", {})
    with pytest.raises(MissingDependencyError, match="pip install triton"), use_backend("triton"):
        pass
    assert resolve_backend("auto", torch.device("cuda")).name == "torch"


def test_on_cuda_the_kernels_are_what_auto_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "multiplies_bfloat16", lambda _: True)
    assert resolve_backend("auto", torch.device("cuda")).name == "triton"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("num_outputs", [1, 340, 27_000, 800_000])
@pytest.mark.parametrize("channels", [(3, 32), (96, 96), (544, 512), (512, 200)], ids=str)
def test_shipped_blocks_fit_every_layer(channels: tuple[int, int], num_outputs: int, dtype: torch.dtype):
    layer = configs.Layer(num_outputs, 27, *channels, dtype)
    convolution, gradient = configs.default_convolution(layer), configs.default_weight_gradient(layer)
    assert convolution.block_rest in (0, 16, 32, 64, 128)
    for size in (*convolution._replace(block_rest=16)[:4], *gradient[:3]):
        assert size >= 16  # what tl.dot takes
        assert size & (size - 1) == 0
    assert 1 <= convolution.split <= 8
    assert gradient.split >= 1
