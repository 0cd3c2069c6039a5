"""`lg3d predict`: a class for every vertex of any scan."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, DataError, Lg3dError, SettingsError
from lg3d_core.evaluation.eval import find_classifier, require_classifier
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.files import require_folder, sweep_temporaries
from lg3d_core.inference.files import Columns, file_names, write_lines, write_npz, write_text, write_vertices_ply
from lg3d_core.inference.input import Input, open_input, refine_input, require_some_input
from lg3d_core.inference.objects import (
    FoundObject,
    RowPieces,
    ScanObjects,
    find_scan_objects,
    wants_objects,
    write_objects,
)
from lg3d_core.inference.scan_voxels import ScanVoxels, VertexRows, voxelize_scan
from lg3d_core.inference.superpoints import find_superpoints
from lg3d_core.inference.voxel_features import VoxelFeatures
from lg3d_core.models import use_shipped
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame
from lg3d_core.scans.open_scan import OPENERS
from lg3d_core.settings import PredictSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from lg3d_core.vocabulary.vocabulary_file import SHIPPED

ENDING = ".labelled"
OWN_COLORS = ("scan_red", "scan_green", "scan_blue")
"""PLY properties that hold the scan's own colours in a labelled file; `red`, `green` and `blue` show the labels."""
UNLABELLED = (90, 90, 90)
"""Colour of a vertex without a label."""


class LabelledScan(NamedTuple):
    """Prediction for a scan.

    Attributes:
        scan: Scan, with the vertices that were added on its large triangles.
        voxels: Its voxels.
        rows: Returns the row of `label` of each vertex, -1 for none, piece by piece.
        label: Class index of each voxel, or of each superpoint, shape `(rows,)`, int16.
        confidence: Probability of this class, 0..1, shape `(rows,)`, float32.
        found: Objects; None if not requested.
    """

    scan: Input
    voxels: ScanVoxels
    rows: RowPieces
    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    found: ScanObjects | None

    def at_vertices(self) -> "VertexLabels":
        """Return the prediction at the vertices of the scan, which must fit into memory."""
        rows = np.concatenate([rows for _, _, rows in self.rows()])
        known = rows >= 0
        return VertexLabels(
            label=np.where(known, self.label[rows], -1).astype(np.int16),
            confidence=np.where(known, self.confidence[rows], 0).astype(np.float32),
            instance=None if self.found is None else np.where(known, self.found.number[rows], -1).astype(np.int32),
        )


class VertexLabels(NamedTuple):
    """Prediction at vertices.

    Attributes:
        label: Class index of each vertex, -1 for none, shape `(vertices,)`, int16.
        confidence: Probability of this class, 0..1, shape `(vertices,)`, float32.
        instance: Object of each vertex, -1 for none, shape `(vertices,)`, int32; None if objects were not requested.
    """

    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    instance: npt.NDArray[np.int32] | None


PageMaker = Callable[[LabelledScan, Vocabulary, Progress], str]
"""Returns the HTML page of a predicted scan."""


@dataclass(frozen=True)
class Found:
    """Class that occurs in a scan.

    Attributes:
        name: Name of the class.
        id: Raw id of the class.
        vertices: Number of vertices with this label, including those added on large triangles.
        share: Fraction of these vertices, 0..1.
        confidence: Mean confidence over these vertices, 0..1.
    """

    name: str
    id: int
    vertices: int
    share: float
    confidence: float


@dataclass(frozen=True)
class ScanLabels:
    """Result for one scan.

    Attributes:
        scan: Scan as the user named it.
        files: Written files.
        num_vertices: Number of vertices of the scan.
        num_added: Number of vertices added on its large triangles; they are labelled and counted too.
        num_unlabelled: Number of vertices without a usable position.
        num_voxels: Number of occupied voxels.
        scale: Metres per unit of the file.
        up: Axis of the file that points up.
        found: Classes, most frequent first.
        objects: Objects, most confident first; None if not requested.
        frame: Transformation of the file's coordinates to metres.
    """

    scan: str
    files: list[Path]
    num_vertices: int
    num_added: int
    num_unlabelled: int
    num_voxels: int
    scale: float
    up: str
    found: list[Found]
    objects: tuple[FoundObject, ...] | None
    frame: Frame

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        plain = ("scan", "num_vertices", "num_added", "num_unlabelled", "num_voxels", "scale", "up")
        return {
            **{key: getattr(self, key) for key in plain},
            "files": [str(path) for path in self.files],
            "found": [found.__dict__ for found in self.found],
            "objects": None if self.objects is None else [found.to_dict(self.frame) for found in self.objects],
        }


