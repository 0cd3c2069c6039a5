"""Page of a predicted scan."""

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.inference.predict import LabelledScan
from lg3d_core.progress import Progress
from lg3d_core.viewing.asked import ShownScan, scene_of_scan
from lg3d_core.viewing.layers import SceneView, build_view
from lg3d_core.viewing.objects import PredictedObjects
from lg3d_core.viewing.page import build_page
from lg3d_core.vocabulary import Vocabulary


def view_labelled(labelled: LabelledScan, vocabulary: Vocabulary, progress: Progress) -> SceneView:
    """Return a view of a predicted scan: classes, confidence and objects; with annotation for a scene of a store.

    Args:
        labelled: Prediction.
        vocabulary: Vocabulary of the prediction.
        progress: Receives a note if the scan is subsampled.

    Raises:
        DataError: No vertex has a usable position.
    """
    scan = labelled.scan
    if scan.scene is not None and scan.vocabulary is not None and scan.vocabulary.digest == vocabulary.digest:
        shown = ShownScan(scan.scene, np.arange(len(scan.scene.xyz)))
    else:
        shown = scene_of_scan(scan, progress)
    prediction, objects = at_shown_vertices(labelled, shown.rows)
    return build_view(shown.scene, vocabulary, prediction, objects=objects)


def at_shown_vertices(
    labelled: LabelledScan, rows: npt.NDArray[np.int64] | None = None
) -> tuple[Prediction, PredictedObjects | None]:
    """Return the prediction and the objects at vertices, for `build_view`.

    Args:
        labelled: Prediction.
        rows: Shown vertices, shape `(points,)`; None shows all.
    """
    at = labelled.at_vertices()
    shown = np.arange(len(at.label)) if rows is None else rows
    prediction = Prediction(
        label=at.label[shown],
        confidence=at.confidence[shown],
        voxel_label=labelled.label,
        voxel_truth=np.full(len(labelled.label), -1, dtype=np.int16),
    )
    if labelled.found is None or at.instance is None:
        return prediction, None
    return prediction, PredictedObjects(labelled.found.objects, at.instance[shown])


def labelled_page(labelled: LabelledScan, vocabulary: Vocabulary, progress: Progress) -> str:
    """Return the page of a predicted scan."""
    return build_page(view_labelled(labelled, vocabulary, progress))
