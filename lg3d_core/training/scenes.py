"""Training scenes of a run, and their description for its card."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.language.anchors_file import load_anchors
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.instance_bank import BANK_FOLDER
from lg3d_core.sampling.joint import JointScenes
from lg3d_core.sampling.placement import InstancePasting, open_pasting
from lg3d_core.settings import FinetuneSettings, PretrainSettings, TrainSettings
from lg3d_core.store.budgets import BUDGETS_FOLDER, Budget, ensure_budget
from lg3d_core.store.scene_store import SceneStore

ALL_LABELS = "all"


class TrainingData(NamedTuple):
    """Store, scenes, label budget and pasted objects of a training run.

    Attributes:
        store: Scene store.
        budget: Label budget, if one is set.
        dataset: Augmented training scenes of the store.
        others: Data of further stores with their own vocabularies.
    """

    store: SceneStore
    budget: Budget | None
    dataset: SceneDataset
    others: tuple["TrainingData", ...] = ()

    @property
    def stores(self) -> tuple["TrainingData", ...]:
        """Data of every store; the first one is this."""
        return (self, *self.others)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of classes of every store's vocabulary."""
        return tuple(len(data.store.vocabulary) for data in self.stores)

    def scenes(self, settings: TrainSettings) -> SceneDataset | JointScenes:
        """Return the training scenes of all stores."""
        if not self.others:
            return self.dataset
        return JointScenes([data.dataset for data in self.stores], shares=settings.store_shares, seed=settings.seed)


