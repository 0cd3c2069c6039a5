"""Products of rows with one matrix against PyTorch's own."""

import pytest
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sparse import pointwise, pointwise_convolution


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 63, 130, 400])
def test_values_and_gradients_are_those_of_a_matrix_product(
    num_rows: int, has_bias: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pointwise, "PIECE_ROWS", 10)  # 400 rows: 31 pieces of 13, the last one shorter
    inputs = [draw(num_rows, 6, seed=1), draw(6, 4, seed=2), *([draw(1, 4, seed=3)] if has_bias else [])]
    ours = [value.clone().requires_grad_() for value in inputs]
    expected = [value.clone().requires_grad_() for value in inputs]
    output = pointwise_convolution(*ours)
    product = expected[0] @ expected[1] + (expected[2] if has_bias else 0)
    # Sums of at most 400 values below 100, in another order: 400 * 100 * 1e-16 stays below 1e-11.
    torch.testing.assert_close(output, product, rtol=1e-11, atol=1e-11)
    upstream = draw(num_rows, 4, seed=4)
    output.backward(upstream)
    product.backward(upstream)
    for value, twin in zip(ours, expected, strict=True):
        torch.testing.assert_close(value.grad, twin.grad, rtol=1e-11, atol=1e-11)


def test_gradients_equal_finite_differences():
    inputs = [draw(9, 3, seed=5), draw(3, 4, seed=6), draw(4, seed=7)]
    assert torch.autograd.gradcheck(pointwise_convolution, [value.requires_grad_() for value in inputs])


def test_only_the_wanted_gradients_are_computed():
    weight = draw(3, 4, seed=8).requires_grad_()
    features, bias = draw(9, 3, seed=9), draw(4, seed=10)
    pointwise_convolution(features, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=0)[:, None].expand(3, 4))
    assert features.grad is None
    assert bias.grad is None


def test_results_are_bit_equal_for_all_numbers_of_threads():
    before = torch.get_num_threads()
    runs = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            inputs = [
                draw(*shape, seed=seed, dtype=torch.float32).requires_grad_()
                for seed, shape in enumerate([(5000, 96), (96, 200), (200,)])
            ]
            output = pointwise_convolution(*inputs)
            output.square().sum().backward()
            runs.append([output, *(value.grad for value in inputs)])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(ours, expected) for ours, expected in zip(other, runs[0], strict=True))


def test_under_autocast_products_are_narrow_and_the_bias_keeps_its_dtype():
    inputs = [draw(40, 8, seed=11).float(), draw(8, 4, seed=12).float(), draw(4, seed=13).float()]
    for value in inputs:
        value.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        plain = pointwise_convolution(inputs[0], inputs[1])
        output = pointwise_convolution(*inputs)
    assert (plain.dtype, output.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output, plain.float() + inputs[2])
    output.backward(torch.ones_like(output))
    assert [value.grad.dtype for value in inputs if value.grad is not None] == [torch.float32] * 3
    torch.testing.assert_close(inputs[2].grad, torch.full((4,), 40.0))
    expected = inputs[0].detach().sum(dim=0)[:, None].expand(8, 4)
    # Each of 40 values is rounded to 8 bits: off by at most 3 * 2^-9 = 0.006, 40 of them by far less than 0.1.
    torch.testing.assert_close(inputs[1].grad, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(9, 3), (4, 5)], r"got \(9, 3\) and \(4, 5\)"),
        ([(3,), (3, 5)], r"got \(3,\) and \(3, 5\)"),
        ([(9, 3), (3, 5), (4,)], "bias of 5 values"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]], message: str):
    with pytest.raises(ShapeError, match=message):
        pointwise_convolution(*(torch.zeros(shape) for shape in shapes))