@dataclass(frozen=True)
class PredictReport:
    """Result for all scans.

    Attributes:
        checkpoint: Path of the checkpoint; None if no scan could be opened, as none was loaded.
        labelled: Results of the scans that succeeded.
        failed: Reason for each scan that failed.
    """

    checkpoint: Path | None
    labelled: list[ScanLabels]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "scans": [labels.to_dict() for labels in self.labelled],
            "failed": self.failed,
        }


class _Output(NamedTuple):
    """Output files of one scan: their path without suffix, and the inputs that they record."""

    stem: Path
    origin: str


class _Model(NamedTuple):
    """Loaded model of the command.

    Attributes:
        path: Path of the checkpoint.
        predictor: Network and how it is run.
        vocabulary: Its classes.
        objects: Whether to list objects.
        outputs: Output files of each scan.
    """

    path: Path
    predictor: Predictor
    vocabulary: Vocabulary
    objects: bool
    outputs: list[_Output]


def predict(settings: PredictSettings, progress: Progress, *, make_page: PageMaker | None = None) -> PredictReport:
    """Predict a class for the vertices of scans, and write the requested files; a failed scan does not stop the rest.

    The model is loaded when the first scan is open.

    Args:
        settings: Settings of the command.
        progress: Receives notes and warnings.
        make_page: Returns the page of a scan; required for the format `html`.

    Raises:
        DataError: None of the scans exists in a known format.
        CheckpointError: The checkpoint is missing or has no classifier, or its classes are unknown.
        SettingsError: The device does not exist, or the memory limit is too small.
    """
    require_folder(settings.out, "--out")
    failed = require_some_input(settings.scans, settings.store)
    for word, reason in failed.items():
        progress.warn(f"cannot predict {word}: {reason.removeprefix(f'{word}: ')}")
    words = [word for word in settings.scans if word not in failed]
    labelled: list[ScanLabels] = []
    model: _Model | None = None
    with progress.task("predict", total=len(words), unit="scan") as task:
        for k, word in enumerate(words):
            scan: Input | None = None
            with _recording(failed, word):
                scan = open_input(word, settings.store, scale=settings.scale, up=settings.up, progress=progress)
            if scan is not None:
                model = model or _load_model(words, settings, progress)
                with _recording(failed, word):
                    labelled.append(_predict(model, scan, model.outputs[k], settings, progress, make_page=make_page))
            task.advance(status=Path(word).name)
    failed = {word: failed[word] for word in settings.scans if word in failed}
    return PredictReport(None if model is None else model.path, labelled, failed)


@contextmanager
def _recording(failed: dict[str, str], word: str) -> Iterator[None]:
    """Record an error that concerns one scan only."""
    try:
        yield
    except SettingsError:
        raise
    except Lg3dError as error:
        failed[word] = str(error)


def _load_model(words: Sequence[str], settings: PredictSettings, progress: Progress) -> _Model:
    """Load the model, and name the output files of the scans."""
    path = find_classifier(settings.checkpoint, settings.runs, progress, final_relu=settings.final_relu)
    path = path or use_shipped(settings.runs, progress)
    if path is None:
        raise CheckpointError(f"no fine-tuned run in {settings.runs}: run lg3d finetune, or pass --checkpoint FILE")
    predictor, info = Predictor.for_scans(
        path,
        settings,
        final_relu=settings.final_relu,
        vocabulary=None if settings.vocabulary is None else Path(settings.vocabulary).stem,
    )
    vocabulary = find_vocabulary(path, info, settings.vocabulary, settings.store)
    objects = wants_objects(settings.objects, info, path, progress)
    files = [Path(word) for word in words if Path(word).suffix.lower() in OPENERS]
    stems = [Path(word).stem if Path(word).suffix.lower() in OPENERS else Path(word).name for word in words]
    origins = [_origin(word, path, settings.store) for word in words]
    names = file_names(stems, files, settings.out, ENDING, origins=origins)
    for stem, name in zip(stems, names, strict=True):
        if name != f"{stem}{ENDING}":
            progress.note(f"{stem}{ENDING} belongs to another scan or checkpoint: writing {name} instead")
    sweep_temporaries(settings.out)
    outputs = [_Output(settings.out / name, origin) for name, origin in zip(names, origins, strict=True)]
    return _Model(path, predictor, vocabulary, objects, outputs)


