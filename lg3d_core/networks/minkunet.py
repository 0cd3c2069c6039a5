"""MinkUNet family: sparse residual U-Nets with the parameter names of the released weights.

Source: C. Choy et al., "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks".
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from lg3d_core.errors import SettingsError, ShapeError, UsageError
from lg3d_core.networks.blocks import OUTER_MOMENTUM, ResidualBlock
from lg3d_core.networks.heads import OffsetHead
from lg3d_core.sparse import (
    SparseBatchNorm,
    SparseConvolution,
    SparseTensor,
    convolve_and_normalize,
    pointwise_convolution,
)

STEM_WIDTH = 32


class NetworkPlan(NamedTuple):
    """Widths and depths of the four encoder stages, followed by the four decoder stages."""

    widths: tuple[int, int, int, int, int, int, int, int]
    depths: tuple[int, int, int, int, int, int, int, int]


NETWORK_PLANS: dict[str, NetworkPlan] = {
    "34D": NetworkPlan((32, 64, 128, 256, 256, 256, 256, 512), (2, 3, 4, 6, 2, 2, 2, 2)),
    "34C": NetworkPlan((32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)),
    "18C": NetworkPlan((32, 64, 128, 256, 256, 128, 96, 96), (2, 2, 2, 2, 2, 2, 2, 2)),
    "18A": NetworkPlan((32, 64, 128, 256, 128, 128, 96, 96), (2, 2, 2, 2, 2, 2, 2, 2)),
    "14A": NetworkPlan((32, 64, 128, 256, 128, 128, 96, 96), (1, 1, 1, 1, 1, 1, 1, 1)),
}


class MinkUNet(nn.Module):
    """Sparse residual U-Net: a stem, four encoder stages, four decoder stages, and optional heads.

    Args:
        plan_name: Key of `NETWORK_PLANS`.
        in_channels: Channels per voxel, 3 for colours.
        num_classes: Number of classes of the classifier; None builds no classifier.
        final_relu: Whether the last block ends with a ReLU. Language-grounded features need none.
        stem_size: Edge length of the first kernel in voxels: 3, or 5 as in the MinkUNet of MinkowskiEngine.
        offset_head: Whether to build a head that predicts the vector from each voxel to the centre of its object.

    Raises:
        UsageError: No plan has this name.
    """

    def __init__(
        self,
        plan_name: str,
        *,
        in_channels: int = 3,
        num_classes: int | None = None,
        final_relu: bool = False,
        stem_size: int = 3,
        offset_head: bool = False,
    ) -> None:
        super().__init__()
        if plan_name not in NETWORK_PLANS:
            raise UsageError(f"--network: expected one of {', '.join(NETWORK_PLANS)}, got {plan_name!r}.")
        widths, depths = NETWORK_PLANS[plan_name]
        self.plan_name = plan_name
        self.in_channels = in_channels
        self.num_features = widths[-1]
        self.num_classes = num_classes
        self.final_relu = final_relu
        self.stem_size = stem_size

        self.conv0p1s1 = SparseConvolution(in_channels, STEM_WIDTH, kernel_size=stem_size)
        self.bn0 = SparseBatchNorm(STEM_WIDTH, momentum=OUTER_MOMENTUM)

        self.conv1p1s2 = _down(STEM_WIDTH)
        self.bn1 = SparseBatchNorm(STEM_WIDTH, momentum=OUTER_MOMENTUM)
        self.block1 = _stage(STEM_WIDTH, widths[0], depths[0])
        self.conv2p2s2 = _down(widths[0])
        self.bn2 = SparseBatchNorm(widths[0], momentum=OUTER_MOMENTUM)
        self.block2 = _stage(widths[0], widths[1], depths[1])
        self.conv3p4s2 = _down(widths[1])
        self.bn3 = SparseBatchNorm(widths[1], momentum=OUTER_MOMENTUM)
        self.block3 = _stage(widths[1], widths[2], depths[2])
        self.conv4p8s2 = _down(widths[2])
        self.bn4 = SparseBatchNorm(widths[2], momentum=OUTER_MOMENTUM)
        self.block4 = _stage(widths[2], widths[3], depths[3])

        self.convtr4p16s2 = _up(widths[3], widths[4])
        self.bntr4 = SparseBatchNorm(widths[4], momentum=OUTER_MOMENTUM)
        self.block5 = _stage(widths[4] + widths[2], widths[4], depths[4])
        self.convtr5p8s2 = _up(widths[4], widths[5])
        self.bntr5 = SparseBatchNorm(widths[5], momentum=OUTER_MOMENTUM)
        self.block6 = _stage(widths[5] + widths[1], widths[5], depths[5])
        self.convtr6p4s2 = _up(widths[5], widths[6])
        self.bntr6 = SparseBatchNorm(widths[6], momentum=OUTER_MOMENTUM)
        self.block7 = _stage(widths[6] + widths[0], widths[6], depths[6])
        self.convtr7p2s2 = _up(widths[6], widths[7])
        self.bntr7 = SparseBatchNorm(widths[7], momentum=OUTER_MOMENTUM)
        self.block8 = _stage(widths[7] + STEM_WIDTH, widths[7], depths[7], final_relu=final_relu)

        self.final: SparseConvolution | None = None
        if num_classes is not None:
            self.final = SparseConvolution(self.num_features, num_classes, kernel_size=1, bias=True)
        self.offset_head: OffsetHead | None = OffsetHead(self.num_features) if offset_head else None
        self._frozen = False

    def freeze_features(self) -> None:
        """Exclude everything but the classifier from training: its weights and running statistics stay as they are."""
        self._frozen = True
        for module in self._feature_modules():
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation. Frozen layers stay in evaluation."""
        super().train(mode)
        if self._frozen:
            for module in self._feature_modules():
                module.eval()
        return self

    def _feature_modules(self) -> Iterator[nn.Module]:
        return (module for module in self.children() if module is not self.final)

    def forward(self, x: SparseTensor) -> Tensor:
        """Compute one feature per voxel.

        Args:
            x: Voxels at stride 1 with `in_channels` channels.

        Returns:
            Features of shape `(voxels, num_features)`, in the order of the voxels passed to `SparseTensor`.
        """
        stem = _step(self.conv0p1s1, self.bn0, x)
        half = self.block1(_step(self.conv1p1s2, self.bn1, stem))
        quarter = self.block2(_step(self.conv2p2s2, self.bn2, half))
        eighth = self.block3(_step(self.conv3p4s2, self.bn3, quarter))
        lowest = self.block4(_step(self.conv4p8s2, self.bn4, eighth))
        out = self.block5(_join(_step(self.convtr4p16s2, self.bntr4, lowest), eighth))
        out = self.block6(_join(_step(self.convtr5p8s2, self.bntr5, out), quarter))
        out = self.block7(_join(_step(self.convtr6p4s2, self.bntr6, out), half))
        out = self.block8(_join(_step(self.convtr7p2s2, self.bntr7, out), stem))
        return x.restore(out.features)

    def keep_classes(self, classes: slice) -> None:
        """Reduce the classifier to consecutive classes, in place."""
        assert self.final is not None
        assert self.final.bias is not None
        with torch.no_grad():
            self.final.kernel = nn.Parameter(self.final.kernel[..., classes].clone())
            self.final.bias = nn.Parameter(self.final.bias[..., classes].clone())
        self.num_classes = self.final.kernel.shape[-1]

    def classify(self, features: Tensor) -> Tensor:
        """Return logits of shape `(voxels, num_classes)` for features of shape `(voxels, num_features)`.

        Raises:
            SettingsError: The network was built without `num_classes`.
            ShapeError: The features have another width.
        """
        if self.final is None:
            raise SettingsError("This network has no classifier: build it with num_classes.")
        if features.dim() != 2 or features.shape[1] != self.num_features:
            raise ShapeError(f"Expected features of shape (voxels, {self.num_features}), got {tuple(features.shape)}.")
        weight = self.final.kernel
        if not torch.is_autocast_enabled(features.device.type):  # which chooses the dtype of the product itself
            features = features.to(weight.dtype)
        return pointwise_convolution(features, weight, self.final.bias)


def _down(channels: int) -> SparseConvolution:
    return SparseConvolution(channels, channels, kernel_size=2, stride=2)


def _up(in_channels: int, out_channels: int) -> SparseConvolution:
    return SparseConvolution(in_channels, out_channels, kernel_size=2, stride=2, transposed=True)


def _stage(in_channels: int, out_channels: int, depth: int, *, final_relu: bool = True) -> nn.Sequential:
    widths = [in_channels] + [out_channels] * depth
    return nn.Sequential(
        *(
            ResidualBlock(widths[index], out_channels, final_relu=final_relu or index < depth - 1)
            for index in range(depth)
        )
    )


def _step(convolution: SparseConvolution, norm: SparseBatchNorm, x: SparseTensor) -> SparseTensor:
    return convolve_and_normalize(convolution, norm, x, relu=True)


def _join(x: SparseTensor, skipped: SparseTensor) -> SparseTensor:
    return x.replace(torch.cat([x.features, skipped.features], dim=1))
