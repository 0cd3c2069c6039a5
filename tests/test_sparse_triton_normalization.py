"""Batch normalisation in Triton against PyTorch's in float64: interpreted, or compiled by `make test-gpu`."""

import os

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional

from lg3d_core.sparse import SparseBatchNorm, use_backend

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("kernels in Triton need their interpreter (TRITON_INTERPRET=1) or CUDA", allow_module_level=True)

from lg3d_core.sparse import modules
from lg3d_core.sparse.triton import normalization

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
LARGE = [pytest.param(size, marks=pytest.mark.gpu) for size in (4_099, 800_003)]


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on the CPU are left to the backend as well, and memory from `empty_like` and `new_empty` is poisoned."""
    monkeypatch.setattr("lg3d_core.sparse.parallel.runs_on_workers", lambda _: False)
    monkeypatch.setattr(normalization, "BLOCK_VALUES", normalization.BLOCK_VALUES if DEVICE.type == "cuda" else 512)
    for owner, name in ((Tensor, "new_empty"), (torch, "empty_like")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, make=make, **more: make(*given, **more).fill_(float("nan")))


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def make_norm(channels: int, *, wide: bool = False) -> SparseBatchNorm:
    norm = SparseBatchNorm(channels, momentum=0.3).to(DEVICE)
    with torch.no_grad():
        norm.bn.weight.copy_(draw(channels, seed=1))
        norm.bn.bias.copy_(draw(channels, seed=2))
        norm.bn.running_mean.copy_(draw(channels, seed=3))
        norm.bn.running_var.copy_(draw(channels, seed=4).square() + 0.5)
    return norm.double() if wide else norm


def differ(ours: Tensor, exact: Tensor) -> float:
    assert torch.isfinite(ours).all()
    return float((ours.double() - exact).norm() / exact.norm().clamp_min(1e-12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("has_residual", "relu"), [(False, False), (False, True), (True, True), (True, False)])
@pytest.mark.parametrize(("num_rows", "channels"), [(5, 16), (63, 96), (130, 160)])
def test_values_gradients_and_running_statistics_are_those_of_pytorch(
    num_rows: int, channels: int, has_residual: bool, relu: bool, dtype: torch.dtype
):
    _compare(num_rows, channels, has_residual=has_residual, relu=relu, dtype=dtype)


def test_more_parts_than_are_added_at_once_give_the_same_sums():
    rows = normalization.BLOCK_VALUES // 128
    num_rows = 4 * rows * (normalization.ADDED_PARTS + 7) + 1
    assert normalization._blocks(draw(num_rows, 128, seed=5)).parts == normalization.ADDED_PARTS + 8
    _compare(num_rows, 128, has_residual=True, relu=True, dtype=torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("num_rows", "channels"), [(4_099, 384), (800_003, 96)])
def test_many_rows_are_normalised_as_few(num_rows: int, channels: int, dtype: torch.dtype):
    _compare(num_rows, channels, has_residual=True, relu=True, dtype=dtype)


def _compare(num_rows: int, channels: int, *, has_residual: bool, relu: bool, dtype: torch.dtype) -> None:
    rows = draw(num_rows, channels, seed=5, dtype=dtype) * 3 + 1
    added, upstream = (draw(num_rows, channels, seed=seed, dtype=dtype) for seed in (6, 7))
    results = []
    for wide in (True, False):
        norm = make_norm(channels, wide=wide)
        kind = torch.float64 if wide else dtype
        features, residual = (value.to(kind).detach().requires_grad_() for value in (rows, added))
        if wide:
            output = norm.bn(features) + (residual if has_residual else 0)
            output = functional.relu(output) if relu else output
        else:
            with use_backend("triton"):
                output = norm.normalize(features, residual=residual if has_residual else None, relu=relu)
            assert output.grad_fn is not None
            assert output.grad_fn.name() == "_NormalizeBackward"
            assert output.dtype == dtype
        if wide:
            clear = output.detach().abs() > 0.05  # where rounding cannot move a value across zero, for both alike
        output.backward(upstream.to(output.dtype) * clear)
        found = [output.detach(), features.grad, norm.bn.weight.grad, norm.bn.bias.grad]
        found += [norm.bn.running_mean, norm.bn.running_var, norm.bn.num_batches_tracked.double()]
        results.append([*found, residual.grad] if has_residual else found)
    # float32 sums; halves round each row once, to 2^-9 or 2^-11, and the interpreter truncates bfloat16, to 2^-8.
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 1e-3}.get(dtype, 1e-5)
    for exact, ours in zip(*results, strict=True):
        assert differ(ours, exact) < tolerance


@pytest.mark.parametrize("num_rows", [0, 1])
def test_rows_without_a_variance_take_the_running_statistics_and_leave_them_alone(num_rows: int):
    norm, twin = make_norm(16), make_norm(16).eval()
    norm.group = None
    features = draw(num_rows, 16, seed=8).requires_grad_()
    with use_backend("triton"):
        output = norm.normalize(features, relu=True)
    torch.testing.assert_close(output, functional.relu(twin.bn(features.detach())))
    output.sum().backward()
    assert torch.equal(norm.bn.running_mean, twin.bn.running_mean)
    assert torch.equal(norm.bn.running_var, twin.bn.running_var)


@pytest.mark.parametrize("split", [(63, 67), (130, 0), (1, 0), (0, 0)], ids=str)
def test_two_processes_do_what_one_does_with_all_rows(split: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    """The exchange is imitated: each process runs until it needs the other's sums, which an earlier run recorded."""
    total = sum(split)
    rows, upstream = draw(total, 32, seed=9) + 2, draw(total, 32, seed=10)
    bounds = [slice(0, split[0]), slice(split[0], total)]
    sent: dict[tuple[int, int], Tensor] = {}
    results: list[list[Tensor]] = []
    for _round in range(3):  # sums of the backward pass depend on those of the forward pass
        results = []
        for rank, bound in enumerate(bounds):
            count = iter(range(2))

            def exchange(sums: Tensor, *, rank: int = rank, count: object = count, **_: object) -> None:
                assert sums.dtype == torch.float64
                step = next(count)  # type: ignore[call-overload]
                sent[rank, step] = sums.clone()
                sums += sent.get((1 - rank, step), torch.zeros_like(sums))

            monkeypatch.setattr(distributed, "all_reduce", exchange)
            norm = make_norm(32)
            norm.group = object()  # type: ignore[assignment]
            features = rows[bound].clone().requires_grad_()
            with use_backend("triton"):
                output = norm.normalize(features, relu=True)
            output.backward(upstream[bound])
            assert features.grad is not None
            results.append([output.detach(), features.grad, norm.bn.weight.grad, norm.bn.bias.grad])
            results[-1] += [norm.bn.running_mean, norm.bn.running_var, norm.bn.num_batches_tracked]
    whole = make_norm(32)
    features = rows.clone().requires_grad_()
    with use_backend("torch"):
        output = whole.normalize(features, relu=True)
    output.backward(upstream)
    for place, expected in enumerate((output.detach(), features.grad)):
        torch.testing.assert_close(torch.cat([one[place] for one in results]), expected, rtol=1e-4, atol=1e-5)
    for place, parameter in enumerate((whole.bn.weight, whole.bn.bias), start=2):
        torch.testing.assert_close(results[0][place] + results[1][place], parameter.grad, rtol=1e-4, atol=1e-4)
    for one in results:
        torch.testing.assert_close(one[4], whole.bn.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one[5], whole.bn.running_var, rtol=1e-5, atol=1e-6)
        assert int(one[6]) == int(whole.bn.num_batches_tracked)


def test_a_mean_of_ten_thousand_deviations_leaves_three_digits_of_the_variance():
    norm = make_norm(16)
    norm.bn.momentum = 1.0
    features = draw(200, 16, seed=11) + 10_000
    with use_backend("triton"):
        norm.normalize(features)
    # Measured: 2.9e-4, the rounding of means of 10,000. The mean of squares minus that of the mean would be all noise.
    torch.testing.assert_close(norm.bn.running_var.double(), features.double().var(dim=0), rtol=2e-3, atol=0)


def test_nan_passes_through_the_relu():
    norm = make_norm(16)
    features = draw(5, 16, seed=12)
    features[1, 2] = torch.nan
    with use_backend("triton"):
        assert norm.normalize(features, relu=True)[:, 2].isnan().all()


def test_without_a_momentum_or_in_other_dtypes_pytorch_normalises():
    norm = make_norm(16)
    norm.bn.momentum = None
    with use_backend("triton"):
        output = norm.normalize(draw(5, 16, seed=13))
    assert output.grad_fn is not None
    assert "_Normalize" not in output.grad_fn.name()
    assert not modules._fits(draw(5, 16, seed=13, dtype=torch.float64), norm.bn.weight, None)
