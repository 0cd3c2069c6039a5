"""The log probability of each voxel's class against PyTorch's log_softmax, for any pieces and threads."""

import pytest
import torch
from torch import Tensor

from lg3d_core.objectives import likelihood
from lg3d_core.objectives.likelihood import log_likelihood, mean_over_labelled
from lg3d_core.sparse import parallel, set_num_workers


def compute(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of its weighted sum."""
    leaf = logits.clone().requires_grad_()
    output = log_likelihood(leaf, labels)
    (output * torch.linspace(-1, 2, len(labels), dtype=logits.dtype)).sum().backward()
    assert leaf.grad is not None
    return output.detach(), leaf.grad


def expect(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, from PyTorch."""
    leaf = logits.clone().requires_grad_()
    output = torch.log_softmax(leaf, dim=1).gather(1, labels.clamp_min(0)[:, None]).squeeze(1) * (labels >= 0)
    (output * torch.linspace(-1, 2, len(labels), dtype=logits.dtype)).sum().backward()
    assert leaf.grad is not None
    return output.detach(), leaf.grad


@pytest.fixture(params=[1, 63, 4096])
def piece_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(likelihood, "PIECE_VALUES", request.param)
    return int(request.param)


@pytest.fixture(params=["cpu", "gpu"])
def branch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "gpu":
        monkeypatch.setattr(likelihood, "runs_on_workers", lambda _: False)


@pytest.mark.usefixtures("piece_values", "branch")
@pytest.mark.parametrize("rows", [0, 1, 130])
@pytest.mark.parametrize("lowest", [-1, 0])
def test_values_and_gradients_equal_those_of_log_softmax(rows: int, lowest: int):
    generator = torch.Generator().manual_seed(rows)
    logits = 5 * torch.randn(rows, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(lowest, 7, (rows,), generator=generator)
    for value, expected in zip(compute(logits, labels), expect(logits, labels), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_logits_of_hundreds_keep_the_precision_of_float32():
    logits, labels = torch.tensor([[300.0, -300.0, 290.0], [-1e4, 0.0, 1e4]]), torch.tensor([0, 1])
    output, gradient = compute(logits, labels)
    torch.testing.assert_close(output, torch.tensor([-4.5398899e-05, -1e4]))  # -log(1 + exp(-10))
    assert gradient[1].tolist() == [0.0, 2.0, -2.0]


def test_an_unlabelled_voxel_has_no_loss_and_no_gradient_even_if_it_is_nan():
    logits, labels = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), torch.tensor([1, -1])
    output, gradient = compute(logits, labels)
    assert output[1] == 0
    assert gradient[1].tolist() == [0.0, 0.0]
    assert torch.isfinite(gradient).all()


@pytest.mark.usefixtures("piece_values")
def test_the_number_of_threads_changes_no_bit():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 20, generator=generator), torch.randint(-1, 20, (500,), generator=generator)
    alone = compute(logits, labels)
    try:
        set_num_workers(3)
        together = compute(logits, labels)
    finally:
        set_num_workers(None)
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    assert parallel.num_workers() >= 1


def test_the_mean_divides_by_the_number_of_labelled_voxels():
    assert mean_over_labelled(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([0, -1, 5])).item() == 2
    assert mean_over_labelled(torch.tensor([0.0]), torch.tensor([-1])).item() == 0
