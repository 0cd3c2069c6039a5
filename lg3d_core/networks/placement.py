"""Resolution and order of the convolutions of a network."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.sparse import SparseConvolution


class Placed(NamedTuple):
    """A convolution and the tensor stride of its input."""

    name: str
    convolution: SparseConvolution
    stride: int


def place_convolutions(network: MinkUNet) -> Iterator[Placed]:
    """Yield every convolution of a U-Net with the tensor stride of its input, in order of execution."""

    def inside(prefix: str, stage: nn.Module, stride: int) -> Iterator[Placed]:
        for name, module in stage.named_modules():
            if isinstance(module, SparseConvolution):
                yield Placed(f"{prefix}.{name}", module, stride)

    yield Placed("conv0p1s1", network.conv0p1s1, 1)
    for stage in range(1, 5):
        name = f"conv{stage}p{2 ** (stage - 1)}s2"
        yield Placed(name, getattr(network, name), 2 ** (stage - 1))
        yield from inside(f"block{stage}", getattr(network, f"block{stage}"), 2**stage)
    for stage in range(4, 8):
        name = f"convtr{stage}p{2 ** (8 - stage)}s2"
        yield Placed(name, getattr(network, name), 2 ** (8 - stage))
        yield from inside(f"block{stage + 1}", getattr(network, f"block{stage + 1}"), 2 ** (7 - stage))
    if network.final is not None:
        yield Placed("final", network.final, 1)
