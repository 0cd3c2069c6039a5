"""Training inputs: voxels, augmentation, samples and batches."""

from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import Sample, SceneDataset, sample_scene
from lg3d_core.sampling.voxels import Voxels, voxelize

__all__ = ["Augmentation", "Batch", "Sample", "SceneDataset", "Voxels", "collate", "sample_scene", "voxelize"]
