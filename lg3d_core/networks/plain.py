"""A MinkUNet as gathers and matrix products, with batch norms folded into the weights: the form that is exported.

`run_plain` is the network, written once over a few operations. `TorchOperations` computes them with tensors, and
`lg3d_core.networks.onnx_file` writes them as nodes of a graph. The inputs are the colours of the voxels and the tables
of `lg3d_core.networks.tables`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lg3d_core.networks.blocks import ResidualBlock
from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet
from lg3d_core.networks.tables import STRIDES
from lg3d_core.sparse import SparseBatchNorm, SparseConvolution

COLORS, FEATURES, SCORES, OFFSETS = "colors", "features", "scores", "offsets"
"""Names of the input and the outputs besides the tables."""


class Layer(NamedTuple):
    """Weights of a linear operation.

    Attributes:
        weight: Float32, shape `(in, out)`, or `(columns, in, out)` with one matrix per column of a table.
        bias: Float32, shape `(out,)`.
    """

    weight: Tensor
    bias: Tensor


T = TypeVar("T")


class Operations(Protocol[T]):
    """Operations of an exported network on rows of features."""

    def gather(self, x: T, table: T, layer: str) -> T:
        """Return the sum over the columns k of `x[table[:, k]] @ weight[k]`, plus the bias; -1 adds nothing."""

    def spread(self, x: T, parents: T, layer: str) -> T:
        """Return `x[parents // 8] @ weight[parents % 8]` of each row, plus the bias."""

    def multiply(self, x: T, layer: str) -> T:
        """Return `x @ weight` plus the bias."""

    def add(self, x: T, y: T) -> T:
        """Return the sum."""

    def join(self, x: T, y: T) -> T:
        """Return the channels of x, then those of y."""

    def relu(self, x: T) -> T:
        """Return `max(x, 0)`."""


class PlainShape(NamedTuple):
    """Structure of an exported network.

    Attributes:
        plan_name: Key of `NETWORK_PLANS`.
        stem_size: Edge length of the first kernel.
        final_relu: Whether the last block ends with a ReLU.
        shortcuts: Names of the blocks with a linear shortcut.
        has_classifier: Whether the network has a classifier.
        has_offset_head: Whether it has an offset head.
    """

    plan_name: str
    stem_size: int
    final_relu: bool
    shortcuts: frozenset[str]
    has_classifier: bool
    has_offset_head: bool

    @property
    def tables(self) -> list[str]:
        """Names of the tables in `build_tables`."""
        names = ["stem"] if self.stem_size != 3 else []
        names += [f"neighbours{stride}" for stride in STRIDES]
        names += [f"children{stride}" for stride in STRIDES[1:]]
        return names + [f"parents{stride}" for stride in STRIDES[:-1]]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [FEATURES, *([SCORES] if self.has_classifier else []), *([OFFSETS] if self.has_offset_head else [])]


def fold_network(network: MinkUNet) -> tuple[PlainShape, dict[str, Layer]]:
    """Return the structure of a network, and its layers by name, with batch norms folded in."""
    layers = {"conv0p1s1": _fold(network.conv0p1s1, network.bn0)}
    shortcuts = []
    steps = [("conv1p1s2", "bn1"), ("conv2p2s2", "bn2"), ("conv3p4s2", "bn3"), ("conv4p8s2", "bn4")]
    steps += [("convtr4p16s2", "bntr4"), ("convtr5p8s2", "bntr5"), ("convtr6p4s2", "bntr6"), ("convtr7p2s2", "bntr7")]
    for convolution, norm in steps:
        layers[convolution] = _fold(network.get_submodule(convolution), network.get_submodule(norm))
    for number in range(1, 9):
        for name, block in network.get_submodule(f"block{number}").named_children():
            assert isinstance(block, ResidualBlock)
            name = f"block{number}.{name}"
            layers[f"{name}.conv1"] = _fold(block.conv1, block.norm1)
            layers[f"{name}.conv2"] = _fold(block.conv2, block.norm2)
            if block.downsample is not None:
                shortcuts.append(name)
                layers[f"{name}.downsample"] = _fold(block.downsample[0], block.downsample[1])
    if network.final is not None:
        assert network.final.bias is not None
        layers["final"] = Layer(_copy(network.final.kernel), _copy(network.final.bias).reshape(-1))
    head = network.offset_head
    if head is not None:
        layers["offset_head.hidden"] = Layer(_copy(head.hidden.weight).T.contiguous(), _copy(head.hidden.bias))
        layers["offset_head.out"] = Layer(_copy(head.out.weight).T.contiguous(), _copy(head.out.bias))
    shape = PlainShape(
        network.plan_name,
        network.stem_size,
        network.final_relu,
        frozenset(shortcuts),
        network.final is not None,
        head is not None,
    )
    return shape, layers


def _fold(convolution: nn.Module, norm: nn.Module) -> Layer:
    assert isinstance(convolution, SparseConvolution)
    assert isinstance(norm, SparseBatchNorm)
    bn = norm.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    with torch.no_grad():
        scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
        bias = bn.bias.double() - bn.running_mean.double() * scale
        return Layer((convolution.kernel.double() * scale).float().cpu(), bias.float().cpu())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().clone()


def run_plain(shape: PlainShape, operations: Operations[T], inputs: Mapping[str, T]) -> dict[str, T]:
    """Run a network, or record its operations.

    Args:
        shape: Structure.
        operations: Operations, which know the layers by name.
        inputs: Colours minus 0.5, shape `(voxels, 3)`, and tables.

    Returns:
        Features of the voxels, and the outputs of the heads that the network has.
    """
    gather, spread, relu, join = operations.gather, operations.spread, operations.relu, operations.join
    depths = NETWORK_PLANS[shape.plan_name].depths

    def stage(number: int, x: T, stride: int) -> T:
        table = inputs[f"neighbours{stride}"]
        for index in range(depths[number - 1]):
            name = f"block{number}.{index}"
            shortcut = operations.multiply(x, f"{name}.downsample") if name in shape.shortcuts else x
            x = relu(gather(x, table, f"{name}.conv1"))
            x = operations.add(gather(x, table, f"{name}.conv2"), shortcut)
            if shape.final_relu or number < 8 or index < depths[7] - 1:
                x = relu(x)
        return x

    table = inputs["neighbours1" if shape.stem_size == 3 else "stem"]
    x = relu(gather(inputs[COLORS], table, "conv0p1s1"))
    skipped = [x]
    for number, stride in enumerate(STRIDES[:-1], start=1):
        step = f"conv{number}p{stride}s2"
        x = stage(number, relu(gather(x, inputs[f"children{2 * stride}"], step)), 2 * stride)
        skipped.append(x)
    skipped.pop()
    for number, stride in zip(range(5, 9), STRIDES[-2::-1], strict=True):
        step = f"convtr{number - 1}p{2 * stride}s2"
        x = relu(spread(x, inputs[f"parents{stride}"], step))
        x = stage(number, join(x, skipped.pop()), stride)
    outputs = {FEATURES: x}
    if shape.has_classifier:
        outputs[SCORES] = operations.multiply(x, "final")
    if shape.has_offset_head:
        hidden = relu(operations.multiply(x, "offset_head.hidden"))
        outputs[OFFSETS] = operations.multiply(hidden, "offset_head.out")
    return outputs


class TorchOperations:
    """Operations on PyTorch tensors."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers

    def gather(self, x: Tensor, table: Tensor, layer: str) -> Tensor:
        weight, bias = self._layers[layer]
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])  # row -1
        index = torch.where(table < 0, x.shape[0], table)
        return padded[index].flatten(1) @ weight.flatten(0, 1) + bias

    def spread(self, x: Tensor, parents: Tensor, layer: str) -> Tensor:
        weight, bias = self._layers[layer]
        columns, _, channels = weight.shape
        expanded = (x @ weight.transpose(0, 1).flatten(1)).reshape(x.shape[0] * columns, channels)
        return expanded[parents] + bias

    def multiply(self, x: Tensor, layer: str) -> Tensor:
        weight, bias = self._layers[layer]
        return x @ weight + bias

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], dim=1)

    def relu(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class PlainNetwork(nn.Module):
    """Exported form of a network as a module, whose inputs are the colours and the tables by name."""

    def __init__(self, network: MinkUNet) -> None:
        super().__init__()
        self.shape, layers = fold_network(network)
        self._names = list(layers)
        for index, layer in enumerate(layers.values()):
            self.register_buffer(f"weight{index}", layer.weight)
            self.register_buffer(f"bias{index}", layer.bias)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        layers = {
            name: Layer(self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}"))
            for index, name in enumerate(self._names)
        }
        return run_plain(self.shape, TorchOperations(layers), inputs)
