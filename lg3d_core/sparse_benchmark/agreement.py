"""Comparison of the results of two engines, which precedes the comparison of their speed."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.sparse_benchmark.engines import Rows, Trial

# Norm of the difference relative to the norm of the expected fp32 values. docs/results/README.md has the measurements.
LAYER_TOLERANCES = {"fp32": 2e-5, "bf16": 2e-2, "fp16": 5e-3}
NETWORK_TOLERANCES = {"fp32": 2e-4, "bf16": 2e-1, "fp16": 5e-2}
GRADIENT_TOLERANCES = {"fp32": 1e-2, "bf16": 9e-1, "fp16": 5e-1}
"""Tolerances for the weights of a whole network. A ReLU that switches because of rounding changes a gradient much more
than a value, and the gradient of noise is a sum that mostly cancels. In bf16 only a missing or unrelated gradient (1 or
more) is detected. Gradients of single layers have the tolerance of values."""
TF32_TOLERANCE = 2e-3
"""Tolerance of a layer in fp32 if the device may multiply in TF32."""


class Values(NamedTuple):
    """Results of a trial in the order of the voxels, in fp32.

    Attributes:
        output: Output features, shape `(voxels, channels)`.
        gradients: Gradients of the weights, and of the input if it was requested; empty without gradients.
    """

    output: Tensor
    gradients: tuple[Tensor, ...] = ()


def collect(trial: Trial, output: Rows, *, training: bool) -> Values:
    """Return the results that a trial has just computed, in the common order and layout."""
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
    """Norm of the differences relative to the norm of the expected values; inf for other shapes or non-finite values.

    Attributes:
        output: Difference of the output.
        gradients: Difference of all gradients together; None without gradients.
    """

    output: float
    gradients: float | None


def compare(values: Values, expected: Values) -> Difference:
    """Return the difference between values and the expected values."""
    output = relative_difference([values.output], [expected.output])
    if not expected.gradients:
        return Difference(output, None)
    return Difference(output, relative_difference(values.gradients, expected.gradients))


def relative_difference(values: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Return the norm of the difference divided by the norm of the expected values, over all tensors together."""
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
    """Return the largest relative difference of outputs that count as equal."""
    table = NETWORK_TOLERANCES if network else LAYER_TOLERANCES
    if precision == "fp32" and may_be_tf32:
        return max(table["fp32"], TF32_TOLERANCE * (5 if network else 1))
    return table[precision]


def gradient_tolerance(precision: str, *, network: bool, may_be_tf32: bool = False) -> float:
    """Return the largest relative difference of gradients that count as equal."""
    if not network:
        return tolerance(precision, network=False, may_be_tf32=may_be_tf32)
    return GRADIENT_TOLERANCES["fp16" if precision == "fp32" and may_be_tf32 else precision]