def _origin(word: str, checkpoint: Path, store: Path) -> str:
    """Return the inputs of a scan's output files: the scan and the checkpoint."""
    scan = Path(word) if Path(word).suffix.lower() in OPENERS else store / "scenes" / word
    return f"{scan.resolve()}\n{checkpoint.resolve()}"


def find_vocabulary(path: Path, info: CheckpointInfo, name: str | None, store: Path) -> Vocabulary:
    """Return the vocabulary of a checkpoint: the one that was passed, else the bundled or stored one that fits.

    Raises:
        CheckpointError: The checkpoint has no classifier, or no vocabulary fits it.
        DataError: The vocabulary that was passed cannot be read.
    """
    if name is not None:
        candidates = [known for known in _stored_vocabularies(store) if known.name == name]
        candidates = candidates or [load_vocabulary(name)]
    else:
        candidates = [load_vocabulary(shipped) for shipped in SHIPPED]
        candidates += _stored_vocabularies(store)
    for vocabulary in candidates:
        if _fits(info, vocabulary):
            return vocabulary
    if info.num_classes is None:
        require_classifier(path, info, candidates[0])
    if name is not None:
        raise CheckpointError(
            f"--vocabulary {name}: {path} predicts {info.num_classes} classes of the vocabulary "
            f"{info.vocabulary or 'of unknown name'}, {candidates[0].name} has {len(candidates[0])} other classes: "
            "omit --vocabulary, or pass the file of the checkpoint's vocabulary"
        )
    raise CheckpointError(
        f"{path} predicts {info.num_classes} classes of the vocabulary {info.vocabulary or 'of unknown name'}, which "
        f"is neither bundled nor that of the store {store}: pass --vocabulary FILE"
    )


def _stored_vocabularies(store: Path) -> list[Vocabulary]:
    from lg3d_core.store.scene_store import SceneStore

    try:
        return list(SceneStore(store).vocabularies)
    except DataError:
        return []


def _fits(info: CheckpointInfo, vocabulary: Vocabulary) -> bool:
    if info.num_classes is None:
        return False
    return info.num_classes == len(vocabulary) and info.vocabulary_digest in ("", vocabulary.digest)


def label_scan(
    predictor: Predictor,
    vocabulary: Vocabulary,
    scan: Input,
    *,
    objects: bool,
    min_points: int,
    superpoints: bool = False,
    progress: Progress,
) -> LabelledScan:
    """Predict the voxels of a scan, and group them into objects if requested.

    Args:
        predictor: Network.
        vocabulary: Vocabulary of its classes.
        scan: Scan.
        objects: Whether to group voxels into objects.
        min_points: Minimum number of vertices of an object.
        superpoints: Whether all vertices of a superpoint get one class and one object.
        progress: Progress display; receives notes.

    Raises:
        DataError: The scan has no usable vertex, is too large for the grid, or has too many vertices for superpoints.
        SettingsError: The memory limit is too small for any tile.
    """
    scan = refine_input(scan, predictor.voxel_size, progress)
    voxels = voxelize_scan(scan.surface, scan.frame, predictor.voxel_size)
    if voxels.num_outside:
        count, total = voxels.num_outside, scan.surface.num_vertices
        progress.warn(
            f"{scan.name}: {count} of {total} vertices have no usable position (not finite, or far from the others): "
            "they get no label"
        )
    features = VoxelFeatures(predictor, voxels, name=scan.name, progress=progress)
    labels = features.label(keep=objects or superpoints)
    score = predictor.score or predictor.network.classify
    label, confidence, patches, found = labels.label, labels.confidence, None, None
    rows: RowPieces = VertexRows(scan.surface, scan.frame, voxels._replace(candidates=labels.candidates))
    if superpoints:
        patches = find_superpoints(scan, voxels, features, score=score, num_classes=len(vocabulary))
        rows, label, confidence = patches.rows, patches.label, patches.confidence
    if objects:
        found = find_scan_objects(
            scan,
            voxels,
            labels,
            features,
            rows=rows,
            score=score,
            vocabulary=vocabulary,
            min_points=min_points,
            superpoints=patches,
        )
    return LabelledScan(scan, voxels, rows, label, confidence, found)


