"""Sparse layers as modules, with the parameter names of MinkowskiEngine 0.5."""

import math

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from lg3d_core.sparse import normalization, parallel
from lg3d_core.sparse.backends import current_backend
from lg3d_core.sparse.functional import fused_convolution, sparse_convolution
from lg3d_core.sparse.tensor import SparseTensor


class SparseConvolution(nn.Module):
    """Sparse convolution with weights `kernel` (and `bias`), initialised as in MinkowskiEngine 0.5 by default."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        transposed: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.transposed = kernel_size, stride, transposed
        shape = (in_channels, out_channels) if kernel_size == 1 else (kernel_size**3, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias: nn.Parameter | None = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw kernel and bias from U(-1/sqrt(n), 1/sqrt(n)).

        n is input channels x kernel volume; for a transposed convolution it is output channels x kernel volume.
        """
        in_channels, out_channels = self.kernel.shape[-2:]
        bound = 1.0 / math.sqrt((out_channels if self.transposed else in_channels) * self.kernel_size**3)
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return sparse_convolution(
            x,
            self.kernel,
            kernel_size=self.kernel_size,
            stride=self.stride,
            transposed=self.transposed,
            bias=self.bias,
        )

    def extra_repr(self) -> str:
        way = ", transposed" if self.transposed else ""
        size = f"kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{self.kernel.shape[-2]}, {self.kernel.shape[-1]}, {size}{way}, bias={self.bias is not None}"


