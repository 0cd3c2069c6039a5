"""A training sample made in the plain way: the steps of lg3d_core.sampling as their description reads, without haste.

numpy, scipy's RegularGridInterpolator, and Python loops over categories, objects and cells. It draws the same random
numbers in the same order, so that it serves as a definition in tests and as the slow side of benchmarks/sampling.py.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve

CELL, CELL_PER_SPACING, REACH, LEVEL, FLOOR_PERCENTILE = 0.05, 1.5, 1.5, 0.75, 0.2
MAX_TRIES, MAX_TOLERANCE, SUPPORT_SHARE, SHELL_SHARE = 50, 0.03, 0.8, 0.5


class PlainRoom(NamedTuple):
    """What a sample is made of; labels are raw ids until `number_categories`."""

    xyz: np.ndarray
    rgb: np.ndarray
    normal: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    spacing: float


class PlainObject(NamedTuple):
    """An object of the bank."""

    category: int
    xyz: np.ndarray
    rgb: np.ndarray


def number_categories(raw: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Raw ids to indices, category by category."""
    label = np.full(len(raw), -1)
    for index, raw_id in enumerate(ids):
        label[raw == raw_id] = index
    return label


# Elastic distortion


def distort(xyz: np.ndarray, rng: np.random.Generator, *, granularity: float, magnitude: float) -> np.ndarray:
    """White noise on a grid, blurred twice by means of 3^3 (zero outside), interpolated linearly."""
    low = xyz.min(axis=0)
    nodes = np.floor((xyz.max(axis=0) - low) / granularity).astype(int) + 3
    noise = rng.standard_normal((1, 3, *nodes), dtype=np.float32)[0]
    mean = np.full((3, 3, 3), 1 / 27)
    for _ in range(2):
        noise = np.stack([convolve(channel, mean, mode="constant", cval=0) for channel in noise])
    axes = [low[k] + granularity * np.arange(-1, nodes[k] - 1) for k in range(3)]
    interpolate = RegularGridInterpolator(axes, noise.transpose(1, 2, 3, 0), bounds_error=False, fill_value=None)
    return xyz + magnitude * interpolate(xyz)


