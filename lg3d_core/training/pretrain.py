"""Language-grounded pre-training: every voxel's feature is pulled towards the text anchor of its category."""

from pathlib import Path

import torch

from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.errors import SettingsError
from lg3d_core.language.anchors import load_anchors, require_vocabulary
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import PretrainSettings
from lg3d_core.training.learners import LanguageGrounding
from lg3d_core.training.loop import train
from lg3d_core.training.run import Run
from lg3d_core.training.scenes import describe_data, open_training_data


def pretrain(settings: PretrainSettings, progress: Progress) -> Path:
    """Pre-train a network and return the path of its last checkpoint.

    Raises:
        SettingsError: Settings that cannot work together, such as anchors of another width than the features.
        DataError: Store or anchors are missing, damaged, or of different vocabularies.
        Interrupted: A signal came; the run can be continued with `--resume`.
    """
    run = None
    if settings.resume is not None:
        run = Run.open(settings.resume)
        settings = PretrainSettings.from_json((settings.resume / "settings.json").read_text(encoding="utf-8"))
    device = resolve_device(settings.device)
    data = open_training_data(settings, progress)
    anchors = load_anchors(settings.anchors)
    require_vocabulary(anchors, data.store.vocabulary)
    torch.manual_seed(settings.seed)
    network = MinkUNet(settings.network)
    if anchors.vectors.shape[1] != network.num_features:
        raise SettingsError(
            f"the anchors {settings.anchors} are {anchors.vectors.shape[1]}-d, network {settings.network} gives "
            f"{network.num_features}-d features: run lg3d anchors --dim {network.num_features}"
        )
    learner = LanguageGrounding(
        network.to(device),
        torch.from_numpy(anchors.vectors).to(device),
        negatives=settings.negatives,
        positive_margin=settings.positive_margin,
        negative_margin=settings.negative_margin,
        negative_weight=settings.negative_weight,
    )
    if run is None:
        run = Run.create(settings)
        run.write_card("pretrain", {**describe_data(data, settings), "anchors": anchors.metadata})
    info = CheckpointInfo(
        kind="pretrain",
        network=settings.network,
        num_classes=None,
        voxel_size=settings.voxel_size,
        vocabulary=data.store.vocabulary.name,
        vocabulary_digest=data.store.vocabulary.digest,
        anchors_digest=anchors.digest,
        settings=settings.to_json(),
    )
    train(
        learner,
        data.dataset,
        store=data.store,
        run=run,
        settings=settings,
        info=info,
        device=device,
        precision=resolve_precision(settings.precision, device),
        progress=progress,
    )
    return run.checkpoint
