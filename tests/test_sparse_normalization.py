"""Fused batch normalisation, addition and ReLU against PyTorch's own, one by one."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lg3d_core.sparse import SparseBatchNorm, normalization, use_backend
from lg3d_core.sparse.native.build import find_compiler

CHANNELS = 5


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many pieces":
        monkeypatch.setattr(normalization, "PIECE_VALUES", 7 * CHANNELS)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_norm(dtype: torch.dtype = torch.float64) -> SparseBatchNorm:
    """Make a layer with weights and running statistics away from their starting values."""
    norm = SparseBatchNorm(CHANNELS, momentum=0.3).to(dtype)
    with torch.no_grad():
        norm.bn.weight.copy_(draw(CHANNELS, seed=1))
        norm.bn.bias.copy_(draw(CHANNELS, seed=2))
        norm.bn.running_mean.copy_(draw(CHANNELS, seed=3))
        norm.bn.running_var.copy_(draw(CHANNELS, seed=4).square() + 0.5)
    return norm


def one_by_one(norm: SparseBatchNorm, features: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """The definition: PyTorch's layer, an addition, and a ReLU."""
    output: Tensor = norm.bn(features)
    if residual is not None:
        output = output + residual
    return functional.relu(output) if relu else output


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_rows", [2, 63, 130])
def test_values_gradients_and_running_statistics_are_those_of_pytorch(
    num_rows: int, training: bool, has_residual: bool, relu: bool
):
    norms = [make_norm().train(training) for _ in range(2)]
    results = []
    for norm, fused in zip(norms, (True, False), strict=True):
        features = (draw(num_rows, CHANNELS, seed=5) * 3 + 1).requires_grad_()
        residual = draw(num_rows, CHANNELS, seed=6).requires_grad_() if has_residual else None
        if fused:
            output = norm.normalize(features, residual=residual, relu=relu)
        else:
            output = one_by_one(norm, features, residual, relu)
        output.backward(draw(num_rows, CHANNELS, seed=7))
        results.append(
            [
                *(output.detach(), features.grad, norm.bn.weight.grad, norm.bn.bias.grad),
                *(norm.bn.running_mean, norm.bn.running_var, norm.bn.num_batches_tracked),
                *([] if residual is None else [residual.grad]),
            ]
        )
    for ours, expected in zip(*results, strict=True):
        # Values below 100, sums of at most 130 of them: rounding of 1e-16 per step stays below 1e-11.
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_finite_differences(training: bool, relu: bool):
    norm = make_norm().train(training)
    norm.bn.momentum = 0.0  # so that every call sees the same running statistics

    def run(features: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        statistics = normalization.measure(features.detach())
        if not training:
            statistics = normalization.Statistics(norm.bn.running_mean, norm.bn.running_var)
        return normalization.normalize(
            features, statistics, weight, bias, eps=1e-5, statistics_are_own=training, residual=residual, relu=relu
        )

    inputs = [
        draw(16, CHANNELS, seed=8),
        norm.bn.weight.detach().clone(),
        norm.bn.bias.detach().clone(),
        draw(16, CHANNELS, seed=9),
    ]
    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in inputs])


def test_float32_statistics_hold_where_the_mean_is_far_larger_than_the_deviation():
    features = draw(20_000, CHANNELS, seed=10) + 1000
    ours = normalization.measure(features.float())
    # Measured: 1.8e-6 of the mean, rounding of 10,000 additions. E[x^2] - E[x]^2 would lose all digits of the variance.
    torch.testing.assert_close(ours.mean.double(), features.mean(dim=0), rtol=5e-6, atol=0)
    torch.testing.assert_close(ours.variance.double(), features.var(dim=0, unbiased=False), rtol=1e-3, atol=0)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_features_are_computed_in_float32_and_rounded_once(dtype: torch.dtype):
    features, residual, upstream = (draw(130, CHANNELS, seed=seed).to(dtype) for seed in (11, 12, 13))
    results = []
    for wide in (False, True):
        norm = make_norm(torch.float32)
        inputs = [value.float() if wide else value.clone() for value in (features, residual)]
        for value in inputs:
            value.requires_grad_()
        output = norm.normalize(inputs[0], residual=inputs[1], relu=True)
        assert output.dtype == inputs[0].dtype
        output.backward(upstream.to(output.dtype))
        results.append([output.detach(), *(value.grad for value in inputs), norm.bn.weight.grad, norm.bn.running_var])
    step = torch.finfo(dtype).eps
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours.float(), expected, rtol=2 * step, atol=step / 16)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("num_rows", "channels"), [(0, 5), (1, 16), (63, 5), (130, 33), (2000, 96)])
def test_rows_of_bfloat16_agree_with_float64_in_plain_pytorch_and_in_compiled_kernels(
    backend: str, relu: bool, has_residual: bool, training: bool, num_rows: int, channels: int
):
    if backend == "native" and find_compiler() is None:
        pytest.skip("no C compiler")
    features, residual, upstream = (draw(num_rows, channels, seed=seed).bfloat16() for seed in (31, 32, 33))
    results = []
    for wide in (False, True):
        norm = SparseBatchNorm(channels).train(training)
        with torch.no_grad():
            norm.bn.weight.copy_(draw(channels, seed=34))
            norm.bn.bias.copy_(draw(channels, seed=35))
        norm = norm.double() if wide else norm
        inputs = [(value.double() if wide else value.clone()).requires_grad_() for value in (features, residual)]
        with use_backend("torch" if wide else backend):
            output = norm.normalize(inputs[0], residual=inputs[1] if has_residual else None, relu=relu)
            # Where rounding moved a value across zero, the ReLU would let another gradient through.
            output.backward(upstream.to(output.dtype) * (output.abs() > 0.02))
        own = [output.detach(), inputs[0].grad, norm.bn.weight.grad, norm.bn.bias.grad, norm.bn.running_var]
        results.append([*own, inputs[1].grad] if has_residual else own)
    for ours, exact in zip(*results, strict=True):
        # One rounding to 8 bits is 2^-9 of a value; the rest is float32. A gradient is cut off at 0.02 of an output
        # that is rounded here and not there, so that single rows may differ: the norm over all is compared.
        difference = (ours.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30)
        assert exact.numel() == 0 or float(exact.double().norm()) == 0 or float(difference) < 2e-2


