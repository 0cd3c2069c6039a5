"""Learners: a network with its loss and, if it can classify, its class scores."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import cross_entropy_loss, focal_loss, weighted_cross_entropy_loss
from lg3d_core.objectives.language import (
    anchor_scores,
    draw_negatives,
    language_contrastive_loss,
    language_softmax_loss,
)
from lg3d_core.objectives.offsets import number_objects, offset_loss
from lg3d_core.objectives.scene_contexts import scene_contexts_loss
from lg3d_core.objectives.supervised import ContrastDraw, count_sources, draw_contrasts, supervised_contrastive_loss
from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.views import ViewBatch
from lg3d_core.settings import Distance, Hinge, Loss, Partition
from lg3d_core.training.batches import TrainingBatch

B_contra = TypeVar("B_contra", bound=TrainingBatch, contravariant=True)


class LossParts(NamedTuple):
    """One term of a loss, a mean over elements, and its named parts for the log, means over the same elements."""

    total: Tensor
    parts: dict[str, Tensor]


class Learner(Protocol[B_contra]):
    """Objective that turns features into a loss and, if it can classify, into class scores.

    The loss is a sum of terms, each a mean over its own elements.
    """

    network: MinkUNet

    def weights(self, batch: B_contra) -> tuple[int, ...]:
        """Return the number of elements of each term: labelled voxels, sources, matches or voxels of objects."""
        ...

    def loss(self, features: Tensor, batch: B_contra, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the terms of the loss of one forward pass; `seeds`, one per scene, fix all random draws."""
        ...

    @property
    def scores(self) -> Callable[[Tensor], Tensor] | None:
        """Function from features to class scores `(voxels, classes)`; None if the learner cannot classify."""
        ...


class LanguageGrounding:
    """Loss that pulls features towards the text anchor of their class; the nearest anchor classifies a voxel.

    Source: section 3.1, equations 1 to 3.
    """

    def __init__(
        self,
        network: MinkUNet,
        anchors: Tensor,
        *,
        distance: Distance = "cosine",
        hinge: Hinge = "per-negative",
        negatives: int,
        replacement: bool = False,
        positive_margin: float,
        negative_margin: float,
        negative_weight: float,
    ) -> None:
        self.network = network
        self.anchors = anchors
        self.distance: Distance = distance
        self.hinge: Hinge = hinge
        self.negatives = negatives
        self.replacement = replacement
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.negative_weight = negative_weight

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of labelled voxels."""
        return (_count_labelled(batch),)

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the language contrastive loss; a scene's negatives do not depend on the rest of the batch."""
        negatives = [
            draw_negatives(
                labels[labels >= 0].long(),
                len(self.anchors),
                num_negatives=self.negatives,
                replacement=self.replacement,
                generator=_generator(features, seed),
            )
            for labels, seed in zip(_split_scenes(batch), seeds, strict=True)
        ]
        loss = language_contrastive_loss(
            features,
            batch.labels,
            self.anchors,
            distance=self.distance,
            hinge=self.hinge,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            negative_weight=self.negative_weight,
            negatives=torch.cat(negatives) if negatives else None,  # without scenes, none are drawn
        )
        return (LossParts(loss.total, {"positive": loss.positive, "negative": loss.negative}),)

    def scores(self, features: Tensor) -> Tensor:
        """Return the similarity to each anchor, in the distance used for training."""
        return anchor_scores(features, self.anchors, distance=self.distance)


class LanguageSoftmax:
    """Softmax over the text anchors; the nearest anchor classifies a voxel."""

    def __init__(self, network: MinkUNet, anchors: Tensor, *, temperature: float) -> None:
        self.network = network
        self.anchors = anchors
        self.temperature = temperature

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of labelled voxels."""
        return (_count_labelled(batch),)

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the cross entropy over the cosines with all anchors."""
        del seeds
        return (
            LossParts(language_softmax_loss(features, batch.labels, self.anchors, temperature=self.temperature), {}),
        )

    def scores(self, features: Tensor) -> Tensor:
        """Return the cosines with the anchors."""
        return anchor_scores(features, self.anchors)


class SupervisedContrast:
    """Supervised contrast between voxels of the same class within each scene. Source: section 5, SupCon."""

    scores = None

    def __init__(self, network: MinkUNet, *, sources: int, positives: int, negatives: int, temperature: float) -> None:
        self.network = network
        self.sources = sources
        self.positives = positives
        self.negatives = negatives
        self.temperature = temperature

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of source voxels."""
        return (sum(count_sources(labels, num_sources=self.sources) for labels in _split_scenes(batch)),)

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the supervised contrastive loss; a source is only compared with voxels of its own scene."""
        draws: list[ContrastDraw] = []
        first = 0
        for labels, seed in zip(_split_scenes(batch), seeds, strict=True):
            draw = draw_contrasts(
                labels,
                num_sources=self.sources,
                num_positives=self.positives,
                num_negatives=self.negatives,
                generator=_generator(features, seed),
            )
            draws.append(ContrastDraw(*(rows + first for rows in draw)))
            first += len(labels)
        if not draws:
            return (LossParts(features.float().sum(), {}),)
        joined = ContrastDraw(*(torch.cat(rows) for rows in zip(*draws, strict=True)))
        return (LossParts(supervised_contrastive_loss(features, joined, temperature=self.temperature), {}),)