def open_training_data(settings: TrainSettings, progress: Progress, *, num_processes: int = 1) -> TrainingData:
    """Open the store, the label budget if one is set, and the augmented training scenes.

    Args:
        settings: Settings of the run.
        progress: Reports the batch sizes.
        num_processes: Number of processes that share each batch equally.

    Raises:
        DataError: The store is missing or has no training scenes.
    """
    store = _choose_labels(settings.store, _used_anchors(settings), progress, vocabulary=settings.vocabulary)
    others = (
        _choose_labels(path, anchors, progress)
        for path, anchors in zip(settings.also_store, settings.also_anchors, strict=True)
    )
    data = _open_store(settings, store, progress)
    data = data._replace(others=tuple(_open_store(settings, other, progress) for other in others))
    share = settings.batch_size // num_processes
    micro = min(settings.micro_batch or share, share)
    passes = -(-share // micro)
    scenes = data.scenes(settings)
    mixed = ""
    if isinstance(scenes, JointScenes):
        mixed = f" an epoch ({', '.join(map(str, scenes.draws))} of {len(data.stores)} stores)"
    progress.note(
        f"effective batch {settings.batch_size} scenes ("
        + (f"{num_processes} processes, each " if num_processes > 1 else "")
        + f"{passes} forward pass{'es' if passes > 1 else ''} of {micro}), "
        f"{len(scenes)} training scenes{mixed}"
        + (f", {100 * settings.limited:g} % of the labels" if data.budget is not None and settings.limited else "")
    )
    return data


def _used_anchors(settings: TrainSettings) -> Path | None:
    """Return the anchors of the first store, or None if the run does not use any."""
    if isinstance(settings, PretrainSettings):
        return settings.anchors if settings.method == "language" else None
    return settings.anchors if isinstance(settings, FinetuneSettings) and settings.classifier != "fresh" else None


def _choose_labels(
    path: Path, anchors: Path | None, progress: Progress, *, vocabulary: str | None = None
) -> SceneStore:
    """Open a store with the labels of a vocabulary, by default that of the anchors if the store has several.

    Raises:
        DataError: The store or the anchors are missing or damaged.
    """
    store = SceneStore(path, vocabulary)
    if vocabulary is not None or anchors is None or len(store.vocabularies) == 1:
        return store
    store = SceneStore(path, preferred=load_anchors(anchors).metadata["vocabulary_digest"])
    progress.note(f"{path}: using the labels of {store.vocabulary.name}, the vocabulary of {anchors}")
    return store


def _open_store(settings: TrainSettings, store: SceneStore, progress: Progress) -> TrainingData:
    """Open the training scenes of one store.

    Raises:
        DataError: The store has no training scenes or labels.
    """
    scene_ids = store.scene_ids("train")
    if not scene_ids:
        raise DataError(f"{store.path} has no training scenes: prepare a raw folder whose split files list some")
    budget = None
    if settings.limited is not None:
        budget = ensure_budget(
            store,
            settings.limited,
            seed=settings.limited_seed,
            progress=progress,
            elsewhere=settings.runs / BUDGETS_FOLDER,
        )
    if uses_labels(settings):
        _require_labels(store, budget)
    dataset = SceneDataset(
        store,
        scene_ids,
        voxel_size=settings.voxel_size,
        augmentation=_choose_augmentation(settings),
        budget=budget,
        pasting=_open_pasting(settings, store, budget, progress),
        crop=settings.crop,
        seed=settings.seed,
    )
    return TrainingData(store, budget, dataset)


def _choose_augmentation(settings: TrainSettings) -> Augmentation | None:
    if not settings.augment:
        return None
    return Augmentation.for_any_scan() if settings.randomise else Augmentation()


def _open_pasting(
    settings: TrainSettings, store: SceneStore, budget: Budget | None, progress: Progress
) -> InstancePasting | None:
    """Return the instance sampling of these settings, or None if they do not use it."""
    if not isinstance(settings, FinetuneSettings) or not settings.augment or settings.instances == 0:
        return None
    return open_pasting(
        store, budget=budget, count=settings.instances, progress=progress, elsewhere=settings.runs / BANK_FOLDER
    )


def uses_labels(settings: TrainSettings) -> bool:
    """Return whether a run learns from labels; only contrastive scene contexts does not."""
    return not (isinstance(settings, PretrainSettings) and settings.method == "csc")


def _require_labels(store: SceneStore, budget: Budget | None) -> None:
    """Reject training scenes without any labelled point.

    Raises:
        DataError: No point is labelled; the message names the vocabulary.
    """
    if store.class_counts("train", budget=budget).any():
        return
    scenes = f"the {len(store.scene_ids('train'))} training scenes of {store.path}"
    if budget is not None and store.class_counts("train").any():
        raise DataError(f"{scenes} have labels, but none in an annotated object, and a label budget keeps only those")
    raise DataError(
        f"no point of {scenes} has a label of the vocabulary {store.vocabulary.name}: lg3d prepare RAW --check lists "
        "the raw labels that the label table lacks; correct the table or pass another --vocabulary, and prepare again"
    )


def digest_labels(data: TrainingData, settings: TrainSettings) -> str:
    """Return which labels of the training scenes a run sees: empty, `all`, or the digest of its label budget."""
    if not uses_labels(settings):
        return ""
    own = (ALL_LABELS if one.budget is None else one.budget.digest for one in data.stores)
    return ",".join(sorted(set(own)))


def join_labels(before: str | None, own: str) -> str | None:
    """Combine the labels seen before and by this run; None if the former are unknown."""
    if before is None and own != ALL_LABELS:
        return None
    return ",".join(sorted({*(before or "").split(","), own} - {""}))


def digest_inputs(data: TrainingData, anchors_digest: str | None) -> dict[str, str]:
    """Return the values that must be equal when a run is resumed, by their name in messages.

    Further stores are part of the values of the first one.
    """
    found = _digest_store_inputs(data, anchors_digest)
    for other in data.others:
        own = _digest_store_inputs(other, None)
        found |= {name: f"{found[name]}+{own[name]}" for name in ("store", "split", "label budget")}
    return found


def _digest_store_inputs(data: TrainingData, anchors_digest: str | None) -> dict[str, str]:
    split = "\n".join(f"{scene_id} {data.store.split_of(scene_id)}" for scene_id in data.store.scene_ids())
    return {
        "store": data.store.digest,
        "split": hashlib.sha256(split.encode()).hexdigest()[:16],
        "label budget": "none" if data.budget is None else data.budget.digest,
        "text anchors": anchors_digest or "none",
    }


def digest_data(data: TrainingData) -> dict[str, str]:
    """Return the values that must be equal on all machines, by their name in messages."""
    pastings = [one.dataset.pasting for one in data.stores]
    return {
        "a store of digest": "+".join(one.store.digest for one in data.stores),
        "a label budget of digest": "+".join(
            "none" if one.budget is None else one.budget.digest for one in data.stores
        ),
        "an instance bank of key": "+".join("none" if pasting is None else pasting.bank.key for pasting in pastings),
    }


def describe_data(data: TrainingData, settings: TrainSettings) -> dict[str, Any]:
    """Describe the training data for the run's card."""
    others = [_describe_store(other, path) for other, path in zip(data.others, settings.also_store, strict=True)]
    return _describe_store(data, settings.store, settings) | ({"other_stores": others} if others else {})


def _describe_store(data: TrainingData, path: Path, settings: TrainSettings | None = None) -> dict[str, Any]:
    counts = data.store.class_counts("train", budget=data.budget)
    return {
        "store": {"path": str(path), "digest": data.store.digest},
        "vocabulary": {"name": data.store.vocabulary.name, "digest": data.store.vocabulary.digest},
        "training_scenes": len(data.store.scene_ids("train")),
        "validation_scenes": len(data.store.scene_ids("val")),
        "labelled_points": int(counts.sum()),
        "categories_with_labels": int((counts > 0).sum()),
        **({} if settings is None else {"effective_batch": settings.batch_size}),
        "instance_bank": None
        if data.dataset.pasting is None
        else {"key": data.dataset.pasting.bank.key, "objects": len(data.dataset.pasting.bank)},
        "label_budget": None
        if data.budget is None
        else {"ratio": data.budget.ratio, "seed": data.budget.seed, "digest": data.budget.digest},
    }
