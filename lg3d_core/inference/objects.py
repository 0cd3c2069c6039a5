"""Objects of a scan: its labelled voxels grouped into instances, each with a box and its most probable names."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from lg3d_core.evaluation.boxes import Box, find_outline, find_strays, fit_box
from lg3d_core.evaluation.instances import UNSCORED_NAMES
from lg3d_core.evaluation.objects import Grouping, find_objects
from lg3d_core.evaluation.predictor import VoxelLabels
from lg3d_core.inference.files import write_text
from lg3d_core.inference.input import Input
from lg3d_core.inference.scan_voxels import RowPiece, ScanVoxels
from lg3d_core.inference.superpoints import Superpoints
from lg3d_core.inference.voxel_features import FeatureParts
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, turn_up
from lg3d_core.vocabulary import Vocabulary

NUM_NAMES = 3
"""Number of names per object."""
COLUMNS = (
    "id",
    "name",
    "label",
    "confidence",
    *(f"centre_{axis}" for axis in "xyz"),
    "length",
    "width",
    "height",
    "yaw",
    "points",
    *(f"{part}_{k}" for k in range(1, NUM_NAMES + 1) for part in ("name", "probability")),
)
"""Columns of `objects.csv`."""
RowPieces = Callable[[], Iterator[RowPiece]]
"""Yields the pieces of a scan with the voxel or superpoint of each vertex."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundObject:
    """Predicted object.

    Attributes:
        id: Number in the scan, from 0, in descending order of confidence.
        category: Vocabulary index of its class.
        name: Name of its class.
        label: Raw id of its class.
        confidence: Mean probability of its class over its voxels, 0..1.
        box: Smallest upright box around its points without strays, in metres with +z up.
        points: Number of vertices.
        names: Most probable classes with their mean probabilities over its voxels, at most `NUM_NAMES`.
    """

    id: int
    category: int
    name: str
    label: int
    confidence: float
    box: Box
    points: int
    names: tuple[tuple[str, float], ...]

    def to_dict(self, frame: Frame) -> dict[str, Any]:
        """Return plain values for JSON: positions in the file's units and axes, sizes in metres."""
        return {
            "id": self.id,
            "name": self.name,
            "label": self.label,
            "confidence": round(self.confidence, 4),
            "centre": round_values(frame.from_metres(self.box.centre[None])[0]),
            "size": round_values(self.box.size),
            "yaw": round(yaw_in_file(self.box, frame), 4),
            "corners": [round_values(corner) for corner in frame.from_metres(self.box.corners)],
            "points": self.points,
            "names": [{"name": name, "probability": round(share, 4)} for name, share in self.names],
        }


class ScanObjects(NamedTuple):
    """Objects of a scan.

    Attributes:
        objects: The objects, most confident first.
        number: Object of each voxel or superpoint, -1 for none, shape `(rows,)`, int32.
    """

    objects: tuple[FoundObject, ...]
    number: npt.NDArray[np.int32]


def wants_objects(chosen: bool | None, info: CheckpointInfo, path: Path, progress: Progress) -> bool:
    """Return whether to look for objects: by default if the checkpoint has an offset head.

    Args:
        chosen: Setting of the user.
        info: Metadata of the checkpoint.
        path: Path of the checkpoint, for messages.
        progress: Receives a note if objects are requested without an offset head.
    """
    if chosen and not info.offset_head:
        progress.note(f"{path} has no offset head: objects are the connected regions of each predicted class")
    return info.offset_head if chosen is None else chosen


