"""How long a room takes to voxelise and to augment, on one thread, as in a worker: prints JSON.

python benchmarks/sampling.py --points 100000 --voxel-size 0.02 0.05
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from lg3d_core.sampling import Augmentation, sample_scene, voxelize
from lg3d_core.sampling import voxels as voxels_module
from lg3d_core.sampling.augment import distort
from lg3d_core.sampling.dataset import THINNING


class Room(NamedTuple):
    """What sampling reads of a scene."""

    scene_id: str
    xyz: np.ndarray
    rgb: np.ndarray
    label: np.ndarray
    instance: np.ndarray


def make_room(points: int) -> Room:
    """Floor, four walls and table tops with 4 mm noise, in a box of 7 m x 6 m x 2.6 m."""
    rng = np.random.default_rng(0)
    share = points // 8
    parts = [np.column_stack([rng.uniform(0, [7, 6], (2 * share, 2)), np.zeros(2 * share)])]
    parts += [np.column_stack([np.full(share, x), rng.uniform(0, [6, 2.6], (share, 2))]) for x in (0, 7)]
    parts += [
        np.column_stack([rng.uniform(0, 7, share), np.full(share, y), rng.uniform(0, 2.6, share)]) for y in (0, 6)
    ]
    rest = points - 6 * share
    tops = np.column_stack([rng.integers(0, 10, (rest, 2)) * 0.6, rng.integers(1, 4, rest) * 0.4])
    parts.append(tops + rng.uniform(0, [0.6, 0.6, 0], (rest, 3)))
    xyz = np.concatenate(parts) + rng.normal(0, 0.004, (points, 3))
    return Room(
        scene_id="room",
        xyz=xyz.astype(np.float32),
        rgb=rng.integers(0, 256, (points, 3)).astype(np.uint8),
        label=rng.integers(-1, 200, points).astype(np.int16),
        instance=rng.integers(0, 40, points).astype(np.int32),
    )


def measure(steps: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, all steps interleaved."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"best": round(min(ms), 2), "median": round(statistics.median(ms), 2), "worst": round(max(ms), 2)}
        for name, ms in times.items()
    }


def voxelize_by(cells_per_point: int, xyz: np.ndarray, voxel_size: float) -> None:
    """Voxelise with the dense grid up to so many cells per point."""
    usual = voxels_module.DENSE_CELLS_PER_POINT
    voxels_module.DENSE_CELLS_PER_POINT = cells_per_point
    try:
        voxelize(xyz, voxel_size)
    finally:
        voxels_module.DENSE_CELLS_PER_POINT = usual


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--voxel-size", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    room = make_room(arguments.points)
    augmentation = Augmentation()
    results = []
    for voxel_size in arguments.voxel_size:
        rng = np.random.default_rng(0)
        thinned = voxelize(room.xyz, THINNING * voxel_size).point
        xyz = room.xyz[thinned]
        sample = sample_scene(room, voxel_size=voxel_size)
        colors = room.rgb[: len(sample.cells)]
        steps: dict[str, Callable[[], Any]] = {
            "voxelize, dense grid": lambda size=voxel_size: voxelize_by(10**9, room.xyz, size),
            "voxelize, sort": lambda size=voxel_size: voxelize_by(0, room.xyz, size),
            "voxelize": lambda size=voxel_size: voxelize(room.xyz, size),
            "distort 0.2 m": lambda xyz=xyz, rng=rng: distort(xyz, rng, granularity=0.2, magnitude=0.4),
            "distort 0.8 m": lambda xyz=xyz, rng=rng: distort(xyz, rng, granularity=0.8, magnitude=1.6),
            "recolor": lambda rng=rng, colors=colors: augmentation.recolor(colors, rng),
            "sample as it is": lambda size=voxel_size: sample_scene(room, voxel_size=size),
            "sample, augmented": lambda size=voxel_size, rng=rng: sample_scene(
                room, voxel_size=size, augmentation=augmentation, rng=rng
            ),
        }
        results.append(
            {
                "voxel_size": voxel_size,
                "voxels": len(sample.cells),
                "thinned_points": len(thinned),
                "milliseconds": measure(steps, repeats=arguments.repeats),
            }
        )
    print(
        json.dumps(
            {
                "benchmark": "sampling",
                "points": arguments.points,
                "threads": 1,
                "repeats": arguments.repeats,
                "machine": platform.machine(),
                "numpy": np.__version__,
                "torch": torch.__version__,
                "results": results,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
