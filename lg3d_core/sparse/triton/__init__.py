"""Triton kernels of the sparse engine, for CUDA. Imported only when the backend `triton` is selected."""
