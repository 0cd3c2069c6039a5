"""Voxel batches that the engines are timed on."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.sampling.voxels import voxelize
from lg3d_core.scans.ply import read_ply
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.synthetic.kinds import KINDS, furnish
from lg3d_core.synthetic.scanner import scan_room

VERTICES_AT_5_CM = 120_000
"""Vertices of a procedural room that fill nearly all of its 5 cm voxels; smaller voxels need more."""


class Cloud(NamedTuple):
    """Coloured points.

    Attributes:
        name: Scene id, file name or kind of room.
        xyz: Positions in metres, shape `(points, 3)`.
        rgb: Colours, shape `(points, 3)`, uint8.
    """

    name: str
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]


class Workload(NamedTuple):
    """One batch of voxels, the same for every engine.

    Attributes:
        names: Source of each scene of the batch.
        voxel_size: Edge of a voxel in metres.
        coordinates: Rows `batch, x, y, z` in lexicographic order, not negative, shape `(voxels, 4)`, int32.
        colours: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        batch_size: Number of scenes.
        shape: Cells along x, y, z that contain every scene, multiples of 16 so that four halvings are exact.
    """

    names: tuple[str, ...]
    voxel_size: float
    coordinates: Tensor
    colours: Tensor
    batch_size: int
    shape: tuple[int, int, int]

    @property
    def num_voxels(self) -> int:
        return len(self.coordinates)

    @property
    def device(self) -> torch.device:
        return self.coordinates.device

    def describe(self) -> str:
        """Return a short description for tables."""
        return f"{self.voxel_size * 100:g} cm, batch {self.batch_size}, {self.num_voxels} voxels"

    def first(self, count: int) -> "Workload":
        """Return the first `count` voxels, for warming up."""
        return self._replace(coordinates=self.coordinates[:count], colours=self.colours[:count])


def gather_clouds(
    scenes: Sequence[str], store: Path, *, num_rooms: int, voxel_size: float, seed: int, progress: Progress
) -> list[Cloud]:
    """Read the given scenes; without any, generate procedural rooms.

    Args:
        scenes: Mesh files (`.ply`) or ids of scenes in the store.
        store: Folder of the scene store; opened only for ids.
        num_rooms: Number of procedural rooms.
        voxel_size: Edge of the smallest voxel in metres; procedural rooms are sampled densely enough for it.
        seed: Random seed of the procedural rooms.
        progress: Progress display; receives the rooms.

    Raises:
        DataError: A file or scene cannot be read.
    """
    if scenes:
        return [_read_cloud(scene, store) for scene in scenes]
    vertices = round(VERTICES_AT_5_CM * max(1.0, (0.05 / voxel_size) ** 2))
    clouds = []
    with progress.task("rooms to time on", total=num_rooms, unit="room") as task:
        for index in range(num_rooms):
            kind = list(KINDS)[index % len(KINDS)]
            rng = np.random.default_rng([seed, index])
            scanned = scan_room(furnish(KINDS[kind], rng=rng, turn=index), vertices=vertices, rng=rng)
            clouds.append(Cloud(f"procedural {kind}, seed {seed}", scanned.xyz, scanned.rgb))
            task.advance(status=kind)
    return clouds


def _read_cloud(scene: str, store: Path) -> Cloud:
    path = Path(scene)
    if path.suffix.lower() == ".ply":
        mesh = read_ply(path)
        return Cloud(path.stem, mesh.xyz, mesh.rgb)
    if not (store / "store.json").is_file():
        raise DataError(f"--scene {scene}: expected a .ply file or a scene of a store, but {store} is not a store")
    loaded = SceneStore(store).read(scene)
    return Cloud(scene, loaded.xyz, loaded.rgb)


def make_workload(
    clouds: Sequence[Cloud],
    *,
    voxel_size: float,
    batch_size: int,
    device: torch.device | str = "cpu",
    max_voxels: int | None = None,
) -> Workload:
    """Voxelise clouds into one batch. If there are fewer clouds than scenes in the batch, clouds are repeated.

    Args:
        clouds: Coloured points of each scene.
        voxel_size: Edge of a voxel in metres.
        batch_size: Number of scenes.
        device: Device of the batch.
        max_voxels: Maximum number of voxels, divided equally among the scenes; larger ones keep their centre.

    Raises:
        DataError: A cloud has no points, or points that cannot be voxelised.
    """
    names, coordinates, colours = [], [], []
    for index in range(batch_size):
        cloud = clouds[index % len(clouds)]
        if len(cloud.xyz) == 0:
            raise DataError(f"{cloud.name} has no points to time operations on")
        voxels = voxelize(cloud.xyz, voxel_size)
        kept = _centre(voxels.cells, None if max_voxels is None else max(1, max_voxels // batch_size))
        cells = voxels.cells[kept] - voxels.cells[kept].min(axis=0)
        rows = np.full((len(cells), 4), index, dtype=np.int32)
        rows[:, 1:] = cells
        names.append(cloud.name)
        coordinates.append(torch.from_numpy(rows))
        colours.append(torch.from_numpy(cloud.rgb[voxels.point[kept]].astype(np.float32) / 255 - 0.5))
    joined = torch.cat(coordinates)
    x, y, z = (math.ceil((largest + 1) / 16) * 16 for largest in joined[:, 1:].amax(dim=0).tolist())
    return Workload(tuple(names), voxel_size, joined.to(device), torch.cat(colours).to(device), batch_size, (x, y, z))


def _centre(cells: npt.NDArray[np.int32], count: int | None) -> npt.NDArray[np.int64]:
    """Return the rows of the `count` cells, in order, that are closest to the middle of the room along x and y."""
    if count is None or len(cells) <= count:
        return np.arange(len(cells))
    across = cells[:, :2].astype(np.int64)
    distance = np.abs(2 * across - across.min(axis=0) - across.max(axis=0)).max(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:count])
