"""Cross entropy, focal loss and class weights against arithmetic."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lg3d_core.errors import ShapeError
from lg3d_core.objectives import (
    cross_entropy_loss,
    focal_loss,
    inverse_log_alpha,
    printed_alpha,
    weighted_cross_entropy_loss,
)

# softmax: (0.8, 0.2), (0.5, 0.5), unlabelled
LOGITS = torch.tensor([[math.log(4.0), 0.0], [0.0, 0.0], [9.0, -9.0]])
LABELS = torch.tensor([0, 1, -1])


def test_cross_entropy_is_the_mean_over_labelled_voxels():
    assert cross_entropy_loss(LOGITS, LABELS).item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)


def test_focal_loss_reduces_the_weight_of_confident_voxels():
    expected = -(0.2**2 * math.log(0.8) + 0.5**2 * math.log(0.5)) / 2
    assert focal_loss(LOGITS, LABELS, gamma=2.0).item() == pytest.approx(expected)


def test_alpha_weighs_each_voxel_by_its_class():
    expected = -(3.0 * 0.2**2 * math.log(0.8) + 0.1 * 0.5**2 * math.log(0.5)) / 2
    loss = focal_loss(LOGITS, LABELS, gamma=2.0, alpha=torch.tensor([3.0, 0.1]))
    assert loss.item() == pytest.approx(expected)


def test_weighted_cross_entropy_divides_by_the_number_of_voxels():
    loss = weighted_cross_entropy_loss(LOGITS, LABELS, torch.tensor([3.0, 0.1]))
    assert loss.item() == pytest.approx(-(3.0 * math.log(0.8) + 0.1 * math.log(0.5)) / 2)
    with pytest.raises(ShapeError, match="one weight for each class"):
        weighted_cross_entropy_loss(LOGITS, LABELS, torch.ones(3))


@pytest.mark.parametrize(("make", "alpha"), [(inverse_log_alpha, (4 / 3, 2 / 3)), (printed_alpha, (0.0, 1.0))])
def test_class_balanced_losses_equal_hand_arithmetic(make, alpha):
    """1 and 3 points: 1 / log 2 and 1 / log 4 are 2 : 1; log 1 and log 3, as printed, are 0 : 1."""
    weights = make(torch.tensor([1, 3]))
    assert weights.tolist() == pytest.approx(alpha)
    focal = focal_loss(LOGITS, LABELS, gamma=2.0, alpha=weights)
    entropy = weighted_cross_entropy_loss(LOGITS, LABELS, weights)
    assert focal.item() == pytest.approx(-(alpha[0] * 0.2**2 * math.log(0.8) + alpha[1] * 0.5**2 * math.log(0.5)) / 2)
    assert entropy.item() == pytest.approx(-(alpha[0] * math.log(0.8) + alpha[1] * math.log(0.5)) / 2)


def test_focal_loss_without_focus_is_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 7), torch.randint(-1, 7, (30,))
    assert focal_loss(logits, labels, gamma=0.0).item() == pytest.approx(cross_entropy_loss(logits, labels).item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_equal_finite_differences(gamma):
    torch.manual_seed(1)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels, alpha = torch.tensor([0, 3, -1, 1, 2, 2]), torch.tensor([0.5, 1.0, 2.0, 0.5])
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, gamma=gamma, alpha=alpha), (logits,))
    assert torch.autograd.gradcheck(lambda x: cross_entropy_loss(x, labels), (logits,))
    assert torch.autograd.gradcheck(lambda x: weighted_cross_entropy_loss(x, labels, alpha), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_voxels_keep_finite_gradients(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma=gamma)  # one surely right, one surely wrong
    loss.backward()
    assert loss.item() == pytest.approx(400.0 / 2)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "compute",
    [
        cross_entropy_loss,
        lambda x, y: focal_loss(x, y, gamma=2.0),
        lambda x, y: weighted_cross_entropy_loss(x, y, torch.ones(2)),
    ],
)
@pytest.mark.parametrize("num_voxels", [0, 3])
def test_without_labelled_voxels_the_loss_is_zero_with_a_graph(compute, num_voxels):
    logits = torch.full((num_voxels, 2), torch.inf, requires_grad=True)
    loss = compute(logits, torch.full((num_voxels,), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(num_voxels, 2))


def test_precision_stays_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ce, focal = cross_entropy_loss(LOGITS, LABELS), focal_loss(LOGITS.bfloat16(), LABELS, gamma=2.0)
    assert ce.dtype == focal.dtype == torch.float32
    assert ce.item() == cross_entropy_loss(LOGITS, LABELS).item()


def test_inverse_log_alpha_equals_hand_arithmetic():
    # 1 / log(1 + n) for n = 1, 3, 7 is 1, 1/2, 1/3 in units of 1 / log 2; their mean is 11/18.
    alpha = inverse_log_alpha(np.array([1, 3, 0, 7]))
    assert alpha.tolist() == pytest.approx([18 / 11, 9 / 11, 1.0, 6 / 11])
    assert alpha.dtype == torch.float32


def test_printed_alpha_equals_hand_arithmetic():
    # log 2, log 4, log 8 are 1, 2, 3 in units of log 2; one point and none both give 0.
    assert printed_alpha(torch.tensor([2, 4, 8, 1, 0])).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6, 0.0, 0.0])


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_inverse_log_alpha_decreases_with_the_count_and_has_mean_one(counts):
    alpha = inverse_log_alpha(np.array(counts, dtype=np.int64))
    present = [(count, weight) for count, weight in zip(counts, alpha.tolist(), strict=True) if count > 0]
    if present:
        assert sum(weight for _, weight in present) / len(present) == pytest.approx(1.0, rel=1e-5)
    ordered = [weight for _, weight in sorted(present)]
    assert ordered == sorted(ordered, reverse=True)
    assert torch.isfinite(alpha).all()


def test_alpha_without_labelled_points():
    assert inverse_log_alpha(torch.zeros(3, dtype=torch.int64)).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ShapeError, match="inverse-log"):
        printed_alpha(torch.tensor([1, 0]))


@pytest.mark.parametrize("compute", [inverse_log_alpha, printed_alpha])
@pytest.mark.parametrize("counts", [torch.tensor([3, -1]), torch.ones(2, 2)])
def test_invalid_counts_are_rejected(compute, counts):
    with pytest.raises(ShapeError, match="counts"):
        compute(counts)


def test_the_message_names_wrong_inputs():
    with pytest.raises(ShapeError, match="gamma"):
        focal_loss(LOGITS, LABELS, gamma=-1.0)
    with pytest.raises(ShapeError, match="one alpha for each class"):
        focal_loss(LOGITS, LABELS, gamma=2.0, alpha=torch.ones(3))
    with pytest.raises(ShapeError, match="voxels, classes"):
        cross_entropy_loss(LOGITS[0], LABELS)
    with pytest.raises(ShapeError, match="0 to 5"):
        cross_entropy_loss(LOGITS, torch.tensor([0, 0, 5]))
