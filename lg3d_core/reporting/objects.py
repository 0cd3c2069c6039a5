"""Predicted objects of a run: the best and worst of rare classes, and pictures of them. Source: figure 8."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.instances import MIN_VERTICES, PredictedInstances, scored_classes
from lg3d_core.progress import Progress
from lg3d_core.reporting.style import GREEN, PAGE, SKY, VERMILION, new_figure, shorten
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing.cutaway import find_outward
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.picture import render_layers
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lg3d_core.store.scene_file import Scene

MOST_CASES = 4
"""Number of best and of worst objects."""
PANEL = 480
"""Width of a drawn room or object in pixels."""
SURROUNDINGS = 0.5
"""Distance in metres around an object that is drawn with it."""
PALE = 0.35
"""Saturation of the surroundings of an object, relative to their own."""
Image = npt.NDArray[np.uint8]


class ObjectCase(NamedTuple):
    """An annotated object and the prediction that matches it best.

    Attributes:
        scene_id: Id of the scene.
        instance: Instance id of the object.
        class_: Class of the object.
        iou: Highest IoU with a prediction of the same class; 0 if there is none.
        predicted: Class of the shown prediction: the best one of the same class, or else of any class; -1 for none.
        confidence: Confidence of the shown prediction; 0 for none.
        rows: Vertices of the shown prediction, int32.
    """

    scene_id: str
    instance: int
    class_: int
    iou: float
    predicted: int
    confidence: float
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, values: Sequence[npt.NDArray[Any]]) -> Self:
        """Return a case from arrays, one per field."""
        *scalars, rows = values
        return cls._make([*(value.item() for value in scalars), rows])


class ObjectRow(NamedTuple):
    """Pictures of one object or room, all of the same size.

    Attributes:
        title: Title of the row.
        panels: Title and picture of every column.
    """

    title: str
    panels: tuple[tuple[str, Image], ...]


def find_cases(
    scene: "Scene", predicted: PredictedInstances, vocabulary: Vocabulary, *, group: str = "tail"
) -> list[ObjectCase]:
    """Return the annotated objects of a group's classes in a scene; of all classes without such a group."""
    members = scored_classes(vocabulary)
    if group in vocabulary.groups:
        members &= np.isin(np.arange(len(vocabulary)), vocabulary.groups[group])
    kept = (scene.label >= 0) & (scene.instance > 0)
    kept &= members[np.where(kept, scene.label, 0)]
    keys = np.where(kept, scene.label.astype(np.int64) << 32 | scene.instance, -1)
    objects, number, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    large = np.flatnonzero((objects >= 0) & (sizes >= MIN_VERTICES))
    best = dict.fromkeys(large.tolist(), (False, 0.0, -1))
    masks = list(predicted.mask_rows())
    for k, (rows, class_) in enumerate(zip(masks, predicted.classes.tolist(), strict=True)):
        shared = np.bincount(number[rows], minlength=len(objects))
        for own in large[shared[large] > 0].tolist():
            iou = float(shared[own] / (sizes[own] + len(rows) - shared[own]))
            best[own] = max(best[own], (class_ == objects[own] >> 32, iou, k))
    cases = []
    for own, (same, iou, k) in best.items():
        vertices = np.array(masks[k] if k >= 0 else [], dtype=np.int32)
        class_, instance = int(objects[own] >> 32), int(objects[own] & 0xFFFFFFFF)
        predicted_class = int(predicted.classes[k]) if k >= 0 else -1
        confidence = float(predicted.confidences[k]) if k >= 0 else 0.0
        found = ObjectCase(
            scene.scene_id, instance, class_, iou if same else 0.0, predicted_class, confidence, vertices
        )
        cases.append(found)
    return cases


def choose_cases(cases: Sequence[ObjectCase], number: int = MOST_CASES) -> list[ObjectCase]:
    """Return the objects of highest IoU and then those of lowest IoU, of different classes where possible.

    Among objects of equal IoU, those with larger predictions are chosen. No object is chosen twice.
    """
    ranked = sorted(cases, key=lambda case: (-case.iou, -len(case.rows), case.scene_id, case.instance))
    middle = len(ranked) - len(ranked) // 2
    worst = sorted(ranked[middle:], key=lambda case: (case.iou, -len(case.rows)))
    return [*_spread(ranked[:middle], number), *_spread(worst, number)]


