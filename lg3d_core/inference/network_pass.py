"""A network over the voxels of a scan, tile by tile, within a budget of memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.devices import autocast, resolve_device, resolve_precision
from lg3d_core.errors import UsageError
from lg3d_core.inference.scan_voxels import ScanVoxels
from lg3d_core.memory import memory_limits
from lg3d_core.networks.checkpoint import CheckpointInfo, load_network
from lg3d_core.networks.tiles import reach_of, tile_voxels
from lg3d_core.progress import Progress
from lg3d_core.settings import ScanSettings
from lg3d_core.sparse import SparseTensor, owned_threads, use_backend

if TYPE_CHECKING:
    from lg3d_core.networks.minkunet import MinkUNet

CHUNK = 16_384
"""Voxels whose scores are in memory at once."""
BASE_BYTES, BYTES_PER_CHANNEL = 3_000, 20
"""Memory of a forward pass per voxel: so much, and so much more for each channel of the features. Measured on a CPU:
2.4 to 3.5 kB for 14A (96 channels), 10.8 kB for 34D (512)."""
FIXED_BYTES = 600 << 20
"""What Python, PyTorch and a piece of a scan that is being read take before a network or a voxel is in memory."""
LEAST_VOXELS = 1000
"""A budget for fewer is refused."""
SHARE = 0.6
"""Of the memory that is free, where no budget is told."""


class Engine(NamedTuple):
    """A network, and how it is run.

    Attributes:
        network: On `device`, in evaluation mode.
        info: What its checkpoint says of itself.
        device: Where it is.
        precision: `fp32` or `bf16`.
        backend: Of the sparse convolution.
        memory: Bytes that a pass may take; None takes a share of what is free.
        overlap: Width of the tiles' rims in metres; None follows from the network's reach.
    """

    network: "MinkUNet"
    info: CheckpointInfo
    device: torch.device
    precision: str
    backend: str
    memory: int | None = None
    overlap: float | None = None


def load_engine(path: Path, settings: ScanSettings) -> Engine:
    """A checkpoint's network on its device, with the user's limits."""
    device = resolve_device(settings.device)
    network, info = load_network(path, device=device)
    precision = resolve_precision(settings.precision, device)
    return Engine(network, info, device, precision, settings.backend, settings.memory_bytes, settings.overlap)


def voxel_budget(engine: Engine) -> int:
    """How many voxels a pass may hold.

    Raises:
        UsageError: The budget does not even hold the program.
    """
    per_voxel = BASE_BYTES + BYTES_PER_CHANNEL * engine.network.num_features
    if engine.memory is None:
        return max(1, int(SHARE * free_memory(engine.device)) // per_voxel)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in engine.network.state_dict().values())
    fixed = weights + (FIXED_BYTES if engine.device.type == "cpu" else 0)
    room = engine.memory - fixed
    if room < LEAST_VOXELS * per_voxel:
        least = (fixed + LEAST_VOXELS * per_voxel) / 2**20
        raise UsageError(f"--memory {engine.memory / 2**20:.0f}M is too small: {least:.0f}M is the least")
    return int(room // per_voxel)


def free_memory(device: torch.device) -> int:
    """Bytes that a pass on a device could take now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def pass_features(
    engine: Engine, voxels: ScanVoxels, progress: Progress, *, name: str
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Run the network; gives rows of voxels with their features `(rows, num_features)`, each voxel once.

    Where the scan does not fit into memory at once it is cut into overlapping tiles, which is told.

    Raises:
        UsageError: The budget is too small for any tile.
        MemoryLimitError: The budget is larger than the memory there is.
    """
    cells = voxels.cells
    reach = reach_of(engine.info.network, stem_size=engine.info.stem_size)
    rim = None if engine.overlap is None else round(engine.overlap / voxels.voxel_size)
    tiling = tile_voxels(cells, max_voxels=voxel_budget(engine), reach=reach, rim=rim, voxel_size=voxels.voxel_size)
    if len(tiling.tiles) == 1:
        for tile in tiling.tiles:
            yield from _run(engine, cells, voxels.rgb, tile.own, tile.rows)
        return
    exact = (
        "as if untiled"
        if tiling.rim >= reach
        else (f"labels may differ from untiled ones within {(reach - tiling.rim) * voxels.voxel_size:.2f} m of a seam")
    )
    progress.note(
        f"{name}: {len(cells)} voxels in {len(tiling.tiles)} tiles with rims of "
        f"{tiling.rim * voxels.voxel_size:.2f} m: {exact}"
    )
    with progress.task("tiles", total=len(tiling.tiles), unit="tile") as task:
        for tile in tiling.tiles:
            yield from _run(engine, cells, voxels.rgb, tile.own, tile.rows)
            task.advance()


def _run(
    engine: Engine,
    cells: npt.NDArray[np.int32],
    rgb: npt.NDArray[np.uint8],
    own: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    coordinates = torch.zeros((len(rows), 4), dtype=torch.int32)
    coordinates[:, 1:] = torch.from_numpy(cells[rows])
    colors = torch.from_numpy(rgb[rows].astype(np.float32) / np.float32(255) - np.float32(0.5))
    chosen = use_backend(engine.backend) if engine.backend else nullcontext()
    with torch.inference_mode(), owned_threads(), chosen:
        with memory_limits(engine.device, lambda: _describe_pass(len(rows))):
            x = SparseTensor(colors.to(engine.device), coordinates.to(engine.device))
            with autocast(engine.device, engine.precision):
                features = engine.network(x)
        places = torch.from_numpy(np.searchsorted(rows, own)).to(engine.device)
        for start in range(0, len(own), CHUNK):
            part = features[places[start : start + CHUNK]].float()
            yield own[start : start + CHUNK], part


def _describe_pass(voxels: int) -> tuple[str, str]:
    return f"in a pass of {voxels} voxels", "a smaller --memory (such as 4G) cuts the scan into smaller tiles"


def name_voxels(
    engine: Engine,
    voxels: ScanVoxels,
    progress: Progress,
    *,
    name: str,
    scores: Callable[[Tensor], Tensor],
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """The best class of each voxel, and the softmax of its score.

    Args:
        engine: The network.
        voxels: Of the scan.
        progress: Told of tiles.
        name: What the scan is called.
        scores: Gives class scores `(voxels, classes)` for features.

    Returns:
        Vocabulary index, shape `(voxels,)`, int16; confidence in 0..1, shape `(voxels,)`, float32.
    """
    label = np.empty(len(voxels.keys), dtype=np.int16)
    confidence = np.empty(len(voxels.keys), dtype=np.float32)
    for rows, features in pass_features(engine, voxels, progress, name=name):
        with torch.inference_mode():
            best, index = scores(features).float().softmax(dim=1).max(dim=1)
        label[rows] = index.to(torch.int16).cpu().numpy()
        confidence[rows] = best.cpu().numpy()
    return label, confidence