def find_scan_objects(
    scan: Input,
    voxels: ScanVoxels,
    found: VoxelLabels,
    features: FeatureParts,
    *,
    rows: RowPieces,
    score: Callable[[Tensor], Tensor],
    vocabulary: Vocabulary,
    min_points: int,
    superpoints: Superpoints | None = None,
) -> ScanObjects:
    """Group the labelled voxels of a scan into objects, which do not overlap.

    Groups are taken in descending order of confidence. A group of which more than half belongs to others already is
    left out; the others get the voxels that are still free. Walls and floors are no objects, and a group over which
    one of them is more probable is left out.

    Args:
        scan: Scan.
        voxels: Its voxels.
        found: Prediction of each voxel.
        features: Rows of voxels and their features, each voxel once.
        rows: Returns the voxel or superpoint that each vertex belongs to, piece by piece.
        score: Returns class scores `(voxels, classes)` for features.
        vocabulary: Vocabulary of the prediction.
        min_points: Minimum number of vertices of an object.
        superpoints: Superpoints, which belong to objects as a whole; None for objects of voxels.

    Returns:
        Objects, and the object of each voxel, or of each superpoint.
    """
    if superpoints is not None:
        found = superpoints.at_voxels()._replace(offsets=found.offsets)
    number, classes, confidences = _group_voxels(voxels, found, vocabulary)
    places = voxels.centres
    if superpoints is not None:
        number, places = superpoints.vote(number, len(classes)), superpoints.places
    points = _count_points(rows, number, len(classes))
    kept = np.flatnonzero(points >= max(min_points, 1))
    renumbered = np.full(len(classes) + 1, -1, dtype=np.int32)
    renumbered[kept] = np.arange(len(kept))
    number = renumbered[number]
    if superpoints is None:
        shares = _mean_probabilities(features, number, len(kept), score=score, num_classes=len(vocabulary))
    else:
        shares = _mean_of_superpoints(superpoints, number, len(kept))
    boxes = _fit_boxes(scan, rows, places, number, len(kept))
    objects = []
    for k, rank in enumerate(kept.tolist()):
        category = int(classes[rank])
        best = np.argsort(-shares[k], kind="stable")[:NUM_NAMES]
        objects.append(
            FoundObject(
                id=k,
                category=category,
                name=vocabulary.names[category],
                label=int(vocabulary.ids[category]),
                confidence=float(confidences[rank]),
                box=boxes[k],
                points=int(points[rank]),
                names=tuple((vocabulary.names[j], float(shares[k, j])) for j in best.tolist()),
            )
        )
    return ScanObjects(tuple(objects), number)


class _Groups(NamedTuple):
    """Disjoint groups of voxels, most confident first.

    Attributes:
        number: Group of each voxel, -1 for none, shape `(voxels,)`, int32.
        classes: Class of each group, shape `(groups,)`.
        confidences: Confidence of each group, shape `(groups,)`.
    """

    number: npt.NDArray[np.int32]
    classes: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float64]


def _group_voxels(voxels: ScanVoxels, found: VoxelLabels, vocabulary: Vocabulary) -> _Groups:
    """Group voxels by class, leave out groups on walls and floors, and give each voxel to one group."""
    background = [k for k, name in enumerate(vocabulary.names) if name in UNSCORED_NAMES]
    grouping = Grouping.for_voxels(voxels.voxel_size, min_points=1)
    groups = find_objects(
        found, voxels.centres, np.arange(len(voxels.keys)), without_instances=background, grouping=grouping
    )
    members = list(groups.mask_rows())
    probabilities = _find_probabilities(found, background)
    number = np.full(len(voxels.keys), -1, dtype=np.int32)
    chosen: list[int] = []
    # Of equally confident groups, the largest one is first.
    for k in np.lexsort((-np.diff(groups.starts), -groups.confidences.round(6))).tolist():
        own = members[k]
        free = own[number[own] < 0]
        if 2 * len(free) >= len(own) and probabilities[own].mean(axis=0).max(initial=0) <= groups.confidences[k]:
            number[free] = len(chosen)
            chosen.append(k)
    return _Groups(number, groups.classes[chosen], groups.confidences[chosen])


def _find_probabilities(found: VoxelLabels, classes: Sequence[int]) -> npt.NDArray[np.floating]:
    """Return the probability of some classes at each voxel, 0 if it is not known, shape `(voxels, classes)`."""
    if found.candidates is None:
        ranked, probabilities = found.label[:, None], found.confidence[:, None]
    else:
        ranked, probabilities = found.candidates.classes, found.candidates.probabilities
    own = np.zeros((len(ranked), len(classes)))
    for column, class_ in enumerate(classes):
        own[:, column] = np.where(ranked == class_, probabilities, 0).sum(axis=1)
    return own


def object_rows(rows: RowPieces, number: npt.NDArray[np.int32]) -> Iterator[tuple[int, int, npt.NDArray[np.int32]]]:
    """Yield for each piece of the scan its first row, its end row, and the object of each vertex, -1 for none."""
    for start, stop, own in rows():
        yield start, stop, np.where(own >= 0, number[own], -1).astype(np.int32)


