"""Sparse convolution on CPU by kernels that are compiled for the processor at hand."""

from lg3d_core.sparse.native.backend import NativeBackend

__all__ = ["NativeBackend"]
