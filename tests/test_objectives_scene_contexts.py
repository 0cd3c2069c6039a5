"""The scene contexts loss against hand-computed values and PyTorch's cross entropy, part by part."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from lg3d_core.errors import ShapeError
from lg3d_core.objectives import scene_contexts
from lg3d_core.objectives.scene_contexts import partition_places, scene_contexts_loss

RADII = {"inner": 0.1, "outer": 1.0}


def slow_loss(first, second, places, temperature, partition="directions"):
    """A cross entropy for each part, over the places in it and the match."""
    similar = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    number, part_of = {"directions": (8, slow_part), "fast": (4, slow_fast_part)}[partition]
    total = 0.0
    for part in range(number):
        for i in range(len(places)):
            rivals = [k for k in range(len(places)) if k != i and part_of(places[i], places[k]) == part]
            total += cross_entropy(similar[i, [i, *rivals]][None], torch.tensor([0])).item()
    return total / (number * len(places))


def slow_part(source, place):
    x, y, z = (place - source).tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    if distance < RADII["inner"]:
        return -1
    return (4 if distance >= RADII["outer"] else 0) + (2 if y < 0 else 0) + (1 if z < 0 else 0)


def slow_fast_part(source, place):
    """The published scripts: "up" and "down" are both "higher by more than inner", and "down" is written last."""
    x, y, z = (place - source).tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    if not z > RADII["inner"]:
        return -1
    return 1 if distance <= RADII["outer"] else 3


def published_angles_part(source, place):
    """The publication's parts by its angles: atan2(y, x) and atan2(y, z) modulo pi, two bins each."""
    x, y, z = (place - source).tolist()
    around_z = math.fmod(math.atan2(y, x) + 2 * math.pi, 2 * math.pi)
    around_x = math.fmod(math.atan2(y, z) + 2 * math.pi, math.pi)
    return math.floor(around_z / math.pi), math.floor(around_x / (math.pi / 2))


def test_our_four_directions_are_those_of_the_published_angles():
    torch.manual_seed(0)
    source, places = torch.zeros(1, 3), torch.randn(500, 3) * 3
    ours = partition_places(source, places, inner=0.0, outer=1000.0)[0].tolist()
    pairs = {(part, published_angles_part(source[0], place)) for part, place in zip(ours, places, strict=True)}
    assert len(pairs) == len({part for part, _ in pairs}) == len({angles for _, angles in pairs}) == 4


def test_the_fast_partitions_are_only_near_and_far_above():
    offsets = [
        (0, 0, 0.05),
        (0, 0, 0.5),
        (0, 0, -0.5),
        (3, 0, 0.05),
        (3, 0, 0.5),
        (0, -0.5, 0.2),
        (0, 0, -3),
        (0, 0, 1),
    ]
    source = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    part = partition_places(source, source + torch.tensor(offsets, dtype=torch.float64), partition="fast", **RADII)
    assert part.tolist() == [[-1, 1, -1, -1, 3, 1, -1, 1]]


def test_partitions_depend_on_distance_and_direction():
    offsets = [(0.05, 0, 0), (0.5, 0, 0), (0, 0, -0.5), (0, -0.5, 0), (0, -0.1, -0.1), (1, 0, 0), (0, -2, -2)]
    source = torch.tensor([[1.0, 2.0, 3.0]])
    part = partition_places(source, source + torch.tensor(offsets), **RADII)
    assert part.tolist() == [[-1, 0, 1, 2, 3, 4, 7]]


def test_two_places_equal_hand_arithmetic():
    # Each is the other's only rival, in one of the eight parts: one lies to the left of the other, both equally high.
    # Matching cosines 1, crossed ones 0.
    loss = scene_contexts_loss(
        torch.eye(2) * 3, torch.eye(2), torch.tensor([[0.0, 0, 0], [0, 0.5, 0]]), temperature=0.5, **RADII
    )
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)) / 8)


