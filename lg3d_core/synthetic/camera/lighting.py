"""Lighting baked into the vertices of a room: ambient occlusion, windows, lamps and their shadows."""

from typing import Any

import numpy as np

from lg3d_core.synthetic.camera.raycasting import import_open3d
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.shapes import Array, IntArray

LIGHTS = ("window", "ceiling light", "lamp", "light")
MOST_LIGHTS = 4
OCCLUSION_RAYS = 6
OCCLUSION_REACH = 0.9
"""Distance in metres below which surfaces darken each other."""


def bake_light(room: Room, xyz: Array, normal: Array, faces: IntArray, scene: Any, rng: np.random.Generator) -> Array:
    """Return the light on every vertex per colour channel, about 1, shape `(vertices, 3)`.

    The sampled values are noisy and are averaged along the edges of the mesh.
    """
    core = import_open3d().core
    start = xyz + 0.012 * normal

    def occluded(origin: Array, direction: Array, reach: float) -> Array:
        rays = np.empty((len(origin), 6), dtype=np.float32)
        rays[:, :3], rays[:, 3:] = origin, direction
        return np.asarray(scene.test_occlusions(core.Tensor(rays), tnear=0.0, tfar=reach).numpy(), dtype=float)

    shade = np.zeros(len(xyz))
    for _ in range(OCCLUSION_RAYS):
        shade += occluded(start, _near(normal, rng), float(OCCLUSION_REACH * rng.uniform(0.4, 1.0)))
    strength = float(rng.uniform(0.25, 0.6))
    light = ((1 - strength * shade / OCCLUSION_RAYS) * (0.9 + 0.1 * normal[:, 2]))[:, None] * np.ones(3)
    sources = [thing for thing in room.things if thing.label in LIGHTS]
    order = rng.permutation(len(sources))[:MOST_LIGHTS]
    ambient = 1.0 if len(order) == 0 else float(rng.uniform(0.45, 0.9))
    direct = np.zeros((len(xyz), 3))
    for row in order:
        thing = sources[int(row)]
        low, high = (corner.mean(axis=0) for corner in thing.boxes())
        middle = (low + high) / 2
        if thing.label == "window":
            middle = middle + 0.35 * (np.append(room.middle, 1.5) - middle) / 2.0
            warm = np.array([0.95, 1.0, 1.08])
        else:
            middle[2] -= 0.15
            warm = np.array([1.12, 1.0, 0.84])
        ray = middle + rng.normal(0, 0.15, size=xyz.shape) - start
        distance = np.linalg.norm(ray, axis=1) + 1e-6
        ray /= distance[:, None]
        facing = np.clip((ray * normal).sum(axis=1), 0, 1)
        rows = np.flatnonzero(facing)  # the others receive nothing
        hidden = np.zeros(len(xyz))
        hidden[rows] = occluded(start[rows], ray[rows].astype(np.float32) * distance[rows, None], 0.97)
        arriving = facing * (1 - hidden) / (0.4 + 0.35 * distance**1.5)
        direct += float(rng.uniform(0.4, 1.0)) * arriving[:, None] * warm
    total = ambient * light + direct
    total = _average(total, faces, rounds=2)
    scaled: Array = total / np.median(total.mean(axis=1))
    return scaled


def _near(normal: Array, rng: np.random.Generator) -> Array:
    """Draw cosine-distributed directions around normals."""
    ball = rng.normal(size=normal.shape)
    direction = normal + 0.98 * ball / np.linalg.norm(ball, axis=1, keepdims=True).clip(1e-9)
    unit: Array = direction / np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-6)
    return unit


def _average(values: Array, faces: IntArray, *, rounds: int) -> Array:
    corners = faces.reshape(-1)
    counts = np.bincount(corners, minlength=len(values)).clip(1)
    for _ in range(rounds):
        mean = np.repeat(values[faces].mean(axis=1), 3, axis=0)
        summed = np.stack([np.bincount(corners, mean[:, c], minlength=len(values)) for c in range(3)], axis=1)
        values = np.where(summed > 0, summed / counts[:, None], values)
    return values
