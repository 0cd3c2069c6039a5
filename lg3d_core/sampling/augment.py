"""Training augmentation: transform the geometry, mirror the cells, change the colours.

The steps, their order and their values follow the reference recipe: elastic distortion, scale, rotation, voxelisation
(see `voxels.py`), mirroring, contrast, colour shift and colour jitter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from lg3d_core.sampling.randomisation import ScanRandomisation

FloatArray = npt.NDArray[np.float32]


TILT = math.radians(5)
"""Largest tilt of a scan whose upright was estimated."""
MAX_NODES = 256
"""Largest number of nodes per axis of the noise of `distort`: 51 m at 20 cm, and 200 MB for all three axes."""


class Mirrored(NamedTuple):
    """Mirrored cells and the point positions inside them.

    Attributes:
        cells: Cell indices, shape `(voxels, 3)`, int32.
        xyz: Positions in metres, shape `(voxels, 3)`, float32.
    """

    cells: npt.NDArray[np.int32]
    xyz: FloatArray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random augmentation of a training scene. The defaults are those of the reference implementation."""

    elastic_probability: float = 0.95
    """Probability of elastic distortion. All entries of `elastic` are then applied in turn."""
    elastic: tuple[tuple[float, float], ...] = ((0.2, 0.4), (0.8, 1.6))
    """Granularity and magnitude of each distortion, in metres."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Range of the uniform scale factor."""
    rotation: tuple[float, float, float] = (math.pi / 64, math.pi / 64, math.pi)
    """Largest absolute angle about x, y and z, in radians. The order of the three rotations is random."""
    mirror_probability: float = 0.95
    """Probability of the mirroring step, in which x and y are each mirrored with probability one half."""
    contrast_probability: float = 0.2
    """Probability of blending the colours with a version stretched to the full range, with a random weight."""
    tint_probability: float = 0.95
    """Probability of adding one colour to all voxels."""
    tint: float = 0.1
    """Largest absolute value added to each channel, as a fraction of 255."""
    jitter_probability: float = 0.95
    """Probability of adding noise to every voxel's colour."""
    jitter: float = 0.05
    """Standard deviation of the noise, as a fraction of 255."""
    randomisation: ScanRandomisation | None = None
    """Random differences between scanners; None, as in the reference implementation, leaves them out."""

    @classmethod
    def for_any_scan(cls) -> "Augmentation":
        """Return the augmentation with random scanners and a larger tilt."""
        return cls(rotation=(TILT, TILT, math.pi), randomisation=ScanRandomisation())

    def move(self, xyz: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Distort, scale and rotate a scene about the centre of its bounding box.

        Args:
            xyz: Positions in metres, shape `(points, 3)`.
            rng: Random generator.
        """
        if len(xyz) == 0:
            return xyz
        if rng.random() < self.elastic_probability:
            for granularity, magnitude in self.elastic:
                xyz = distort(xyz, rng, granularity=granularity, magnitude=magnitude)
        factor = rng.uniform(*self.scale)
        angles = rng.uniform(-1, 1, size=3) * self.rotation
        order = rng.permutation(3)
        columns = np.ascontiguousarray(xyz.T)
        middle = ((columns.min(axis=1) + columns.max(axis=1)) / 2)[:, None]
        turn = (factor * rotation_matrix(angles, order)).astype(np.float32)
        moved: FloatArray = (turn @ (columns - middle) + middle).T
        return moved

    def mirror(
        self, cells: npt.NDArray[np.int32], xyz: FloatArray, rng: np.random.Generator, *, voxel_size: float
    ) -> Mirrored:
        """Mirror a voxelised scene along x, y, both or neither.

        Args:
            cells: Cell indices, shape `(voxels, 3)`.
            xyz: Positions inside these cells in metres, shape `(voxels, 3)`.
            rng: Random generator.
            voxel_size: Edge of a voxel in metres.
        """
        considered = rng.random() < self.mirror_probability
        axes = [axis for axis, chosen in enumerate(rng.random(2) < 0.5) if considered and chosen]
        return mirror_cells(cells, xyz, axes=axes, voxel_size=voxel_size)

    def recolor(self, rgb: npt.NDArray[np.uint8], rng: np.random.Generator) -> FloatArray:
        """Change contrast, tint and noise of the colours.

        Args:
            rgb: Colours in 0..255, shape `(voxels, 3)`.
            rng: Random generator.

        Returns:
            Colours in 0..255, shape `(voxels, 3)`, float32.
        """
        colors = rgb.astype(np.float32)
        if rng.random() < self.contrast_probability:
            colors = stretch_contrast(colors, share=rng.random())
        if rng.random() < self.tint_probability:
            colors = shift_colors(colors, rng.uniform(-1, 1, size=3) * self.tint * 255)
        if rng.random() < self.jitter_probability:
            colors = jitter_colors(colors, rng, std=self.jitter * 255)
        return colors if self.randomisation is None else self.randomisation.recolor(colors, rng)


def distort(xyz: FloatArray, rng: np.random.Generator, *, granularity: float, magnitude: float) -> FloatArray:
    """Displace points by a smooth random field.

    The field is white noise on a grid, smoothed twice by a 3x3x3 mean filter and interpolated trilinearly. Along an
    axis that needs more than `MAX_NODES` nodes, such as that of a stray point, it is continued by its mirror images.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        rng: Random generator of the noise, three standard normal values per node.
        granularity: Distance between grid nodes in metres.
        magnitude: Factor in metres on the noise, whose standard deviation is 1 before smoothing.
    """
    # One row per coordinate: NumPy is many times faster along long rows than across rows of three.
    columns = np.ascontiguousarray(xyz.T)
    low = columns.min(axis=1)
    # A margin of one on either side.
    needed = np.floor((columns.max(axis=1) - low) / granularity) + 3
    nodes = np.minimum(needed, MAX_NODES).astype(np.int64)
    noise = torch.from_numpy(rng.standard_normal((1, 3, *nodes), dtype=np.float32))
    for _ in range(2):
        noise = F.avg_pool3d(noise, kernel_size=3, stride=1, padding=1)
    places = (columns - low[:, None]) / granularity + 1
    for axis in np.flatnonzero(needed > MAX_NODES):
        last = MAX_NODES - 1
        places[axis] = last - np.abs(places[axis] % (2 * last) - last)
    shift = interpolate(noise[0].numpy(), places.T)
    return (columns + magnitude * shift.T).T


def interpolate(field: FloatArray, places: FloatArray) -> FloatArray:
    """Interpolate a field trilinearly between its nodes.

    Args:
        field: Values at the nodes, shape `(channels, nodes x, nodes y, nodes z)`, at least two nodes per axis.
        places: Query positions in node units from the first node, shape `(points, 3)`.

    Returns:
        Interpolated values, shape `(points, channels)`.
    """
    _, nodes_y, nodes_z = field.shape[1:]
    last = torch.tensor(field.shape[1:], dtype=torch.float32)[:, None] - 1
    place = torch.from_numpy(np.ascontiguousarray(places.T, dtype=np.float32)).clamp(min=torch.zeros(3, 1), max=last)
    first = torch.minimum(place.floor(), last - 1)
    x, y, z = place - first
    i, j, k = first.to(torch.int32)
    corner = (i * nodes_y + j) * nodes_z + k
    beyond_x, beyond_y = nodes_y * nodes_z, nodes_z
    values = torch.empty((len(field), len(places)))
    for channel, out in zip(torch.from_numpy(field).reshape(len(field), -1), values, strict=True):
        along_z = [
            torch.lerp(channel.index_select(0, corner + step), channel.index_select(0, corner + (step + 1)), z)
            for step in (0, beyond_y, beyond_x, beyond_x + beyond_y)
        ]
        along_y = [torch.lerp(along_z[0], along_z[1], y), torch.lerp(along_z[2], along_z[3], y)]
        torch.lerp(along_y[0], along_y[1], x, out=out)
    return values.numpy().T


def rotation_matrix(
    angles: npt.NDArray[np.float64], order: Sequence[int] | npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Return the product of the rotations about x, y and z, as a matrix for column vectors.

    Args:
        angles: Angles about x, y and z in radians, shape `(3,)`.
        order: Axes (0, 1, 2) in the order in which the rotations are applied.
    """
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    first, second, third = (np.stack([about_x, about_y, about_z])[axis] for axis in order)
    product: npt.NDArray[np.float64] = third @ second @ first
    return product


def mirror_cells(cells: npt.NDArray[np.int32], xyz: FloatArray, *, axes: list[int], voxel_size: float) -> Mirrored:
    """Mirror cells, and the positions inside them, within their bounding box along the given axes."""
    if len(cells) == 0 or not axes:
        return Mirrored(cells, xyz)
    cells, xyz = cells.copy(), xyz.copy()
    for axis in axes:
        ends = int(cells[:, axis].min()) + int(cells[:, axis].max())
        cells[:, axis] = ends - cells[:, axis]
        xyz[:, axis] = (ends + 1) * voxel_size - xyz[:, axis]
    return Mirrored(cells, xyz)


def stretch_contrast(colors: FloatArray, *, share: float) -> FloatArray:
    """Blend colours with a copy stretched to 0..255 per channel. A constant channel stays unchanged.

    Args:
        colors: In 0..255, shape `(voxels, 3)`.
        share: Weight of the stretched colours in the blend, 0..1.
    """
    if len(colors) == 0:
        return colors
    low, high = colors.min(axis=0), colors.max(axis=0)
    extent = high - low
    stretched = np.where(extent > 0, (colors - low) * (255 / np.maximum(extent, 1e-6)), colors)
    return ((1 - share) * colors + share * stretched).astype(np.float32)


def shift_colors(colors: FloatArray, shift: npt.NDArray[np.float64]) -> FloatArray:
    """Add one colour to all voxels and clip to 0..255."""
    return np.clip(colors + shift.astype(np.float32), 0, 255)


def jitter_colors(colors: FloatArray, rng: np.random.Generator, *, std: float) -> FloatArray:
    """Add normal noise to every channel of every voxel and clip to 0..255."""
    noise = rng.standard_normal(colors.shape, dtype=np.float32)
    return np.clip(colors + np.float32(std) * noise, 0, 255)