@pytest.mark.parametrize("partition", ["directions", "fast"])
@pytest.mark.parametrize("rows", [1024, 7])
def test_the_loss_equals_a_cross_entropy_for_each_part(rows, partition, monkeypatch):
    monkeypatch.setattr(scene_contexts, "ROWS_AT_ONCE", rows)
    torch.manual_seed(0)
    first, second = torch.randn(2, 30, 5, dtype=torch.float64).unbind(0)
    places = torch.rand(30, 3, dtype=torch.float64) * 2
    loss = scene_contexts_loss(first, second, places, temperature=0.4, partition=partition, **RADII)
    assert loss.item() == pytest.approx(slow_loss(first, second, places, 0.4, partition), rel=1e-12)


def test_gradients_equal_finite_differences():
    torch.manual_seed(1)
    first, second = (torch.randn(6, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    places = torch.rand(6, 3, dtype=torch.float64) * 2
    assert torch.autograd.gradcheck(
        lambda a, b: scene_contexts_loss(a, b, places, temperature=0.4, **RADII), (first, second)
    )


def test_slices_do_not_change_the_gradient(monkeypatch):
    torch.manual_seed(2)
    first, second, places = torch.randn(50, 4, requires_grad=True), torch.randn(50, 4), torch.rand(50, 3) * 2
    gradients = []
    for rows in (1024, 16):
        monkeypatch.setattr(scene_contexts, "ROWS_AT_ONCE", rows)
        loss = scene_contexts_loss(first, second, places, temperature=0.1, **RADII)
        gradients.append(torch.autograd.grad(loss, first)[0])
    assert (gradients[0] - gradients[1]).abs().max() < 1e-7  # entries of about 0.01 in float32


def test_opposed_matches_stay_finite_at_the_lowest_temperature():
    first = torch.tensor([[1.0, 0.0]] * 40, requires_grad=True)
    second = torch.tensor([[-1.0, 0.0]] + [[1.0, 0.0]] * 39)
    loss = scene_contexts_loss(first, second, torch.rand(40, 3) * 9, temperature=0.05, **RADII)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()


def test_no_places_and_one_place_have_zero_loss_with_a_graph():
    for number in (0, 1):
        first = torch.randn(number, 3, requires_grad=True)
        loss = scene_contexts_loss(first, torch.randn(number, 3), torch.zeros(number, 3), temperature=0.4, **RADII)
        loss.backward()
        assert loss.item() == 0.0
        assert torch.equal(first.grad, torch.zeros(number, 3))


def test_a_zero_feature_has_cosine_zero_and_gets_no_gradient():
    places = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    first, second = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    loss = scene_contexts_loss(first, second, places, temperature=0.4, **RADII)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) / 8)  # one of 8 parts has another place, as similar as the match
    assert torch.equal(first.grad, torch.zeros(2, 3))
    assert torch.equal(second.grad, torch.zeros(2, 3))


def test_precision_stays_float32_under_autocast():
    torch.manual_seed(3)
    first, second, places = torch.randn(20, 4), torch.randn(20, 4), torch.rand(20, 3)
    plain = scene_contexts_loss(first, second, places, temperature=0.4, **RADII)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = scene_contexts_loss(first, second, places, temperature=0.4, **RADII)
        low = scene_contexts_loss(first.bfloat16(), second.bfloat16(), places, temperature=0.4, **RADII)
    assert cast.dtype == low.dtype == torch.float32
    assert cast.item() == plain.item()


@pytest.mark.parametrize(
    ("first", "second", "places", "temperature", "needle"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3), 0.4, "two views"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 3), 0.4, "two views"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), torch.zeros(2, 3), 0.4, "floating point"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), 0.01, "at least 0.05"),
    ],
)
def test_the_message_names_wrong_inputs(first, second, places, temperature, needle):
    with pytest.raises(ShapeError, match=needle):
        scene_contexts_loss(first, second, places, temperature=temperature, **RADII)
