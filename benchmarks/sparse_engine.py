"""Time the sparse engine, beside MinkowskiEngine where it is installed, and print JSON.

    python benchmarks/sparse_engine.py --scan scene0011_00_vh_clean_2.ply --voxel-size 0.05 --network 34C

Without `--scan` the voxels are those of a made-up room. Both engines run in one process, in turns, on the same
voxels and with the same weights; their results are compared first, and where they differ no ratio is printed. `others`
is how many cores other processes kept busy while a figure was taken: distrust what was taken on a busy machine.
"""

import argparse
import collections
import collections.abc
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lg3d_core.networks import NETWORK_PLANS, MinkUNet
from lg3d_core.sparse import SparseConvolution, SparseTensor, owned_threads, use_backend

AGREEMENT = 1e-3  # relative; both engines add in fp32, in another order


class Timing(NamedTuple):
    """Seconds of one pass."""

    forward: float
    total: float
    others: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, nargs="+", help="Meshes (PLY) whose vertices are voxelized, side by side.")
    parser.add_argument("--voxel-size", type=float, default=0.05, help="Edge of a voxel in metres.")
    parser.add_argument("--voxels", type=int, default=48_000, help="Voxels of the made-up room, about.")
    parser.add_argument(
        "--network", choices=[*NETWORK_PLANS, "layer"], default="34C", help="`layer`: one 3^3, 96 to 96."
    )
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 times the forward pass only."
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-peer", action="store_true", help="Leave MinkowskiEngine out.")
    parser.add_argument("--patience", type=float, default=0.0, help="Seconds to wait for a quiet machine, per pass.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    coordinates, features = read_voxels(arguments)
    passes: dict[str, Callable[[], tuple[Tensor, float, float]]] = {}
    ours = build_ours(arguments.network)
    passes["lg3d"] = lambda: run_ours(ours, features, coordinates, "fp32")
    if arguments.precision == "bf16":
        passes["lg3d bf16"] = lambda: run_ours(ours, features, coordinates, "bf16")
    engine = None if arguments.no_peer else import_minkowski()
    if engine is not None:
        theirs = build_theirs(engine, arguments.network)
        theirs.load_state_dict(ours.state_dict())
        passes["MinkowskiEngine"] = lambda: run_theirs(engine, theirs, features, coordinates)

    outputs = {name: one_pass()[0] for name, one_pass in passes.items()}  # also warms up
    differences = {name: relative_difference(output, outputs["lg3d"]) for name, output in outputs.items()}
    timings: dict[str, list[Timing]] = {name: [] for name in passes}
    for _ in range(arguments.repeats):
        for name, one_pass in passes.items():
            timings[name].append(take_time(one_pass, arguments.patience))

    report: dict[str, Any] = {
        "network": arguments.network,
        "voxels": len(coordinates),
        "voxel_size": arguments.voxel_size,
        "input": [path.stem for path in arguments.scan] if arguments.scan else "made-up room",
        "dtype": arguments.precision,
        "device": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "relative_difference": differences,
        "engines": {name: summarize(taken) for name, taken in timings.items()},
    }
    for name in passes:
        if name == "lg3d":
            continue
        if differences[name] > (AGREEMENT if name == "MinkowskiEngine" else 0.1):
            print(f"{name}: results differ by {differences[name]:.2g}, so no ratio is given.", file=sys.stderr)
            continue
        best = {
            engine: (min(t.forward for t in taken), min(t.total for t in taken)) for engine, taken in timings.items()
        }
        report.setdefault("ratio", {})[f"lg3d / {name}"] = {
            "forward": round(best["lg3d"][0] / best[name][0], 3),
            "forward_and_backward": round(best["lg3d"][1] / best[name][1], 3) if name == "MinkowskiEngine" else None,
        }
    print(json.dumps(report, indent=2))


def take_time(run: Callable[[], tuple[Tensor, float, float]], patience: float) -> Timing:
    """Time one pass, and how many cores others kept busy meanwhile."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and measure_others(lambda: time.sleep(0.3)) > 0.1:
        time.sleep(0.2)
    seconds: list[float] = []
    others = measure_others(lambda: seconds.extend(run()[1:]))
    return Timing(seconds[0], seconds[1], others)


def measure_others(work: Callable[[], None]) -> float:
    """Run something and give the number of cores that other processes kept busy in that time (Linux; else nan)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        work()
        return float("nan")

    def busy() -> float:
        ticks = [int(value) for value in stat.read_text().split("\n", 1)[0].split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / 100 - time.process_time()

    start, busy_before = time.perf_counter(), busy()
    work()
    return max(0.0, (busy() - busy_before) / (time.perf_counter() - start))


def summarize(timings: list[Timing]) -> dict[str, Any]:
    """Give best, median and spread (maximum minus minimum) in seconds."""
    summary: dict[str, Any] = {"others": round(max(timing.others for timing in timings), 2)}
    for field in ("forward", "total"):
        seconds = [getattr(timing, field) for timing in timings]
        summary["forward" if field == "forward" else "forward_and_backward"] = {
            "best": round(min(seconds), 4),
            "median": round(statistics.median(seconds), 4),
            "spread": round(max(seconds) - min(seconds), 4),
        }
    return summary


def relative_difference(ours: Tensor, expected: Tensor) -> float:
    return ((ours.float() - expected.float()).norm() / expected.float().norm()).item()


def read_voxels(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Give coordinates `(voxels, 4)` int32 and colours `(voxels, 3)` of the scans, or of a made-up room."""
    if not arguments.scan:
        cells = furnish_room(arguments.voxels)
        colours = np.random.default_rng(0).random((len(cells), 3), dtype=np.float32) - 0.5
    else:
        from lg3d_core.scans.ply import read_ply

        parts, shift = [], 0
        for path in arguments.scan:
            mesh = read_ply(path)
            grid = np.floor(mesh.xyz / arguments.voxel_size).astype(np.int64)
            distinct, kept = np.unique(grid - grid.min(axis=0), axis=0, return_index=True)
            distinct[:, 0] += shift
            shift = int(distinct[:, 0].max()) + 20
            parts.append((distinct, mesh.rgb[kept].astype(np.float32) / 255 - 0.5))
        cells = np.concatenate([part[0] for part in parts])
        colours = np.concatenate([part[1] for part in parts])
    coordinates = torch.zeros(len(cells), 4, dtype=torch.int32)
    coordinates[:, 1:] = torch.from_numpy(cells.astype(np.int32))
    return coordinates, torch.from_numpy(colours)


def furnish_room(num_voxels: int) -> Any:
    """Make the surface voxels of a floor, four walls and boxes of furniture, distinct cells `(voxels, 3)`."""
    rng = np.random.default_rng(0)
    side = int((num_voxels / 4) ** 0.5)
    height = side // 3
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    a, z = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(height), indexing="ij"))
    flat = np.zeros_like(a)
    surfaces = [
        np.stack([x, y, np.zeros_like(x)], axis=1),
        *(
            np.stack(wall, axis=1)
            for wall in ((a, flat, z), (a, flat + side - 1, z), (flat, a, z), (flat + side - 1, a, z))
        ),
    ]
    while len(cells := np.unique(np.concatenate(surfaces), axis=0)) < num_voxels:
        size = rng.integers(4, max(5, side // 6), 3)
        corner = np.append(rng.integers(1, side - size[:2] - 1), rng.choice([0, 0, 8]))
        box = np.stack(np.meshgrid(*(np.arange(edge) for edge in size), indexing="ij"), axis=-1).reshape(-1, 3)
        surfaces.append(box[((box == 0) | (box == size - 1)).any(axis=1)] + corner)
    return cells


def build_ours(network: str) -> nn.Module:
    if network == "layer":
        return SparseConvolution(96, 96, kernel_size=3)
    return MinkUNet(network, num_classes=200)


def run_ours(network: nn.Module, features: Tensor, coordinates: Tensor, precision: str) -> tuple[Tensor, float, float]:
    """Give the output and the seconds of forward, and of forward and backward, kernel maps included."""
    network.zero_grad()
    inference = precision == "bf16"
    with (
        owned_threads(),
        use_backend("torch"),
        torch.inference_mode(inference),
        torch.autocast("cpu", torch.bfloat16, enabled=inference),
    ):
        start = time.perf_counter()
        if isinstance(network, MinkUNet):
            output = network.classify(network(SparseTensor(features, coordinates)))
        else:
            x = SparseTensor(widen(features), coordinates)
            output = x.restore(network(x).features)
        forward = time.perf_counter() - start
        if not inference:
            upstream = draw_gradient(output)
            start += time.perf_counter() - start - forward
            output.backward(upstream)
    return output.detach(), forward, time.perf_counter() - start


def draw_gradient(output: Tensor) -> Tensor:
    """Draw what a loss would hand back, outside of the time taken: it is the same work for every engine."""
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(0)) / output.numel()


def widen(features: Tensor) -> Tensor:
    return features.repeat(1, 32).requires_grad_()


def import_minkowski() -> Any:
    """Give the module MinkowskiEngine, or None; its 0.5.4 wants names that Python 3.10 moved."""
    for name in ("Sequence", "Mapping", "MutableMapping", "Iterable"):
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import MinkowskiEngine
        except ImportError:
            print("MinkowskiEngine is not installed: no peer.", file=sys.stderr)
            return None
    return MinkowskiEngine


def build_theirs(engine: Any, network: str) -> nn.Module:
    """Build the same network of MinkowskiEngine's layers, by replacing ours."""
    if network == "layer":
        layer: nn.Module = engine.MinkowskiConvolution(96, 96, kernel_size=3, dimension=3)
        return layer
    return MinkowskiUNet(engine, network)


class MinkowskiBlock(nn.Module):
    """`lg3d_core.networks.blocks.ResidualBlock` of MinkowskiEngine's layers."""

    def __init__(self, engine: Any, in_channels: int, out_channels: int, final_relu: bool) -> None:
        super().__init__()
        self.conv1 = engine.MinkowskiConvolution(in_channels, out_channels, kernel_size=3, dimension=3)
        self.norm1 = engine.MinkowskiBatchNorm(out_channels)
        self.conv2 = engine.MinkowskiConvolution(out_channels, out_channels, kernel_size=3, dimension=3)
        self.norm2 = engine.MinkowskiBatchNorm(out_channels)
        self.relu = engine.MinkowskiReLU(inplace=True)
        self.final_relu = final_relu
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                engine.MinkowskiConvolution(in_channels, out_channels, kernel_size=1, dimension=3),
                engine.MinkowskiBatchNorm(out_channels),
            )

    def forward(self, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        output = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + shortcut
        return self.relu(output) if self.final_relu else output


class MinkowskiUNet(nn.Module):
    """`lg3d_core.networks.MinkUNet` of MinkowskiEngine's layers, with the same parameter names."""

    def __init__(self, engine: Any, plan_name: str) -> None:
        super().__init__()
        self.engine = engine
        widths, depths = NETWORK_PLANS[plan_name]
        skipped = (widths[2], widths[1], widths[0], 32)
        self.conv0p1s1 = engine.MinkowskiConvolution(3, 32, kernel_size=3, dimension=3)
        self.bn0 = engine.MinkowskiBatchNorm(32, momentum=0.02)
        width = 32
        for stage in range(4):
            down = engine.MinkowskiConvolution(width, width, kernel_size=2, stride=2, dimension=3)
            setattr(self, f"conv{stage + 1}p{2**stage}s2", down)
            setattr(self, f"bn{stage + 1}", engine.MinkowskiBatchNorm(width, momentum=0.02))
            setattr(self, f"block{stage + 1}", self.stack(width, widths[stage], depths[stage], True))
            width = widths[stage]
        for stage in range(4, 8):
            up = engine.MinkowskiConvolutionTranspose(width, widths[stage], kernel_size=2, stride=2, dimension=3)
            setattr(self, f"convtr{stage}p{2 ** (8 - stage)}s2", up)
            setattr(self, f"bntr{stage}", engine.MinkowskiBatchNorm(widths[stage], momentum=0.02))
            joined = widths[stage] + skipped[stage - 4]
            setattr(self, f"block{stage + 1}", self.stack(joined, widths[stage], depths[stage], stage < 7))
            width = widths[stage]
        self.final = engine.MinkowskiConvolution(width, 200, kernel_size=1, bias=True, dimension=3)
        self.relu = engine.MinkowskiReLU(inplace=True)

    def stack(self, in_channels: int, out_channels: int, depth: int, final_relu: bool) -> nn.Sequential:
        widths = [in_channels, *[out_channels] * depth]
        return nn.Sequential(
            *(
                MinkowskiBlock(self.engine, widths[index], out_channels, final_relu or index < depth - 1)
                for index in range(depth)
            )
        )

    def forward(self, x: Any) -> Any:
        levels = [self.relu(self.bn0(self.conv0p1s1(x)))]
        for stage in range(4):
            down = getattr(self, f"conv{stage + 1}p{2**stage}s2")
            norm, blocks = getattr(self, f"bn{stage + 1}"), getattr(self, f"block{stage + 1}")
            levels.append(blocks(self.relu(norm(down(levels[-1])))))
        output = levels.pop()
        for stage in range(4, 8):
            up = getattr(self, f"convtr{stage}p{2 ** (8 - stage)}s2")
            norm, blocks = getattr(self, f"bntr{stage}"), getattr(self, f"block{stage + 1}")
            output = blocks(self.engine.cat(self.relu(norm(up(output))), levels.pop()))
        return self.final(output)


def run_theirs(engine: Any, network: nn.Module, features: Tensor, coordinates: Tensor) -> tuple[Tensor, float, float]:
    network.zero_grad()
    wide = features if isinstance(network, MinkowskiUNet) else widen(features)
    start = time.perf_counter()
    x = engine.SparseTensor(wide, coordinates=coordinates)
    output = network(x)
    forward = time.perf_counter() - start
    upstream = draw_gradient(output.F)
    start += time.perf_counter() - start - forward
    output.F.backward(upstream)
    total = time.perf_counter() - start
    if not torch.equal(x.C, coordinates):
        raise SystemExit("MinkowskiEngine reordered the voxels: its rows cannot be compared.")
    return output.F.detach(), forward, total


if __name__ == "__main__":
    main()
