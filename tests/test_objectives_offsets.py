import math

import pytest
import torch

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.offsets import number_objects, offset_loss, true_offsets

# Two objects on a line: voxels at 0 and 2 m (centre 1 m), and at 5 m alone; a voxel at 9 m belongs to none.
POSITIONS = torch.tensor([[0.0, 0, 0], [2, 0, 0], [5, 0, 0], [9, 0, 0]])
OBJECTS = torch.tensor([0, 0, 1, -1])


def test_offsets_point_to_the_mean_of_an_objects_voxels() -> None:
    assert true_offsets(POSITIONS, OBJECTS).tolist() == [[1, 0, 0], [-1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_true_offsets_have_zero_loss() -> None:
    loss = offset_loss(true_offsets(POSITIONS, OBJECTS), POSITIONS, OBJECTS)
    assert loss.distance.item() == 0
    assert loss.direction.item() == pytest.approx(0, abs=1e-6)


def test_both_terms_are_means_over_the_voxels_of_objects() -> None:
    predicted = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 3], [50, 50, 50]])
    loss = offset_loss(predicted, POSITIONS, OBJECTS)
    # distances |(-1, 1, 0)| = 2, |(2, 0, 0)| = 2, |(0, 0, 3)| = 3; cosines 0, -1, and no direction at a centre
    assert loss.distance.item() == pytest.approx(7 / 3)
    assert loss.direction.item() == pytest.approx((1 + 2 + 0) / 3)


def test_objects_of_different_scenes_with_one_id_are_two() -> None:
    instances, scenes = torch.tensor([4, 4, 4, 7, 0]), torch.tensor([0, 0, 1, 1, 1])
    objects = number_objects(instances, scenes, torch.tensor([True, True, True, True, False]))
    assert objects.tolist() == [0, 0, 1, 2, -1]


def test_without_objects_the_loss_is_zero_and_has_a_gradient() -> None:
    predicted = torch.randn(4, 3, requires_grad=True)
    loss = offset_loss(predicted, POSITIONS, torch.full((4,), -1))
    (loss.distance + loss.direction).backward()
    assert loss.distance.item() == loss.direction.item() == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


def test_voxels_without_an_object_do_not_count_whatever_their_prediction() -> None:
    predicted = torch.tensor([[math.inf] * 3, [math.nan] * 3, [1.0, 2.0, 3.0], [0.0] * 3], dtype=torch.bfloat16)
    for objects in (torch.full((4,), -1), torch.tensor([-1, -1, 0, 0])):
        loss = offset_loss(predicted, POSITIONS, objects)
        assert loss.distance.dtype == loss.direction.dtype == torch.float32
        assert torch.isfinite(loss.distance + loss.direction)


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    positions, objects = torch.randn(12, 3), torch.arange(12) % 3
    predicted = torch.randn(12, 3, requires_grad=True)
    loss = offset_loss(predicted, positions, objects)
    (loss.distance + loss.direction).backward()
    step = 1e-2
    for row, axis in ((0, 0), (5, 1), (11, 2)):
        moved = []
        for sign in (1, -1):
            shifted = predicted.detach().clone()
            shifted[row, axis] += sign * step
            both = offset_loss(shifted, positions, objects)
            moved.append((both.distance + both.direction).item())
        assert predicted.grad is not None
        assert predicted.grad[row, axis].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=2e-4)


def test_other_shapes_are_rejected() -> None:
    with pytest.raises(ShapeError, match=r"shape \(voxels, 3\)"):
        offset_loss(torch.zeros(4, 2), POSITIONS, OBJECTS)
