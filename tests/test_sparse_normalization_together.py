"""Batch normalisation over the rows of several processes, against one process that has all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from lg3d_core.sparse import SparseBatchNorm, parallel, share_statistics, use_backend
from tests import ranks

CHANNELS = 16
SPLITS = [(5, 3), (0, 7), (1, 2), (4, 0, 9), (0, 0, 2), (0, 1, 0), (0, 0, 0)]


def make_norm(channels: int = CHANNELS, momentum: float | None = 0.3) -> SparseBatchNorm:
    norm = SparseBatchNorm(channels)
    norm.bn.momentum = momentum
    with torch.no_grad():
        for seed, tensor in enumerate((norm.bn.weight, norm.bn.bias, norm.bn.running_mean)):
            tensor.copy_(torch.randn(channels, generator=torch.Generator().manual_seed(seed)))
        norm.bn.running_var.fill_(2)
    return norm


def draw(rows: int, seed: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(rows, CHANNELS, generator=torch.Generator().manual_seed(seed)) * 3 + 1).to(dtype)


def train(norm: SparseBatchNorm, rows: slice, total: int, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
    """Run two steps on some of the rows of a batch; the second uses statistics that the first one changed."""
    results: dict[str, Tensor] = {}
    for step in range(2):
        features, residual, upstream = (draw(total, 10 * step + seed, dtype)[rows] for seed in (1, 2, 3))
        features.requires_grad_()
        residual.requires_grad_()
        with use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = norm.normalize(features, residual=residual, relu=True)
        output.backward(upstream)
        assert features.grad is not None
        assert residual.grad is not None
        results |= {f"output {step}": output.detach(), f"features {step}": features.grad}
        results[f"residual {step}"] = residual.grad
    return results | {
        "weight": norm.bn.weight.grad,
        "bias": norm.bn.bias.grad,
        "running mean": norm.bn.running_mean,
        "running variance": norm.bn.running_var,
        "batches": norm.bn.num_batches_tracked,
    }


def run_rank(folder: Path, backend: str, momentum: float | None) -> None:
    """Train on one's own rows of every split, and save the results."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    group = distributed.group.WORLD
    sent: list[torch.dtype] = []
    for name in ("all_reduce", "all_gather"):
        setattr(distributed, name, _noting(getattr(distributed, name), sent))
    for split in SPLITS:
        if len(split) != size:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            norm = make_norm(momentum=momentum)
            share_statistics(norm, group)
            rows = slice(sum(split[:rank]), sum(split[: rank + 1]))
            sent.clear()
            found: dict[str, Any] = train(norm, rows, sum(split), dtype, backend)
            found["sent"] = list(map(str, sent))
            torch.save(found, folder / f"{split} {dtype} {rank}.pt")
    distributed.destroy_process_group()


def _noting(exchange: Callable[..., Any], sent: list[torch.dtype]) -> Callable[..., Any]:
    def run(tensor: Any, *arguments: Any, **choices: Any) -> Any:
        sent.append(tensor.dtype if isinstance(tensor, Tensor) else tensor[0].dtype)
        return exchange(tensor, *arguments, **choices)

    return run


@pytest.fixture(scope="module", params=[("torch", 0.3), ("native", None)], ids=str)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float | None]:
    backend, momentum = request.param
    folder = tmp_path_factory.mktemp("together")
    for size in (2, 3):
        processes = ranks.start(size, run_rank, folder, backend, momentum, log=folder / f"log{size}")
        assert ranks.finish(processes) == [0] * size, (folder / f"log{size}.0").read_text()
    return folder, momentum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_processes_together_do_what_one_does_with_all_rows(
    saved: tuple[Path, float | None], split: tuple[int, ...], dtype: torch.dtype
):
    folder, momentum = saved
    total = sum(split)
    expected = train(make_norm(momentum=momentum), slice(0, total), total, dtype, "torch")
    parts = [torch.load(folder / f"{split} {dtype} {rank}.pt") for rank in range(len(split))]
    # Rows are rounded once, to 8 bits with bfloat16; sums are float32 over at most 13 rows.
    tolerance = 2**-7 if dtype == torch.bfloat16 else 1e-5
    for name, value in expected.items():
        if name in ("running mean", "running variance", "batches"):
            for part in parts:
                torch.testing.assert_close(part[name], value, rtol=1e-5, atol=1e-6)
        else:
            ours = torch.cat([part[name] for part in parts]) if value.dim() == 2 else sum(part[name] for part in parts)
            assert ours.dtype == value.dtype
            torch.testing.assert_close(ours, value, rtol=tolerance, atol=10 * tolerance)


def test_all_processes_send_float64_whatever_they_hold(saved: tuple[Path, float | None]):
    folder, _ = saved
    for split in SPLITS:
        for dtype in (torch.float32, torch.bfloat16):
            for rank in range(len(split)):
                sent = torch.load(folder / f"{split} {dtype} {rank}.pt")["sent"]
                assert sent == ["torch.float64"] * 4  # of two steps, forward and backward


class CountReads(TorchDispatchMode):
    """Counts the values that are read from the device, for which a GPU would have to finish first."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func.overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero")
        return func(*args, **(kwargs or {}))


class NormalizationOfCuda(TorchDispatchMode):
    """Gradients of batch normalisation from the saved mean and deviation, which CUDA's operator needs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default:
            gradient, features, weight, _, _, mean, inverse_deviation, train, eps, mask = args
            args = (gradient, features, weight, mean, inverse_deviation**-2 - eps, None, None, train, eps, mask)
        return func(*args, **(kwargs or {}))


def test_the_gradients_are_right_with_the_values_that_cuda_reads(monkeypatch: pytest.MonkeyPatch):
    expected = train(make_norm(), slice(0, 9), 9, torch.float32, "torch")
    monkeypatch.setattr(distributed, "all_reduce", lambda *_, **__: None)
    monkeypatch.setattr(parallel, "runs_on_workers", lambda _: False)
    norm = make_norm()
    norm.group = object()  # type: ignore[assignment]
    with NormalizationOfCuda():
        found = train(norm, slice(0, 9), 9, torch.float32, "torch")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_no_process_waits_for_a_number_from_the_device(monkeypatch: pytest.MonkeyPatch, momentum: float | None):
    monkeypatch.setattr(distributed, "all_reduce", lambda *_, **__: None)
    norm = make_norm(momentum=momentum)
    norm.group = object()  # type: ignore[assignment]
    features = draw(9, 1, torch.float32).requires_grad_()
    with use_backend("torch"), CountReads() as counted:
        norm.normalize(features, residual=features, relu=True).sum().backward()
    assert counted.reads == 0


def test_a_mean_of_ten_thousand_deviations_costs_no_digits_of_the_variance(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda *_, **__: None)
    norm = make_norm(momentum=1.0)
    norm.group = object()  # type: ignore[assignment]
    features = draw(1000, 1, torch.float64) / 3 + 10_000
    norm.normalize(features.float())
    torch.testing.assert_close(norm.bn.running_var, features.float().double().var(dim=0).float(), rtol=1e-4, atol=0)
