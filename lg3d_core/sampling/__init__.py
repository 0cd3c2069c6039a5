"""From a stored scene to a training sample: voxelise, augment, batch."""
