"""Whether two engines computed the same, asked before they are compared for speed."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.sparse_benchmark.engines import Rows, Trial

# Relative to the norm of what was expected; all against fp32. See docs/results/README.md for what was measured.
LAYER_TOLERANCES = {"fp32": 2e-5, "bf16": 2e-2, "fp16": 5e-3}
NETWORK_TOLERANCES = {"fp32": 2e-4, "bf16": 2e-1, "fp16": 5e-2}
GRADIENT_TOLERANCES = {"fp32": 1e-2, "bf16": 9e-1, "fp16": 5e-1}
"""Of a whole network's weights: a ReLU that switches at another rounding moves a gradient by far more than a value, and
the gradient of noise is a sum that mostly cancels. In bf16 only a missing or unrelated gradient (1 or more) is seen;
those of single layers have the tolerance of values."""
TF32_TOLERANCE = 2e-3
"""Of a layer in fp32 where the device may multiply with fewer digits."""


class Values(NamedTuple):
    """What a trial computed, in the order of the voxels, in fp32.

    Attributes:
        output: Shape `(voxels, channels)`.
        gradients: Of the weights, and of the input where it was wanted; empty without gradients.
    """

    output: Tensor
    gradients: tuple[Tensor, ...] = ()


def collect(trial: Trial, output: Rows, *, training: bool) -> Values:
    """Bring what a trial has just computed into the common order and layout."""
    result = output.features.detach().float()[output.order()]
    if not training:
        return Values(result)
    gradients = [unpack(_gradient(kernel)) for kernel, unpack in trial.kernels]
    if trial.source is not None:
        gradients.append(_gradient(trial.source.features)[trial.source.order()])
    return Values(result, tuple(gradient.detach().float() for gradient in gradients))


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


class Difference(NamedTuple):
    """How far values are from the expected ones, relative to their norm; infinite where shapes differ or values do.

    Attributes:
        output: Of the output.
        gradients: Of all gradients together; None without gradients.
    """

    output: float
    gradients: float | None


def compare(values: Values, expected: Values) -> Difference:
    """Measure how far values are from the expected ones."""
    output = relative_difference([values.output], [expected.output])
    if not expected.gradients:
        return Difference(output, None)
    return Difference(output, relative_difference(values.gradients, expected.gradients))


def relative_difference(values: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Norm of the difference over the norm of what was expected, over all tensors together."""
    off, total = 0.0, 0.0
    for one, other in zip(values, expected, strict=True):
        if one.shape != other.shape:
            return math.inf
        off += float(torch.linalg.vector_norm(one - other, dtype=torch.float64)) ** 2
        total += float(torch.linalg.vector_norm(other, dtype=torch.float64)) ** 2
    if not (math.isfinite(off) and math.isfinite(total)):
        return math.inf
    if total == 0.0:
        return 0.0 if off == 0.0 else math.inf
    return math.sqrt(off / total)


def tolerance(precision: str, *, network: bool, may_be_tf32: bool = False) -> float:
    """Largest relative difference of an output that is no difference."""
    table = NETWORK_TOLERANCES if network else LAYER_TOLERANCES
    if precision == "fp32" and may_be_tf32:
        return max(table["fp32"], TF32_TOLERANCE * (5 if network else 1))
    return table[precision]


def gradient_tolerance(precision: str, *, network: bool, may_be_tf32: bool = False) -> float:
    """The same for gradients."""
    if not network:
        return tolerance(precision, network=False, may_be_tf32=may_be_tf32)
    return GRADIENT_TOLERANCES["fp16" if precision == "fp32" and may_be_tf32 else precision]
