"""Log probability of each voxel's class under a softmax, without intermediate arrays of the size of the logits.

    output[v] = logits[v, labels[v]] - log(sum over classes c of exp(logits[v, c]))

Reference: `torch.nn.functional.log_softmax`. On the CPU a piece of voxels is computed at a time, which stays in a
core's cache; the results do not depend on the pieces or on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lg3d_core.sparse.parallel import run_pieces, runs_on_workers

PIECE_VALUES = 1 << 17


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log probability of each voxel's class, shape `(voxels,)`; 0 without a gradient for unlabelled voxels.

    Args:
        logits: Shape `(voxels, classes)`, float32 or float64.
        labels: Class of each voxel, shape `(voxels,)`, int64; -1 for unlabelled voxels.
    """
    output: Tensor = _LogLikelihood.apply(logits, labels)  # type: ignore[no-untyped-call]
    return output


def mean_over_labelled(values: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of values that are 0 for unlabelled voxels, divided by the number of labelled voxels."""
    return values.sum() / (labels >= 0).sum().clamp_min(1)


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        pieces = _cut_rows(logits)
        output = logits.new_zeros(len(logits))

        def compute_piece(piece: int) -> None:
            rows = pieces[piece]
            chosen = _find_labelled(labels[rows])
            own = labels[rows][chosen].clamp_min(0)[:, None]
            output[rows][chosen] = torch.log_softmax(logits[rows][chosen], dim=1).gather(1, own).squeeze(1)

        run_pieces(compute_piece, len(pieces))
        return output.masked_fill_(labels < 0, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = gradients[0].masked_fill(labels < 0, 0)[:, None]
        pieces = _cut_rows(logits)
        output = torch.empty_like(logits)

        def differentiate_piece(piece: int) -> None:
            rows = pieces[piece]
            chosen = _find_labelled(labels[rows])
            own, upstream = labels[rows][chosen].clamp_min(0)[:, None], gradient[rows][chosen]
            result = torch.softmax(logits[rows][chosen], dim=1).mul_(-upstream)
            result.scatter_(1, own, result.gather(1, own) + upstream)
            if isinstance(chosen, Tensor):
                output[rows] = 0
            output[rows][chosen] = result

        run_pieces(differentiate_piece, len(pieces))
        return output, None


def _find_labelled(labels: Tensor) -> Tensor | slice:
    """Return the rows of the labelled voxels; all rows on a GPU, where choosing would wait for the device."""
    if not runs_on_workers(labels):
        return slice(None)
    rows = (labels >= 0).nonzero().squeeze(1)
    return rows if len(rows) < len(labels) else slice(None)


def _cut_rows(logits: Tensor) -> list[slice]:
    num_rows, num_classes = logits.shape
    size = max(1, PIECE_VALUES // max(1, num_classes)) if runs_on_workers(logits) else max(1, num_rows)
    return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]