class SceneContexts:
    """Contrast between two views of one place, without labels. Source: section 5, CSC."""

    scores = None

    def __init__(
        self, network: MinkUNet, *, temperature: float, inner: float, outer: float, partition: Partition = "directions"
    ) -> None:
        self.network = network
        self.temperature = temperature
        self.inner = inner
        self.outer = outer
        self.partition: Partition = partition

    def weights(self, batch: ViewBatch) -> tuple[int, ...]:
        """Return the number of matched places."""
        return (len(batch.matches),)

    def loss(self, features: Tensor, batch: ViewBatch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the loss over scene contexts, computed scene by scene."""
        del seeds
        total = features[:0].float().sum()
        sizes = list(batch.scene_matches)
        scenes = zip(torch.split(batch.matches, sizes), torch.split(batch.places, sizes), strict=True) if sizes else ()
        for matches, places in scenes:
            loss = scene_contexts_loss(
                features.index_select(0, matches[:, 0]),
                features.index_select(0, matches[:, 1]),
                places,
                temperature=self.temperature,
                inner=self.inner,
                outer=self.outer,
                partition=self.partition,
            )
            total = total + loss * (len(matches) / max(1, len(batch.matches)))
        return (LossParts(total, {}),)


class Classification:
    """Linear classifier on the features. Source: section 3.2, equations 4 and 5."""

    def __init__(
        self, network: MinkUNet, *, loss: Loss, gamma: float, alpha: Tensor | None, classes: slice | None = None
    ) -> None:
        """Create a classifier with one of four losses; the two weighted ones need `alpha`, shape `(classes,)`.

        `classes` limits the classifier to consecutive classes of the network, with labels from 0; None uses all.
        """
        assert (alpha is not None) == (loss in WEIGHTED_LOSSES), "class weights require a weighted loss"
        self.network = network
        self.kind = loss
        self.gamma = gamma
        self.alpha = alpha
        self.classes = classes

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of labelled voxels."""
        return (_count_labelled(batch),)

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the cross entropy or focal loss, optionally with class weights."""
        del seeds
        logits = self.scores(features)
        if self.kind == "cross-entropy":
            return (LossParts(cross_entropy_loss(logits, batch.labels), {}),)
        if self.kind == "weighted-cross-entropy":
            assert self.alpha is not None
            return (LossParts(weighted_cross_entropy_loss(logits, batch.labels, self.alpha), {}),)
        return (LossParts(focal_loss(logits, batch.labels, gamma=self.gamma, alpha=self.alpha), {}),)

    def scores(self, features: Tensor) -> Tensor:
        """Return the logits of the classifier."""
        logits = self.network.classify(features)
        return logits if self.classes is None else logits[:, self.classes]


class InstanceSegmentation:
    """Classification of voxels, and regression of the vector from each voxel to the centre of its object.

    The centre is the mean of the voxel centres of the object in the sample, so a crop, a part of a large scene or a
    label budget have their own centres. The offset loss is the L1 distance plus 1 - cosine, a mean over the labelled
    voxels of objects of the classes with instances.

    Source: section 5, "3D instance segmentation task", after PointGroup (Jiang et al., CVPR 2020).
    """

    def __init__(
        self, semantic: Classification, *, with_instances: Tensor, voxel_size: float, offset_weight: float = 1.0
    ) -> None:
        """Create a learner for a network with an offset head.

        Args:
            semantic: Loss of the classifier.
            with_instances: Which classes have instances, shape `(classes,)`, bool.
            voxel_size: Edge of a voxel in metres.
            offset_weight: Weight of the offset loss.
        """
        assert semantic.network.offset_head is not None, "instance segmentation requires an offset head"
        self.network = semantic.network
        self.semantic = semantic
        self.with_instances = with_instances
        self.voxel_size = voxel_size
        self.offset_weight = offset_weight

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of labelled voxels and of voxels of objects."""
        return (*self.semantic.weights(batch), int(self._counted(batch).sum()))

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the loss of the classifier and that of the offsets."""
        assert self.network.offset_head is not None
        assert batch.instances is not None
        (semantic,) = self.semantic.loss(features, batch, seeds=seeds)
        offsets = offset_loss(
            self.network.offset_head(features),
            (batch.coordinates[:, 1:].double() + 0.5) * self.voxel_size,
            number_objects(batch.instances, batch.coordinates[:, 0], self._counted(batch)),
        )
        return (
            semantic._replace(parts={"semantic": semantic.total, **semantic.parts}),
            LossParts(self.offset_weight * (offsets.distance + offsets.direction), offsets._asdict()),
        )

    def scores(self, features: Tensor) -> Tensor:
        """Return the logits of the classifier."""
        return self.semantic.scores(features)

    def _counted(self, batch: Batch) -> Tensor:
        """Return which voxels belong to an object, shape `(voxels,)`, bool."""
        assert batch.instances is not None, "instance segmentation requires batches with instances"
        with_instances = self.with_instances.to(batch.labels.device)
        return (batch.labels >= 0) & (batch.instances > 0) & with_instances[batch.labels.clamp_min(0)]


WEIGHTED_LOSSES = ("weighted-cross-entropy", "class-balanced-focal")


def _count_labelled(batch: Batch) -> int:
    return int((batch.labels >= 0).sum())


def _split_scenes(batch: Batch) -> tuple[Tensor, ...]:
    """Return the labels of each scene."""
    return torch.split(batch.labels, list(batch.scene_sizes)) if batch.scene_sizes else ()


def _generator(features: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(device=features.device).manual_seed(seed)
