"""Page of a predicted scan."""

import numpy as np

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
    at = labelled.at_vertices()
    prediction = Prediction(
        label=at.label[shown.rows],
        confidence=at.confidence[shown.rows],
        voxel_label=labelled.label,
        voxel_truth=np.full(len(labelled.label), -1, dtype=np.int16),
    )
    objects = None
    if labelled.found is not None and at.instance is not None:
        objects = PredictedObjects(labelled.found.objects, at.instance[shown.rows])
    return build_view(shown.scene, vocabulary, prediction, objects=objects)


def labelled_page(labelled: LabelledScan, vocabulary: Vocabulary, progress: Progress) -> str:
    """Return the page of a predicted scan."""
    return build_page(view_labelled(labelled, vocabulary, progress))
