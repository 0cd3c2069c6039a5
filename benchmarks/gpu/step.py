"""First figures on a GPU: is it right, how long is a step, which kernels take it, and how fast are the heavy layers.

python -m benchmarks.gpu.step OUT PART...

Parts:
    fold        a network that was validated between training steps against the same weights loaded anew: prints 0
    check34C    outputs and gradients in fp32 and bf16, of lg3d's kernels and of plain PyTorch, against plain PyTorch in
                float64 (any network: check14A, ...)
    step34D     seconds of training steps, host time, memory, inference, and the kernels that take most time
    layers      useful TFLOP/s of wide and narrow layers, with the default blocks and some others
    counters    the default kernels of those layers, twice each, for a profiler such as ncu

Every figure is printed and written to OUT/step.json at once; a part that fails does not stop the others. The voxels are
those of `.gpu/rooms.npz`, two procedural rooms at 2 cm that `make gpu-kit` writes; `--voxels` takes fewer, and a step
that does not fit into memory takes half. Without a GPU, sizes are tiny.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.sparse import SparseTensor, use_backend

ROOT = Path(__file__).parents[2]
ROOMS = ROOT / ".gpu" / "rooms.npz"
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
BACKEND = "triton" if ON_GPU else "auto"
CLASSES = 200
WIDE, NARROW = ((512, 512), (544, 512)), ((96, 96),)


class Figures:
    """Figures by name, printed and saved one by one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.values: dict[str, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Print a figure and write all of them."""
        self.values[name] = value
        print(name, value, flush=True)
        (self.folder / "step.json").write_text(json.dumps(self.values, indent=1))


class Room:
    """Voxels, colours and classes."""

    def __init__(self, voxels: int) -> None:
        rows = torch.from_numpy(np.load(ROOMS)["coordinates"]).int()
        more = voxels - len(rows)
        if more > 0:  # a mirrored copy of the first room is a third one
            mirrored = rows[rows[:, 0] == 0].clone()
            mirrored[:, 0], mirrored[:, 1] = 2, mirrored[:, 1].max() - mirrored[:, 1]
            rows = torch.cat([rows, mirrored])
        self.coordinates = rows[:voxels].to(DEVICE)
        draws = torch.Generator().manual_seed(0)
        self.colours = (torch.rand(len(self.coordinates), 3, generator=draws) - 0.5).to(DEVICE)
        self.labels = torch.randint(CLASSES, (len(self.coordinates),), generator=draws).to(DEVICE)

    def __len__(self) -> int:
        return len(self.coordinates)

    def halve(self) -> None:
        """Keep the first half of the voxels."""
        count = len(self) // 2
        self.coordinates, self.colours, self.labels = (
            rows[:count] for rows in (self.coordinates, self.colours, self.labels)
        )

    def logits(self, network: MinkUNet, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Run a network on the room, in bf16 under autocast, or in the dtype of its weights."""
        colours = self.colours if dtype == torch.bfloat16 else self.colours.to(dtype)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return network.classify(network(SparseTensor(colours, self.coordinates)))


def make_network(plan: str) -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(plan, num_classes=CLASSES).to(DEVICE).train()


def wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], object], *, runs: int, warm: int = 2) -> tuple[float, float]:
    """Return the median and the best of some runs."""
    for _ in range(warm):
        call()
    taken = []
    for _ in range(runs):
        wait()
        before = time.perf_counter()
        call()
        wait()
        taken.append(1e3 * (time.perf_counter() - before))
    return statistics.median(taken), min(taken)


def check_fold(figures: Figures, room: Room) -> None:
    """Validate after each of two rounds of training, and compare the last one with the same weights loaded anew."""
    network = make_network("14A")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, fused=True)

    def validate(evaluated: MinkUNet) -> Tensor:
        evaluated.eval()
        with torch.inference_mode():
            return room.logits(evaluated)

    for _ in range(2):
        network.train()
        for _ in range(5):
            optimiser.zero_grad()
            cross_entropy(room.logits(network).float(), room.labels).backward()
            optimiser.step()
        found = validate(network)
    fresh = make_network("14A")
    fresh.load_state_dict(network.state_dict())
    expected = validate(fresh)
    figures.add("fold, relative difference", float((found - expected).norm() / expected.norm()))


def check_network(figures: Figures, room: Room, plan: str) -> None:
    """Compare kernels, and plain PyTorch, with plain PyTorch in float64, as relative differences of norms."""
    exact = _logits_and_gradients(room, plan, "torch", torch.float64)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for title, backend in ((name, BACKEND), (f"{name} of plain PyTorch", "torch")):
            found = _logits_and_gradients(room, plan, backend, dtype)
            pairs = zip(found, exact, strict=True)
            figures.add(f"{plan} {title}: output, gradient", [float((a - b).norm() / b.norm()) for a, b in pairs])