def test_nan_passes_through_rows_of_bfloat16_and_their_relu():
    norm = SparseBatchNorm(16).eval()
    features = torch.zeros(3, 16, dtype=torch.bfloat16)
    features[1, 2] = torch.nan
    output = norm.normalize(features, relu=True)
    assert output.isnan().nonzero().tolist() == [[1, 2]]


def test_bfloat16_results_are_bit_equal_for_all_numbers_of_threads():
    before = torch.get_num_threads()
    runs = []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            norm = SparseBatchNorm(96)
            features, residual, upstream = (
                draw(5000, 96, seed=seed, dtype=torch.float32).bfloat16().requires_grad_() for seed in (36, 37, 38)
            )
            output = norm.normalize(features, residual=residual, relu=True)
            output.backward(upstream)
            runs.append([output, features.grad, residual.grad, norm.bn.weight.grad, norm.bn.running_var])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


def test_under_autocast_the_output_has_the_dtype_of_pytorchs_layer():
    features = draw(40, CHANNELS, seed=14, dtype=torch.float32).bfloat16()
    norm = make_norm(torch.float32)
    twin = copy.deepcopy(norm)
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = norm.normalize(features), twin.bn(features)
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=2**-7)  # one rounding to 8 bits each
    torch.testing.assert_close(norm.bn.running_var, twin.bn.running_var)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("num_rows", [0, 1])
def test_rows_without_a_variance_take_the_running_statistics_and_leave_them_alone(num_rows: int):
    norm = make_norm().train()
    before = copy.deepcopy(norm.bn.state_dict())
    features = draw(num_rows, CHANNELS, seed=15).requires_grad_()
    output = norm.normalize(features, residual=features, relu=True)
    expected = one_by_one(copy.deepcopy(norm).eval(), features, features, True)
    torch.testing.assert_close(output, expected)
    (gradient,) = torch.autograd.grad(output.sum(), features)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), features)
    torch.testing.assert_close(gradient, expected_gradient)
    for name, value in norm.bn.state_dict().items():
        assert torch.equal(value, before[name])


def test_rows_that_are_part_of_wider_rows_are_normalised_alike():
    wide, upstream = draw(30, 2 * CHANNELS, seed=16), draw(30, 2 * CHANNELS, seed=17)[:, CHANNELS:]
    results = []
    for features in (wide[:, :CHANNELS], wide[:, :CHANNELS].contiguous()):
        leaf = features.detach().requires_grad_()
        output = make_norm().normalize(leaf, relu=True)
        results.append((output, *torch.autograd.grad(output, leaf, upstream)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)  # sums of 30 in another order


def test_results_are_bit_equal_for_all_numbers_of_threads():
    before = torch.get_num_threads()
    runs = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            norm = SparseBatchNorm(96)
            features = (draw(30_000, 96, seed=18, dtype=torch.float32) + 2).requires_grad_()
            residual = draw(30_000, 96, seed=19, dtype=torch.float32).requires_grad_()
            output = norm.normalize(features, residual=residual, relu=True)
            output.backward(draw(30_000, 96, seed=20, dtype=torch.float32))
            parts = (output, features.grad, residual.grad, norm.bn.weight.grad, norm.bn.bias.grad, norm.bn.running_var)
            runs.append(parts)
    finally:
        torch.set_num_threads(before)
    assert len(normalization._cut_rows(runs[0][0])) > 10
    for other in runs[1:]:
        assert all(torch.equal(ours, expected) for ours, expected in zip(other, runs[0], strict=True))


def test_only_the_wanted_gradients_are_computed():
    norm = make_norm()
    features = draw(9, CHANNELS, seed=21)
    norm.normalize(features, residual=draw(9, CHANNELS, seed=22)).sum().backward()
    assert features.grad is None
    assert norm.bn.weight.grad is not None


def test_an_average_over_all_batches_is_kept_when_there_is_no_momentum():
    norm = SparseBatchNorm(CHANNELS).double()
    norm.bn.momentum = None
    for mean in (1.0, 2.0, 6.0):
        norm.normalize(torch.tensor([[mean - 1.0] * CHANNELS, [mean + 1.0] * CHANNELS], dtype=torch.float64))
    assert norm.bn.running_mean.tolist() == pytest.approx([3.0] * CHANNELS)
    assert norm.bn.running_var.tolist() == pytest.approx([2.0] * CHANNELS)  # (1 + 1) / (2 - 1)


def test_a_residual_of_another_dtype_is_added_by_pytorch():
    norm, twin = make_norm(torch.float32), make_norm(torch.float32)
    features, residual = draw(9, CHANNELS, seed=23).bfloat16(), draw(9, CHANNELS, seed=24).float()
    assert torch.equal(
        norm.normalize(features, residual=residual, relu=True), one_by_one(twin, features, residual, True)
    )
    assert int(norm.bn.num_batches_tracked) == 1