def _predict(
    model: _Model,
    opened: Input,
    output: _Output,
    settings: PredictSettings,
    progress: Progress,
    *,
    make_page: PageMaker | None,
) -> ScanLabels:
    vocabulary = model.vocabulary
    labelled = label_scan(
        model.predictor,
        vocabulary,
        opened,
        objects=model.objects,
        min_points=settings.min_points,
        superpoints=settings.superpoints,
        progress=progress,
    )
    scan, voxels, strays = labelled.scan, labelled.voxels, labelled.voxels.num_outside
    own = scan.surface.num_vertices if scan.num_own is None else scan.num_own
    files = _write(labelled, vocabulary, settings.formats, output, progress, make_page=make_page)
    if labelled.found is not None:
        objects = labelled.found.objects
        files += write_objects(output.stem, scan, objects, checkpoint=model.path, origin=output.origin)
    return ScanLabels(
        scan=scan.name,
        files=files,
        num_vertices=own,
        num_added=scan.surface.num_vertices - own,
        num_unlabelled=strays,
        num_voxels=len(voxels.keys),
        scale=scan.frame.scale,
        up=scan.frame.up,
        found=_count(labelled, vocabulary),
        objects=None if labelled.found is None else labelled.found.objects,
        frame=scan.frame,
    )


def _pieces(labelled: LabelledScan, vocabulary: Vocabulary) -> Columns:
    """Yield raw id, confidence, colour and instance of the vertices, piece by piece; 0 and grey for unlabelled ones.

    If the scan has colours, they are in `OWN_COLORS`. The instance is -1 without an object.
    """
    scan = labelled.scan
    colors = np.concatenate([vocabulary.colors, np.array([UNLABELLED], dtype=np.uint8)])
    ids = np.concatenate([vocabulary.ids, [0]])
    for start, stop, rows in labelled.rows():
        known = rows >= 0
        index = np.where(known, labelled.label[rows], len(vocabulary))
        paint = colors[index]
        values = {"red": paint[:, 0], "green": paint[:, 1], "blue": paint[:, 2]}
        values |= {"label": ids[index], "confidence": np.where(known, labelled.confidence[rows], 0)}
        if labelled.found is not None:
            values["instance"] = np.where(known, labelled.found.number[rows], -1)
        if scan.surface.colors is not None:
            values |= dict(zip(OWN_COLORS, scan.surface.colors(start, stop).T, strict=True))
        yield start, stop, values


def _write(
    labelled: LabelledScan,
    vocabulary: Vocabulary,
    formats: Sequence[str],
    output: _Output,
    progress: Progress,
    *,
    make_page: PageMaker | None,
) -> list[Path]:
    scan, found, origin = labelled.scan, labelled.found, output.origin

    def pieces() -> Columns:
        return _pieces(labelled, vocabulary)

    files = []
    for form in dict.fromkeys(formats):
        path = output.stem.with_name(f"{output.stem.name}.{form}")
        if form == "ply":
            columns, comments = _describe_ply(labelled, vocabulary)
            write_vertices_ply(path, scan.surface, pieces(), columns=columns, comments=comments, origin=origin)
        elif form == "npz":
            write_npz(path, _arrays(scan, pieces(), vocabulary), origin=origin)
        elif form == "txt":
            write_lines(path, _own_lines(scan, pieces(), "label"), origin=origin)
        else:
            assert make_page is not None
            write_text(path, make_page(labelled, vocabulary, progress), origin=origin)
        files.append(path)
        if form == "txt" and found is not None:
            files.append(output.stem.with_name(f"{output.stem.name}.instances.txt"))
            write_lines(files[-1], _own_lines(scan, pieces(), "instance"), origin=origin)
    return files


