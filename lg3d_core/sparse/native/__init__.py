"""Sparse convolution on the CPU with kernels that are compiled for the local processor."""

from lg3d_core.sparse.native.backend import NativeBackend

__all__ = ["NativeBackend"]
