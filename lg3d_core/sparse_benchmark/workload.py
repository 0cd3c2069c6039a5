"""What the engines are timed on: the voxels of rooms."""

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
"""Vertices of a procedural room that fill nearly all of its voxels of 5 cm; finer voxels take more."""


class Cloud(NamedTuple):
    """Coloured points.

    Attributes:
        name: Scene id, file name or kind of room.
        xyz: Metres, shape `(points, 3)`.
        rgb: Shape `(points, 3)`, uint8.
    """

    name: str
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]


class Workload(NamedTuple):
    """One batch of voxels, the same for every engine.

    Attributes:
        names: What the batch was made of, scene after scene.
        voxel_size: Edge of a voxel in metres.
        coordinates: Rows `batch, x, y, z` in lexicographic order, none negative, shape `(voxels, 4)`, int32.
        colours: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        batch_size: Scenes.
        shape: Cells along x, y, z that hold every scene, multiples of 16, so that four halvings lose nothing.
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
        """A few words for tables."""
        return f"{self.voxel_size * 100:g} cm, batch {self.batch_size}, {self.num_voxels} voxels"

    def first(self, count: int) -> "Workload":
        """The first so many voxels, for warming up."""
        return self._replace(coordinates=self.coordinates[:count], colours=self.colours[:count])


def gather_clouds(
    scenes: Sequence[str], store: Path, *, num_rooms: int, voxel_size: float, seed: int, progress: Progress
) -> list[Cloud]:
    """Read the scenes that were asked for; without any, make procedural rooms on the spot.

    Args:
        scenes: Meshes (`.ply` files) or ids of scenes in the store.
        store: Folder of the scene store; only opened when an id is asked for.
        num_rooms: How many procedural rooms.
        voxel_size: Edge of the smallest voxel in metres: procedural rooms are sampled finely enough for it.
        seed: Of the procedural rooms.
        progress: Told of each room.

    Raises:
        DataError: A file or scene that cannot be read.
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
    if path.suffix == ".ply":
        mesh = read_ply(path)
        return Cloud(path.stem, mesh.xyz, mesh.rgb)
    if not (store / "store.json").is_file():
        raise DataError(f"--scene {scene}: expected a .ply file, or a scene of a store; {store} is no store")
    loaded = SceneStore(store).read(scene)
    return Cloud(scene, loaded.xyz, loaded.rgb)


def make_workload(
    clouds: Sequence[Cloud], *, voxel_size: float, batch_size: int, device: torch.device | str = "cpu"
) -> Workload:
    """Voxelize clouds into one batch; with fewer clouds than the batch wants, they take turns.

    Raises:
        DataError: A cloud without points, or with points that cannot be voxelized.
    """
    names, coordinates, colours = [], [], []
    for index in range(batch_size):
        cloud = clouds[index % len(clouds)]
        if len(cloud.xyz) == 0:
            raise DataError(f"{cloud.name} has no points: nothing can be timed on it")
        voxels = voxelize(cloud.xyz, voxel_size)
        cells = voxels.cells - voxels.cells.min(axis=0)
        rows = np.full((len(cells), 4), index, dtype=np.int32)
        rows[:, 1:] = cells
        names.append(cloud.name)
        coordinates.append(torch.from_numpy(rows))
        colours.append(torch.from_numpy(cloud.rgb[voxels.point].astype(np.float32) / 255 - 0.5))
    joined = torch.cat(coordinates)
    x, y, z = (math.ceil((largest + 1) / 16) * 16 for largest in joined[:, 1:].amax(dim=0).tolist())
    return Workload(tuple(names), voxel_size, joined.to(device), torch.cat(colours).to(device), batch_size, (x, y, z))
