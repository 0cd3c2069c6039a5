"""Timed operations: kernel maps, single layers and whole networks, with a lower bound on their time."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lg3d_core.networks import MinkUNet
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.sparse import SparseConvolution, SparseTensor
from lg3d_core.sparse_benchmark.engines import Engine, Lg3dEngine, Rows, Trial
from lg3d_core.sparse_benchmark.machine import DTYPES, Rates
from lg3d_core.sparse_benchmark.placement import NUM_LEVELS, Voxelization, Work
from lg3d_core.sparse_benchmark.workload import Workload

NUM_CLASSES = 200
CHAIN_CHANNELS = 8
"""So few that the time of the convolutions is negligible beside that of the kernel maps."""


class LayerPlan(NamedTuple):
    """A convolution that is timed alone, at full resolution."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    transposed: bool = False

    @property
    def name(self) -> str:
        way = "" if self.stride == 1 else " up" if self.transposed else " down"
        return f"layer {self.in_channels}->{self.out_channels} {self.kernel_size}^3{way}"

    def build(self) -> SparseConvolution:
        return SparseConvolution(
            self.in_channels,
            self.out_channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            transposed=self.transposed,
        )


LAYERS = (
    LayerPlan(96, 96, 3),
    LayerPlan(32, 32, 3),
    LayerPlan(256, 256, 3),
    LayerPlan(32, 32, 2, stride=2),
    LayerPlan(96, 96, 2, stride=2, transposed=True),
    LayerPlan(128, 96, 1),
)


WIDE_LAYERS = (LayerPlan(512, 512, 3), LayerPlan(544, 512, 3))
"""Layers with most of the work of 34D, which take a CPU minutes: timed on CUDA, and where 34D is."""


class Cost(NamedTuple):
    """Minimum work of an operation: matrix products, and other bytes moved."""

    products: Sequence[Work] = ()
    bytes: int = 0

    @property
    def flops(self) -> int:
        return sum(work.flops for work in self.products)

    def floor(self, rates: Rates, precision: str) -> float:
        """Return the seconds at the measured peaks: for each product the longer of computing and moving its data."""
        width = DTYPES[precision].itemsize
        seconds = self.bytes / rates.bandwidth()
        for work in self.products:
            compute, move = work.flops / rates.flops(precision), work.elements * width / rates.bandwidth()
            seconds += max(compute, move)
        return seconds


class Operation(NamedTuple):
    """One operation to time.

    Attributes:
        name: Name in tables.
        what: Kind of operation: `maps`, `layers`, `layers-train`, `forward` or `train`.
        workload: Voxels.
        build: Returns an engine's trial on this workload, or on a part of it, in one of the engine's precisions.
        cost: Minimum work.
        layer: The convolution, for an operation of a single layer.
        is_own: Whether other engines have no counterpart.
    """

    name: str
    what: str
    workload: Workload
    build: Callable[[Engine, Workload, str], Trial]
    cost: Cost
    layer: LayerPlan | None = None
    is_own: bool = False

    @property
    def training(self) -> bool:
        return self.what in ("train", "layers-train")

    @property
    def is_network(self) -> bool:
        return self.what in ("forward", "train")


def plan_operations(
    what: Sequence[str], networks: Sequence[str], workload: Workload, *, seed: int
) -> Iterator[Operation]:
    """Yield the operations to time on a workload, each with its own weights, drawn from a seed."""
    voxelization = Voxelization(workload)
    if "maps" in what:
        yield _tables(workload, voxelization)
        yield _maps(workload, voxelization, seed)
    for kind in ("layers", "layers-train"):
        if kind in what:
            wide = WIDE_LAYERS if workload.device.type == "cuda" or "34D" in networks else ()
            for plan in (*LAYERS, *wide):
                yield _layer(plan, kind, workload, voxelization, seed)
    for plan_name in networks:
        if "forward" in what or "train" in what:
            yield from _network(plan_name, what, workload, voxelization, seed)


