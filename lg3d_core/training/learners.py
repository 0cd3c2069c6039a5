"""What is learnt: a network with its loss and its way to name a voxel."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import cross_entropy_loss, focal_loss
from lg3d_core.objectives.language import language_contrastive_loss
from lg3d_core.settings import Loss


class LossParts(NamedTuple):
    """A loss to minimise, a mean over labelled voxels, and named parts of it for the log."""

    total: Tensor
    parts: dict[str, Tensor]


class Learner(Protocol):
    """Turns features into a loss while training and into class scores while validating."""

    network: MinkUNet

    def loss(self, features: Tensor, labels: Tensor, *, seed: int) -> LossParts:
        """The loss of one forward pass; `seed` fixes whatever it draws."""
        ...

    def scores(self, features: Tensor) -> Tensor:
        """Class scores `(voxels, classes)`: the largest names the voxel."""
        ...


class LanguageGrounding:
    """Features are pulled to the text anchor of their category; the nearest anchor names a voxel.

    Source: section 3.1, equations 1 to 3.
    """

    def __init__(
        self,
        network: MinkUNet,
        anchors: Tensor,
        *,
        negatives: int,
        positive_margin: float,
        negative_margin: float,
        negative_weight: float,
    ) -> None:
        self.network = network
        self.anchors = anchors
        self.negatives = negatives
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.negative_weight = negative_weight

    def loss(self, features: Tensor, labels: Tensor, *, seed: int) -> LossParts:
        """The language contrastive loss."""
        loss = language_contrastive_loss(
            features,
            labels,
            self.anchors,
            num_negatives=self.negatives,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            negative_weight=self.negative_weight,
            generator=torch.Generator(device=features.device).manual_seed(seed),
        )
        return LossParts(loss.total, {"positive": loss.positive, "negative": loss.negative})

    def scores(self, features: Tensor) -> Tensor:
        """Cosine similarities to the anchors."""
        return F.normalize(features.float(), dim=1) @ F.normalize(self.anchors, dim=1).T


class Classification:
    """A linear classifier on the features. Source: section 3.2, equations 4 and 5."""

    def __init__(self, network: MinkUNet, *, loss: Loss, gamma: float, alpha: Tensor | None) -> None:
        self.network = network
        self.kind = loss
        self.gamma = gamma
        self.alpha = alpha

    def loss(self, features: Tensor, labels: Tensor, *, seed: int) -> LossParts:
        """Cross entropy or class-balanced focal loss."""
        del seed
        logits = self.network.classify(features)
        if self.kind == "cross-entropy":
            return LossParts(cross_entropy_loss(logits, labels), {})
        return LossParts(focal_loss(logits, labels, gamma=self.gamma, alpha=self.alpha), {})

    def scores(self, features: Tensor) -> Tensor:
        """The classifier's logits."""
        return self.network.classify(features)
