"""Predicted objects of a scene: voxels grouped by class and offset, then carried over to the points of the scene."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.grouping import propose_instances, suppress_overlaps
from lg3d_core.evaluation.instances import MIN_VERTICES, PredictedInstances
from lg3d_core.evaluation.predictor import VoxelLabels

RADIUS_IN_VOXELS = 1.5
"""Radius in voxel edges, so that voxels with a common face or edge are neighbours: PointGroup's 3 cm at 2 cm."""
SMALLEST_AREA = 50 * 0.02**2
"""Surface in square metres of the smallest group: PointGroup's 50 points with voxels of 2 cm."""
MAX_IOU = 0.3
MIN_PROBABILITY = 0.05
"""Minimum probability at which a voxel joins the groups of a class that is not its most probable one."""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Rules by which voxels form objects."""

    radius: float
    """Maximum distance in metres between neighbours in an object."""
    min_voxels: int
    """Minimum number of voxels of an object."""
    max_iou: float = MAX_IOU
    """Maximum IoU of two objects of one class; the less confident one of a pair above it is dropped."""
    min_points: int = MIN_VERTICES
    """Minimum number of points of an object; the benchmark ignores smaller ones."""
    dual_set: bool = False
    """Whether to group voxels with offsets at their centres as well, as PointGroup does."""
    min_probability: float | None = MIN_PROBABILITY
    """Minimum probability at which a voxel joins the groups of a class that is not its most probable one; None: voxels
    join only those of their most probable class."""

    @classmethod
    def for_voxels(cls, voxel_size: float, *, min_points: int = MIN_VERTICES) -> Self:
        """Return the default rules for voxels of an edge length in metres.

        2 cm give a radius of 3 cm and at least 50 voxels, the values of PointGroup; 5 cm give 7.5 cm and 8 voxels.
        """
        return cls(
            radius=RADIUS_IN_VOXELS * voxel_size,
            min_voxels=max(1, round(SMALLEST_AREA / voxel_size**2)),
            min_points=min_points,
        )


def find_objects(
    found: VoxelLabels,
    centres: npt.NDArray[np.floating],
    point_to_voxel: npt.NDArray[np.integer],
    *,
    without_instances: Iterable[int],
    grouping: Grouping,
) -> PredictedInstances:
    """Group the voxels of a scene into objects.

    A voxel belongs to the groups of its most probable class and of every other class of at least a minimum probability,
    so that an object whose voxels are assigned to several classes is whole in each of them (after SoftGroup, Vu et al.,
    CVPR 2022). Groups are made at the predicted object centres, and without offsets at the centres of the voxels: the
    connected components of each class.

    Args:
        found: Prediction of each voxel. Without candidates, voxels have only their most probable class.
        centres: Centres of the voxels in metres, shape `(voxels, 3)`.
        point_to_voxel: Voxel of each point of the scene, -1 for none, shape `(points,)`.
        without_instances: Class indices that form no objects, such as wall and floor.
        grouping: Rules.

    Returns:
        Objects in descending order of confidence, the mean probability of their class. Their rows are points. Objects
        of different classes may overlap.

    Raises:
        ShapeError: The shapes differ, or centres are not finite.
    """
    voxels, classes, probabilities = _join_classes(found, without_instances, minimum=grouping.min_probability)
    places, offsets = centres, None
    if found.offsets is not None and len(centres):
        # A centre outside the scene is wrong; clipping bounds the extent of the points that are grouped.
        shifted = np.clip(centres + found.offsets, centres.min(axis=0), centres.max(axis=0))
        if grouping.dual_set:
            offsets = (shifted - centres)[voxels]
        else:
            places = shifted
    proposals = propose_instances(
        places[voxels], offsets, classes, probabilities, radius=grouping.radius, min_points=grouping.min_voxels
    )
    proposals = proposals._replace(rows=voxels[proposals.rows])
    kept = suppress_overlaps(proposals, num_points=len(centres), max_iou=grouping.max_iou)
    return _at_points(kept, point_to_voxel, num_voxels=len(centres), min_points=grouping.min_points)


def _join_classes(
    found: VoxelLabels, without_instances: Iterable[int], *, minimum: float | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.floating]]:
    """Return the voxel, the class and its probability for every class whose groups a voxel joins."""
    if found.candidates is None or minimum is None:
        classes, probabilities = found.label[:, None], found.confidence[:, None]
    else:
        classes, probabilities = found.candidates.classes, found.candidates.probabilities
    joins = np.ones(classes.shape, dtype=np.bool_) if minimum is None else probabilities >= minimum
    joins[:, 0] = True
    joins &= ~np.isin(classes, list(without_instances))
    voxels, ranks = np.nonzero(joins)
    return voxels, classes[voxels, ranks].astype(np.int64), probabilities[voxels, ranks]


def _at_points(
    objects: PredictedInstances, point_to_voxel: npt.NDArray[np.integer], *, num_voxels: int, min_points: int
) -> PredictedInstances:
    """Replace the voxels of objects by the points in them, and drop objects with too few points."""
    points = np.argsort(point_to_voxel, kind="stable")
    starts = np.searchsorted(point_to_voxel[points], np.arange(num_voxels + 1))
    rows = []
    for voxels in objects.mask_rows():
        counts = starts[voxels + 1] - starts[voxels]
        first = np.repeat(starts[voxels] - np.cumsum(counts) + counts, counts)
        rows.append(np.sort(points[first + np.arange(len(first))]))
    large = [k for k, own in enumerate(rows) if len(own) >= min_points]
    return PredictedInstances.from_rows(
        [rows[k] for k in large], objects.classes[large].tolist(), objects.confidences[large].tolist()
    )
