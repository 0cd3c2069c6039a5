"""Sparse tensors and convolutions on occupied voxels."""

from lg3d_core.sparse.backends import (
    BACKENDS,
    Backend,
    current_backend,
    describe_backends,
    resolve_backend,
    trains_faster_in_bf16,
    use_backend,
)
from lg3d_core.sparse.cache import CoordinateCache
from lg3d_core.sparse.functional import pointwise_convolution, sparse_convolution
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.modules import (
    SparseBatchNorm,
    SparseConvolution,
    convolve_and_normalize,
    share_statistics,
)
from lg3d_core.sparse.parallel import num_workers, owned_threads, set_num_workers
from lg3d_core.sparse.tensor import SparseTensor

__all__ = [
    "BACKENDS",
    "Backend",
    "CoordinateCache",
    "KernelMap",
    "SparseBatchNorm",
    "SparseConvolution",
    "SparseTensor",
    "convolve_and_normalize",
    "current_backend",
    "describe_backends",
    "num_workers",
    "owned_threads",
    "pointwise_convolution",
    "resolve_backend",
    "set_num_workers",
    "share_statistics",
    "sparse_convolution",
    "trains_faster_in_bf16",
    "use_backend",
]
