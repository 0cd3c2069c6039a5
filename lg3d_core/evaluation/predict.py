"""A category for every vertex of a scene."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lg3d_core.devices import autocast
from lg3d_core.errors import SettingsError
from lg3d_core.memory import is_out_of_memory, memory_limit_error
from lg3d_core.networks.tiles import reach_of, tile_voxels
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import sample_scene
from lg3d_core.sparse import SparseTensor, owned_threads, use_backend

if TYPE_CHECKING:
    from lg3d_core.networks.minkunet import MinkUNet
    from lg3d_core.store.scene_file import Scene

CHUNK = 16_384
"""Voxels whose class scores are in memory at once (13 MB of 200 classes)."""

LEAST_TILE = 1000
"""Voxels; where tiles of so few do not fit into memory, nothing will."""


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
    progress: Progress | None = None,
) -> Prediction:
    """Name every vertex of a scene by its voxel's highest class score.

    A scene that does not fit into memory at once goes through the network in overlapping tiles, which is told.

    Args:
        network: On `device`; its training mode is as before when this returns.
        scene: From the store; its labels are only passed through.
        voxel_size: Edge of a voxel in metres.
        device: Where the network is.
        precision: Of the features, `fp32` or `bf16`; class scores are always fp32.
        backend: Of the sparse convolution; None keeps the one in use.
        scores: Gives class scores `(voxels, classes)` for features; None takes the network's classifier.
        progress: Told of tiles.

    Raises:
        MemoryLimitError: Not even a small tile fits into memory.
    """
    device = torch.device(device)
    sample = sample_scene(scene, voxel_size=voxel_size)
    if len(sample.cells) == 0:
        nothing = np.zeros(0, dtype=np.int16)
        return Prediction(nothing, np.zeros(0, dtype=np.float32), nothing, nothing)
    chosen = use_backend(backend) if backend else nullcontext()
    with torch.inference_mode(), _evaluating(network), owned_threads(), chosen:

        def name(part: Batch) -> _Names:
            with autocast(device, precision):
                features = network(SparseTensor(part.features.to(device), part.coordinates.to(device)))
            chunks = [_name_voxels((scores or network.classify)(chunk.float())) for chunk in features.split(CHUNK)]
            labels, confidences = (torch.cat(values).cpu() for values in zip(*chunks, strict=True))
            return labels.to(torch.int16).numpy(), confidences.numpy()

        whole = collate([sample])
        names = _unless_out_of_memory(name, whole)
        if names is None:
            names = _name_tiles(name, whole, network, device=device, scene_id=scene.scene_id, progress=progress)
    label_of_voxel, confidence_of_voxel = names
    point_to_voxel = sample.point_to_voxel.numpy()
    return Prediction(
        label=label_of_voxel[point_to_voxel],
        confidence=confidence_of_voxel[point_to_voxel],
        voxel_label=label_of_voxel,
        voxel_truth=sample.labels.numpy().astype(np.int16),
    )


_Names = tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]
"""Category of each voxel, and the confidence in it."""


def _unless_out_of_memory(name: Callable[[Batch], _Names], batch: Batch) -> _Names | None:
    """What `name` gives, or None, with nothing held any more, where memory did not suffice."""
    try:
        return name(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _name_tiles(
    name: Callable[[Batch], _Names],
    batch: Batch,
    network: "MinkUNet",
    *,
    device: torch.device,
    scene_id: str,
    progress: Progress | None,
) -> _Names:
    """Name the voxels of one scene in overlapping tiles, half as large again and again until they fit."""
    cells = batch.coordinates[:, 1:].numpy()
    reach = reach_of(network.plan_name, stem_size=network.stem_size)
    limit = len(cells) // 2
    while limit >= LEAST_TILE:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            tiling = tile_voxels(cells, max_voxels=limit, reach=reach)
        except SettingsError:  # not even the narrowest rim leaves room in a tile
            break
        labels, confidences = np.empty(len(cells), np.int16), np.empty(len(cells), np.float32)
        for tile in tiling.tiles:
            part = batch._replace(coordinates=batch.coordinates[tile.rows], features=batch.features[tile.rows])
            names = _unless_out_of_memory(name, part)
            if names is None:
                break
            places = np.searchsorted(tile.rows, tile.own)
            labels[tile.own], confidences[tile.own] = names[0][places], names[1][places]
        else:
            if progress is not None:
                progress.warn(
                    f"{scene_id}: its {len(cells)} voxels do not fit into memory at once; named in {len(tiling.tiles)} "
                    "overlapping tiles" + (", labels by their seams may differ" if tiling.rim < reach else "")
                )
            return labels, confidences
        limit //= 2
    raise memory_limit_error(
        device,
        f"in a pass of {len(cells)} voxels of {scene_id}, and in tiles of it",
        "take a smaller network, or "
        + ("--device cpu, which has other memory" if device.type == "cuda" else "a machine with more memory"),
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
