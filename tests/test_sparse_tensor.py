"""Coordinates, kernel maps, the cache, and what a sparse tensor refuses."""

import itertools

import pytest
import torch
from torch import Tensor

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.sparse import SparseTensor, use_backend
from lg3d_core.sparse.cache import CoordinateCache
from lg3d_core.sparse.coordinates import MAX_BATCH, MAX_COORDINATE, coarsen, fine_offset, pack, unpack


def rows(*values: tuple[int, int, int, int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).view(-1, 4)


def test_packing_keeps_every_row_and_the_lexicographic_order():
    extremes = list(itertools.product((0, 1, 7, 8, 200, MAX_BATCH), *[(-MAX_COORDINATE, -1, 0, MAX_COORDINATE)] * 3))
    coordinates = rows(*extremes)
    keys = pack(coordinates)
    assert torch.equal(unpack(keys), coordinates)
    assert keys.min() >= 0
    assert [extremes[i] for i in keys.argsort().tolist()] == sorted(extremes)


@pytest.mark.parametrize("stride", [2, 4, 16])
def test_coarsening_rounds_towards_minus_infinity(stride: int):
    coordinates = rows(*((3, x, x + 1, -x) for x in range(-40, 40)))
    expected = coordinates.clone()
    expected[:, 1:] = torch.div(coordinates[:, 1:], stride, rounding_mode="floor") * stride
    assert torch.equal(unpack(coarsen(pack(coordinates), stride)), expected)


def test_places_inside_a_parent_count_the_first_axis_fastest():
    cells = rows(*((0, 4 + 2 * x, -4 + 2 * y, 2 * z) for z in (0, 1) for y in (0, 1) for x in (0, 1)))
    assert fine_offset(pack(cells), 2).tolist() == list(range(8))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_maps_equal_a_search_by_dictionary(kernel_size: int, stride: int):
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-4, 5, (300, 4), generator=generator) * stride
    cells[:, 0] = cells[:, 0] % 2
    keys = torch.unique(pack(cells))
    cache = CoordinateCache(keys)
    cache._keys[stride] = keys
    table = cache.submanifold_map(stride, kernel_size).neighbours
    found = [tuple(row) for row in unpack(keys).tolist()]
    row_of = {row: index for index, row in enumerate(found)}
    steps = [stride * step for step in range(-(kernel_size // 2), kernel_size // 2 + 1)]
    for offset, (dz, dy, dx) in enumerate(itertools.product(steps, repeat=3)):
        expected = [row_of.get((b, x + dx, y + dy, z + dz), -1) for b, x, y, z in found]
        assert table[offset].tolist() == expected


def test_a_submanifold_map_reversed_is_the_map_with_its_offsets_backwards():
    generator = torch.Generator().manual_seed(0)
    cells = torch.unique(torch.randint(0, 5, (60, 4), generator=generator), dim=0)
    table = CoordinateCache(pack(cells)).submanifold_map(1, 3).reversed().neighbours
    for offset in range(27):
        forward = CoordinateCache(pack(cells)).submanifold_map(1, 3).neighbours[offset]
        for output, source in enumerate(forward.tolist()):
            assert source < 0 or table[offset, source] == output


def test_the_output_is_returned_in_the_order_of_the_input():
    shuffled = rows((1, 0, 0, 0), (0, 5, 0, 0), (0, -3, 2, 1))
    x = SparseTensor(torch.tensor([[1.0], [2.0], [3.0]]), shuffled)
    assert x.features.squeeze(1).tolist() == [3, 2, 1]
    assert torch.equal(x.coordinates, rows((0, -3, 2, 1), (0, 5, 0, 0), (1, 0, 0, 0)))
    assert torch.equal(x.restore(x.coordinates), shuffled)
    assert x.restore(x.features).squeeze(1).tolist() == [1, 2, 3]


def test_sorting_passes_gradients_back_to_the_input():
    features = torch.tensor([[1.0], [2.0]], requires_grad=True)
    x = SparseTensor(features, rows((1, 0, 0, 0), (0, 0, 0, 0)))
    (x.restore(x.features) * torch.tensor([[10.0], [20.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.squeeze(1).tolist() == [10, 20]


def test_an_empty_tensor_has_levels_too():
    x = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32))
    assert x.cache.num_voxels(8) == 0
    assert x.restore(x.features).shape == (0, 3)
    assert repr(x) == "SparseTensor(0x3, torch.float32, stride 1, cpu)"


GOOD = rows((0, 0, 0, 0), (0, 0, 0, 1))


@pytest.mark.parametrize(
    ("features", "coordinates", "message"),
    [
        (torch.zeros(2, 3), GOOD.float(), "integer coordinates, got torch.float32"),
        (torch.zeros(2, 3), GOOD[:, :3], r"\(voxels, 4\).*got \(2, 3\)"),
        (torch.zeros(3, 3), GOOD, "3 rows for 2 voxels"),
        (torch.zeros(2), GOOD, "features of shape"),
        (torch.zeros(2, 3, dtype=torch.int64), GOOD, "floating point features"),
        (torch.tensor([[0.0], [float("nan")]]), GOOD, "finite features, got NaN"),
        (torch.tensor([[0.0], [float("inf")]]), GOOD, "finite features, got NaN or infinity"),
        (torch.zeros(2, 3), GOOD.index_fill(0, torch.tensor([1]), 0), "got 1 twice among 2"),
        (torch.zeros(1, 3), rows((0, MAX_COORDINATE + 1, 0, 0)), "within"),
        (torch.zeros(1, 3), rows((0, 0, 0, -MAX_COORDINATE - 1)), "within"),
        (
            torch.zeros(1, 3),
            rows((MAX_BATCH + 1, 0, 0, 0)),
            r"in 0\.\.510, got 511\.\.511: compute fewer scenes at once",
        ),
        (torch.zeros(1, 3), rows((-1, 0, 0, 0)), r"batch indices in 0\.\.510, got -1\.\.-1\.$"),
        (torch.zeros(2, 3, device="meta"), GOOD, "one device"),
    ],
)
def test_invalid_sparse_tensors_are_rejected_in_one_line(features: Tensor, coordinates: Tensor, message: str):
    with pytest.raises(ShapeError, match=message) as refusal:
        SparseTensor(features, coordinates)
    assert "\n" not in str(refusal.value)


def test_rows_of_another_level_are_not_restored():
    x = SparseTensor(torch.zeros(2, 3), GOOD)
    with pytest.raises(ShapeError, match="Expected 2 rows"):
        x.restore(torch.zeros(1, 3))


def test_an_unknown_backend_is_named_with_the_known_ones():
    with (
        pytest.raises(SettingsError, match=r"--backend: expected auto or one of .*reference, torch"),
        use_backend("abacus"),
    ):
        pass


def test_a_backend_holds_inside_its_block_only():
    from lg3d_core.sparse import current_backend

    device = torch.device("cpu")
    with use_backend("reference"):
        assert current_backend(device).name == "reference"
        with use_backend("torch"):
            assert current_backend(device).name == "torch"
        assert current_backend(device).name == "reference"
    assert current_backend(device).name in ("native", "torch")  # native where there is a C compiler


def test_the_gradient_of_restored_rows_returns_to_the_rows_that_they_came_from() -> None:
    coordinates = torch.tensor([[0, 3, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [0, 0, 5, 0]], dtype=torch.int32)
    x = SparseTensor(torch.zeros(4, 1), coordinates)
    stored = torch.arange(8.0).reshape(4, 2).requires_grad_()
    restored = x.restore(stored)
    upstream = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    (gradient,) = torch.autograd.grad(restored, stored, upstream)
    order = [(x.coordinates == row).all(dim=1).nonzero().item() for row in coordinates]  # stored row of each input row
    assert torch.equal(restored, stored.detach()[order])
    expected = torch.zeros(4, 2)
    expected[order] = upstream
    assert torch.equal(gradient, expected)
