"""Sparse convolutions of every backend against dense convolutions, finite differences and the reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lg3d_core.errors import ShapeError
from lg3d_core.sparse import (
    BACKENDS,
    SparseConvolution,
    SparseTensor,
    parallel,
    resolve_backend,
    sparse_convolution,
    torch_backend,
    use_backend,
)
from tests.backend_choice import require_backend

# kernel size, stride, transposed
LAYERS = {"3^3": (3, 1, False), "5^3": (5, 1, False), "2^3 down": (2, 2, False), "2^3 up": (2, 2, True)}


# The kernels in Triton have the contract tests of their own: they want CUDA or their interpreter, and no float64.
@pytest.fixture(params=sorted(set(BACKENDS) - {"triton"}))
def backend(request: pytest.FixtureRequest) -> str:
    require_backend(request.param)
    return str(request.param)


def scatter_voxels(num_voxels: int, *, extent: int = 8, batches: int = 2, seed: int = 0) -> Tensor:
    """Draw distinct voxels in shuffled order, in a cube around the origin."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batches * extent**3, generator=generator)[:num_voxels]
    columns = [cells // extent**3, *(cells // extent**axis % extent - extent // 2 for axis in (2, 1, 0))]
    return torch.stack(columns, dim=1).to(torch.int32)


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_kernel(weight: Tensor, size: int) -> Tensor:
    """Turn offsets with the first axis fastest into the layout (out, in, x, y, z) of a dense convolution."""
    return weight.view(size, size, size, *weight.shape[1:]).permute(4, 3, 2, 1, 0)


def densify(x: Tensor, coordinates: Tensor, extent: int, batches: int, stride: int = 1) -> Tensor:
    """Write rows into a grid (batch, channels, x, y, z) whose corner is at -extent/2."""
    cells = coordinates.long().clone()
    cells[:, 1:] = (cells[:, 1:] + extent // 2) // stride
    size = extent // stride
    dense = x.new_zeros(batches, size, size, size, x.shape[1])
    dense = dense.index_put(tuple(cells.unbind(1)), x)
    return dense.permute(0, 4, 1, 2, 3)


def read_dense(dense: Tensor, coordinates: Tensor, extent: int, stride: int = 1) -> Tensor:
    cells = coordinates.long().clone()
    cells[:, 1:] = (cells[:, 1:] + extent // 2) // stride
    return dense.permute(0, 2, 3, 4, 1)[tuple(cells.unbind(1))]


def assert_values_and_gradients_agree(ours: Tensor, theirs: Tensor, leaves: list[Tensor], atol: float = 1e-12) -> None:
    """Compare two results, and the gradients of one and the same random weighting of their entries."""
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)
    weighting = draw(*ours.shape, seed=9, dtype=ours.dtype)
    gradients = torch.autograd.grad((ours * weighting).sum(), leaves)
    expected = torch.autograd.grad((theirs * weighting).sum(), leaves)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=10 * atol, rtol=0)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("num_voxels", [1, 63, 130, 700])
def test_submanifold_convolution_equals_a_dense_one_on_the_occupied_voxels(backend: str, num_voxels: int, size: int):
    coordinates = scatter_voxels(num_voxels)
    features, weight = draw(num_voxels, 3).requires_grad_(), draw(size**3, 3, 5).requires_grad_()
    with use_backend(backend):
        x = SparseTensor(features, coordinates)
        ours = x.restore(sparse_convolution(x, weight, kernel_size=size).features)
        dense = functional.conv3d(densify(features, coordinates, 8, 2), dense_kernel(weight, size), padding=size // 2)
        assert_values_and_gradients_agree(ours, read_dense(dense, coordinates, 8), [features, weight])


@pytest.mark.parametrize("num_voxels", [1, 63, 130, 700])
def test_strided_convolution_equals_a_dense_one_of_stride_two(backend: str, num_voxels: int):
    coordinates = scatter_voxels(num_voxels)
    features, weight = draw(num_voxels, 3).requires_grad_(), draw(8, 3, 5).requires_grad_()
    with use_backend(backend):
        x = SparseTensor(features, coordinates)
        ours = sparse_convolution(x, weight, kernel_size=2, stride=2)
        dense = functional.conv3d(densify(features, coordinates, 8, 2), dense_kernel(weight, 2), stride=2)
        assert ours.stride == 2
        assert (ours.coordinates[:, 1:] % 2 == 0).all()
        assert_values_and_gradients_agree(
            ours.features, read_dense(dense, ours.coordinates, 8, stride=2), [features, weight]
        )


@pytest.mark.parametrize("num_voxels", [1, 63, 130, 700])
def test_transposed_convolution_equals_a_dense_one_read_at_the_finer_voxels(backend: str, num_voxels: int):
    coordinates = scatter_voxels(num_voxels)
    with use_backend(backend):
        x = SparseTensor(draw(num_voxels, 1), coordinates)
        coarse = sparse_convolution(x, draw(8, 1, 1), kernel_size=2, stride=2)
        features = draw(len(coarse.features), 4).requires_grad_()
        weight = draw(8, 4, 3).requires_grad_()
        up = sparse_convolution(coarse.replace(features), weight, kernel_size=2, stride=2, transposed=True)
        grid = densify(features, coarse.coordinates, 8, 2, stride=2)
        dense_weight = dense_kernel(weight, 2).transpose(0, 1)  # a dense transposed convolution wants (in, out, ...)
        dense = functional.conv_transpose3d(grid, dense_weight, stride=2)
        assert up.stride == 1
        assert_values_and_gradients_agree(up.features, read_dense(dense, x.coordinates, 8), [features, weight])


def test_pointwise_convolution_is_a_matrix_product_plus_bias(backend: str):
    features, weight, bias = draw(10, 3), draw(3, 7), draw(1, 7)
    with use_backend(backend):
        x = SparseTensor(features, scatter_voxels(10))
        ours = x.restore(sparse_convolution(x, weight, kernel_size=1, bias=bias).features)
        plain = x.restore(sparse_convolution(x, weight, kernel_size=1).features)
    torch.testing.assert_close(ours, features @ weight + bias)
    torch.testing.assert_close(plain, features @ weight)


def test_bias_is_added_to_every_voxel(backend: str):
    with use_backend(backend):
        x = SparseTensor(draw(63, 3), scatter_voxels(63))
        weight, bias = draw(27, 3, 4), draw(4)
        with_bias = sparse_convolution(x, weight, kernel_size=3, bias=bias).features
        without = sparse_convolution(x, weight, kernel_size=3).features
    torch.testing.assert_close(with_bias, without + bias)


def test_a_convolution_of_ones_with_ones_counts_the_neighbours(backend: str):
    line = torch.tensor([[0, 0, 0, z] for z in (-1, 0, 1, 5)], dtype=torch.int32)  # three in a row, one far away
    with use_backend(backend):
        x = SparseTensor(torch.ones(4, 1), line)
        counts = x.restore(sparse_convolution(x, torch.ones(27, 1, 1), kernel_size=3).features)
    assert counts.squeeze(1).tolist() == [2, 3, 2, 1]


def test_offsets_are_numbered_with_the_first_axis_fastest(backend: str):
    pair = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)  # neighbours along x
    weight = torch.arange(27.0).view(27, 1, 1)
    with use_backend(backend):
        x = SparseTensor(torch.tensor([[1.0], [100.0]]), pair)
        output = x.restore(sparse_convolution(x, weight, kernel_size=3).features)
    # The centre is 13; from the first voxel the second lies at x + 1, offset 14; backwards it is 12.
    assert output.squeeze(1).tolist() == [13 * 1 + 14 * 100, 12 * 1 + 13 * 100]


def test_voxels_of_different_scenes_never_meet(backend: str):
    stacked = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.int32)
    with use_backend(backend):
        x = SparseTensor(torch.ones(3, 1), stacked)
        counts = sparse_convolution(x, torch.ones(27, 1, 1), kernel_size=3).features
        parents = sparse_convolution(x, torch.ones(8, 1, 1), kernel_size=2, stride=2)
    assert counts.squeeze(1).tolist() == [1, 2, 2]
    assert parents.features.squeeze(1).tolist() == [1, 2]


