"""Joint training over stores with different vocabularies: one loss per vocabulary, on the voxels of its stores."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.joint import first_classes
from lg3d_core.training.learners import Learner, LossParts
from lg3d_core.training.stop import Stop
from lg3d_core.training.validation import Validation, Validator

FIRST_STORE = "store1"
"""Name of the store whose scores are logged without its name."""


class JointLearner:
    """Mean of the losses of several vocabularies over all labelled voxels of a batch.

    Every voxel is compared with the classes of its own vocabulary alone: with `n_k` labelled voxels of vocabulary `k`
    and its loss `L_k`, a mean over them, the loss is `sum_k n_k L_k / sum_k n_k`. The labels of a batch are numbered
    over all vocabularies, as in `JointScenes`, so they contain the vocabulary of each voxel.
    """

    def __init__(self, learners: Sequence[Learner[Batch]], sizes: Sequence[int]) -> None:
        """Join learners of the same network.

        Args:
            learners: Learner of each vocabulary, with one loss term.
            sizes: Number of classes of each vocabulary.
        """
        assert len({id(learner.network) for learner in learners}) == 1, "the learners need the same network"
        self.network = learners[0].network
        self.learners = tuple(learners)
        self.first = first_classes(sizes)

    def weights(self, batch: Batch) -> tuple[int, ...]:
        """Return the number of labelled voxels."""
        return (int((batch.labels >= 0).sum()),)

    def loss(self, features: Tensor, batch: Batch, *, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        """Return the mean loss over all labelled voxels, with its parts."""
        total = features[:0].float().sum()
        parts: dict[str, Tensor] = {}
        labelled = max(1, self.weights(batch)[0])
        for number, learner in enumerate(self.learners):
            own = self.select(batch, number)
            (weight,) = learner.weights(own)
            (loss,) = learner.loss(features, own, seeds=seeds)
            total = total + loss.total * (weight / labelled)
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + value * (weight / labelled)
        return (LossParts(total, parts),)

    def select(self, batch: Batch, number: int) -> Batch:
        """Return a batch in which only voxels of one vocabulary have labels, numbered within it."""
        first, end = self.first[number : number + 2]
        inside = (batch.labels >= first) & (batch.labels < end)
        return batch._replace(labels=(batch.labels - first).where(inside, -1))

    @property
    def scores(self) -> Callable[[Tensor], Tensor] | None:
        """Class scores of the first vocabulary."""
        return self.learners[0].scores


@dataclass(frozen=True, eq=False)
class JointValidation(Validation):
    """Scores on the validation scenes of several stores.

    Attributes:
        validations: Scores by the name of the store, in order; `evaluation` is that of the first one.
    """

    validations: dict[str, Validation]

    @property
    def score(self) -> float:
        """Mean of the stores' scores that are defined."""
        scores = [own.score for own in self.validations.values() if math.isfinite(own.score)]
        return sum(scores) / len(scores) if scores else math.nan

    @property
    def logged(self) -> dict[str, float]:
        """Scores of all stores; those of other stores than the first one with the name of the store."""
        found: dict[str, float] = {}
        for name, own in self.validations.items():
            found |= {key if name == FIRST_STORE else f"{name}/{key}": value for key, value in own.logged.items()}
        return found

    def describe(self, *, epoch: int, epochs: int) -> str:
        """Return the scores of all stores after an epoch in one line."""
        texts = [f"{name}: {own.describe_scores()}" for name, own in self.validations.items()]
        return f"epoch {epoch}/{epochs}: validation " + "; ".join(texts)


class JointValidator:
    """Scores a network on the validation scenes of several stores, one store after the other.

    Args:
        validators: Validator of each store that has validation scenes, by the name of the store.
    """

    def __init__(self, validators: Mapping[str, Validator]) -> None:
        self.validators = {name: own for name, own in validators.items() if own.scene_ids}
        self.scene_ids = [scene_id for own in self.validators.values() for scene_id in own.scene_ids]

    def validate(self, stop: Stop, show: Callable[[int], None]) -> JointValidation:
        """Return the scores on all scenes; `show` receives the number of finished scenes.

        Raises:
            Dropped: A stop was requested in one of several processes.
        """
        found, done = {}, 0
        for name, own in self.validators.items():
            found[name] = own.validate(stop, _after(done, show))
            done += len(own.scene_ids)
        return JointValidation(next(iter(found.values())).evaluation, found)


def _after(done: int, show: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that shows a number of finished scenes in addition to those before."""
    return lambda scenes: show(done + scenes)


def separate(learner: Learner[Any]) -> tuple[Learner[Any], ...]:
    """Return the learners of each vocabulary, or a learner that is not joint."""
    return learner.learners if isinstance(learner, JointLearner) else (learner,)
