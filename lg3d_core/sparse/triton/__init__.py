"""The sparse engine's kernels in Triton, for CUDA. Loaded only when the backend `triton` is chosen."""
