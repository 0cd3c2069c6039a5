"""Heads on the features of a backbone."""

import torch
from torch import Tensor, nn


class OffsetHead(nn.Module):
    """Two linear layers that predict for each voxel the vector to the centre of its object.

    Source: section 5 of the paper, "3D instance segmentation task", after PointGroup (Jiang et al., CVPR 2020).
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, num_features)
        self.out = nn.Linear(num_features, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets in metres, shape `(voxels, 3)`, in the dtype of the weights, also under autocast.

        Args:
            features: Features of the voxels, shape `(voxels, num_features)`.
        """
        with torch.autocast(features.device.type, enabled=False):
            offsets: Tensor = self.out(torch.relu(self.hidden(features.to(self.hidden.weight.dtype))))
        return offsets
