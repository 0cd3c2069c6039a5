"""Products of rows with one matrix (1x1 convolutions) on the CPU, with gradients, in parallel over pieces of rows.

    output = features @ weight + bias

Reference: `torch.addmm`. Pieces depend only on the shape, and the gradients of weight and bias are summed in order of
the pieces, so that results are bit-equal for any number of workers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lg3d_core.sparse import parallel
from lg3d_core.sparse.parallel import run_pieces

PIECE_ROWS = 1024
MAX_PIECES = 32  # each allocates a temporary weight gradient


def multiply_rows(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply rows of shape `(rows, in)` by a matrix `(in, out)` of the same dtype, and add a bias `(out,)`.

    A bias of a wider dtype determines the dtype of the output.
    """
    if not parallel.runs_on_workers(features):
        return features @ weight if bias is None else features @ weight + bias
    output: Tensor = _MultiplyRows.apply(features, weight, bias)  # type: ignore[no-untyped-call]
    return output


class _MultiplyRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pieces = _cut_rows(len(features))
        dtype = features.dtype if bias is None else torch.promote_types(features.dtype, bias.dtype)
        output = features.new_empty(len(features), weight.shape[1], dtype=dtype)

        def multiply_piece(piece: int) -> None:
            rows = pieces[piece]
            if bias is None:
                torch.mm(features[rows], weight, out=output[rows])
            elif bias.dtype == features.dtype:
                torch.addmm(bias, features[rows], weight, out=output[rows])
            else:
                torch.add(torch.mm(features[rows], weight), bias, out=output[rows])

        run_pieces(multiply_piece, len(pieces))
        ctx.save_for_backward(features, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        (gradient,) = gradients
        pieces = _cut_rows(len(features))
        wide = torch.promote_types(features.dtype, torch.float32)
        wants_features, wants_weight, wants_bias = ctx.needs_input_grad
        grad_features = torch.empty_like(features) if wants_features else None
        weights = features.new_empty(len(pieces) * wants_weight, *weight.shape, dtype=wide)
        biases = features.new_empty(len(pieces) * wants_bias, weight.shape[1], dtype=wide)

        def differentiate_piece(piece: int) -> None:
            rows = pieces[piece]
            upstream = gradient[rows].to(features.dtype)
            if grad_features is not None:
                torch.mm(upstream, weight.t(), out=grad_features[rows])
            if wants_weight:
                weights[piece] = features[rows].t() @ upstream
            if wants_bias:
                biases[piece] = gradient[rows].sum(dim=0, dtype=wide)

        run_pieces(differentiate_piece, len(pieces))
        return (
            grad_features,
            _add_up(weights).to(weight.dtype) if wants_weight else None,
            _add_up(biases).to(ctx.bias_dtype) if wants_bias else None,
        )


def _cut_rows(num_rows: int) -> list[slice]:
    size = max(PIECE_ROWS, -(-num_rows // MAX_PIECES))
    return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]


def _add_up(parts: Tensor) -> Tensor:
    total = parts.new_zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total
