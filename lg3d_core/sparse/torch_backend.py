"""Sparse convolution in plain PyTorch, optimised for the CPU; runs on any device.

    products[p] = input[source[p]] @ weight[offset[p]]        one matrix product per offset
    output[v]   = sum over p in pairs(v) of products[p]       one `embedding_bag` for all of them

p: pairs of an input and an output voxel, v: output voxels. Reference: `lg3d_core.sparse.reference`.
The sum reads each product once, needs no zeroed output and no atomics, and has a fixed order, so that repeated runs are
bit-equal. Outputs are processed in chunks, so that the products fit into the caches of a CPU, or the memory of a GPU.
"""

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lg3d_core.sparse import parallel
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.parallel import run_pieces

CHUNK_ROWS = 2048  # 1024 fits the cache better, but needs more and smaller products: slower on two cores
CHUNK_ROWS_PADDED = 4096  # fewer and larger products have less padding
CHUNK_ROWS_GPU = 1 << 15  # each chunk takes some 60 kernel launches; at 96 channels its products take 160 MB in float32
NUM_SLOTS = 8
MAX_SLOT_BYTES = 32 << 20  # weights up to this, all slots together, are summed in more and finer slots
MAX_KEPT_BYTES = 64 << 20
MIN_SHARED_WORK = 4_000_000  # multiply-adds; below this, waking a thread costs more than it saves


class Segment(NamedTuple):
    """Pairs of one chunk that share a kernel offset."""

    offset: int
    begin: int
    """First row in the products of the chunk."""
    end: int
    num_pairs: int
    """Number of pairs; further rows are padding."""
    source: Tensor | None
    """Input row per pair, int32; None for the centre of a submanifold kernel, whose inputs are the outputs."""
    target: Tensor | None
    """Output row per pair, int32; None for the centre."""


class Chunk(NamedTuple):
    """Contiguous range of output voxels with all of their pairs."""

    first: int
    last: int
    num_products: int
    segments: tuple[Segment, ...]
    bag: Tensor
    """Rows of the products, voxel by voxel, int32."""
    bag_ends: Tensor
    """Start of each voxel's rows in `bag`, and the end of the last, shape `(last - first + 1,)`, int32."""
    is_permutation: bool
    """Whether every voxel has exactly one pair."""