def _describe_ply(labelled: LabelledScan, vocabulary: Vocabulary) -> tuple[dict[str, str], list[str]]:
    """Return the columns of a labelled PLY after x, y, z, and its comments."""
    scan, found = labelled.scan, labelled.found
    columns = {"red": "u1", "green": "u1", "blue": "u1", "label": "i4", "confidence": "f4"}
    comments = ["made by lg3d predict", f"vocabulary {vocabulary.name}", "label 0 none"]
    if scan.num_own is not None:
        comments.append(f"the first {scan.num_own} vertices are the scan's own")
    comments += [f"label {vocabulary.ids[k]} {vocabulary.names[k]}" for k in np.unique(labelled.label)]
    if found is not None:
        columns["instance"] = "i4"
        comments.append("instance -1 none")
        comments += [f"instance {one.id} {one.name}" for one in found.objects]
    if scan.surface.colors is not None:
        columns |= dict.fromkeys(OWN_COLORS, "u1")
        comments.append(f"red green blue show the label; {' '.join(OWN_COLORS)} are the scan's own colours")
    return columns, comments


def _own_lines(scan: Input, pieces: Columns, column: str) -> Iterator[npt.NDArray[Any]]:
    """Yield a column of the scan's own vertices."""
    own = scan.surface.num_vertices if scan.num_own is None else scan.num_own
    for start, _, values in pieces:
        yield values[column][: max(0, own - start)]


def _arrays(scan: Input, pieces: Columns, vocabulary: Vocabulary) -> dict[str, npt.NDArray[Any]]:
    parts = list(pieces)
    xyz = np.concatenate([scan.surface.positions(start, stop) for start, stop, _ in parts])
    rgb = {}
    if scan.surface.colors is not None:
        rgb["rgb"] = np.concatenate([np.stack([values[name] for name in OWN_COLORS], axis=1) for _, _, values in parts])
    instance = {}
    if "instance" in parts[0][2]:
        instance["instance"] = np.concatenate([values["instance"] for _, _, values in parts]).astype(np.int32)
    return {
        **rgb,
        "xyz": xyz if scan.surface.is_double else xyz.astype(np.float32),
        "faces": np.asarray(scan.surface.faces, dtype=np.int32),
        "label": np.concatenate([values["label"] for _, _, values in parts]).astype(np.int32),
        "confidence": np.concatenate([values["confidence"] for _, _, values in parts]).astype(np.float32),
        "ids": vocabulary.ids,
        "names": np.array(vocabulary.names),
        **instance,
        "num_own": np.array(scan.surface.num_vertices if scan.num_own is None else scan.num_own),
        "scale": np.array(scan.frame.scale),
        "up": np.array(scan.frame.up),
    }


def _count(labelled: LabelledScan, vocabulary: Vocabulary) -> list[Found]:
    vertices = np.zeros(len(vocabulary), dtype=np.int64)
    total = np.zeros(len(vocabulary))
    for _, _, pieces in labelled.rows():
        rows = pieces[pieces >= 0]
        label, confidence = labelled.label[rows], labelled.confidence[rows]
        vertices += np.bincount(label, minlength=len(vocabulary))
        total += np.bincount(label, weights=confidence, minlength=len(vocabulary))
    order = [int(k) for k in np.argsort(-vertices, kind="stable") if vertices[k]]
    return [
        Found(
            name=vocabulary.names[k],
            id=int(vocabulary.ids[k]),
            vertices=int(vertices[k]),
            share=float(vertices[k] / labelled.scan.surface.num_vertices),
            confidence=float(total[k] / vertices[k]),
        )
        for k in order
    ]
