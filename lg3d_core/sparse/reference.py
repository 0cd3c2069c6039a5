"""Reference implementation of sparse convolution: slow and simple.

    output[v] = sum over offsets k of input[neighbour(v, k)] @ weight[k]

v: output voxels, k: kernel offsets. All other backends are tested against this one.
"""

from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap


class ReferenceBackend:
    """Loop over the offsets; differentiable by autograd; any device and dtype."""

    name = "reference"

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        output = features.new_zeros(kernel_map.num_outputs, weight.shape[2])
        for offset in range(kernel_map.num_offsets):
            neighbour = kernel_map.neighbours[offset].long()
            (target,) = (neighbour >= 0).nonzero(as_tuple=True)
            output = output.index_add(0, target, features[neighbour[target]] @ weight[offset])
        return output
