"""Pre-training with language grounding, or with one of the baselines on the same backbone."""

from pathlib import Path

import torch
from torch import Tensor

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.sampling.views import ViewDataset
from lg3d_core.settings import PretrainSettings
from lg3d_core.training.batches import SceneBatches, ViewBatches
from lg3d_core.training.joint import JointLearner
from lg3d_core.training.launch import OpenedRun, open_run, train_run
from lg3d_core.training.learners import LanguageGrounding, LanguageSoftmax, SceneContexts, SupervisedContrast
from lg3d_core.training.run_anchors import describe_anchors, load_all_anchors, trained_vocabularies

SOFTMAX_TEMPERATURE = 0.05
TEMPERATURES = {"supcon": 0.1, "csc": 0.4}
"""Default temperatures, from the two publications."""


def pretrain(settings: PretrainSettings, progress: Progress) -> Path:
    """Pre-train a network and return the path of its last checkpoint.

    Args:
        settings: Settings of a new run, or with `resume` the folder of the run to resume.
        progress: Reports epochs and scores.

    Raises:
        SettingsError: Settings are incompatible, e.g. the width of the anchors and of the features.
        DataError: Store or anchors are missing, damaged, or of different vocabularies.
        Interrupted: A signal arrived; the run can be resumed with `--resume`.
    """
    with open_run(settings, progress) as opened:
        return METHODS[opened.settings.method](opened)


def _ground_in_language(opened: OpenedRun[PretrainSettings]) -> Path:
    settings = opened.settings
    network = MinkUNet(settings.network)
    vocabularies = [data.store.vocabulary for data in opened.data.stores]
    anchors = load_all_anchors(settings, network, vocabularies)
    network = network.to(opened.device)
    learners = [_make_learner(settings, network, torch.from_numpy(own.vectors).to(opened.device)) for own in anchors]
    return train_run(
        opened,
        learners[0] if len(learners) == 1 else JointLearner(learners, opened.data.sizes),
        SceneBatches(opened.data.scenes(settings), max_voxels=settings.max_voxels),
        facts={"method": settings.method, "anchors": describe_anchors(anchors[0])},
        anchors_digest=anchors[0].digest,
        vocabularies=trained_vocabularies(vocabularies, anchors),
    )


def _make_learner(
    settings: PretrainSettings, network: MinkUNet, vectors: Tensor
) -> LanguageGrounding | LanguageSoftmax:
    """Return the learner of one vocabulary with the anchors `vectors`, shape `(classes, D)`."""
    if settings.contrast == "softmax":
        return LanguageSoftmax(network, vectors, temperature=settings.temperature or SOFTMAX_TEMPERATURE)
    return LanguageGrounding(
        network,
        vectors,
        distance=settings.distance,
        hinge=settings.hinge,
        negatives=settings.negatives,
        replacement=settings.replacement,
        positive_margin=settings.positive_margin,
        negative_margin=settings.negative_margin,
        negative_weight=settings.negative_weight,
    )


def _contrast_categories(opened: OpenedRun[PretrainSettings]) -> Path:
    settings = opened.settings
    learner = SupervisedContrast(
        MinkUNet(settings.network).to(opened.device),
        sources=settings.contrast_points,
        positives=settings.supcon_positives,
        negatives=settings.supcon_negatives,
        temperature=settings.temperature or TEMPERATURES[settings.method],
    )
    return train_run(
        opened,
        learner,
        SceneBatches(opened.data.dataset, max_voxels=settings.max_voxels),
        facts={"method": settings.method},
        anchors_digest=None,
    )


def _contrast_views(opened: OpenedRun[PretrainSettings]) -> Path:
    settings, scenes = opened.settings, opened.data.dataset
    if settings.limited is not None:
        opened.progress.note("csc does not use labels: --limited has no effect")
    inner, outer = settings.partition_radii
    learner = SceneContexts(
        MinkUNet(settings.network).to(opened.device),
        temperature=settings.temperature or TEMPERATURES[settings.method],
        inner=inner,
        outer=outer,
        partition=settings.partition,
    )
    views = ViewDataset(
        scenes.store,
        scenes.scene_ids,
        voxel_size=scenes.voxel_size,
        augmentation=scenes.augmentation,
        share=settings.view_share,
        max_matches=settings.contrast_points,
        crop=scenes.crop,
        seed=scenes.seed,
    )
    return train_run(
        opened,
        learner,
        ViewBatches(views, max_voxels=settings.max_voxels),
        facts={"method": settings.method},
        anchors_digest=None,
    )


METHODS = {"language": _ground_in_language, "supcon": _contrast_categories, "csc": _contrast_views}
