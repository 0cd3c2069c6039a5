"""Objects that overlap: each point belongs to the smallest object that contains it."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.formats.assembly import NO_LABEL, MappedLabels
from lg3d_core.vocabulary import Vocabulary


class RawObject(NamedTuple):
    """Annotated object: class name, and the rows of its points."""

    name: str
    rows: npt.NDArray[np.int64]


class PaintedObjects(NamedTuple):
    """Annotation of points.

    Attributes:
        labels: Labels of each vocabulary.
        instance: Object of each point, 0 for none, shape `(points,)`, int32.
        segment: Segment of each point, shape `(points,)`, int32; None if the format has none.
    """

    labels: list[MappedLabels]
    instance: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32] | None = None


def paint_objects(objects: Sequence[RawObject], num_points: int, vocabularies: Sequence[Vocabulary]) -> PaintedObjects:
    """Label the points of objects; smaller objects overwrite larger ones.

    Objects whose class is in no vocabulary are skipped; `unmapped` counts their objects by class.
    """
    instance = np.zeros(num_points, dtype=np.int32)
    labels = [np.full(num_points, NO_LABEL, dtype=np.int16) for _ in vocabularies]
    order = sorted(range(len(objects)), key=lambda k: -len(objects[k].rows))
    for k in order:
        name, rows = objects[k]
        indices = [vocabulary.index_by_name.get(name, NO_LABEL) for vocabulary in vocabularies]
        if max(indices) == NO_LABEL:
            continue
        instance[rows] = k + 1
        for label, index in zip(labels, indices, strict=True):
            label[rows] = index
    unmapped = [
        dict(Counter(name for name, _ in objects if name not in vocabulary.index_by_name))
        for vocabulary in vocabularies
    ]
    return PaintedObjects([MappedLabels(*pair) for pair in zip(labels, unmapped, strict=True)], instance)