def test_negative_coordinates_round_down_to_their_parent(backend: str):
    pair = torch.tensor([[0, -1, -1, -1], [0, -2, -2, -2], [0, 0, 0, 0]], dtype=torch.int32)
    with use_backend(backend):
        x = SparseTensor(torch.ones(3, 1), pair)
        down = sparse_convolution(x, torch.ones(8, 1, 1), kernel_size=2, stride=2)
    assert down.coordinates.tolist() == [[0, -2, -2, -2], [0, 0, 0, 0]]
    assert down.features.squeeze(1).tolist() == [2, 1]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_equal_finite_differences(backend: str, layer: tuple[int, int, bool]):
    size, stride, transposed = layer
    coordinates = scatter_voxels(9, extent=4)
    x = SparseTensor(draw(9, 1), coordinates)
    x.cache.keys(2)
    start = x.replace(x.features, stride=2 if transposed else 1)
    features = draw(x.cache.num_voxels(start.stride), 2).requires_grad_()
    weight = draw(size**3, 2, 2).requires_grad_()

    def convolve(features: Tensor, weight: Tensor) -> Tensor:
        return sparse_convolution(
            start.replace(features), weight, kernel_size=size, stride=stride, transposed=transposed
        ).features

    with use_backend(backend):
        assert torch.autograd.gradcheck(convolve, (features, weight))