class SparseBatchNorm(nn.Module):
    """Batch normalisation over all voxels of the batch; its parameters are under `bn`, as in released weights."""

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, momentum=momentum)
        self.group: distributed.ProcessGroup | None = None
        self._folded: tuple[tuple[int, ...], Tensor, Tensor] | None = None

    def forward(self, x: SparseTensor, *, residual: SparseTensor | None = None, relu: bool = False) -> SparseTensor:
        """Normalise a tensor, then optionally add a residual on the same voxels and apply a ReLU."""
        return x.replace(
            self.normalize(x.features, residual=None if residual is None else residual.features, relu=relu)
        )

    def normalize(self, features: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalise rows of shape `(voxels, channels)`, then optionally add the residual and apply a ReLU.

        A single voxel has no variance: it is normalised by the running statistics, which are not updated.
        """
        self._folded = None  # fused optimisers and PyTorch's batch norm change tensors without raising their versions
        if self.training and (self.group is not None or len(features) > 1):
            output = self._normalize_by_backend(features, residual=residual, relu=relu)
            if output is not None:
                return output
        if self.training and self.group is not None:
            return self._normalize_together(features, self.group, residual=residual, relu=relu)
        bn = self.bn
        measures = self.training and len(features) > 1
        if not _runs_on_workers(features, bn.weight, residual):
            output = functional.batch_norm(
                features,
                bn.running_mean,
                bn.running_var,
                bn.weight,
                bn.bias,
                training=measures,
                momentum=self._count_batch() if measures else 0.0,
                eps=bn.eps,
            )
            return _add_and_clip(output, residual, relu)
        if measures:
            statistics = normalization.measure(features.detach())
            self._update_running_statistics(statistics, len(features))
        else:
            statistics = self._copy_running_statistics()
        return normalization.normalize(
            features,
            statistics,
            bn.weight,
            bn.bias,
            eps=bn.eps,
            statistics_are_own=measures,
            residual=residual,
            relu=relu,
        )

    def _normalize_by_backend(self, features: Tensor, *, residual: Tensor | None, relu: bool) -> Tensor | None:
        """Normalise with the kernels of the backend for GPUs; None if it has none for these rows."""
        if parallel.runs_on_workers(features) or not _fits(features, self.bn.weight, residual):
            return None
        normalize_rows = getattr(current_backend(features.device), "normalize_rows", None)
        if normalize_rows is None:
            return None
        output: Tensor | None = normalize_rows(features, self.bn, residual=residual, relu=relu, group=self.group)
        return output

    def _normalize_together(
        self, features: Tensor, group: distributed.ProcessGroup, *, residual: Tensor | None, relu: bool
    ) -> Tensor:
        """Normalise with the statistics over all processes of the group, each of which calls this with its own rows."""
        bn, current = self.bn, self._copy_running_statistics()
        fits = _fits(features, bn.weight, residual)
        together = normalization.measure_together(features.detach(), group)
        measures = together.num_rows > 1  # stays on the device: no process waits for it
        self._update_running_statistics_together(together, measures)
        statistics = (torch.where(measures, *pair) for pair in zip(together.statistics, current, strict=True))
        output = normalization.normalize(
            features,
            normalization.Statistics(*statistics),
            bn.weight,
            bn.bias,
            eps=bn.eps,
            statistics_are_own=True,
            together=together,
            residual=residual if fits else None,
            relu=relu and fits,
        )
        return output if fits else _add_and_clip(output, residual, relu)

    def _copy_running_statistics(self) -> normalization.Statistics:
        """Return copies, because a later batch may update the running statistics before the backward pass."""
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        return normalization.Statistics(self.bn.running_mean.clone(), self.bn.running_var.clone())

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift per channel that normalise with the running statistics, float32, without gradients.

        They are cached until a parameter or a statistic changes, or until `normalize` is called.
        """
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        sources = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        versions = None
        if not any(source.is_inference() for source in sources):
            versions = tuple(part for source in sources for part in (source.data_ptr(), source._version))
            if self._folded is not None and self._folded[0] == versions:
                return self._folded[1:]
        with torch.no_grad():
            scale = bn.weight.float() * torch.rsqrt(bn.running_var.float() + bn.eps)
            shift = bn.bias.float() - bn.running_mean.float() * scale
        self._folded = None if versions is None else (versions, scale, shift)
        return scale, shift

    def _count_batch(self) -> float:
        """Count one more batch, and return its weight in the running statistics."""
        assert self.bn.num_batches_tracked is not None
        self.bn.num_batches_tracked.add_(1)
        return 1.0 / int(self.bn.num_batches_tracked) if self.bn.momentum is None else self.bn.momentum

    def _update_running_statistics(self, statistics: normalization.Statistics, num_rows: int) -> None:
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        share = self._count_batch()
        unbiased = num_rows / (num_rows - 1)
        self.bn.running_mean.mul_(1 - share).add_(statistics.mean, alpha=share)
        self.bn.running_var.mul_(1 - share).add_(statistics.variance, alpha=share * unbiased)

    def _update_running_statistics_together(self, together: normalization.Together, measures: Tensor) -> None:
        """Update the running statistics on the device, if `measures` is true there."""
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert bn.num_batches_tracked is not None
        bn.num_batches_tracked.add_(measures)
        share = measures / bn.num_batches_tracked.clamp_min(1) if bn.momentum is None else bn.momentum * measures
        unbiased = together.num_rows / (together.num_rows - 1).clamp_min(1)
        bn.running_mean.lerp_(together.statistics.mean, share.to(bn.running_mean.dtype))
        bn.running_var.lerp_(
            (together.statistics.variance * unbiased).to(bn.running_var.dtype), share.to(bn.running_var.dtype)
        )


def share_statistics(network: nn.Module, group: distributed.ProcessGroup) -> None:
    """Synchronise a network's batch normalisation over the processes of a group.

    Afterwards every process has to run every pass, if necessary without voxels.

    Args:
        network: Network on its device, modified in place. Names and values of parameters are unchanged.
        group: Process group.
    """
    for module in network.modules():
        if isinstance(module, SparseBatchNorm):
            module.group = group


def _add_and_clip(output: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        output = output + residual
    return functional.relu(output) if relu else output


def convolve_and_normalize(
    convolution: SparseConvolution,
    norm: SparseBatchNorm,
    x: SparseTensor,
    *,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Convolve, normalise, then optionally add a residual and apply a ReLU.

    At inference (evaluation mode, no gradients) this is one fused step if the backend supports it.
    """
    if not norm.training and not torch.is_grad_enabled() and convolution.bias is None:
        scale, shift = norm.fold()
        fused = fused_convolution(
            x,
            convolution.kernel,
            kernel_size=convolution.kernel_size,
            stride=convolution.stride,
            transposed=convolution.transposed,
            scale=scale,
            shift=shift,
            residual=None if residual is None else residual.features,
            relu=relu,
        )
        if fused is not None:
            return fused
    output: SparseTensor = norm(convolution(x), residual=residual, relu=relu)
    return output


def _runs_on_workers(features: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    """Return whether rows are normalised by this package (CPU, common dtypes) rather than by PyTorch's batch norm."""
    return parallel.runs_on_workers(features) and _fits(features, weight, residual)


def _fits(features: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    """Return whether this package's normalisation can take the dtypes, and add the residual."""
    wide = torch.promote_types(features.dtype, torch.float32)
    fits = residual is None or (residual.dtype == features.dtype and residual.shape == features.shape)
    return weight.dtype == wide and fits