def _logits_and_gradients(room: Room, plan: str, backend: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    network = make_network(plan)
    if dtype == torch.float64:
        network.double()
    with use_backend(backend):
        logits = room.logits(network, dtype=dtype).double()
        logits.square().mean().backward()
    gradients = [p.grad.flatten().double() for p in network.parameters() if p.grad is not None]
    return logits.detach(), torch.cat(gradients)


def time_steps(figures: Figures, room: Room, plan: str) -> None:
    """Time training steps and inference, and profile one step."""
    network = make_network(plan)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def train() -> None:
        optimiser.zero_grad()
        cross_entropy(room.logits(network).float(), room.labels).backward()
        optimiser.step()

    runs = 10 if ON_GPU else 1
    before = time.perf_counter()
    train()
    wait()
    figures.add(f"{plan}: first step, with compilation, s", time.perf_counter() - before)
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    figures.add(f"{plan}: step at {len(room)} voxels, median and best, ms", milliseconds(train, runs=runs))
    if ON_GPU:
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
        figures.add(f"{plan}: peak and reserved, GiB", (peak / 2**30, reserved / 2**30))
    host = []
    for _ in range(min(5, runs)):
        wait()
        before = time.perf_counter()
        train()
        host.append(1e3 * (time.perf_counter() - before))
    figures.add(f"{plan}: host time of a step, best, ms", min(host))
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if ON_GPU else [])]
    with torch.profiler.profile(activities=kinds) as profile:
        train()
        wait()
    key = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=70)
    (figures.folder / f"profile_{plan}.txt").write_text(table)
    for event in sorted(profile.key_averages(), key=lambda event: -getattr(event, key))[:15]:
        print(f"  {getattr(event, key) / 1e3:9.2f} ms {event.count:5d} {event.key[:70]}", flush=True)
    network.eval()
    with torch.inference_mode():
        figures.add(f"{plan}: inference, median and best, ms", milliseconds(lambda: room.logits(network), runs=runs))


def time_steps_that_fit(figures: Figures, room: Room, plan: str) -> None:
    """Time steps with all voxels, or with as large a half, quarter, ... of them as fits into memory."""
    while True:
        try:
            return time_steps(figures, room, plan)
        except torch.OutOfMemoryError:
            figures.add(f"{plan}: out of memory, voxels", len(room))
        room.halve()
        torch.cuda.empty_cache()


class LayerTrial(NamedTuple):
    """A kernel of a layer, its blocks, and its rate."""

    name: str
    default: Any
    candidates: Callable[[Any], list[Any]]
    run: Callable[[Any], object]
    products: int


def make_layers(room: Room) -> Iterator[LayerTrial]:
    """Return the forward pass and the weight gradient of wide and narrow layers."""
    from lg3d_core.sparse.triton.configs import Layer, default_convolution, default_weight_gradient
    from lg3d_core.sparse.triton.convolution import convolve
    from lg3d_core.sparse.triton.tuning import convolution_candidates, weight_gradient_candidates
    from lg3d_core.sparse.triton.weight_gradient import weight_gradient

    kernel_map = SparseTensor(room.colours, room.coordinates).cache.submanifold_map(1, 3)
    pairs, rows, half = int((kernel_map.neighbours >= 0).sum()), len(room), torch.bfloat16
    for channels in (*WIDE, *NARROW):
        features, gradient = (torch.randn(rows, width, device=DEVICE).to(half) for width in channels)
        weight = torch.randn(27, *channels, device=DEVICE).to(half)
        layer, name = Layer(rows, 27, *channels, half), f"{channels[0]}->{channels[1]}"

        def forward(config: Any, features: Tensor = features, weight: Tensor = weight) -> Tensor:
            return convolve(features, weight, kernel_map, config)

        def backward(config: Any, features: Tensor = features, gradient: Tensor = gradient) -> Tensor:
            return weight_gradient(features, gradient, kernel_map, config)

        products = pairs * channels[0] * channels[1]
        yield LayerTrial(f"forward {name}", default_convolution(layer), convolution_candidates, forward, products)
        default = default_weight_gradient(layer)
        yield LayerTrial(f"weight gradient {name}", default, weight_gradient_candidates, backward, products)


def time_layers(figures: Figures, room: Room) -> None:
    """Time the kernels of some layers, with the default blocks first, then with others."""
    trials = list(make_layers(room))
    others = [(trial, config) for trial in trials for config in trial.candidates(trial.default)[1:]]
    for trial, config in [*((trial, trial.default) for trial in trials), *others]:
        name = f"{trial.name} {tuple(config)}"
        try:
            taken = milliseconds(lambda run=trial.run, config=config: run(config), runs=7)[0]
        except Exception as error:  # noqa: BLE001  # blocks that do not run are a result
            figures.add(name, repr(error)[:120])
            continue
        figures.add(name, f"{taken:.2f} ms, {2e-9 * trial.products / taken:.0f} useful TFLOP/s")


def run_layers(figures: Figures, room: Room) -> None:
    """Run the kernels of some layers twice, the second time with all inputs and tables made."""
    for trial in make_layers(room):
        for _ in range(2):
            trial.run(trial.default)
            wait()
        figures.add(f"{trial.name}: blocks", tuple(trial.default))


def run_part(part: str, figures: Figures, room: Room, small: Room) -> None:
    if part == "fold":
        check_fold(figures, small)
    elif part == "layers":
        time_layers(figures, room)
    elif part == "counters":
        run_layers(figures, room)
    elif part.startswith("check"):
        check_network(figures, small, part.removeprefix("check"))
    elif part.startswith("step"):
        time_steps_that_fit(figures, room, part.removeprefix("step"))
    else:
        raise SystemExit(f"unknown part {part!r}: expected fold, layers, counters, check<network> or step<network>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of step.json and the profiles")
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--voxels", type=int, default=800_000 if ON_GPU else 2_000)
    choices = parser.parse_args()
    figures, room = Figures(choices.out), Room(choices.voxels)
    small = Room(min(60_000, choices.voxels))
    failed = []
    with use_backend(BACKEND):
        for part in choices.parts:
            print(f"== {part}", flush=True)
            try:
                run_part(part, figures, room, small)
            except Exception as error:  # noqa: BLE001  # one fault of a kernel must not hide the figures of others
                traceback.print_exc()
                figures.add(f"{part}: failed", repr(error)[:300])
                failed.append(part)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