def _tables(workload: Workload, voxelization: Voxelization) -> Operation:
    def build(engine: Engine, workload: Workload, precision: str) -> Trial:
        features = torch.zeros(workload.num_voxels, 1, device=workload.device)

        def forward() -> Rows:
            x = SparseTensor(features, workload.coordinates)
            for level in range(NUM_LEVELS):
                x.cache.submanifold_map(2**level, 3)
                if level:
                    x.cache.upward_map(2**level)
            return Rows(x.features, lambda: x.coordinates)

        assert isinstance(engine, Lg3dEngine)
        return Trial(engine.name, precision, forward, context=engine.context)

    return Operation(
        "kernel maps, lg3d's tables alone", "maps", workload, build, _cost_of_maps(voxelization), None, True
    )


def _maps(workload: Workload, voxelization: Voxelization, seed: int) -> Operation:
    """Return kernel maps as every engine builds them: in the first convolution that needs them."""
    width = CHAIN_CHANNELS
    plans = [LayerPlan(width, width, 3)]
    for _ in range(1, NUM_LEVELS):
        plans += [LayerPlan(width, width, 2, stride=2), LayerPlan(width, width, 3)]
    plans += [LayerPlan(width, width, 2, stride=2, transposed=True)] * (NUM_LEVELS - 1)
    torch.manual_seed(seed)
    convolutions = [plan.build().to(workload.device) for plan in plans]

    def build(engine: Engine, workload: Workload, precision: str) -> Trial:
        return engine.chain_trial(convolutions, workload, draw_features(workload, width, seed), precision=precision)

    return Operation("kernel maps, by 13 thin layers", "maps", workload, build, _cost_of_maps(voxelization))


def _cost_of_maps(voxelization: Voxelization) -> Cost:
    """Return the cost of reading each voxel's 8-byte key and writing each pair's 4-byte row at every level."""
    moved = 0
    for stride in (2**level for level in range(NUM_LEVELS)):
        moved += 8 * voxelization.num_voxels(stride) + 4 * voxelization.num_pairs(stride, 3)
        if stride < 2 ** (NUM_LEVELS - 1):
            moved += 2 * 4 * voxelization.num_pairs(stride, 2)
    return Cost(bytes=moved)


def _layer(plan: LayerPlan, kind: str, workload: Workload, voxelization: Voxelization, seed: int) -> Operation:
    torch.manual_seed(seed)
    convolution = plan.build().to(workload.device)
    training = kind == "layers-train"
    work = voxelization.work(convolution, 2 if plan.transposed else 1)

    def build(engine: Engine, workload: Workload, precision: str) -> Trial:
        features = draw_features(workload, plan.in_channels, seed)
        return engine.layer_trial(convolution, workload, features, precision=precision, training=training)

    name = plan.name + (" forward + backward" if training else "")
    return Operation(name, kind, workload, build, Cost([work] * (3 if training else 1)), plan)


def _network(
    plan_name: str, what: Sequence[str], workload: Workload, voxelization: Voxelization, seed: int
) -> Iterator[Operation]:
    torch.manual_seed(seed)
    network = MinkUNet(plan_name, num_classes=NUM_CLASSES).to(workload.device)
    settle_statistics(network, workload)
    forward = [voxelization.work(placed.convolution, placed.stride) for placed in place_convolutions(network)]
    if "forward" in what:

        def infer(engine: Engine, workload: Workload, precision: str) -> Trial:
            return engine.network_trial(network, workload, precision=precision, training=False)

        yield Operation(f"{plan_name} forward", "forward", workload, infer, Cost(forward))
    if "train" in what:

        def train(engine: Engine, workload: Workload, precision: str) -> Trial:
            return engine.network_trial(network, workload, precision=precision, training=True)

        backward = [*forward, *forward[1:]]  # gradients of all weights, and of all inputs except the colours
        yield Operation(f"{plan_name} forward + backward", "train", workload, train, Cost([*forward, *backward]))


def settle_statistics(network: MinkUNet, workload: Workload) -> None:
    """Set the running statistics to those of the workload, so that a forward pass has typical values."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, here a single one
    with torch.no_grad():
        network.train()(SparseTensor(workload.colours, workload.coordinates))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def draw_features(workload: Workload, channels: int, seed: int) -> Tensor:
    """Draw one row of features per voxel, shape `(voxels, channels)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(workload.num_voxels, channels, generator=generator).to(workload.device)