def run_layer(
    backend: str, layer: tuple[int, int, bool], features: Tensor, coordinates: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the output and both gradients of a layer."""
    size, stride, transposed = layer
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()
    with use_backend(backend):
        x = SparseTensor(torch.zeros(len(coordinates), 1), coordinates)
        x.cache.keys(2)
        x = x.replace(features[: x.cache.num_voxels(2)], stride=2) if transposed else x.replace(features)
        output = sparse_convolution(x, weight, kernel_size=size, stride=stride, transposed=transposed).features
        (output * draw(*output.shape, seed=5, dtype=output.dtype)).sum().backward()
    assert features.grad is not None
    assert weight.grad is not None
    return output.detach(), features.grad, weight.grad


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("num_voxels", [0, 1, 63, 130, 1024])
@pytest.mark.parametrize("channels", [(3, 32), (32, 96), (96, 96)])
def test_torch_backend_equals_the_reference(
    monkeypatch: pytest.MonkeyPatch, layer: tuple[int, int, bool], num_voxels: int, channels: tuple[int, int]
):
    monkeypatch.setattr(torch_backend, "CHUNK_ROWS", 100)  # so that odd chunks, and several of them, occur
    monkeypatch.setattr(torch_backend, "MIN_SHARED_WORK", 0)
    features = draw(num_voxels, channels[0], dtype=torch.float32)
    weight = draw(layer[0] ** 3, *channels, dtype=torch.float32) / math.sqrt(channels[0])
    arguments = (layer, features, scatter_voxels(num_voxels), weight)
    for ours, expected in zip(run_layer("torch", *arguments), run_layer("reference", *arguments), strict=True):
        assert ours.shape == expected.shape
        # Measured: 4e-6 at most, from another order of additions in fp32 over 130 voxels and more.
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_torch_backend_equals_the_reference_in_bfloat16_within_its_precision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_backend, "MIN_SHARED_WORK", 0)
    coordinates = scatter_voxels(700)
    features, weight = draw(700, 32, dtype=torch.float32), draw(27, 32, 64, dtype=torch.float32)
    exact = run_layer("reference", LAYERS["3^3"], features, coordinates, weight)
    rounded = run_layer("torch", LAYERS["3^3"], features.bfloat16(), coordinates, weight.bfloat16())
    for ours, expected in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        error = ((ours.float() - expected).norm() / expected.norm()).item()
        assert error < 1.2e-2  # bfloat16 keeps 8 bits: 2^-8 = 3.9e-3 per rounding, and three roundings meet


def test_a_gpu_gets_a_few_large_chunks_with_the_same_results(monkeypatch: pytest.MonkeyPatch):
    coordinates = scatter_voxels(3000, extent=16)
    features, weight = draw(3000, 8), draw(27, 8, 8)
    expected = run_layer("torch", LAYERS["3^3"], features, coordinates, weight)
    rows: list[int] = []
    plan_chunks = torch_backend.plan_chunks

    def plan(kernel_map: Any, size: int, **choices: Any) -> Any:
        rows.append(size)
        return plan_chunks(kernel_map, size, **choices)

    monkeypatch.setattr(torch_backend, "plan_chunks", plan)
    for size in (None, 1000):  # one chunk of all voxels, and three
        monkeypatch.setattr(parallel, "runs_on_workers", lambda _: False)
        if size is not None:
            monkeypatch.setattr(torch_backend, "CHUNK_ROWS_GPU", size)
        ours = run_layer("torch", LAYERS["3^3"], features, coordinates, weight)
        for value, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)
    assert rows == [1 << 15, 1000]


@pytest.mark.parametrize("size", [3, 5])
def test_isolated_voxels_see_the_centre_of_the_kernel_only(backend: str, size: int):
    corners = torch.tensor([[0, x, y, z] for x in (-90, 90) for y in (-90, 90) for z in (-90, 90)], dtype=torch.int32)
    features, weight = draw(8, 3), draw(size**3, 3, 4)
    with use_backend(backend):
        x = SparseTensor(features, corners)
        output = x.restore(sparse_convolution(x, weight, kernel_size=size).features)
    torch.testing.assert_close(output, features @ weight[size**3 // 2])


def test_only_the_wanted_gradients_are_computed():
    x = SparseTensor(draw(63, 3), scatter_voxels(63))
    weight = draw(27, 3, 4).requires_grad_()
    sparse_convolution(x, weight, kernel_size=3).features.sum().backward()
    assert weight.grad is not None
    assert x.features.grad is None
    features = draw(63, 3).requires_grad_()
    sparse_convolution(x.replace(features), weight.detach(), kernel_size=3).features.sum().backward()
    assert features.grad is not None


def test_a_second_derivative_raises_instead_of_being_zero():
    features, weight = draw(63, 3).requires_grad_(), draw(27, 3, 4).requires_grad_()
    with use_backend("torch"):
        output = sparse_convolution(SparseTensor(features, scatter_voxels(63)), weight, kernel_size=3).features
        (gradient,) = torch.autograd.grad(output.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_results_are_bit_equal_between_runs_and_numbers_of_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_backend, "CHUNK_ROWS", 100)
    monkeypatch.setattr(torch_backend, "MIN_SHARED_WORK", 0)
    features, weight = draw(1000, 16, dtype=torch.float32), draw(27, 16, 24, dtype=torch.float32)
    coordinates = scatter_voxels(1000)
    before = torch.get_num_threads()
    try:
        runs = []
        for num_threads in (1, 2, 3, 2):
            torch.set_num_threads(num_threads)
            runs.append(run_layer("torch", LAYERS["3^3"], features, coordinates, weight))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for again, first in zip(run, runs[0], strict=True):
            assert torch.equal(again, first)


def test_layers_on_the_same_voxels_share_one_kernel_map(backend: str):
    with use_backend(backend):
        x = SparseTensor(draw(63, 3), scatter_voxels(63))
        first = sparse_convolution(x, draw(27, 3, 3), kernel_size=3)
        kernel_map = x.cache.submanifold_map(1, 3)
        second = sparse_convolution(first, draw(27, 3, 3), kernel_size=3)
    assert second.cache is x.cache
    assert second.cache.submanifold_map(1, 3) is kernel_map


@pytest.mark.parametrize(
    ("weight", "choices", "message"),
    [
        ((27, 4, 5), {"kernel_size": 3}, r"weight of shape \(27, 3, out\)"),
        ((8, 3, 5), {"kernel_size": 3}, r"weight of shape \(27, 3, out\)"),
        ((3, 5), {"kernel_size": 3}, r"weight of shape \(27, 3, out\)"),
        ((1, 3, 5), {"kernel_size": 1}, r"weight of shape \(3, out\)"),
        ((27, 3, 5), {"kernel_size": 3, "stride": 2}, "kernel size 3 with stride 2"),
        ((64, 3, 5), {"kernel_size": 4}, "kernel size 4 with stride 1"),
        ((8, 3, 5), {"kernel_size": 2, "stride": 2, "transposed": True}, "finer level"),
        ((27, 3, 5), {"kernel_size": 3, "transposed": True}, "transposed"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(weight: tuple[int, ...], choices: dict[str, int], message: str):
    x = SparseTensor(draw(10, 3), scatter_voxels(10))
    with pytest.raises(ShapeError, match=message):
        sparse_convolution(x, draw(*weight), **choices)


def test_a_bias_or_a_dtype_that_does_not_fit_is_refused():
    x = SparseTensor(draw(10, 3), scatter_voxels(10))
    with pytest.raises(ShapeError, match="bias of 5 values"):
        sparse_convolution(x, draw(27, 3, 5), kernel_size=3, bias=draw(4))
    with pytest.raises(ShapeError, match="one dtype"):
        sparse_convolution(x, draw(27, 3, 5).float(), kernel_size=3)


def test_autocast_computes_in_its_own_dtype(backend: str):
    x = SparseTensor(draw(63, 3, dtype=torch.float32), scatter_voxels(63))
    with use_backend(backend), torch.autocast("cpu", torch.bfloat16):
        output = sparse_convolution(x, draw(27, 3, 8, dtype=torch.float32), kernel_size=3)
    assert output.features.dtype == torch.bfloat16


def test_a_backend_is_chosen_by_name():
    device = torch.device("cpu")
    assert resolve_backend("auto", device).name in ("native", "torch")  # native where there is a C compiler
    assert resolve_backend("torch", device).name == "torch"
    assert resolve_backend("reference", device).name == "reference"


def test_the_module_holds_weights_in_the_released_layout():
    assert SparseConvolution(3, 32, kernel_size=3).kernel.shape == (27, 3, 32)
    assert SparseConvolution(32, 32, kernel_size=2, stride=2).kernel.shape == (8, 32, 32)
    head = SparseConvolution(96, 200, kernel_size=1, bias=True)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "kernel": (96, 200),
        "bias": (1, 200),
    }
    assert "kernel_size=1" in repr(head)


def test_module_weights_are_uniform_within_the_inverse_root_of_the_inputs_of_an_output():
    torch.manual_seed(0)
    layer = SparseConvolution(64, 96, kernel_size=3)
    bound = 1 / math.sqrt(27 * 64)
    assert layer.kernel.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert layer.kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
