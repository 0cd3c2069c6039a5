"""Python API: load a model by name, label scans, and search them by text. Arrays in, arrays out.

The commands `lg3d predict` and `lg3d ask` use the same functions beneath.
"""

import dataclasses
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.ask import Conversation, Grounded, Place, load_grounded
from lg3d_core.inference.input import Input, open_arrays, open_input
from lg3d_core.inference.objects import FoundObject, wants_objects
from lg3d_core.inference.predict import find_vocabulary, label_scan
from lg3d_core.models.names import SHIPPED_NAME, find_model
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import LoggedProgress, Progress
from lg3d_core.scans.frame import Frame
from lg3d_core.settings import AskSettings, Device, Precision, Up
from lg3d_core.vocabulary import Vocabulary

Scan = str | os.PathLike[str] | npt.ArrayLike | Sequence[npt.ArrayLike | None]
"""A file, positions, or positions with colours and optional triangles: `(xyz, rgb)` or `(xyz, rgb, faces)`."""

_LOCK = threading.RLock()
"""Held while a network runs: its adaptation to a scan, and PyTorch's number of threads, belong to the whole process."""


@dataclass(frozen=True, eq=False)
class SceneObject:
    """Object of a scan, with its upright box.

    Attributes:
        name: Name of its class.
        score: Mean probability of its class, 0..1.
        rows: Vertices, shape `(rows,)`, int64.
        centre: Centre of the box in the scan's own units and axes, shape `(3,)`, float64.
        size: Length, width and height of the box in metres, shape `(3,)`, float64.
        corners: Corners of the box in the scan's own units and axes, shape `(8, 3)`, float64.
        names: Most probable classes with their probabilities.
    """

    name: str
    score: float
    rows: npt.NDArray[np.int64] = field(repr=False)
    centre: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]
    corners: npt.NDArray[np.float64] = field(repr=False)
    names: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Result:
    """Labels of a scan, one row per vertex in the scan's order.

    Attributes:
        labels: Index into `names` of every vertex, -1 for a vertex without a usable position, shape `(vertices,)`,
            int32.
        names: Names of the classes.
        scores: Probability of the label, 0..1, shape `(vertices,)`, float32; 0 without a label.
        objects: Objects, most confident first; None if they were not looked for.
        ids: Raw id of every class, as in the files of `lg3d predict`, shape `(classes,)`, int64.
        colors: Colour of every class, shape `(classes, 3)`, uint8.
        scale: Metres per unit of the scan.
        up: Axis of the scan that points up.
    """

    labels: npt.NDArray[np.int32]
    names: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    objects: list[SceneObject] | None
    ids: npt.NDArray[np.int64] = field(repr=False)
    colors: npt.NDArray[np.uint8] = field(repr=False)
    scale: float
    up: str


@dataclass(frozen=True, eq=False)
class TextMatch:
    """Places of a scan that match a text.

    Attributes:
        text: Text.
        heat: Similarity of every vertex to the text relative to the names of the vocabulary, 0..1, shape
            `(vertices,)`, float32; at 0.5 the text fits as well as the names on average.
        places: Best regions, hottest first, in the scan's own units and axes; empty if none reaches the threshold.
        objects: Objects whose mean heat reaches the threshold, with this heat, hottest first; None for a model without
            an offset head.
        nearest: Classes nearest to the text according to the encoder, with cosines.
    """

    text: str
    heat: npt.NDArray[np.float32]
    places: list[Place]
    objects: list[tuple[SceneObject, float]] | None
    nearest: list[tuple[str, float]]


