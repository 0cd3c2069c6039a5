"""Sparse convolution in plain PyTorch, built to be fast on CPU; runs on any device.

    products[p] = input[source[p]] @ weight[offset[p]]        one matrix product per offset
    output[v]   = sum over p in pairs(v) of products[p]       one `embedding_bag` for all of them

p: pairs of an input and an output voxel, v: output voxels. Reference: `lg3d_core.sparse.reference`.
The sum reads each product once, needs no zeroed output and no atomics, and always adds in the same order, so that
repeated runs are bit-equal. Outputs are processed in chunks, so that the products never outgrow the caches.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap

CHUNK_ROWS = 8192


class Segment(NamedTuple):
    """The pairs of one chunk that share a kernel offset."""

    offset: int
    begin: int
    """First row of the chunk's products."""
    end: int
    source: Tensor | None
    """Input row per pair, int32; None for the centre of a submanifold kernel, where inputs are the outputs."""
    target: Tensor | None
    """Output row per pair, int32; None for the centre."""


class Chunk(NamedTuple):
    """A run of output voxels with all of their pairs."""

    first: int
    last: int
    num_products: int
    segments: tuple[Segment, ...]
    bag: Tensor
    """Rows of the products, voxel by voxel, int32."""
    bag_ends: Tensor
    """Where each voxel's rows begin in `bag`, and the end of the last: `(last - first + 1,)`, int32."""
    is_permutation: bool
    """Every voxel has exactly one pair."""


def plan_chunks(kernel_map: KernelMap, rows: int = CHUNK_ROWS) -> tuple[Chunk, ...]:
    """Lay out the pairs of a map for matrix products, chunk by chunk; no sort, only cumulative sums."""
    centre = kernel_map.num_offsets // 2 if kernel_map.is_submanifold else -1
    chunks = []
    for first in range(0, kernel_map.num_outputs, rows):
        table = kernel_map.neighbours[:, first : first + rows]
        num_rows = table.shape[1]
        hit = table >= 0
        flat = hit.flatten()
        places = flat.nonzero().squeeze(1)
        source = table.flatten()[places]
        target = (places % num_rows).to(torch.int32) + first
        counts = hit.sum(dim=1).tolist()
        per_voxel = hit.sum(dim=0, dtype=torch.int32)
        bag_ends = torch.zeros(num_rows + 1, dtype=torch.int32, device=table.device)
        torch.cumsum(per_voxel, dim=0, out=bag_ends[1:])
        position = (torch.cumsum(flat, dim=0, dtype=torch.int32) - 1).view(hit.shape)
        bag = position.t()[hit.t()]
        segments, begin = [], 0
        for offset, count in enumerate(counts):
            end = begin + count
            if offset == centre:
                segments.append(Segment(offset, begin, end, None, None))
            elif count:
                segments.append(Segment(offset, begin, end, source[begin:end], target[begin:end]))
            begin = end
        is_permutation = begin == num_rows and bool((per_voxel == 1).all())
        chunks.append(Chunk(first, first + num_rows, begin, tuple(segments), bag, bag_ends, is_permutation))
    return tuple(chunks)


def _reduce(products: Tensor, chunk: Chunk) -> Tensor:
    if chunk.is_permutation:
        return torch.index_select(products, 0, chunk.bag)
    sums: Tensor = torch.embedding_bag(products, chunk.bag, chunk.bag_ends, include_last_offset=True)[0]
    return sums


def _scratch(chunks: tuple[Chunk, ...], like: Tensor, channels: int) -> Tensor:
    return like.new_empty(max((chunk.num_products for chunk in chunks), default=0), channels)


def convolve_forward(features: Tensor, weight: Tensor, chunks: tuple[Chunk, ...], num_outputs: int) -> Tensor:
    """Compute the output features, shape `(outputs, out)`."""
    output = features.new_empty(num_outputs, weight.shape[2])
    products = _scratch(chunks, features, weight.shape[2])
    kernels = weight.unbind(0)
    for chunk in chunks:
        for segment in chunk.segments:
            rows = _inputs(features, segment, chunk)
            torch.mm(rows, kernels[segment.offset], out=products[segment.begin : segment.end])
        output[chunk.first : chunk.last] = _reduce(products, chunk)
    return output


def _inputs(features: Tensor, segment: Segment, chunk: Chunk) -> Tensor:
    if segment.source is None:
        return features[chunk.first : chunk.last]
    return torch.index_select(features, 0, segment.source)


def convolve_backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    chunks: tuple[Chunk, ...],
    *,
    mirrored: bool,
    wants_features: bool,
    wants_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute both gradients over the reversed map: its inputs are the outputs of the forward pass.

    Args:
        chunks: Plan of the map from outputs back to inputs.
        mirrored: The map counts its offsets backwards (a submanifold map serves as its own reverse).
    """
    num_offsets, in_channels, _ = weight.shape
    grad_features = torch.empty_like(features) if wants_features else None
    grad_weight = torch.zeros_like(weight) if wants_weight else None
    products = _scratch(chunks, gradient, in_channels) if wants_features else None
    kernels = [kernel.t() for kernel in weight.unbind(0)]
    for chunk in chunks:
        for segment in chunk.segments:
            offset = num_offsets - 1 - segment.offset if mirrored else segment.offset
            rows = _inputs(gradient, segment, chunk)
            if products is not None:
                torch.mm(rows, kernels[offset], out=products[segment.begin : segment.end])
            if grad_weight is not None:
                if segment.target is None:
                    inputs = features[chunk.first : chunk.last]
                else:
                    inputs = torch.index_select(features, 0, segment.target)
                grad_weight[offset].addmm_(inputs.t(), rows)
        if grad_features is not None and products is not None:
            grad_features[chunk.first : chunk.last] = _reduce(products, chunk)
    return grad_features, grad_weight


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return convolve_forward(features, weight, _plan(kernel_map), kernel_map.num_outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        grad_features, grad_weight = convolve_backward(
            gradients[0].contiguous(),
            features,
            weight,
            _reverse_plan(ctx.kernel_map),
            mirrored=ctx.kernel_map.is_submanifold,
            wants_features=ctx.needs_input_grad[0],
            wants_weight=ctx.needs_input_grad[1],
        )
        return grad_features, grad_weight, None


def _plan(kernel_map: KernelMap) -> tuple[Chunk, ...]:
    plan = kernel_map.plans.get("forward")
    if plan is None:
        plan = kernel_map.plans["forward"] = plan_chunks(kernel_map)
    chunks: tuple[Chunk, ...] = plan
    return chunks


def _reverse_plan(kernel_map: KernelMap) -> tuple[Chunk, ...]:
    if kernel_map.is_submanifold:
        return _plan(kernel_map)
    plan = kernel_map.plans.get("backward")
    if plan is None:
        plan = kernel_map.plans["backward"] = plan_chunks(kernel_map.reversed())
    chunks: tuple[Chunk, ...] = plan
    return chunks


class TorchBackend:
    """Matrix products per offset and one `embedding_bag`, with hand-written gradients."""

    name = "torch"

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        output: Tensor = _Convolve.apply(features, weight, kernel_map)  # type: ignore[no-untyped-call]
        return output