def plan_chunks(kernel_map: KernelMap, rows: int, *, pad: bool = False) -> tuple[Chunk, ...]:
    """Arrange the pairs of a map for matrix products, chunk by chunk; uses no sort, only cumulative sums.

    Args:
        kernel_map: Kernel map.
        rows: Approximate number of output voxels per chunk.
        pad: Whether to round the pairs of a segment up to one of few sizes; padding pairs join row 0 with row 0, and
            their products are not read.
    """
    num_outputs = kernel_map.num_outputs
    num_chunks = min(num_outputs, max(1, round(num_outputs / rows)))
    bounds = [num_outputs * index // num_chunks for index in range(num_chunks + 1)] if num_chunks else []
    centre = kernel_map.num_offsets // 2 if kernel_map.is_submanifold and not pad else -1
    spans = list(pairwise(bounds))
    chunks: dict[int, Chunk] = {}

    def plan_span(index: int) -> None:
        chunks[index] = _plan_chunk(kernel_map, *spans[index], centre=centre, pad=pad)

    _run(plan_span, len(spans), like=kernel_map.neighbours, work=100 * kernel_map.neighbours.numel())
    return tuple(chunks[index] for index in range(len(spans)))


def _plan_chunk(kernel_map: KernelMap, first: int, last: int, *, centre: int, pad: bool) -> Chunk:
    table = kernel_map.neighbours[:, first:last]
    num_rows = last - first
    hit = table >= 0
    flat = hit.flatten()
    places = flat.nonzero().squeeze(1)
    source = table.flatten()[places]
    target = (places % num_rows).to(torch.int32) + first
    counts = hit.sum(dim=1).tolist()
    position = (torch.cumsum(flat, dim=0, dtype=torch.int32) - 1).view(hit.shape)
    segments, begin, begin_unpadded, shifts = [], 0, 0, []
    for offset, count in enumerate(counts):
        size = padded_size(count) if pad else count
        shifts.append(begin - begin_unpadded)
        if offset == centre:
            segments.append(Segment(offset, begin, begin + size, count, None, None))
        elif count:
            pairs = slice(begin_unpadded, begin_unpadded + count)
            padding = (0, size - count)
            segments.append(
                Segment(
                    offset,
                    begin,
                    begin + size,
                    count,
                    functional.pad(source[pairs], padding) if size > count else source[pairs],
                    functional.pad(target[pairs], padding) if size > count else target[pairs],
                )
            )
        begin += size
        begin_unpadded += count
    if pad:
        position += torch.tensor(shifts, dtype=torch.int32, device=table.device)[:, None]
    bag = position.t()[hit.t()]
    per_voxel = hit.sum(dim=0, dtype=torch.int32)
    bag_ends = torch.zeros(num_rows + 1, dtype=torch.int32, device=table.device)
    torch.cumsum(per_voxel, dim=0, out=bag_ends[1:])
    is_permutation = begin_unpadded == num_rows and bool((per_voxel == 1).all())
    return Chunk(first, last, begin, tuple(segments), bag, bag_ends, is_permutation)


def padded_size(count: int) -> int:
    """Round a number of rows up to one of eight sizes per octave, i.e. by at most an eighth from 512 rows on.

    In bfloat16, oneDNN prepares a kernel for every matrix height, which costs more than the product itself.
    """
    if count == 0:
        return 0
    step = max(64, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def _reduce(products: Tensor, chunk: Chunk) -> Tensor:
    if chunk.is_permutation:
        return torch.index_select(products, 0, chunk.bag)
    sums: Tensor = torch.embedding_bag(products, chunk.bag, chunk.bag_ends, include_last_offset=True)[0]
    return sums


class _Scratch(threading.local):
    """Buffer for the products of one chunk, kept per thread: new memory would cause page faults in every layer."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def products(self, chunk: Chunk, channels: int, like: Tensor) -> Tensor:
        size = chunk.num_products * channels
        if size * like.element_size() > MAX_KEPT_BYTES or not parallel.runs_on_workers(like):
            return like.new_empty(chunk.num_products, channels)
        buffer = self.buffer
        if buffer is None or buffer.dtype != like.dtype or buffer.numel() < size:
            with torch.inference_mode(False):
                buffer = self.buffer = torch.empty(size, dtype=like.dtype)
        return buffer[:size].view(chunk.num_products, channels)


_scratch = _Scratch()


def _run(task: Callable[[int], None], count: int, *, like: Tensor, work: int) -> None:
    """Run pieces in parallel if that is faster: on the CPU, with enough work to share."""
    if parallel.runs_on_workers(like):
        run_pieces(task, count, shared=work >= MIN_SHARED_WORK)
    else:
        with torch.no_grad():
            for piece in range(count):
                task(piece)


def _work(chunks: tuple[Chunk, ...], weight: Tensor) -> int:
    return sum(chunk.num_products for chunk in chunks) * weight.shape[1] * weight.shape[2]


def _inputs(features: Tensor, segment: Segment, chunk: Chunk) -> Tensor:
    if segment.source is None:
        return features[chunk.first : chunk.last]
    return torch.index_select(features, 0, segment.source)


def convolve_forward(features: Tensor, weight: Tensor, chunks: tuple[Chunk, ...], num_outputs: int) -> Tensor:
    """Return the output features, shape `(outputs, out)`."""
    channels = weight.shape[2]
    output = features.new_empty(num_outputs, channels)
    kernels = weight.unbind(0)

    def multiply(products: Tensor, chunk: Chunk, segment: Segment) -> None:
        rows = _inputs(features, segment, chunk)
        torch.mm(rows, kernels[segment.offset], out=products[segment.begin : segment.end])

    def convolve_chunk(index: int) -> None:
        chunk = chunks[index]
        products = _scratch.products(chunk, channels, features)
        for segment in chunk.segments:
            multiply(products, chunk, segment)
        output[chunk.first : chunk.last] = _reduce(products, chunk)

    work = _work(chunks, weight)
    if len(chunks) != 1:
        _run(convolve_chunk, len(chunks), like=features, work=work)
        return output
    (only,) = chunks  # a small level: divide its offsets instead
    products = _scratch.products(only, channels, features)
    _run(
        lambda index: multiply(products, only, only.segments[index]),
        len(only.segments),
        like=features,
        work=work,
    )
    return _reduce(products, only)


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
    """Return both gradients, computed over the reversed map, whose inputs are the outputs of the forward pass.

    Args:
        chunks: Plan of the map from outputs back to inputs.
        mirrored: Whether the map has its offsets in reverse order (a submanifold map is its own reverse).
    """
    num_offsets, in_channels, _ = weight.shape
    grad_features = torch.empty_like(features) if wants_features else None
    kernels = [kernel.t() for kernel in weight.unbind(0)]
    # Weight gradients are summed in a few slots, each a fixed run of chunks: the sum does not depend on the cores.
    slots = [chunks[first:last] for first, last in pairwise(_cut_slots(len(chunks), weight))]
    sums: list[Tensor] = [torch.empty_like(weight) for _ in slots] if wants_weight else []
    summed = [[False] * num_offsets for _ in slots]

    def multiply(products: Tensor | None, slot: int, chunk: Chunk, segment: Segment) -> None:
        offset = num_offsets - 1 - segment.offset if mirrored else segment.offset
        rows = _inputs(gradient, segment, chunk)
        if segment.num_pairs < segment.end - segment.begin:
            rows[segment.num_pairs :].zero_()
        if products is not None:
            torch.mm(rows, kernels[offset], out=products[segment.begin : segment.end])
        if wants_weight:
            if segment.target is None:
                inputs = features[chunk.first : chunk.last]
            else:
                inputs = torch.index_select(features, 0, segment.target)
            if summed[slot][offset]:
                sums[slot][offset].addmm_(inputs.t(), rows)
            else:
                torch.mm(inputs.t(), rows, out=sums[slot][offset])
                summed[slot][offset] = True

    def convolve_slot(slot: int) -> None:
        for chunk in slots[slot]:
            products = _scratch.products(chunk, in_channels, gradient) if wants_features else None
            for segment in chunk.segments:
                multiply(products, slot, chunk, segment)
            if grad_features is not None and products is not None:
                grad_features[chunk.first : chunk.last] = _reduce(products, chunk)

    work = _work(chunks, weight) * (wants_features + wants_weight)
    if len(chunks) != 1:
        _run(convolve_slot, len(slots), like=features, work=work)
    else:
        (only,) = chunks
        products = _scratch.products(only, in_channels, gradient) if wants_features else None
        _run(
            lambda index: multiply(products, 0, only, only.segments[index]),
            len(only.segments),
            like=features,
            work=work,
        )
        if products is not None:
            grad_features = _reduce(products, only)
    return grad_features, _sum_slots(sums, summed, weight) if wants_weight else None


def _cut_slots(num_chunks: int, weight: Tensor) -> list[int]:
    """Divide chunks into runs that get shorter towards the end, so that no worker waits long for the last one.

    Large weights get equal runs, because each run costs the memory of a weight gradient.
    """
    bounds = [0]
    while bounds[-1] < num_chunks:
        bounds.append(bounds[-1] + -(-(num_chunks - bounds[-1]) // NUM_SLOTS))
    if (len(bounds) - 1) * weight.numel() * weight.element_size() > MAX_SLOT_BYTES:
        bounds = sorted({num_chunks * slot // NUM_SLOTS for slot in range(NUM_SLOTS + 1)})
    return bounds


def _sum_slots(sums: list[Tensor], summed: list[list[bool]], weight: Tensor) -> Tensor:
    if len(sums) == 1:
        for offset, written in enumerate(summed[0]):
            if not written:
                sums[0][offset].zero_()
        return sums[0]
    total = torch.empty_like(weight)

    def sum_offset(offset: int) -> None:
        parts = [part[offset] for part, flags in zip(sums, summed, strict=True) if flags[offset]]
        if len(parts) > 1:
            torch.add(parts[0], parts[1], out=total[offset])
        else:
            total[offset] = parts[0] if parts else 0
        for part in parts[2:]:
            total[offset].add_(part)

    _run(sum_offset, len(total), like=weight, work=len(sums) * weight.numel())
    return total


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return convolve_forward(features, weight, _plan(kernel_map, features), kernel_map.num_outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        grad_features, grad_weight = convolve_backward(
            gradients[0].contiguous(),
            features,
            weight,
            _reverse_plan(ctx.kernel_map, features),
            mirrored=ctx.kernel_map.is_submanifold,
            wants_features=ctx.needs_input_grad[0],
            wants_weight=ctx.needs_input_grad[1],
        )
        return grad_features, grad_weight, None


def _plan(kernel_map: KernelMap, features: Tensor) -> tuple[Chunk, ...]:
    on_cpu = parallel.runs_on_workers(features)
    pad = on_cpu and features.dtype not in (torch.float64, torch.float32)
    wanted = ("torch", kernel_map.is_reversed, pad)
    plan = kernel_map.plans.get(wanted)
    if plan is None:
        rows = CHUNK_ROWS_GPU if not on_cpu else CHUNK_ROWS_PADDED if pad else CHUNK_ROWS
        plan = kernel_map.plans[wanted] = plan_chunks(kernel_map, rows, pad=pad)
    chunks: tuple[Chunk, ...] = plan
    return chunks


def _reverse_plan(kernel_map: KernelMap, features: Tensor) -> tuple[Chunk, ...]:
    return _plan(kernel_map if kernel_map.is_submanifold else kernel_map.reversed(), features)


class TorchBackend:
    """Matrix products per offset and one `embedding_bag`, with hand-written gradients."""

    name = "torch"

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        output: Tensor = _Convolve.apply(features, weight, kernel_map)  # type: ignore[no-untyped-call]
        return output
