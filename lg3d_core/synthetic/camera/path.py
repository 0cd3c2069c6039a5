"""Path of a hand-held camera through a room."""

from typing import Any, NamedTuple

import numpy as np

from lg3d_core.synthetic.camera.profile import CameraProfile
from lg3d_core.synthetic.camera.raycasting import import_open3d
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.shapes import Array, IntArray

CELL = 0.1
CLEARANCE = 0.27
"""Minimum distance of the camera from every surface in metres."""
PROBES = 3000
CEILING = 2.15
"""Height in metres above which a view direction is aimed at the ceiling."""
HIGH = 1.7
"""Height in metres above which view directions are rarer."""
FRAMES = (240, 460)


class CameraPath(NamedTuple):
    """Eye positions in metres, shape `(frames, 3)`, and yaw, pitch and roll in radians, shape `(frames, 3)`."""

    eye: Array
    angles: Array


def walk(room: Room, xyz: Array, scene: Any, profile: CameraProfile, rng: np.random.Generator) -> CameraPath:
    """Return a path between random free positions; the camera turns to the least observed surfaces.

    Args:
        room: Room to scan.
        xyz: Vertices of its surfaces, evenly spaced.
        scene: Ray casting scene of these surfaces.
        profile: Properties of the camera.
        rng: Random number generator.
    """
    core = import_open3d().core
    cells, neighbours = _free_cells(room, scene)
    probes: Array = xyz[rng.integers(len(xyz), size=PROBES)]
    interest = np.where(probes[:, 2] > CEILING, profile.looks_up, np.where(probes[:, 2] > HIGH, 0.4, 1.0))
    highest = 0.75 if profile.looks_up > 0 else 0.12
    seen = np.zeros(PROBES)
    wanted = int(np.clip(profile.frames_per_area * room.floor_area, *FRAMES))
    height = float(rng.uniform(1.15, 1.6))
    speed = float(rng.uniform(0.035, 0.07))
    here = int(rng.integers(len(cells)))
    position = np.append(cells[here], height)
    yaw, pitch = float(rng.uniform(-np.pi, np.pi)), -0.3
    eyes: list[Array] = []
    angles: list[tuple[float, float, float]] = []
    goal_yaw, goal_pitch, hold = yaw, pitch, 0
    route: list[int] = []
    while len(eyes) < wanted:
        if not route:
            there = int(rng.integers(len(cells)))
            route = _route(neighbours, here, there) or [there]
        target = np.append(cells[route[0]], height + 0.12 * np.sin(len(eyes) / 23.0))
        step = target - position
        distance = float(np.linalg.norm(step))
        position = position + step * min(1.0, speed / max(distance, 1e-6))
        if distance < 1.5 * CELL:
            here = route.pop(0)
        if hold <= 0:
            goal_yaw, goal_pitch = _look(position, probes, interest, seen, highest, rng)
            hold = int(rng.integers(7, 15))
            _remember(position, goal_yaw, goal_pitch, probes, seen, scene, core)
        hold -= 1
        turn = (goal_yaw - yaw + np.pi) % (2 * np.pi) - np.pi
        yaw += float(np.clip(0.3 * turn, -0.19, 0.19))
        pitch += float(np.clip(0.3 * (goal_pitch - pitch), -0.13, 0.13))
        shake = rng.normal(0, 0.006, size=3)
        eyes.append(position + shake)
        angles.append((yaw, pitch, float(0.05 * np.sin(len(eyes) / 17.0) + rng.normal(0, 0.01))))
    return CameraPath(np.array(eyes), np.array(angles))


def camera_matrix(eye: Array, angles: Array) -> Array:
    """Return the world-to-camera matrix (x right, y down, z forward), shape `(4, 4)`."""
    yaw, pitch, roll = angles
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ eye
    return matrix


def _free_cells(room: Room, scene: Any) -> tuple[Array, list[list[int]]]:
    """Return the cells' centres in the largest connected free area, shape `(cells, 2)`, and each one's neighbours."""
    core = import_open3d().core
    counts = np.maximum(1, (np.array(room.size[:2]) / CELL).astype(int))
    grid = (np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1) + 0.5) * CELL
    flat = grid.reshape(-1, 2)
    distance = np.full(len(flat), np.inf)
    for z in (1.1, 1.5):
        spots = np.concatenate([flat, np.full((len(flat), 1), z)], axis=1).astype(np.float32)
        distance = np.minimum(distance, scene.compute_distance(core.Tensor(spots)).numpy())
    distance[~room.contains(flat)] = -1.0
    free = distance > CLEARANCE
    if not free.any():
        free[int(distance.argmax())] = True
    index = np.full(counts, -1, dtype=np.int64)
    index[free.reshape(counts)] = np.arange(free.sum())
    links: list[list[int]] = [[] for _ in range(int(free.sum()))]
    for axis in (0, 1):
        a = index.take(range(counts[axis] - 1), axis=axis).reshape(-1)
        b = index.take(range(1, counts[axis]), axis=axis).reshape(-1)
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            if one >= 0 and other >= 0:
                links[one].append(other)
                links[other].append(one)
    component = _largest_component(links)
    rows = {cell: row for row, cell in enumerate(component)}
    return flat[free][component], [[rows[other] for other in links[cell]] for cell in component]


def _largest_component(links: list[list[int]]) -> list[int]:
    best: list[int] = []
    left = set(range(len(links)))
    while left:
        stack = [left.pop()]
        found = []
        while stack:
            cell = stack.pop()
            found.append(cell)
            for other in links[cell]:
                if other in left:
                    left.remove(other)
                    stack.append(other)
        if len(found) > len(best):
            best = found
    return sorted(best)


def _route(neighbours: list[list[int]], start: int, end: int) -> list[int]:
    """Return the cells of a shortest path, without the start."""
    came = {start: start}
    front = [start]
    while front and end not in came:
        following = []
        for cell in front:
            for other in neighbours[cell]:
                if other not in came:
                    came[other] = cell
                    following.append(other)
        front = following
    path: list[int] = []
    while end in came and end != start:
        path.append(end)
        end = came[end]
    return path[::-1]


def _look(
    position: Array, probes: Array, interest: Array, seen: Array, highest: float, rng: np.random.Generator
) -> tuple[float, float]:
    ray = probes - position
    distance = np.linalg.norm(ray, axis=1)
    weight = interest * (distance > 0.6) * (distance < 3.2) / (1.0 + seen) ** 2
    if weight.sum() <= 0:
        return float(rng.uniform(-np.pi, np.pi)), -0.3
    row = int(rng.choice(len(probes), p=weight / weight.sum()))
    x, y, z = ray[row]
    pitch = float(np.clip(np.arctan2(z, np.hypot(x, y)), -1.1, highest))
    return float(np.arctan2(y, x)), pitch


def _remember(position: Array, yaw: float, pitch: float, probes: Array, seen: Array, scene: Any, core: Any) -> None:
    """Count the visible probes in the centre of a view."""
    ray = probes - position
    distance = np.linalg.norm(ray, axis=1)
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    rows: IntArray = np.flatnonzero((ray @ forward > 0.88 * distance) & (distance < 3.5))
    if not len(rows):
        return
    rays = np.concatenate([np.broadcast_to(position, (len(rows), 3)), ray[rows]], axis=1).astype(np.float32)
    hidden = scene.test_occlusions(core.Tensor(rays), tnear=0.0, tfar=0.97).numpy()
    seen[rows[~hidden]] += 1