class Model:
    """Network that labels scans, and finds texts in them if it is language-grounded; `load_model` creates it.

    Threads may share a model: its calls run one after another, as do those of other models in the process.

    Attributes:
        checkpoint: Path of the checkpoint.
        info: Metadata of the checkpoint.
    """

    def __init__(
        self,
        predictor: Predictor,
        info: CheckpointInfo,
        settings: AskSettings,
        vocabulary: str | None,
        progress: Progress,
    ) -> None:
        assert settings.checkpoint is not None
        self.checkpoint: Path = settings.checkpoint
        self.info = info
        self._predictor = predictor
        self._settings = settings
        self._vocabulary_name = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._progress = progress
        self._scan: Input | None = None
        self._grounded: Grounded | None = None
        self._conversation: Conversation | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, without the last scan, which may hold an open file."""
        return vars(self) | {"_scan": None, "_conversation": None}

    def __repr__(self) -> str:
        return f"Model({str(self.checkpoint)!r}, {self.info.network}, voxels of {100 * self.voxel_size:g} cm)"

    @property
    def voxel_size(self) -> float:
        """Edge length of a voxel in metres."""
        return self._predictor.voxel_size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes that `predict` returns.

        Raises:
            CheckpointError: The checkpoint has no classifier, or its classes are unknown.
        """
        return self._classes().names

    def predict(
        self,
        scan: Scan,
        *,
        scale: str = "auto",
        up: Up = "auto",
        objects: bool | None = None,
        min_points: int = 100,
        superpoints: bool = False,
    ) -> Result:
        """Label every vertex of a scan.

        Args:
            scan: PLY, PCD, OBJ, GLB, LAS, LAZ or E57 file; or arrays `(xyz, rgb)` or `(xyz, rgb, faces)`: positions
                `(vertices, 3)`, floating point; colours `(vertices, 3)`, uint8 or floats in 0..1, None for grey;
                corners of triangles `(faces, 3)`, integers.
            scale: Unit of the scan: m, cm, mm, in, ft, or metres per unit; `auto` estimates it.
            up: Axis of the scan that points up; `auto` estimates it.
            objects: Whether to group the labels into objects; None does so if the model has an offset head.
            min_points: Minimum number of vertices of an object.
            superpoints: Whether all vertices of a superpoint get one class and one object.

        Raises:
            CheckpointError: The checkpoint has no classifier, or its classes are unknown.
            DataError: The scan cannot be read, or has no usable vertex.
            SettingsError: An option is invalid.
            ShapeError: An array has a wrong shape, dtype or range.
            MissingDependencyError: The format of the file needs a package that is not installed.
            MemoryLimitError: The scan does not fit into memory, not even in tiles.
        """
        settings = AskSettings.resolve(scan="", min_points=min_points)
        with _LOCK:
            vocabulary = self._classes()
            opened = self._open(scan, scale=scale, up=up)
            labelled = label_scan(
                self._predictor,
                vocabulary,
                opened,
                objects=wants_objects(objects, self.info, self.checkpoint, self._progress),
                min_points=settings.min_points,
                superpoints=superpoints,
                progress=self._progress,
            )
        own, frame = opened.surface.num_vertices, opened.frame
        at = labelled.at_vertices()
        found = None
        if labelled.found is not None and at.instance is not None:
            found = _convert_objects(labelled.found.objects, at.instance[:own], frame)
        return Result(
            labels=at.label[:own].astype(np.int32),
            names=vocabulary.names,
            scores=at.confidence[:own],
            objects=found,
            ids=np.asarray(vocabulary.ids, dtype=np.int64),
            colors=vocabulary.colors.copy(),
            scale=frame.scale,
            up=frame.up,
        )

    def ask(
        self,
        text: str,
        scan: Scan | None = None,
        *,
        scale: str = "auto",
        up: Up = "auto",
        threshold: float = 0.5,
        places: int = 5,
    ) -> TextMatch:
        """Find the places of a scan that match a text.

        Args:
            text: Text such as "somewhere to sit".
            scan: Scan as for `predict`; None takes the scan of the previous call of `predict` or `ask`, of any thread.
            scale: As for `predict`.
            up: As for `predict`.
            threshold: Minimum heat of a place, 0..1.
            places: Maximum number of places.

        Raises:
            SettingsError: There was no previous call, it could not open its scan, the text is empty, or an option is
                invalid.
            CheckpointError: The checkpoint is not language-grounded, or its anchors or their encoder are missing.
            MissingDependencyError: The text encoder is not installed.
            DataError: The scan cannot be read, or has no usable vertex.
            ShapeError: An array has a wrong shape, dtype or range.
        """
        settings = AskSettings.resolve(scan="", threshold=threshold, regions=places)
        with _LOCK:
            return self._ask(text, scan, settings, scale=scale, up=up)

    def _ask(self, text: str, scan: Scan | None, settings: AskSettings, *, scale: str, up: Up) -> TextMatch:
        if scan is not None:
            self._open(scan, scale=scale, up=up)
        if self._scan is None:
            raise SettingsError("there is no scan to search: pass one, as in model.ask(text, 'scan.ply')")
        if self._grounded is None:
            self._grounded = load_grounded(self._settings, self._progress)
        if self._conversation is None:
            self._conversation = Conversation(self._settings, self._progress, model=self._grounded, scan=self._scan)
        (answer,) = self._conversation.ask([text], threshold=settings.threshold, regions=settings.regions)
        heat = self._conversation.at_vertices(answer)[: self._scan.surface.num_vertices]
        objects = None
        if answer.objects is not None:
            instance = self._conversation.objects_at_vertices()[: len(heat)]
            hot = _convert_objects([one.found for one in answer.objects], instance, self._scan.frame)
            objects = list(zip(hot, (one.heat for one in answer.objects), strict=True))
        return TextMatch(text, heat, answer.places, objects, answer.nearest)

    def _classes(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = find_vocabulary(self.checkpoint, self.info, self._vocabulary_name, self._settings.store)
        return self._vocabulary

    def _open(self, scan: Scan, *, scale: str, up: Up) -> Input:
        """Open a scan, and keep it for texts that name none."""
        self._scan, self._conversation = None, None  # if it fails, no other scan is searched
        settings = AskSettings.resolve(scan="", scale=scale, up=up)
        if isinstance(scan, str | os.PathLike):
            word, store = os.fspath(scan), self._settings.store
            opened = open_input(word, store, scale=settings.scale, up=settings.up, progress=self._progress)
        else:
            xyz, rgb, faces = _check_arrays(scan)
            opened = open_arrays(xyz, rgb, faces, scale=settings.scale, up=settings.up, progress=self._progress)
        self._scan = opened
        return opened


def load_model(
    name: str | os.PathLike[str] = SHIPPED_NAME,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    memory: str | None = None,
    votes: int = 1,
    adapt: float | None = None,
    vocabulary: str | None = None,
    anchors: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a model that labels scans and answers texts.

    The backend of the sparse convolutions is that of the variable `LG3D_BACKEND`, if it is set.

    Args:
        name: `shipped` for the model of this package; a checkpoint; the folder of a run; or `hf:OWNER/NAME[@REVISION]`
            for a model on Hugging Face.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        memory: Memory limit of a forward pass, such as `4G`; larger scans are split into overlapping tiles.
        votes: Number of mirrored, rotated and shifted voxel grids whose predictions are averaged.
        adapt: Share of a scan's own statistics in batch normalisation, 0..1; None takes that of the model.
        vocabulary: Name or file of the classes; None takes that of the checkpoint.
        anchors: File of the text anchors for `Model.ask`; None takes that of the checkpoint.
        encoder: Text encoder of the anchors, `hf:FOLDER`, if it has moved.
        progress: Receives notes, warnings and tasks; None sends notes and warnings to the logger `lg3d`.

    Raises:
        CheckpointError: The checkpoint does not exist, cannot be read, or has no classifier for the vocabulary.
        DataError: The vocabulary cannot be read.
        SettingsError: An option is invalid, or the device does not exist.
        MissingDependencyError: The model is neither cached nor downloadable.
    """
    progress = LoggedProgress() if progress is None else progress
    settings = AskSettings.resolve(
        scan="",
        device=device,
        precision=precision,
        memory=memory,
        votes=votes,
        adapt=adapt,
        anchors=anchors,
        encoder=encoder,
    )
    path = find_model(name, progress)
    name_of_classes = None if vocabulary is None else Path(vocabulary).stem
    predictor, info = Predictor.for_scans(path, settings, vocabulary=name_of_classes)
    model = Model(predictor, info, dataclasses.replace(settings, checkpoint=path), vocabulary, progress)
    if vocabulary is not None and info.num_classes is not None and info.vocabulary != name_of_classes:
        model._classes()  # the checkpoint's own vocabulary is not needed for texts
    return model


def _convert_objects(
    objects: Sequence[FoundObject], instance: npt.NDArray[np.int32], frame: Frame
) -> list[SceneObject]:
    """Return objects with their vertices and boxes in the scan's own units and axes."""
    return [
        SceneObject(
            name=found.name,
            score=found.confidence,
            rows=np.flatnonzero(instance == found.id),
            centre=frame.from_metres(found.box.centre[None])[0],
            size=np.asarray(found.box.size, dtype=np.float64),
            corners=frame.from_metres(found.box.corners),
            names=found.names,
        )
        for found in objects
    ]


def _check_arrays(
    scan: Any,
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.uint8] | None, npt.NDArray[np.integer] | None]:
    """Return copies of positions, colours as bytes, and triangles.

    Raises:
        ShapeError: An array has a wrong shape, dtype or range.
    """
    parts = _split_arrays(scan)
    if not 1 <= len(parts) <= 3 or parts[0] is None:
        raise ShapeError(f"expected a file, xyz, (xyz, rgb) or (xyz, rgb, faces), got {len(parts)} arrays")
    xyz, rgb, faces = (*(None if part is None else _as_array(part) for part in parts), None, None)[:3]
    assert xyz is not None
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not np.issubdtype(xyz.dtype, np.floating):
        raise ShapeError(f"expected floating-point positions of shape (vertices, 3), got {xyz.shape} {xyz.dtype}")
    if rgb is not None:
        rgb = _check_colors(rgb, len(xyz))
    if faces is not None:
        if faces.size == 0:
            faces = np.zeros((0, 3), dtype=np.int32)
        if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
            raise ShapeError(f"expected integer triangles of shape (faces, 3), got {faces.shape} {faces.dtype}")
        if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < len(xyz):
            low, high = int(faces.min()), int(faces.max())
            raise ShapeError(f"expected triangles with corners in 0..{len(xyz) - 1}, got {low}..{high}")
    return xyz, rgb, faces


def _split_arrays(scan: Any) -> tuple[Any, ...]:
    """Return the arrays of a scan; nested lists of numbers are one array, of positions."""
    if isinstance(scan, np.ndarray | torch.Tensor):
        return (scan,)
    if not isinstance(scan, list | tuple):
        raise ShapeError(f"expected a file, xyz, (xyz, rgb) or (xyz, rgb, faces), got {type(scan).__name__}")
    is_row = bool(scan) and not isinstance(scan[0], str) and getattr(_try_array(scan[0]), "ndim", 0) == 1
    return (scan,) if is_row else tuple(scan)


def _try_array(part: Any) -> npt.NDArray[Any] | None:
    """Return a copy of an array, tensor or nested list; None if the rows of a list differ in length."""
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu()
        part = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
    try:
        return np.array(part)
    except ValueError:
        return None


def _as_array(part: Any) -> npt.NDArray[Any]:
    if isinstance(part, np.ma.MaskedArray):
        raise ShapeError("expected arrays without a mask: pass array.filled(np.nan), or drop the masked rows")
    array = _try_array(part)
    if array is None:
        raise ShapeError("expected rows of equal length, got a list with rows of different lengths")
    return array


def _check_colors(rgb: npt.NDArray[Any], num_vertices: int) -> npt.NDArray[np.uint8]:
    if rgb.shape != (num_vertices, 3):
        raise ShapeError(f"expected colours of shape ({num_vertices}, 3), got {rgb.shape}")
    if rgb.dtype == np.uint8:
        return rgb
    expected = "expected colours as uint8, or as floats in 0..1"
    if not np.issubdtype(rgb.dtype, np.floating):
        raise ShapeError(f"{expected}, got {rgb.dtype}: convert them, e.g. rgb.astype(np.uint8) if 255 is white")
    if not np.isfinite(rgb).all():
        raise ShapeError(f"{expected}, got values that are not finite")
    if rgb.size and not (rgb.min() >= 0 and rgb.max() <= 1):
        raise ShapeError(f"{expected}, got floats in {rgb.min():g}..{rgb.max():g}: divide them by the value of white")
    return np.round(255 * rgb).astype(np.uint8)
