"""Layers of a scene: one colour per vertex and layer, and a legend of the visible classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError
from lg3d_core.inference.heat_colors import HEAT_STOPS, ramp_colors
from lg3d_core.viewing.camera import Camera, first_camera
from lg3d_core.viewing.cutaway import find_outward
from lg3d_core.viewing.gallery import Gallery, find_gallery
from lg3d_core.viewing.objects import PredictedObjects, ShownObject, find_annotated, show_predicted
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lg3d_core.evaluation.predictor import Prediction
    from lg3d_core.store.scene_file import Scene

LAYER_TITLES = {
    "colours": "Colours",
    "truth": "Ground truth",
    "prediction": "Prediction",
    "errors": "Errors",
    "confidence": "Confidence",
    "instances": "Instances",
    "objects": "Objects",
    "augmentation": "Augmentation",
}
ANNOTATED_LAYERS = ("truth", "instances")
"""Layers that show the annotation."""

MAX_REACH = 1e8
"""Maximum distance from the origin in metres: above any map projection, and small enough to be squared."""

NEUTRAL = (214, 216, 220)  # unannotated: light, without a hue
RIGHT = (158, 190, 178)  # muted green-grey
WRONG = (200, 66, 12)  # vermilion, darker than RIGHT, for greyscale printing and colour-blind readers
ERROR_COLORS = {"right": RIGHT, "wrong": WRONG, "unannotated": NEUTRAL}

# Dark blue over grey to yellow: lightness rises evenly, and most colour-blind readers distinguish the ends.
CONFIDENCE_STOPS = ((20, 38, 92), (74, 86, 122), (124, 126, 128), (182, 168, 112), (250, 228, 88))
PASTED = (206, 40, 110)  # inserted objects: a hue that the ramp below does not contain
# Light grey over teal to dark blue: a larger shift is darker.
SHIFT_STOPS = ((226, 228, 230), (150, 190, 196), (66, 128, 158), (24, 62, 110))
FULL_SHIFT = 0.4
"""Elastic distortion in metres at the end of the ramp."""


class LegendEntry(NamedTuple):
    """Legend entry of a visible class.

    Attributes:
        category: Vocabulary index.
        name: Class name.
        group: Name of its group, or "".
        color: Display colour, 0..255.
        share: Share of the scene's vertices that are annotated as this class (predicted, without annotation), 0..1.
        predicted_share: Share of the scene's vertices that are predicted as this class, 0..1; None without a
            prediction.
        iou: Intersection over union in this scene's annotated vertices, 0..1; None without annotation or prediction.
    """

    category: int
    name: str
    group: str
    color: tuple[int, int, int]
    share: float
    predicted_share: float | None
    iou: float | None


class SceneScores(NamedTuple):
    """Scores of a prediction in one scene, over its annotated vertices.

    Attributes:
        accuracy: Share of annotated vertices that are predicted correctly, 0..1.
        miou: Mean IoU of the classes annotated in this scene, 0..1.
        num_categories: Number of classes annotated in this scene.
    """

    accuracy: float
    miou: float
    num_categories: int


class LayerKey(NamedTuple):
    """Legend of a layer's colours, apart from class colours.

    Attributes:
        swatches: Colour, meaning, and share of the vertices in 0..1 or None.
        ramp: Equally spaced stops of a colour ramp; may be empty.
        low: Meaning of the ramp's first colour.
        high: Meaning of the ramp's last colour.
    """

    swatches: tuple[tuple[tuple[int, int, int], str, float | None], ...] = ()
    ramp: tuple[tuple[int, int, int], ...] = ()
    low: str = ""
    high: str = ""


HEAT_KEY = LayerKey(ramp=HEAT_STOPS, low="cold 0", high="1 hot")


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneView:
    """Scene with its layers.

    Attributes:
        scene_id: Name of the scene.
        xyz: Positions in metres, +z up, float32 `(points, 3)`.
        normal: Unit normals or zeros, float32 `(points, 3)`.
        faces: Triangles, int32 `(faces, 3)`; empty for a point cloud.
        layers: Colours of the available layers in the order of `LAYER_TITLES`, then heat, uint8 `(points, 3)` each.
        names: Class names by vocabulary index.
        label: Annotated class, int16 `(points,)`, -1 for none.
        predicted: Predicted class, int16 `(points,)`, -1 for none; or None.
        confidence: Confidence of the prediction, float32 `(points,)` in 0..1, or None.
        instance: Object number, int32 `(points,)`, 0 for none.
        legend: Visible classes, largest share first.
        scores: Scores of the prediction in this scene; None without annotation or prediction.
        outward: Result of `find_outward`, float32 `(points, 3)`.
        heat: Heat of each vertex by text, float32 `(points,)` in 0..1.
        objects: Predicted objects; empty without any.
        object_number: Number of each vertex's predicted object, 0 for none, int32 `(points,)`; None if objects were not
            predicted.
        groups: Names of the vocabulary's groups, most frequent first.
    """

    scene_id: str
    xyz: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    layers: dict[str, npt.NDArray[np.uint8]]
    names: tuple[str, ...]
    label: npt.NDArray[np.int16]
    predicted: npt.NDArray[np.int16] | None
    confidence: npt.NDArray[np.float32] | None
    instance: npt.NDArray[np.int32]
    legend: tuple[LegendEntry, ...]
    scores: SceneScores | None
    outward: npt.NDArray[np.float32]
    heat: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    objects: tuple[ShownObject, ...] = ()
    object_number: npt.NDArray[np.int32] | None = None
    groups: tuple[str, ...] = ()

    @cached_property
    def heat_texts(self) -> dict[str, str]:
        """Return the text of each heat layer by the layer's name."""
        return {heat_name(k): text for k, text in enumerate(self.heat, start=1)}

    def title(self, layer: str) -> str:
        """Return the title of a layer; the title of heat is its text in quotation marks."""
        text = self.heat_texts.get(layer)
        return LAYER_TITLES[layer] if text is None else heat_title(text)

    def is_smooth(self, layer: str) -> bool:
        """Return whether colours may be interpolated between vertices; class colours may not."""
        return layer in ("colours", "confidence") or layer in self.heat_texts

    def key(self, layer: str) -> LayerKey:
        """Return the legend of a layer's colours, apart from class colours."""
        if layer in self.heat_texts:
            return HEAT_KEY
        if layer == "confidence":
            return LayerKey(ramp=CONFIDENCE_STOPS, low="unsure 0", high="1 sure")
        if layer == "errors":
            shares = self.error_shares
            return LayerKey(tuple((ERROR_COLORS[name], name, shares[name]) for name in shares if shares[name] > 0))
        if layer == "augmentation":
            return LayerKey(((PASTED, "inserted", None),), SHIFT_STOPS, "shifted 0", f"{100 * FULL_SHIFT:.0f} cm")
        return LayerKey()

    def describe(self, row: int) -> tuple[str, ...]:
        """Return lines about a vertex: annotated and predicted class, confidence, heat and object number."""
        own, group = int(self.label[row]), {entry.category: entry.group for entry in self.legend}
        words = [self.names[own] if own >= 0 else "not annotated"]
        if self.predicted is not None and self.confidence is not None:
            guess = int(self.predicted[row])
            words.append(
                f"predicted {self.names[guess] if guess >= 0 else 'nothing'}, confidence {self.confidence[row]:.2f}"
            )
        if self.instance[row] > 0:
            words.append(f"instance {self.instance[row]}")
        if self.object_number is not None and self.object_number[row] > 0:
            one = self.objects[self.object_number[row] - 1]
            words.append(f"object {one.title}: {one.name}, confidence {one.confidence:.2f}")
        words += [f"{heat_title(text)} {heat[row]:.2f}" for text, heat in self.heat.items()]
        if own >= 0 and group.get(own):
            words.append(f"{group[own]} class")
        return tuple(words)

    @cached_property
    def gallery(self) -> Gallery:
        """Return the gallery of the scene; see `find_gallery`."""
        return find_gallery(self)

    @cached_property
    def annotated_objects(self) -> tuple[ShownObject, ...]:
        """Return the annotated objects; see `find_annotated`."""
        return find_annotated(self)

    def boxes(self, layer: str) -> tuple[ShownObject, ...]:
        """Return the objects whose boxes are shown with a layer.

        The layers of the annotation have annotated boxes. All other layers have predicted boxes, if objects were
        predicted.
        """
        return self.annotated_objects if self.object_number is None or layer in ANNOTATED_LAYERS else self.objects

    @cached_property
    def camera(self) -> Camera:
        """Return the initial camera of the room."""
        return first_camera(self.xyz, self.outward, self.instance)

    @cached_property
    def spacing(self) -> float:
        """Return the typical distance of neighbouring vertices in metres, for the size of drawn points."""
        if len(self.faces):
            some = self.faces[:: max(1, len(self.faces) // 20_000)]
            edges = np.linalg.norm(self.xyz[some[:, 0]] - self.xyz[some[:, 1]], axis=1)
            return max(float(np.median(edges)), 1e-4)
        occupied = np.unique(np.floor(self.xyz / 0.1).astype(np.int64), axis=0)
        return float(np.clip(0.1 * np.sqrt(len(occupied) / len(self.xyz)), 0.002, 0.1))

    @cached_property
    def error_shares(self) -> dict[str, float]:
        """Return the shares of vertices that are right, wrong and unannotated; empty without the layer `errors`."""
        if self.predicted is None or "errors" not in self.layers:
            return {}
        known, right = self.label >= 0, self.label == self.predicted
        counts = {"right": known & right, "wrong": known & ~right, "unannotated": ~known}
        return {name: float(mask.mean()) for name, mask in counts.items()}


def heat_name(number: int) -> str:
    """Return the name of a heat layer by its number from 1: `heat-1`, `heat-2`, ..."""
    return f"heat-{number}"


def heat_title(text: str) -> str:
    """Return the title of a text's heat: the text in quotation marks."""
    return f"\u201c{text}\u201d"


def build_view(
    scene: "Scene",
    vocabulary: Vocabulary,
    prediction: "Prediction | None" = None,
    *,
    heat: Mapping[str, npt.NDArray[np.floating]] | None = None,
    objects: PredictedObjects | None = None,
) -> SceneView:
    """Build the layers of a scene.

    Args:
        scene: Scene of a store.
        vocabulary: Vocabulary of the scene and the prediction.
        prediction: Prediction of this scene by a network.
        heat: Heat of each vertex by text, shape `(points,)` in 0..1; each text becomes a layer.
        objects: Predicted objects of this scene, for a layer and boxes.

    Raises:
        ShapeError: The prediction, a heat or the objects have another number of vertices, a label is outside the
            vocabulary, a heat is outside 0..1, a face refers to a missing vertex, or a coordinate is not finite or
            above `MAX_REACH`.
    """
    num_points = len(scene.xyz)
    if num_points == 0:
        raise ShapeError(f"{scene.scene_id} has no vertices: nothing to view")
    if not np.isfinite(scene.xyz).all():
        raise ShapeError(f"{scene.scene_id} has coordinates that are not finite: prepare it again")
    reach = float(np.abs(scene.xyz).max())
    if reach > MAX_REACH:
        raise ShapeError(f"{scene.scene_id} reaches {reach:.3g} m from the origin, expected at most {MAX_REACH:g} m")
    if len(scene.faces) and not (scene.faces.min() >= 0 and scene.faces.max() < num_points):
        raise ShapeError(f"{scene.scene_id} has faces that refer to vertices beyond {num_points}: prepare it again")
    label = np.asarray(scene.label, dtype=np.int16)
    _require_labels(label, vocabulary, f"the labels of {scene.scene_id}")
    predicted = confidence = None
    if prediction is not None:
        predicted = np.asarray(prediction.label, dtype=np.int16)
        confidence = np.clip(np.nan_to_num(np.asarray(prediction.confidence, dtype=np.float32)), 0, 1)
        if predicted.shape != (num_points,) or confidence.shape != (num_points,):
            raise ShapeError(
                f"{scene.scene_id} has {num_points} vertices but the prediction {predicted.shape[0]}: "
                "predict this scene again"
            )
        _require_labels(predicted, vocabulary, f"the prediction of {scene.scene_id}")
    texts = {text: _require_heat(values, num_points, text) for text, values in (heat or {}).items()}
    instance = np.asarray(scene.instance, dtype=np.int32)
    normal = np.nan_to_num(np.asarray(scene.normal, dtype=np.float32))
    legend, scores = _describe(label, predicted, vocabulary)
    layers = _color(np.asarray(scene.rgb, dtype=np.uint8), label, predicted, confidence, instance, vocabulary)
    shown, number = ((), None) if objects is None else show_predicted(objects, label, instance, vocabulary.names)
    if number is not None:
        layers["objects"] = _instance_colors(number)
    layers |= {heat_name(k): ramp_colors(values, HEAT_STOPS) for k, values in enumerate(texts.values(), start=1)}
    return SceneView(
        scene_id=scene.scene_id,
        xyz=np.asarray(scene.xyz, dtype=np.float32),
        normal=normal,
        faces=np.asarray(scene.faces, dtype=np.int32).reshape(-1, 3),
        layers=layers,
        names=vocabulary.names,
        label=label,
        predicted=predicted,
        confidence=confidence,
        instance=instance,
        legend=legend,
        scores=scores,
        outward=find_outward(np.asarray(scene.xyz, dtype=np.float32), normal, instance),
        heat=texts,
        objects=shown,
        object_number=number,
        groups=tuple(vocabulary.groups),
    )


def _require_heat(values: npt.NDArray[np.floating], num_points: int, text: str) -> npt.NDArray[np.float32]:
    heat = np.asarray(values, dtype=np.float32)
    if heat.shape != (num_points,):
        raise ShapeError(f"the heat of {text!r} has shape {heat.shape}, expected ({num_points},): one per vertex")
    if not (heat.min() >= 0 and heat.max() <= 1):
        raise ShapeError(f"the heat of {text!r} reaches from {heat.min():g} to {heat.max():g}, expected 0 to 1")
    return heat


def _require_labels(label: npt.NDArray[np.int16], vocabulary: Vocabulary, what: str) -> None:
    if label.min() < -1 or label.max() >= len(vocabulary):
        raise ShapeError(
            f"{what} range from {label.min()} to {label.max()}, expected -1..{len(vocabulary) - 1} of "
            f"{vocabulary.name}: were they made with another vocabulary?"
        )


def _color(
    rgb: npt.NDArray[np.uint8],
    label: npt.NDArray[np.int16],
    predicted: npt.NDArray[np.int16] | None,
    confidence: npt.NDArray[np.float32] | None,
    instance: npt.NDArray[np.int32],
    vocabulary: Vocabulary,
) -> dict[str, npt.NDArray[np.uint8]]:
    palette = np.concatenate([vocabulary.colors, np.array([NEUTRAL], dtype=np.uint8)])  # index -1 selects the last row
    annotated = bool((label >= 0).any())
    layers = {"colours": rgb}
    if annotated:
        layers["truth"] = palette[label]
    if predicted is not None and confidence is not None:
        layers["prediction"] = palette[predicted]
        if annotated:
            outcome = np.where(label < 0, 2, np.where(label == predicted, 0, 1))
            layers["errors"] = np.array(list(ERROR_COLORS.values()), dtype=np.uint8)[outcome]
        layers["confidence"] = ramp_colors(confidence, CONFIDENCE_STOPS)
    if instance.any():
        layers["instances"] = _instance_colors(instance)
    return layers


def _instance_colors(instance: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return instance colours: hues of consecutive numbers differ by the golden angle, in three lightnesses."""
    numbers, row = np.unique(instance, return_inverse=True)
    hue = (numbers * 0.6180339887) % 1 * 6
    channels = [np.clip(np.abs((hue + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    colors = np.stack(channels, axis=1) * 0.62 + 0.3
    colors *= np.array([1.0, 0.8, 0.62])[numbers % 3, None]
    colors[numbers <= 0] = np.array(NEUTRAL) / 255
    return np.round(colors[row.reshape(-1)] * 255).astype(np.uint8)


def _describe(
    label: npt.NDArray[np.int16], predicted: npt.NDArray[np.int16] | None, vocabulary: Vocabulary
) -> tuple[tuple[LegendEntry, ...], SceneScores | None]:
    size, total = len(vocabulary), len(label)
    known = label >= 0
    annotated = np.bincount(label[known], minlength=size)
    guessed = np.zeros(size, dtype=np.int64)
    iou = np.full(size, np.nan)
    scores = None
    if predicted is not None:
        guessed = np.bincount(predicted[predicted >= 0], minlength=size)
    if predicted is not None and known.any():
        right = np.bincount(label[known & (label == predicted)], minlength=size)
        guessed_known = np.bincount(predicted[known & (predicted >= 0)], minlength=size)
        union = annotated + guessed_known - right
        iou = np.divide(right, union, out=np.full(size, np.nan), where=union > 0)
        scores = SceneScores(
            accuracy=float(right.sum() / known.sum()),
            miou=float(iou[annotated > 0].mean()),
            num_categories=int(np.count_nonzero(annotated)),
        )
    counted = annotated if known.any() else guessed
    in_sight = np.flatnonzero((annotated > 0) | (guessed > 0)).tolist()
    in_sight.sort(key=lambda index: (-counted[index], -guessed[index], index))
    legend = tuple(
        LegendEntry(
            category=index,
            name=vocabulary.categories[index].name,
            group=vocabulary.categories[index].group,
            color=vocabulary.categories[index].color,
            share=float(counted[index] / total),
            predicted_share=None if predicted is None else float(guessed[index] / total),
            iou=None if np.isnan(iou[index]) else float(iou[index]),
        )
        for index in in_sight
    )
    return legend, scores
