"""The language contrastive loss against hand-computed values and a slow loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.objectives import anchor_scores, language_contrastive_loss, language_softmax_loss
from lg3d_core.objectives.language import draw_negatives

ANCHORS = torch.eye(3)  # orthogonal: cosine distance 0 to the own anchor, 1 to the others


def loop_distance(feature, anchor, kind):
    if kind == "cosine":
        return 1 - float(feature @ anchor) / math.sqrt(float(feature @ feature) * float(anchor @ anchor))
    differences = [abs(float(f) - float(t)) for f, t in zip(feature, anchor, strict=True)]
    if kind == "mse":
        return sum(value**2 for value in differences) / len(differences)
    return sum(differences) if kind == "l1" else math.sqrt(sum(value**2 for value in differences))


def loop_loss(features, labels, anchors, negatives, positive_margin, negative_margin, kind="cosine", mean_first=False):
    """Equations 1 and 2 with a distance, voxel by voxel; `negatives` in the order of the labelled voxels."""

    def distance(feature, anchor):
        return loop_distance(feature, anchor, kind)

    def push(feature, others):
        distances = [distance(feature, anchors[j]) for j in others]
        if mean_first:
            return max(0, negative_margin - sum(distances) / len(distances))
        return sum(max(0, negative_margin - value) for value in distances) / len(distances)

    labelled = [i for i in range(len(labels)) if labels[i] >= 0]
    pulls = [max(0, distance(features[i], anchors[labels[i]]) - positive_margin) for i in labelled]
    pushes = [push(features[i], others) for i, others in zip(labelled, negatives.tolist(), strict=True)]
    return sum(pulls) / len(pulls), sum(pushes) / len(pushes)


def test_features_on_their_anchors_have_no_loss():
    loss = language_contrastive_loss(ANCHORS * 7, torch.arange(3), ANCHORS, num_negatives=2)
    assert [part.item() for part in loss] == [0.0, 0.0, 0.0]


def test_swapped_features_have_both_loss_terms():
    loss = language_contrastive_loss(ANCHORS[[1, 0]], torch.tensor([0, 1]), ANCHORS[:2], num_negatives=1)
    assert loss.positive.item() == pytest.approx(1.0)  # distance to the own anchor
    assert loss.negative.item() == pytest.approx(0.6)  # margin 0.6 minus distance 0
    assert loss.total.item() == pytest.approx(1.6)


def test_margins_and_weight_follow_the_equations():
    feature = torch.tensor([[3.0, 4.0, 0.0]])  # cosines 0.6, 0.8, 0.0: distances 0.4, 0.2, 1.0
    loss = language_contrastive_loss(
        feature,
        torch.tensor([0]),
        ANCHORS,
        num_negatives=2,
        positive_margin=0.1,
        negative_margin=0.5,
        negative_weight=10.0,
    )
    assert loss.positive.item() == pytest.approx(0.4 - 0.1)
    assert loss.negative.item() == pytest.approx((0.5 - 0.2 + 0) / 2)  # the hinge acts on each negative by itself
    assert loss.total.item() == pytest.approx(0.3 + 10 * 0.15)


def test_means_are_over_labelled_voxels_only():
    features, labels = ANCHORS[[1, 0, 2, 2]], torch.tensor([0, 1, -1, -1])
    few = language_contrastive_loss(features, labels, ANCHORS, num_negatives=2)
    assert few.positive.item() == pytest.approx(1.0)
    assert few.negative.item() == pytest.approx(0.3)  # one of two negatives is at distance 0: (0.6 + 0) / 2


def test_loss_equals_a_loop_over_voxels():
    torch.manual_seed(0)
    features, anchors = torch.randn(40, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    labels = torch.randint(-1, 9, (40,))
    loss = language_contrastive_loss(
        features,
        labels,
        anchors,
        positive_margin=0.2,
        negative_margin=0.9,
        generator=torch.Generator().manual_seed(5),
    )
    negatives = draw_negatives(labels[labels >= 0], 9, num_negatives=3, generator=torch.Generator().manual_seed(5))
    positive, negative = loop_loss(features, labels, anchors, negatives, 0.2, 0.9)
    assert loss.positive.item() == pytest.approx(positive, abs=1e-12)
    assert loss.negative.item() == pytest.approx(negative, abs=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2", "mse"])
@pytest.mark.parametrize("hinge", ["per-negative", "mean-first"])
@pytest.mark.parametrize("replacement", [False, True])
def test_every_distance_hinge_and_draw_equals_a_loop_over_voxels(distance, hinge, replacement):
    torch.manual_seed(3)
    features, anchors = torch.randn(30, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    labels = torch.randint(-1, 5, (30,))
    margins = {"positive_margin": 0.3, "negative_margin": 1.1 if distance == "cosine" else 3.0}
    drawn = {"num_negatives": 3, "replacement": replacement}
    loss = language_contrastive_loss(
        features,
        labels,
        anchors,
        distance=distance,
        hinge=hinge,
        generator=torch.Generator().manual_seed(5),
        **drawn,
        **margins,
    )
    negatives = draw_negatives(labels[labels >= 0], 5, generator=torch.Generator().manual_seed(5), **drawn)
    positive, negative = loop_loss(
        features, labels, anchors, negatives, *margins.values(), distance, hinge == "mean-first"
    )
    assert loss.positive.item() == pytest.approx(positive, abs=1e-12)
    assert loss.negative.item() == pytest.approx(negative, abs=1e-12)
    assert negative > 0


@pytest.mark.parametrize(
    ("distance", "own", "others"),
    [
        ("cosine", 0.4, (0.2, 1.0)),
        ("l1", 6.0, (6.0, 8.0)),
        ("l2", 20**0.5, (18**0.5, 26**0.5)),
        ("mse", 20 / 3, (18 / 3, 26 / 3)),
    ],
)
def test_distances_equal_hand_arithmetic(distance, own, others):
    feature = torch.tensor(
        [[3.0, 4.0, 0.0]]
    )  # to (1, 0, 0): |2| + |4|; to (0, 1, 0): |3| + |3|; to (0, 0, 1): 3 + 4 + 1
    loss = language_contrastive_loss(
        feature, torch.tensor([0]), ANCHORS, distance=distance, num_negatives=2, negative_margin=9.0
    )
    assert loss.positive.item() == pytest.approx(own)
    assert loss.negative.item() == pytest.approx(9 - sum(others) / 2)


def test_mse_equals_pytorchs_and_without_negatives_the_total_is_the_positive_term():
    torch.manual_seed(2)
    features, anchors, labels = torch.randn(7, 4), torch.randn(5, 4), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    loss = language_contrastive_loss(features, labels, anchors, distance="mse", negative_weight=0.0)
    assert loss.positive.item() == pytest.approx(torch.nn.functional.mse_loss(features, anchors[labels]).item())
    assert loss.total.item() == loss.positive.item()


def test_with_mean_first_a_distant_negative_compensates_for_a_close_one():
    feature = torch.tensor([[0.0, 1.0, 0.0]])  # distance 0 to the second anchor, 1 to the third
    options = {"num_negatives": 2, "negative_margin": 0.6}
    per_negative = language_contrastive_loss(feature, torch.tensor([0]), ANCHORS, **options)
    mean_first = language_contrastive_loss(feature, torch.tensor([0]), ANCHORS, hinge="mean-first", **options)
    assert per_negative.negative.item() == pytest.approx((0.6 + 0.0) / 2)
    assert mean_first.negative.item() == pytest.approx(0.6 - (0.0 + 1.0) / 2)


@pytest.mark.parametrize("distance", ["l1", "l2", "mse"])
@pytest.mark.parametrize("hinge", ["per-negative", "mean-first"])
def test_gradients_of_lengths_equal_finite_differences(distance, hinge):
    torch.manual_seed(1)
    features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    anchors, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 5, -1, 2, 2])

    def total(x):
        options = {"num_negatives": 5, "negative_margin": 4.0, "distance": distance, "hinge": hinge}
        return language_contrastive_loss(x, labels, anchors, **options).total

    assert torch.autograd.gradcheck(total, (features,))
    assert torch.autograd.grad(total(features), features)[0][2].abs().sum() == 0  # the unlabelled voxel


@pytest.mark.parametrize("distance", ["l1", "l2", "mse"])
def test_a_feature_on_its_anchor_has_a_finite_gradient(distance):
    features = ANCHORS.clone().requires_grad_()
    loss = language_contrastive_loss(features, torch.arange(3), ANCHORS, distance=distance)
    loss.total.backward()
    assert loss.positive.item() == 0.0
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2", "mse"])
def test_the_best_score_is_the_nearest_anchor(distance):
    torch.manual_seed(0)
    features, anchors = torch.randn(20, 4), torch.randn(7, 4)
    scores = anchor_scores(features, anchors, distance=distance)
    for feature, row in zip(features, scores, strict=True):
        distances = [loop_distance(feature, anchor, distance) for anchor in anchors]
        assert row.argmax().item() == min(range(7), key=distances.__getitem__)
        shift = 1.0 if distance == "cosine" else 0.0  # a cosine is 1 - its distance
        assert row.tolist() == pytest.approx([shift - value for value in distances], abs=1e-5)


def test_draws_with_replacement_repeat_and_never_give_the_own_class():
    labels = torch.full((60_000,), 2)
    negatives = draw_negatives(labels, 5, num_negatives=2, replacement=True, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(negatives.flatten(), minlength=5) / 120_000
    assert shares.tolist() == pytest.approx([0.25, 0.25, 0.0, 0.25, 0.25], abs=0.006)  # standard error 0.00125
    assert (negatives[:, 0] == negatives[:, 1]).float().mean().item() == pytest.approx(0.25, abs=0.008)
    assert draw_negatives(labels, 5, num_negatives=9, replacement=True).shape == (60_000, 9)
    assert draw_negatives(torch.zeros(3, dtype=torch.int64), 1, num_negatives=2, replacement=True).shape == (3, 0)


def test_the_softmax_loss_compares_the_own_anchor_with_all_others():
    feature = torch.tensor([[3.0, 4.0, 0.0]])  # cosines 0.6, 0.8, 0.0
    loss = language_softmax_loss(feature, torch.tensor([0]), ANCHORS, temperature=0.2)
    weights = [math.exp(3.0), math.exp(4.0), 1.0]
    assert loss.item() == pytest.approx(-math.log(weights[0] / sum(weights)))
    twice = language_softmax_loss(
        torch.cat([feature, 9 * feature]), torch.tensor([0, -1]), 5 * ANCHORS, temperature=0.2
    )
    assert twice.item() == pytest.approx(loss.item())  # lengths and unlabelled voxels do not count


def test_the_softmax_loss_without_labels_is_zero_with_zero_gradient():
    features = torch.ones(2, 3, requires_grad=True)
    loss = language_softmax_loss(features, torch.tensor([-1, -1]), ANCHORS, temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_a_zero_feature_in_the_softmax_loss_has_cosine_zero_and_gets_no_gradient():
    features = torch.zeros(2, 3, requires_grad=True)
    loss = language_softmax_loss(features, torch.tensor([0, 1]), ANCHORS, temperature=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(len(ANCHORS)))  # all cosines are 0
    assert torch.equal(features.grad, torch.zeros(2, 3))


def test_the_softmax_loss_rejects_features_of_another_width():
    with pytest.raises(ShapeError, match="must have the same width"):
        language_softmax_loss(torch.ones(2, 4), torch.tensor([0, 1]), ANCHORS, temperature=0.1)


def test_unknown_distances_and_hinges_raise_with_the_known_ones():
    with pytest.raises(SettingsError, match="one of cosine, l1, l2, mse, got 'l3'"):
        language_contrastive_loss(ANCHORS, torch.arange(3), ANCHORS, distance="l3")
    with pytest.raises(SettingsError, match="one of per-negative, mean-first"):
        language_contrastive_loss(ANCHORS, torch.arange(3), ANCHORS, hinge="none")


def test_gradient_equals_finite_differences():
    torch.manual_seed(1)
    features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    anchors, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 5, -1, 2, 2])

    def total(x):
        return language_contrastive_loss(x, labels, anchors, num_negatives=5).total

    assert torch.autograd.gradcheck(total, (features,))
    total(features).backward()
    assert features.grad is not None
    assert features.grad[2].abs().sum() == 0  # the unlabelled voxel
    along = (features.grad * features).sum(dim=1)  # a cosine does not change with length
    assert along.detach().abs().max() < 1e-12


def test_without_labelled_voxels_the_loss_is_zero_with_a_graph():
    features = torch.randn(4, 3, requires_grad=True)
    loss = language_contrastive_loss(features, torch.full((4,), -1), ANCHORS)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert torch.equal(features.grad, torch.zeros(4, 3))


def test_empty_batch_gives_zero():
    features = torch.zeros(0, 3, requires_grad=True)
    loss = language_contrastive_loss(features, torch.zeros(0, dtype=torch.int64), ANCHORS)
    loss.total.backward()
    assert loss.total.item() == 0.0


def test_zero_feature_is_at_distance_one_and_gets_no_gradient():
    features = torch.zeros(2, 3, requires_grad=True)
    loss = language_contrastive_loss(features, torch.tensor([0, 1]), ANCHORS)
    loss.total.backward()
    assert loss.positive.item() == 1.0
    assert loss.negative.item() == 0.0
    assert torch.equal(features.grad, torch.zeros(2, 3))


def test_a_vocabulary_of_one_has_no_negatives():
    features = torch.tensor([[1.0, 1.0]], requires_grad=True)
    loss = language_contrastive_loss(features, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    loss.total.backward()
    assert loss.negative.item() == 0.0
    assert loss.total.item() == pytest.approx(1 - math.sqrt(0.5))


def test_precision_stays_float32_under_autocast():
    torch.manual_seed(2)
    features, labels, anchors = torch.randn(50, 16), torch.randint(0, 8, (50,)), torch.randn(8, 16)

    def compute(x):
        return language_contrastive_loss(x, labels, anchors, generator=torch.Generator().manual_seed(0))

    plain = compute(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = compute(features)
        low = compute(features.bfloat16())
    assert cast.total.dtype == low.total.dtype == torch.float32
    assert cast.total.item() == plain.total.item()
    assert low.total.item() == pytest.approx(plain.total.item(), rel=5e-3)  # bfloat16 keeps 8 bits: 2^-8 = 4e-3


def test_same_generator_seed_gives_the_same_negatives():
    labels = torch.randint(0, 200, (1000,), generator=torch.Generator().manual_seed(3))

    def draw(seed):
        return draw_negatives(labels, 200, num_negatives=3, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@settings(max_examples=60, deadline=None)
@given(num_classes=st.integers(1, 30), num_negatives=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_negatives_are_distinct_and_never_the_own_class(num_classes, num_negatives, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (17,), generator=generator)
    negatives = draw_negatives(labels, num_classes, num_negatives=num_negatives, generator=generator)
    assert negatives.shape == (17, min(num_negatives, num_classes - 1))
    for own, others in zip(labels.tolist(), negatives.tolist(), strict=True):
        assert len({own, *others}) == 1 + len(others)
        assert all(0 <= other < num_classes for other in others)


@pytest.mark.parametrize(("num_classes", "num_negatives"), [(6, 3), (14, 10)])
def test_every_other_class_is_equally_likely(num_classes, num_negatives):
    """Both ways of drawing, in every position: 60,000 draws, a share of 1 / others with standard error below 0.002."""
    labels = torch.full((60_000,), 2)
    negatives = draw_negatives(
        labels, num_classes, num_negatives=num_negatives, generator=torch.Generator().manual_seed(0)
    )
    for column in negatives.unbind(1):
        shares = torch.bincount(column, minlength=num_classes) / 60_000
        assert shares[2] == 0
        others = torch.cat([shares[:2], shares[3:]])
        assert (others - 1 / (num_classes - 1)).abs().max() < 0.008  # 4 to 5 standard errors


def test_all_sets_of_negatives_are_equally_likely():
    labels = torch.zeros(60_000, dtype=torch.int64)
    negatives = draw_negatives(labels, 5, num_negatives=2, generator=torch.Generator().manual_seed(0))
    pairs = negatives.sort(dim=1).values
    shares = torch.bincount(pairs[:, 0] * 5 + pairs[:, 1]) / 60_000
    seen = shares[shares > 0]
    assert len(seen) == 6  # pairs out of 4
    assert (seen - 1 / 6).abs().max() < 0.008  # standard error 0.0015


@pytest.mark.parametrize(
    ("features", "labels", "anchors", "needle"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), ANCHORS, "same width"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), ANCHORS, "one label for each of 2"),
        (torch.zeros(2, 3), torch.zeros(2), ANCHORS, "integers"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ANCHORS, "0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, -100]), ANCHORS, "-100 to 0"),
        (torch.zeros(2, 3, dtype=torch.int32), torch.tensor([0, 1]), ANCHORS, "floating point"),
    ],
)
def test_the_message_names_wrong_inputs(features, labels, anchors, needle):
    with pytest.raises(ShapeError, match=needle):
        language_contrastive_loss(features, labels, anchors)


def test_zero_negatives_are_rejected():
    with pytest.raises(ShapeError, match="num_negatives"):
        language_contrastive_loss(ANCHORS, torch.arange(3), ANCHORS, num_negatives=0)
