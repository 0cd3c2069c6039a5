"""Residual block of the MinkUNet family."""

from torch import nn

from lg3d_core.sparse import SparseBatchNorm, SparseConvolution, SparseTensor, convolve_and_normalize

OUTER_MOMENTUM = 0.02
"""Momentum of the running statistics outside the residual blocks and in their shortcuts."""
BLOCK_MOMENTUM = 0.1
"""Momentum of the running statistics in a block's main path; the reference leaves it at its default there."""


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions with a shortcut: conv, BN, ReLU, conv, BN, add, ReLU.

    If the widths differ, the shortcut is a 1x1 convolution with BN, named `downsample` as in released weights.
    """

    def __init__(self, in_channels: int, out_channels: int, *, final_relu: bool = True) -> None:
        super().__init__()
        self.conv1 = SparseConvolution(in_channels, out_channels, kernel_size=3)
        self.norm1 = SparseBatchNorm(out_channels, momentum=BLOCK_MOMENTUM)
        self.conv2 = SparseConvolution(out_channels, out_channels, kernel_size=3)
        self.norm2 = SparseBatchNorm(out_channels, momentum=BLOCK_MOMENTUM)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                SparseConvolution(in_channels, out_channels, kernel_size=1),
                SparseBatchNorm(out_channels, momentum=OUTER_MOMENTUM),
            )
        self.final_relu = final_relu

    def forward(self, x: SparseTensor) -> SparseTensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = convolve_and_normalize(self.conv1, self.norm1, x, relu=True)
        return convolve_and_normalize(self.conv2, self.norm2, hidden, residual=shortcut, relu=self.final_relu)