def _count_points(rows: RowPieces, number: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    points = np.zeros(count, dtype=np.int64)
    for _, _, owner in object_rows(rows, number):
        points += np.bincount(owner[owner >= 0], minlength=count)
    return points


def _mean_of_superpoints(
    superpoints: Superpoints, number: npt.NDArray[np.int32], count: int
) -> npt.NDArray[np.float64]:
    """Return the mean class probabilities over the vertices of each object, shape `(objects, classes)`."""
    own = np.flatnonzero(number >= 0)
    vertices = np.asarray(superpoints.shared.sum(axis=1)).reshape(-1)[own]
    weights = csr_matrix((vertices, (number[own], np.arange(len(own)))), shape=(count, len(own)))
    total = np.asarray(weights.sum(axis=1)).reshape(-1)
    means: npt.NDArray[np.float64] = (weights @ superpoints.probabilities[own]) / np.maximum(total, 1)[:, None]
    return means


def _mean_probabilities(
    features: FeatureParts,
    number: npt.NDArray[np.int32],
    count: int,
    *,
    score: Callable[[Tensor], Tensor],
    num_classes: int,
) -> npt.NDArray[np.float64]:
    """Return the mean class probabilities over the voxels of each object, shape `(objects, classes)`."""
    total = np.zeros((count, num_classes))
    if count == 0:
        return total
    for rows, part in features:
        inside = np.flatnonzero(number[rows] >= 0)
        if len(inside) == 0:
            continue
        with torch.inference_mode():
            own = part[torch.from_numpy(inside).to(part.device)]
            shares = torch.softmax(score(own).float(), dim=1).cpu().numpy()
        owner, ones = number[rows[inside]], np.ones(len(inside))
        total += csr_matrix((ones, (owner, np.arange(len(inside)))), shape=(count, len(inside))) @ shares
    return total / np.bincount(number[number >= 0], minlength=count)[:, None]


def _fit_boxes(
    scan: Input, rows: RowPieces, places: npt.NDArray[np.float64], number: npt.NDArray[np.int32], count: int
) -> list[Box]:
    """Fit a box to the vertices of each object, without those in stray voxels or superpoints.

    A scan is read in pieces. The corners of the convex hull and the lowest and highest vertex of the pieces so far have
    the same box as all their vertices.
    """
    number = number.copy()
    members = _split(number, count)
    for own in members:
        number[own[find_strays(places[own])]] = -1
    corners = [np.zeros((0, 3)) for _ in range(count)]
    for start, stop, owner in object_rows(rows, number):
        inside = np.flatnonzero(owner >= 0)
        xyz = scan.frame.to_metres(scan.surface.positions(start, stop)[inside])
        for k, vertices in enumerate(_split(owner[inside], count)):
            if len(vertices):
                corners[k] = _extremes(np.concatenate([corners[k], xyz[vertices]]))
    # A voxel may have no vertex: vertices near its border take the label of a neighbour.
    return [fit_box(points if len(points) else places[own]) for points, own in zip(corners, members, strict=True)]


def _extremes(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return points with the same box: the corners of the outline, at the lowest and the highest z."""
    outline = find_outline(points[:, :2])
    ends = [np.column_stack([outline, np.full(len(outline), z)]) for z in (points[:, 2].min(), points[:, 2].max())]
    return np.concatenate(ends)


def _split(number: npt.NDArray[np.int32], count: int) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each of the objects `0..count-1`."""
    order = np.argsort(number, kind="stable")
    return np.split(order, np.searchsorted(number[order], np.arange(count + 1)))[1:-1]


def yaw_in_file(box: Box, frame: Frame) -> float:
    """Return the yaw of a box in a file's axes, in radians, -pi/2 <= yaw < pi/2.

    The angle is measured about the file's up axis, counter-clockwise seen from above, from the axis that follows it in
    the order x, y, z, x: from +x if z is up, from +z if y is up.
    """
    ends = np.array([[0.0, 0.0, 0.0], [np.cos(box.yaw), np.sin(box.yaw), 0.0]])
    start, end = turn_up(frame.from_metres(ends), frame.up)
    return float((np.arctan2(end[1] - start[1], end[0] - start[0]) + np.pi / 2) % np.pi - np.pi / 2)


def write_objects(
    stem: Path, scan: Input, objects: Sequence[FoundObject], *, checkpoint: Path, origin: str
) -> list[Path]:
    """Write the objects of a scan as `<stem>.objects.json` and `<stem>.objects.csv`, and return their paths.

    Raises:
        DataError: A file cannot be written.
    """
    rows = [found.to_dict(scan.frame) for found in objects]
    described = {
        "scan": scan.name,
        "checkpoint": str(checkpoint),
        "scale": scan.frame.scale,
        "up": scan.frame.up,
        "objects": rows,
    }
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        names = [value for one in row["names"] for value in (one["name"], one["probability"])]
        names += [""] * (2 * NUM_NAMES - len(names))
        plain = [row[key] for key in ("id", "name", "label", "confidence")]
        writer.writerow([*plain, *row["centre"], *row["size"], row["yaw"], row["points"], *names])
    files = []
    for suffix, text in (("json", json.dumps(described, indent=2) + "\n"), ("csv", table.getvalue())):
        path = stem.with_name(f"{stem.name}.objects.{suffix}")
        write_text(path, text, origin=origin)
        files.append(path)
    return files


def round_values(values: npt.NDArray[np.float64]) -> list[float]:
    """Return numbers for JSON, rounded to four decimals."""
    return [round(float(value), 4) for value in values]
