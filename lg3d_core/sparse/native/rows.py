"""Batch normalisation of pieces of rows in bfloat16 by compiled kernels; the arithmetic is in `normalization.c`."""

import ctypes

import torch
from torch import Tensor


class RowKernels:
    """Steps of a batch normalisation on contiguous bfloat16 rows; all other values are float32.

    Reference: the same steps in plain PyTorch in `lg3d_core.sparse.normalization`, which calls these.
    """

    dtype = torch.bfloat16

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self._kernels = kernels

    def measure(self, features: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Write the mean and the biased variance per channel of at least one row."""
        self._kernels.lg3d_measure_rows(_pointer(features), *_shape(features), _pointer(mean), _pointer(variance))

    def normalize(
        self, features: Tensor, residual: Tensor | None, output: Tensor, scale: Tensor, shift: Tensor, *, relu: bool
    ) -> None:
        """Write `relu(features * scale + shift + residual)`."""
        self._kernels.lg3d_normalize_rows(
            _pointer(features),
            _pointer(residual),
            _pointer(output),
            *_shape(features),
            _pointer(scale),
            _pointer(shift),
            ctypes.c_int64(relu),
        )

    def sum_gradients(
        self,
        gradient: Tensor,
        output: Tensor | None,
        features: Tensor,
        clipped: Tensor | None,
        *,
        mean: Tensor,
        inverse_deviation: Tensor,
        plain: Tensor,
        by_features: Tensor,
    ) -> None:
        """See `lg3d_core.sparse.backends.RowKernels`."""
        self._kernels.lg3d_sum_gradients(
            *(_pointer(rows) for rows in (gradient, output, features, clipped)),
            *_shape(features),
            *(_pointer(values) for values in (mean, inverse_deviation, plain, by_features)),
        )

    def combine(
        self,
        gradient: Tensor,
        output: Tensor | None,
        features: Tensor,
        result: Tensor,
        *,
        slope: Tensor,
        by_features: Tensor,
        constant: Tensor,
    ) -> None:
        """Write `gradient * slope + features * by_features + constant`; `output` as in `sum_gradients`."""
        self._kernels.lg3d_combine_rows(
            *(_pointer(rows) for rows in (gradient, output, features, result)),
            *_shape(features),
            *(_pointer(values) for values in (slope, by_features, constant)),
        )


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    if tensor is None:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _shape(rows: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return ctypes.c_int64(rows.shape[0]), ctypes.c_int64(rows.shape[1])
