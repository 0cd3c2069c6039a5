"""A category for every vertex of a scene."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lg3d_core.devices import autocast
from lg3d_core.sampling.batch import collate
from lg3d_core.sampling.dataset import sample_scene
from lg3d_core.sparse import SparseTensor, owned_threads, use_backend

if TYPE_CHECKING:
    from lg3d_core.networks.minkunet import MinkUNet
    from lg3d_core.store.scene_file import Scene

CHUNK = 16_384
"""Voxels whose class scores are in memory at once (13 MB of 200 classes)."""


class Prediction(NamedTuple):
    """What a network sees in a scene.

    Attributes:
        label: Vocabulary index of every vertex, shape `(vertices,)`, int16.
        confidence: Softmax of the winning class score at every vertex, 0..1, shape `(vertices,)`, float32.
        voxel_label: Vocabulary index of every voxel, shape `(voxels,)`, int16.
        voxel_truth: Label of the vertex that each voxel keeps, -1 none, shape `(voxels,)`, int16.
    """

    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    voxel_label: npt.NDArray[np.int16]
    voxel_truth: npt.NDArray[np.int16]


def predict_scene(
    network: "MinkUNet",
    scene: "Scene",
    *,
    voxel_size: float,
    device: torch.device | str,
    precision: str = "fp32",
    backend: str | None = None,
    scores: Callable[[Tensor], Tensor] | None = None,
) -> Prediction:
    """Name every vertex of a scene by its voxel's highest class score.

    Args:
        network: On `device`; its training mode is as before when this returns.
        scene: From the store; its labels are only passed through.
        voxel_size: Edge of a voxel in metres.
        device: Where the network is.
        precision: Of the features, `fp32` or `bf16`; class scores are always fp32.
        backend: Of the sparse convolution; None keeps the one in use.
        scores: Gives class scores `(voxels, classes)` for features; None takes the network's classifier.
    """
    device = torch.device(device)
    sample = sample_scene(scene, voxel_size=voxel_size)
    if len(sample.cells) == 0:
        nothing = np.zeros(0, dtype=np.int16)
        return Prediction(nothing, np.zeros(0, dtype=np.float32), nothing, nothing)
    batch = collate([sample])
    chosen = use_backend(backend) if backend else nullcontext()
    with torch.inference_mode(), _evaluating(network), owned_threads(), chosen:
        x = SparseTensor(batch.features.to(device), batch.coordinates.to(device))
        with autocast(device, precision):
            features = network(x)
        labels, confidences = [], []
        for part in features.split(CHUNK):
            label, confidence = _name_voxels((scores or network.classify)(part.float()))
            labels.append(label)
            confidences.append(confidence)
    label_of_voxel = torch.cat(labels).to(torch.int16).cpu().numpy()
    confidence_of_voxel = torch.cat(confidences).cpu().numpy()
    point_to_voxel = sample.point_to_voxel.numpy()
    return Prediction(
        label=label_of_voxel[point_to_voxel],
        confidence=confidence_of_voxel[point_to_voxel],
        voxel_label=label_of_voxel,
        voxel_truth=sample.labels.numpy().astype(np.int16),
    )


def _name_voxels(class_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Best class of each row, and its softmax, which is 1 / sum exp(score - best score)."""
    best, label = class_scores.float().max(dim=1)
    return label, (class_scores.float() - best[:, None]).exp().sum(dim=1).reciprocal()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, each module's own mode afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