def _spread(ranked: Sequence[ObjectCase], number: int) -> list[ObjectCase]:
    """Return the first objects of each class, then the others, in their order."""
    seen: set[int] = set()
    firsts = []
    for k, case in enumerate(ranked):
        if case.class_ not in seen:
            seen.add(case.class_)
            firsts.append(k)
    others = [k for k in range(len(ranked)) if k not in set(firsts)]
    return [ranked[k] for k in sorted([*firsts, *others][:number])]


def number_objects(predicted: PredictedInstances, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Return the number of each vertex's most confident object of its own class, from 1; 0 for none.

    Args:
        predicted: Objects, which may overlap.
        labels: Predicted class of each vertex, shape `(vertices,)`.
    """
    number = np.zeros(len(labels), dtype=np.int32)
    masks = list(predicted.mask_rows())
    for k in np.argsort(predicted.confidences, kind="stable").tolist():
        number[masks[k][labels[masks[k]] == predicted.classes[k]]] = k + 1
    return number


def draw_cases(cases: Sequence[ObjectCase], store: SceneStore, progress: Progress) -> list[ObjectRow]:
    """Draw each object with its surroundings: colours, the annotated object, and the prediction.

    Raises:
        DataError: A scene cannot be read.
        MissingDependencyError: open3d or OpenGL is missing.
    """
    rows = []
    with progress.task("draw", total=len(cases), unit="object") as task:
        for case in cases:
            rows.append(_draw_case(case, store.read(case.scene_id), store.vocabulary))
            task.advance(status=case.scene_id)
    return rows


def _draw_case(case: ObjectCase, scene: "Scene", vocabulary: Vocabulary) -> ObjectRow:
    truth = (scene.instance == case.instance) & (scene.label == case.class_)
    found = np.zeros(len(truth), dtype=np.bool_)
    found[case.rows] = True
    low, high = scene.xyz[truth].min(axis=0) - SURROUNDINGS, scene.xyz[truth].max(axis=0) + SURROUNDINGS
    near = ((scene.xyz >= low) & (scene.xyz <= high)).all(axis=1)
    part = cut_scene(scene, near)
    pale = 255 - PALE * (255 - part.rgb.astype(np.float64))
    marked = pale.copy()
    marked[truth[near]] = _channels(SKY)
    outcome = pale.copy()
    outcome[(truth & found)[near]] = _channels(GREEN)
    outcome[(~truth & found)[near]] = _channels(VERMILION)
    outcome[(truth & ~found)[near]] = _channels(SKY)
    outward = find_outward(scene.xyz, scene.normal, scene.instance)
    outward[truth | found] = 0  # the object itself is never cut away
    view = dataclasses.replace(
        build_view(part, vocabulary),
        layers={"colours": part.rgb, "marked": marked.astype(np.uint8), "outcome": outcome.astype(np.uint8)},
        outward=outward[near],
    )
    pictures = render_layers(view, ("colours", "marked", "outcome"), width=PANEL, height=PANEL * 3 // 4)
    guess = "not found"
    if case.predicted >= 0:
        guess = f"{vocabulary.names[case.predicted]} {case.confidence:.2f}"
    titles = (case.scene_id, vocabulary.names[case.class_], guess)
    return ObjectRow(f"IoU {100 * case.iou:.0f}", tuple(zip(titles, pictures, strict=True)))


def cut_scene(scene: "Scene", kept: npt.NDArray[np.bool_]) -> "Scene":
    """Return the part of a scene with the kept vertices, and the faces between them."""
    number = np.cumsum(kept) - 1
    faces = number[scene.faces[kept[scene.faces].all(axis=1)]] if len(scene.faces) else scene.faces
    return scene._replace(
        xyz=scene.xyz[kept],
        rgb=scene.rgb[kept],
        normal=scene.normal[kept],
        label=scene.label[kept],
        instance=scene.instance[kept],
        segment=scene.segment[kept],
        faces=faces.astype(np.int32),
    )


def draw_object_rooms(
    shown: dict[str, list[tuple[str, npt.NDArray[np.int32]]]], store: SceneStore, progress: Progress
) -> list[ObjectRow]:
    """Draw rooms from one camera each: colours, annotated objects, and the predicted objects of every run.

    A predicted object has the colour of the annotated object with which it shares most vertices.

    Args:
        shown: Run name and object number of every vertex, by scene.
        store: Store of the scenes.
        progress: Progress display.

    Raises:
        DataError: A scene cannot be read.
        MissingDependencyError: open3d or OpenGL is missing.
    """
    rows = []
    with progress.task("draw", total=len(shown), unit="room") as task:
        for scene_id, predictions in shown.items():
            scene = store.read(scene_id)
            annotated = np.where(scene.label >= 0, scene.instance, 0)
            annotated[~scored_classes(store.vocabulary)[scene.label]] = 0
            view = build_view(scene, store.vocabulary)
            layers = {"colours": scene.rgb}
            for k, number in enumerate([annotated, *(match_colors(own, annotated) for _, own in predictions)]):
                colored = build_view(scene._replace(instance=number.astype(np.int32)), store.vocabulary).layers
                layers[f"objects-{k}"] = colored.get("instances", np.full_like(scene.rgb, 214))
            view = dataclasses.replace(view, layers=layers)
            pictures = render_layers(view, tuple(layers), width=PANEL, height=PANEL * 3 // 4)
            titles = ("colours", "annotated objects", *(name for name, _ in predictions))
            rows.append(ObjectRow(scene_id, tuple(zip(titles, pictures, strict=True))))
            task.advance(status=scene_id)
    return rows


def match_colors(number: npt.NDArray[np.int32], annotated: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Renumber predicted objects by the annotated object that they share most vertices with; others are above them."""
    first = int(annotated.max(initial=0)) + 1
    renumbered = np.zeros(int(number.max(initial=0)) + 1, dtype=np.int64)
    for k in np.unique(number[number > 0]).tolist():
        own = annotated[(number == k) & (annotated > 0)]
        renumbered[k] = np.bincount(own).argmax() if len(own) else first + k
    return renumbered[number]


def plot_cases(rows: Sequence[ObjectRow]) -> "Figure | None":
    """Draw one row of pictures per object, in two columns of objects: the best on the left, the worst on the right."""
    if not rows:
        return None
    half = -(-len(rows) // 2)
    figure = new_figure(PAGE, 1.02 * half + 0.3)
    grid = figure.subplots(half, 6, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for k, row in enumerate(rows):
        axes = grid[k % half, 3 * (k // half) : 3 * (k // half) + 3]
        for column, (axis, (title, picture)) in enumerate(zip(axes, row.panels, strict=True)):
            axis.imshow(picture, interpolation="lanczos")
            head = row.title if column == 0 else "\N{NO-BREAK SPACE}"
            axis.set_title(f"{head}\n{shorten(title, 18)}", fontsize=5.5, fontweight="normal", linespacing=1.1)
    from matplotlib.patches import Patch

    colors = ((GREEN, "found"), (SKY, "annotated, missed"), (VERMILION, "predicted beyond the object"))
    handles = [Patch(facecolor=color) for color, _ in colors]
    figure.legend(handles, [name for _, name in colors], loc="outside lower left", ncols=3, fontsize=6.5)
    return figure


def plot_object_rooms(rows: Sequence[ObjectRow]) -> "Figure | None":
    """Draw one row of pictures per room. Return None without rooms."""
    if not rows:
        return None
    columns = max(len(row.panels) for row in rows)
    per_line = min(columns, 4)
    lines = -(-columns // per_line)
    figure = new_figure(PAGE, (0.75 * PAGE / per_line + 0.3) * len(rows) * lines)
    grid = figure.subplots(len(rows) * lines, per_line, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for k, row in enumerate(rows):
        axes = grid[k * lines : (k + 1) * lines].flat
        for column, (axis, (title, picture)) in enumerate(zip(axes, row.panels, strict=False)):
            axis.imshow(picture, interpolation="lanczos")
            head = shorten(row.title, 28) if column == 0 else "\N{NO-BREAK SPACE}"
            axis.set_title(f"{head}\n{shorten(title, 28)}", fontsize=7, fontweight="normal", linespacing=1.15)
    return figure


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