def move(xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distort, scale and rotate about the middle of the box, about x, y and z in a random order."""
    if rng.random() < 0.95:
        for granularity, magnitude in ((0.2, 0.4), (0.8, 1.6)):
            xyz = distort(xyz, rng, granularity=granularity, magnitude=magnitude)
    factor = rng.uniform(0.9, 1.1)
    x, y, z = rng.uniform(-1, 1, size=3) * (math.pi / 64, math.pi / 64, math.pi)
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    middle = (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    moved = factor * (xyz - middle)
    for axis in rng.permutation(3).tolist():
        moved = moved @ (about_x, about_y, about_z)[axis].T
    return moved + middle


# Voxels


def voxelize(xyz: np.ndarray, voxel_size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Occupied cells in order, and the random point that each keeps."""
    order = rng.permutation(len(xyz))
    cells, first = np.unique(np.floor(xyz[order] / voxel_size).astype(int), axis=0, return_index=True)
    return cells, order[first]


def mirror(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror along x and y, each with probability one half."""
    considered = rng.random() < 0.95
    chosen = rng.random(2) < 0.5
    for axis in range(2):
        if considered and chosen[axis]:
            cells = cells.copy()
            cells[:, axis] = cells[:, axis].min() + cells[:, axis].max() - cells[:, axis]
    return cells


def recolor(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, tint and grain."""
    colors = rgb.astype(float)
    if rng.random() < 0.2:
        share = rng.random()
        low, high = colors.min(axis=0), colors.max(axis=0)
        stretched = colors.copy()
        for channel in range(3):
            if high[channel] > low[channel]:
                stretched[:, channel] = (colors[:, channel] - low[channel]) * 255 / (high[channel] - low[channel])
        colors = (1 - share) * colors + share * stretched
    if rng.random() < 0.95:
        colors = np.clip(colors + rng.uniform(-1, 1, size=3) * 0.1 * 255, 0, 255)
    if rng.random() < 0.95:
        colors = np.clip(colors + 0.05 * 255 * rng.standard_normal(colors.shape, dtype=np.float32), 0, 255)
    return colors


# Instance sampling


def vary(thing: PlainObject, rng: np.random.Generator) -> PlainObject:
    """Turn, scale and recolour an object."""
    angle, factor, contrast = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.1), rng.uniform(0.8, 1.2)
    shift = rng.uniform(-1, 1, size=3) * 0.06 * 255
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    mean = thing.rgb.mean(axis=0)
    colors = np.clip(np.round((thing.rgb - mean) * contrast + mean + shift), 0, 255)
    return thing._replace(xyz=factor * thing.xyz @ turn.T, rgb=colors)


def object_boxes(room: PlainRoom, shell: frozenset[int]) -> list[np.ndarray]:
    """Box of every object but those of the room itself."""
    boxes = []
    plan = np.prod(np.ptp(room.xyz[:, :2], axis=0))
    for number in np.unique(room.instance):
        inside = room.instance == number
        if number == 0 or room.label[inside][0] in shell:
            continue
        points = room.xyz[inside]
        if np.prod(np.ptp(points[:, :2], axis=0)) <= SHELL_SHARE * plan:
            boxes.append(np.stack([points.min(axis=0), points.max(axis=0)]))
    return boxes


class PlainMap(NamedTuple):
    """Height, level height and overhead of every cell; smallest and largest x and y."""

    origin: np.ndarray
    limit: np.ndarray
    cell: float
    height: np.ndarray
    level: np.ndarray
    overhead: np.ndarray


def height_map(room: PlainRoom) -> PlainMap:
    """The highest point of each cell below the reach, the highest level one, and the lowest point above."""
    cell = max(CELL, CELL_PER_SPACING * room.spacing)
    origin = room.xyz[:, :2].min(axis=0)
    places = np.floor((room.xyz[:, :2] - origin) / cell).astype(int)
    height, level, overhead = (np.full(places.max(axis=0) + 1, value) for value in (-np.inf, -np.inf, np.inf))
    is_level = (np.abs(room.normal[:, 2]) > LEVEL) | (room.normal == 0).all(axis=1)
    reach = np.percentile(room.xyz[is_level, 2], FLOOR_PERCENTILE) + REACH
    for (i, j), z, flat in zip(places.tolist(), room.xyz[:, 2].tolist(), is_level.tolist(), strict=True):
        if z >= reach:
            overhead[i, j] = min(overhead[i, j], z)
        else:
            height[i, j] = max(height[i, j], z)
            if flat:
                level[i, j] = max(level[i, j], z)
    return PlainMap(origin, room.xyz[:, :2].max(axis=0), cell, height, level, overhead)


def place_objects(
    room: PlainRoom, things: list[PlainObject], rng: np.random.Generator, *, voxel_size: float, shell: frozenset[int]
) -> tuple[list[np.ndarray], int]:
    """Where each object that finds a place stands (its points), and how many found none."""
    tolerance = min(voxel_size, MAX_TOLERANCE)
    ground, boxes = height_map(room), object_boxes(room, shell)
    support = (ground.level > -np.inf) & (ground.level >= ground.height - tolerance / 2)
    cells = np.argwhere(support)
    placed, skipped = [], 0
    for thing in things:
        low, high = thing.xyz.min(axis=0), thing.xyz.max(axis=0)
        chosen = cells[rng.integers(len(cells), size=MAX_TRIES)]
        places = ground.origin + ground.cell * (chosen + rng.random((MAX_TRIES, 2)))
        for place in places:
            if (place + low[:2] < ground.origin).any() or (place + high[:2] > ground.limit).any():
                continue
            first = np.floor((place + low[:2] - ground.origin) / ground.cell).astype(int)
            last = np.floor((place + high[:2] - ground.origin) / ground.cell).astype(int)
            around = ground.height[max(0, first[0] - 1) : last[0] + 2, max(0, first[1] - 1) : last[1] + 2]
            under = [(i, j) for i in range(first[0], last[0] + 1) for j in range(first[1], last[1] + 1)]
            bottom = max(ground.height[at] for at in under)
            held = [support[at] and ground.height[at] >= bottom - tolerance for at in under]
            if around.min() == -np.inf or sum(held) < SUPPORT_SHARE * len(held):
                continue
            if bottom + high[2] - low[2] > min(ground.overhead[at] for at in under):
                continue
            box = np.array([[*(place + low[:2]), bottom], [*(place + high[:2]), bottom + high[2] - low[2]]])
            if any(
                (other[0, :2] < box[1, :2]).all()
                and (other[1, :2] > box[0, :2]).all()
                and other[1, 2] > bottom + tolerance
                and other[0, 2] < box[1, 2]
                for other in boxes
            ):
                continue
            xyz = thing.xyz + np.array([*place, bottom - low[2]])
            for x, y, z in xyz:
                at = tuple(np.floor((np.array([x, y]) - ground.origin) / ground.cell).astype(int))
                ground.height[at] = max(ground.height[at], z)
            for at in under:
                support[at] = False
            boxes.append(box)
            placed.append(xyz)
            break
        else:
            skipped += 1
    return placed, skipped


def make_sample(
    room: PlainRoom,
    things: list[PlainObject],
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    voxel_size: float,
    shell: frozenset[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, features and labels of one training sample; labels of the room come as raw ids."""
    room = room._replace(label=number_categories(room.label, ids))
    varied = [vary(thing, rng) for thing in things]
    placed, _ = place_objects(room, varied, rng, voxel_size=voxel_size, shell=shell)
    xyz = np.concatenate([room.xyz, *placed])
    rgb = np.concatenate([room.rgb, *(thing.rgb for thing, _ in zip(varied, placed, strict=False))])
    label = np.concatenate(
        [room.label, *(np.full(len(points), thing.category) for thing, points in zip(varied, placed, strict=False))]
    )
    cells, rows = voxelize(move(xyz, rng), voxel_size, rng)
    return mirror(cells, rng), recolor(rgb[rows], rng) / 255 - 0.5, label[rows]
