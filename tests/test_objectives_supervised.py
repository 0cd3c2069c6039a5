"""Supervised contrast: which voxels are compared, and the loss against hand-computed values and a slow loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import ShapeError
from lg3d_core.objectives import ContrastDraw, count_sources, draw_contrasts, supervised_contrastive_loss


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def random_draw(labels, *, seed=0, sources=50, positives=5, negatives=5):
    return draw_contrasts(
        labels,
        num_sources=sources,
        num_positives=positives,
        num_negatives=negatives,
        generator=torch.Generator().manual_seed(seed),
    )


def loop_loss(features, draw, temperature):
    """The formula of the docstring, source by source."""

    def similar(i, j):
        a, b = features[i], features[j]
        return math.exp(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) / temperature)

    losses = []
    for i, positives, negatives in zip(*(part.tolist() for part in draw), strict=True):
        total = sum(similar(i, a) for a in positives + negatives)
        losses.append(sum(-math.log(similar(i, p) / total) for p in positives) / len(positives))
    return sum(losses) / len(losses)


def test_one_positive_and_one_negative_equal_hand_arithmetic():
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 5.0]])  # cosines 1 to the positive, 0 to the negative
    draw = ContrastDraw(rows(0), rows(1)[None], rows(2)[None])
    loss = supervised_contrastive_loss(features, draw, temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))  # -log(e^2 / (e^2 + e^0))


def test_the_loss_of_equal_features_is_the_logarithm_of_their_number():
    draw = ContrastDraw(rows(0, 1), rows(1, 1, 0, 0).view(2, 2), rows(2, 3, 3, 2).view(2, 2))
    assert supervised_contrastive_loss(torch.ones(4, 3), draw, temperature=0.1).item() == pytest.approx(math.log(4))


def test_the_loss_equals_a_loop_over_sources():
    torch.manual_seed(0)
    features, labels = torch.randn(60, 5, dtype=torch.float64), torch.randint(-1, 4, (60,))
    draw = random_draw(labels)
    loss = supervised_contrastive_loss(features, draw, temperature=0.3)
    assert loss.item() == pytest.approx(loop_loss(features, draw, 0.3), rel=1e-12)


def test_gradient_equals_finite_differences():
    torch.manual_seed(1)
    features = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    draw = random_draw(rows(0, 0, 1, 1, 1, -1, 2, 2), positives=2, negatives=3)
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive_loss(x, draw, temperature=0.2), (features,))


def test_without_sources_the_loss_is_zero_with_a_graph():
    features = torch.randn(4, 3, requires_grad=True)
    for labels in (rows(-1, -1, -1, -1), rows(2, 2, 2, 2), rows(0, 1, 2, 3), rows(0, 0, -1, -1)):
        draw = random_draw(labels)
        assert draw.positives.shape == (0, 5)
        loss = supervised_contrastive_loss(features, draw, temperature=0.1)
        assert loss.item() == 0.0
        assert torch.equal(torch.autograd.grad(loss, features)[0], torch.zeros(4, 3))


def test_a_zero_feature_has_cosine_zero_and_a_finite_gradient():
    features = torch.zeros(3, 2, requires_grad=True)
    loss = supervised_contrastive_loss(features, ContrastDraw(rows(0), rows(1)[None], rows(2)[None]), temperature=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(features.grad).all()


def test_precision_stays_float32_under_autocast():
    torch.manual_seed(2)
    features, draw = torch.randn(60, 8), random_draw(torch.randint(0, 3, (60,)))
    plain = supervised_contrastive_loss(features, draw, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = supervised_contrastive_loss(features, draw, temperature=0.1)
        assert supervised_contrastive_loss(features.bfloat16(), draw, temperature=0.1).dtype == torch.float32
    assert cast.item() == plain.item()


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(-1, 4), max_size=40), number=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_positives_and_negatives_have_the_right_class_and_are_never_the_source(labels, number, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    draw = random_draw(labels, seed=seed, sources=number, positives=3, negatives=4)
    own = labels[draw.sources][:, None]
    assert len(set(draw.sources.tolist())) == len(draw.sources) == count_sources(labels, num_sources=number)
    assert draw.positives.shape == (len(own), 3)
    assert draw.negatives.shape == (len(own), 4)
    assert (own >= 0).all()
    assert (labels[draw.positives] == own).all()
    assert (draw.positives != draw.sources[:, None]).all()
    assert (labels[draw.negatives] != own).all()
    assert (labels[draw.negatives] >= 0).all()
    counts = torch.bincount(labels[labels >= 0], minlength=5)
    able = [c for c in labels.tolist() if c >= 0 and 2 <= counts[c] < counts.sum()]
    assert len(draw.sources) == min(number, len(able))


def test_every_partner_is_equally_likely():
    labels = rows(1, 0, 1, -1, 2, 1, 0)
    draw = random_draw(labels, positives=60_000, negatives=60_000)
    row = draw.sources.tolist().index(2)
    positives = torch.bincount(draw.positives[row], minlength=7) / 60_000
    negatives = torch.bincount(draw.negatives[row], minlength=7) / 60_000
    # standard errors 0.002
    assert positives.tolist() == pytest.approx([0.5, 0, 0, 0, 0, 0.5, 0], abs=0.008)
    assert negatives.tolist() == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 0, 1 / 3], abs=0.008)


def test_the_message_names_wrong_inputs():
    draw = ContrastDraw(rows(0), rows(1)[None], rows(2)[None])
    with pytest.raises(ShapeError, match="voxels, D"):
        supervised_contrastive_loss(torch.zeros(3), draw, temperature=0.1)
    with pytest.raises(ShapeError, match="floating point"):
        supervised_contrastive_loss(torch.zeros(3, 2, dtype=torch.int64), draw, temperature=0.1)
    with pytest.raises(ShapeError, match="temperature"):
        supervised_contrastive_loss(torch.zeros(3, 2), draw, temperature=0.0)
    with pytest.raises(ShapeError, match="1 or more sources"):
        random_draw(rows(0, 0, 1), positives=0)
