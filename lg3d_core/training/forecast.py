"""Forecast of a training run before it starts: hours, memory, and processes that load scenes.

The work of a step follows from the network's convolutions and from how many voxels and neighbours the levels of indoor
scans have. Its seconds are measured on a smaller step with the same network, device, backend and precision, or modelled
from the speed of a matrix product, which takes no time.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lg3d_core.devices import autocast, resolve_device
from lg3d_core.errors import DataError
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.processes import num_cores
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.settings import CONFIG_NAME, FinetuneSettings, PretrainSettings, TrainSettings
from lg3d_core.sparse import SparseTensor, owned_threads, trains_faster_in_bf16, use_backend
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.batches import steps_per_epoch

LEVEL_SHARES = (1, 0.271, 0.064, 0.0146, 0.0034)
"""Voxels of each level per voxel of the finest one, in furnished rooms at 2 cm."""
PAIRS = (12.8, 15.1, 15.5, 16.0, 16.6)
"""Voxels within reach of a 3x3x3 kernel, per voxel and level, in the same rooms."""
CLASSES = 200
SCANNET_SCENES, SCANNET_VOXELS, SCANNET_VOXEL_SIZE = 1201, 100_000, 0.02
"""Training scenes of ScanNet, and voxels of one of them at a voxel size; voxels lie on surfaces."""
SAMPLE_SECONDS = 0.051e-5
"""Seconds to load and augment a scene, per voxel, on one core."""
PRODUCTS_PER_STEP = 3
"""Products of each convolution in a step: the output, and both gradients."""
EFFICIENCY = {"cuda": 0.5, "cpu": 0.35}
"""Part of the speed of a dense matrix product that sparse convolutions reach."""
BYTES_PER_VALUE_MOVED, BANDWIDTH = 40, {"cuda": 2e12, "cpu": 8e9}
"""Normalisation, ReLU and addition, forward and backward, in bytes per output of a convolution; bytes per second."""
LAUNCH_SECONDS = {"cuda": 0.02, "cpu": 0.05}
"""Least duration of a step: operations have to be started."""
MEASURED_FLOPS = {"cuda": 2e13, "cpu": 6e10}
"""Size of the step that is measured."""
BASE_BYTES = {"cuda": 1 << 30, "cpu": 700 << 20}
"""Memory of Python, PyTorch and its libraries."""
MAP_BYTES = 600
"""Kernel maps, tiles and pairs of all levels, in bytes per voxel."""
SPARE_JOBS = 1.3
"""Factor on the number of loading processes, because scenes differ in size."""


class StepWork(NamedTuple):
    """Work of a training step per voxel of the finest level.

    Attributes:
        flops: Multiplications and additions of a forward pass.
        values: Outputs of convolutions.
        parameters: Number of parameters, of the whole network.
    """

    flops: float
    values: float
    parameters: int


class Forecast(NamedTuple):
    """Forecast of one run.

    Attributes:
        command: `pretrain` or `finetune`.
        network: Network architecture.
        device: Device, as PyTorch names it.
        precision: `fp32` or `bf16`.
        scenes: Number of training scenes.
        voxels: Mean number of voxels of a scene.
        steps: Optimiser steps of the whole run.
        step_seconds: Seconds of a step.
        hours: Hours of the whole run, without validation.
        memory: Memory of a step in bytes, at the mean number of voxels.
        jobs: Processes that load scenes as fast as the network takes them.
        basis: What the figures rest on: a measured step, and scenes of a store or assumed ones.
    """

    command: str
    network: str
    device: str
    precision: str
    scenes: int
    voxels: int
    steps: int
    step_seconds: float
    hours: float
    memory: int
    jobs: int
    basis: str


class Scenes(NamedTuple):
    """Training scenes: how many, their mean number of voxels, the seconds to load one, and whether it is a guess."""

    num_scenes: int
    voxels: int
    load_seconds: float
    assumed: bool


def step_work(network: str) -> StepWork:
    """Return the work of a network per voxel of its input."""
    with torch.device("meta"):
        module = MinkUNet(network, num_classes=CLASSES)
    flops = values = 0.0
    for placed in place_convolutions(module):
        convolution, level = placed.convolution, placed.stride.bit_length() - 1
        in_channels, out_channels = convolution.kernel.shape[-2:]
        if convolution.stride == 1:
            pairs = LEVEL_SHARES[level] * (1 if convolution.kernel_size == 1 else PAIRS[level])
            outputs = LEVEL_SHARES[level]
        else:  # each voxel of the finer level has one parent
            fine = level - 1 if convolution.transposed else level
            pairs, outputs = LEVEL_SHARES[fine], LEVEL_SHARES[fine if convolution.transposed else fine + 1]
        flops += 2 * pairs * in_channels * out_channels
        values += outputs * out_channels
    return StepWork(flops, values, sum(parameter.numel() for parameter in module.parameters()))


def step_bytes(network: str, voxels: int, *, precision: str, device: torch.device) -> int:
    """Return the memory of a training step: weights with gradient and momentum, and what the backward pass needs.

    Each convolution keeps its output and the normalised one, which is the input of the next.
    """
    work = step_work(network)
    width = 2 if precision == "bf16" else 4
    per_voxel = 2 * width * work.values + MAP_BYTES + 2 * 4 * CLASSES
    return int(BASE_BYTES[device.type] + 12 * work.parameters + per_voxel * voxels)


def modelled_step(network: str, voxels: int, *, flops_per_second: float, device: torch.device) -> float:
    """Return the seconds of a training step, from the speed of dense matrix products."""
    work = step_work(network)
    products = PRODUCTS_PER_STEP * work.flops * voxels / (EFFICIENCY[device.type] * flops_per_second)
    moved = BYTES_PER_VALUE_MOVED * work.values * voxels / BANDWIDTH[device.type]
    return max(LAUNCH_SECONDS[device.type], products + moved)


def model_step(network: str, voxels: int, *, precision: str, device: torch.device) -> tuple[float, int]:
    """Return the modelled seconds of a training step on a device, and its memory in bytes."""
    speed = matrix_speed(device, precision)
    seconds = modelled_step(network, voxels, flops_per_second=speed, device=device)
    return seconds, step_bytes(network, voxels, precision=precision, device=device)


def matrix_speed(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of a dense matrix product, the best of five."""
    size, dtype = (8192 if device.type == "cuda" else 768), torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.ones(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(_seconds(lambda: torch.mm(left, left), device) for _ in range(5))


def measured_step(network: str, voxels: int, *, device: torch.device, precision: str, backend: str) -> float:
    """Return the seconds of a training step with `voxels` voxels, extrapolated from a smaller step on this device.

    A first step, which compiles kernels and allocates memory, is not timed.
    """
    work = step_work(network)
    part = max(1000, min(voxels, int(MEASURED_FLOPS[device.type] / (PRODUCTS_PER_STEP * work.flops))))
    coordinates = room_voxels(part).to(device)
    features = torch.rand(len(coordinates), 3, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.zeros(len(coordinates), dtype=torch.long, device=device)
    state = torch.random.get_rng_state()
    module = MinkUNet(network, num_classes=CLASSES).to(device).train()
    torch.random.set_rng_state(state)

    def step() -> None:
        with autocast(device, precision):
            logits = module.classify(module(SparseTensor(features, coordinates)))
        nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        module.zero_grad()

    with use_backend(backend), owned_threads():
        step()
        seconds = min(_seconds(step, device) for _ in range(2))
    return max(LAUNCH_SECONDS[device.type], seconds * voxels / len(coordinates))


def room_voxels(count: int) -> Tensor:
    """Return about `count` voxels of a room, shape `(voxels, 4)`, int32.

    The floor is two voxels thick, ceiling and walls are one: on average a voxel then has as many neighbours as in
    furnished rooms.
    """
    edge = height = 6
    while 3 * edge**2 + 4 * (edge - 1) * (height - 3) < count:
        edge += 1
        height = max(6, edge // 2)
    room = torch.zeros(edge, edge, height, dtype=torch.bool)
    room[:, :, [0, 1, -1]] = room[[0, -1]] = room[:, [0, -1]] = True
    cells = room.nonzero().to(torch.int32)
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)


def needed_jobs(load_seconds: float, scenes: int, step_seconds: float, *, cores: int) -> int:
    """Return how many processes load scenes as fast as steps take them; 0 on a single core, else at least 1.

    Args:
        load_seconds: Seconds to load a scene on one core.
        scenes: Scenes of a step.
        step_seconds: Seconds of a step.
        cores: Cores for this training process, which takes one itself.
    """
    if cores < 2:
        return 0
    return max(1, min(cores - 1, math.ceil(SPARE_JOBS * load_seconds * scenes / step_seconds)))


def choose_jobs(
    load: Callable[[], int], network: str, *, scenes: int, device: torch.device, precision: str, processes: int = 1
) -> int:
    """Return the number of loading processes for a run, from the measured cost of a scene and the modelled step.

    Args:
        load: Loads one scene and returns its number of voxels.
        network: Network architecture.
        scenes: Scenes of a step of this process.
        device: Device of the network.
        precision: `fp32` or `bf16`.
        processes: Training processes on this machine, which share its cores.
    """
    cores = num_cores() // processes
    if cores < 2:
        return 0
    load()  # opens files and fills caches
    before = time.perf_counter()
    voxels = load()
    seconds = time.perf_counter() - before
    step, _ = model_step(network, scenes * voxels, precision=precision, device=device)
    return needed_jobs(seconds, scenes, step, cores=cores)


def forecast(settings: TrainSettings, progress: Progress) -> Forecast:
    """Forecast a run with these settings on this machine, from a measured step.

    Args:
        settings: Settings of the run. If its store does not exist, ScanNet's scenes are assumed.
        progress: Receives a note while a step is measured.
    """
    device = resolve_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if trains_faster_in_bf16(settings.backend, device) else "fp32"
    scenes = _look_at_scenes(settings)
    in_step = min(settings.batch_size, scenes.num_scenes)
    in_pass = min(in_step, settings.micro_batch or in_step)
    in_memory = min(in_pass * scenes.voxels, settings.max_voxels or in_pass * scenes.voxels)
    voxels = in_step * scenes.voxels
    progress.note(f"measuring a training step of {settings.network} on {device}")
    seconds = measured_step(settings.network, voxels, device=device, precision=precision, backend=settings.backend)
    steps = settings.epochs * steps_per_epoch(scenes.num_scenes, settings.batch_size)
    jobs = settings.jobs
    if jobs is None:
        jobs = needed_jobs(scenes.load_seconds, in_step, seconds, cores=num_cores())
    waiting = scenes.load_seconds * in_step / max(1, jobs)
    per_step = seconds + waiting if jobs == 0 else max(seconds, waiting)
    return Forecast(
        command=settings.command,
        network=settings.network,
        device=str(device),
        precision=precision,
        scenes=scenes.num_scenes,
        voxels=scenes.voxels,
        steps=steps,
        step_seconds=per_step,
        hours=steps * per_step / 3600,
        memory=step_bytes(settings.network, in_memory, precision=precision, device=device),
        jobs=jobs,
        basis=f"measured step, {'assumed' if scenes.assumed else 'counted'} scenes",
    )


def plan(recipe: str | None, options: dict[str, object], progress: Progress) -> list[Forecast]:
    """Forecast pre-training and fine-tuning with a recipe, and with the variables and `lg3d.toml` that they read.

    Args:
        recipe: Recipe; None is the default one.
        options: Values of settings that replace the recipe's; None replaces nothing.
        progress: Receives notes.
    """
    runs: list[TrainSettings] = [
        kind.resolve(
            recipe=recipe, default_recipe=kind.default_recipe, environ=os.environ, config=Path(CONFIG_NAME), **options
        )
        for kind in (PretrainSettings, FinetuneSettings)
    ]
    return [forecast(settings, progress) for settings in runs]


def describe_forecast(found: Forecast) -> list[tuple[str, str]]:
    """Return the rows of a table: what, and its value."""
    return [
        ("network", found.network),
        ("device", found.device),
        ("precision", found.precision),
        ("training scenes", f"{found.scenes:,}"),
        ("voxels per scene", f"{found.voxels:,}"),
        ("steps", f"{found.steps:,}"),
        ("seconds per step", f"{found.step_seconds:.3g}"),
        ("hours, without validation", f"{found.hours:,.3g}"),
        ("memory of a step", f"{found.memory / 2**30:.1f} GiB"),
        ("loading processes", str(found.jobs)),
        ("basis", found.basis),
    ]


def _look_at_scenes(settings: TrainSettings) -> Scenes:
    """Count the training scenes of all stores, and load a few of the first; without a store, assume ScanNet's."""
    try:
        store = SceneStore(settings.store, settings.vocabulary)
        scene_ids = store.scene_ids("train")
    except DataError:
        scene_ids = []
    if not scene_ids:
        voxels = int(SCANNET_VOXELS * (SCANNET_VOXEL_SIZE / settings.voxel_size) ** 2)
        return Scenes(SCANNET_SCENES, voxels, SAMPLE_SECONDS * SCANNET_VOXELS, True)
    dataset = SceneDataset(
        store,
        scene_ids,
        voxel_size=settings.voxel_size,
        augmentation=Augmentation() if settings.augment else None,
        crop=settings.crop,
        seed=settings.seed,
    )
    few = sorted({0, len(scene_ids) // 2, len(scene_ids) - 1})
    sizes: list[int] = []
    seconds: list[float] = []
    for row in few:
        before = time.perf_counter()
        sizes.append(len(dataset[row].cells))
        seconds.append(time.perf_counter() - before)
    others = (len(SceneStore(path).scene_ids("train")) for path in settings.also_store)
    return Scenes(len(scene_ids) + sum(others), sum(sizes) // len(few), min(seconds), False)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - before
