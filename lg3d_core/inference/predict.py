"""`lg3d predict`: a class for every vertex of any scan."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, DataError, Lg3dError, SettingsError
from lg3d_core.evaluation.eval import find_classifier, require_classifier
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.files import sweep_temporaries
from lg3d_core.inference.files import Columns, file_names, write_lines, write_npz, write_vertices_ply
from lg3d_core.inference.input import Input, open_input, refine_input
from lg3d_core.inference.scan_voxels import ScanVoxels, vertex_rows, voxelize_scan
from lg3d_core.models import use_shipped
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import Progress
from lg3d_core.scans.open_scan import OPENERS
from lg3d_core.settings import PredictSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from lg3d_core.vocabulary.categories import SHIPPED

ENDING = ".labelled"
OWN_COLORS = ("scan_red", "scan_green", "scan_blue")
"""PLY properties that hold the scan's own colours in a labelled file; `red`, `green` and `blue` show the labels."""
UNLABELLED = (90, 90, 90)
"""Colour of a vertex without a label."""


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

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            **{key: value for key, value in self.__dict__.items() if key not in ("files", "found")},
            "files": [str(path) for path in self.files],
            "found": [found.__dict__ for found in self.found],
        }


@dataclass(frozen=True)
class PredictReport:
    """Result for all scans.

    Attributes:
        checkpoint: Path of the checkpoint.
        labelled: Results of the scans that succeeded.
        failed: Reason for each scan that failed.
    """

    checkpoint: Path
    labelled: list[ScanLabels]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "checkpoint": str(self.checkpoint),
            "scans": [labels.to_dict() for labels in self.labelled],
            "failed": self.failed,
        }


def predict(settings: PredictSettings, progress: Progress) -> PredictReport:
    """Predict a class for the vertices of scans, and write the requested files; a failed scan does not stop the rest.

    Raises:
        CheckpointError: The checkpoint is missing or has no classifier, or its classes are unknown.
        SettingsError: The device does not exist, or the memory limit is too small.
    """
    path = find_classifier(settings.checkpoint, settings.runs, progress, final_relu=settings.final_relu)
    path = path or use_shipped(settings.runs, progress)
    if path is None:
        raise CheckpointError(f"no fine-tuned run in {settings.runs}: run lg3d finetune, or pass --checkpoint FILE")
    predictor, info = Predictor.load(
        path,
        device=settings.device,
        precision=settings.precision,
        backend=settings.backend,
        memory=settings.memory_bytes,
        overlap=settings.overlap,
        votes=settings.votes,
        final_relu=settings.final_relu,
    )
    vocabulary = find_vocabulary(path, info, settings.vocabulary, settings.store)
    files = [Path(word) for word in settings.scans if Path(word).suffix.lower() in OPENERS]
    stems = [Path(word).stem if Path(word).suffix.lower() in OPENERS else Path(word).name for word in settings.scans]
    origins = [_origin(word, path, settings.store) for word in settings.scans]
    names = file_names(stems, files, settings.out, ENDING, origins=origins)
    for stem, name in zip(stems, names, strict=True):
        if name != f"{stem}{ENDING}":
            progress.note(f"{stem}{ENDING} belongs to another scan or checkpoint: writing {name} instead")
    sweep_temporaries(settings.out)
    report = PredictReport(path, [], {})
    with progress.task("predict", total=len(names), unit="scan") as task:
        for word, name, origin in zip(settings.scans, names, origins, strict=True):
            try:
                report.labelled.append(_predict(predictor, vocabulary, word, name, origin, settings, progress))
            except SettingsError:
                raise
            except Lg3dError as error:
                report.failed[word] = str(error)
            task.advance(status=Path(word).name)
    return report


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
        candidates = [load_vocabulary(name)]
    else:
        candidates = [load_vocabulary(shipped) for shipped in SHIPPED]
        candidates += _stored_vocabulary(store)
    for vocabulary in candidates:
        if _fits(info, vocabulary):
            return vocabulary
    if name is not None or info.num_classes is None:
        require_classifier(path, info, candidates[0])
    raise CheckpointError(
        f"{path} predicts {info.num_classes} classes of the vocabulary {info.vocabulary or 'of unknown name'}, which "
        f"is neither bundled nor that of the store {store}: pass --vocabulary FILE"
    )


def _stored_vocabulary(store: Path) -> list[Vocabulary]:
    from lg3d_core.store.scene_store import SceneStore

    try:
        return [SceneStore(store).vocabulary]
    except DataError:
        return []


def _fits(info: CheckpointInfo, vocabulary: Vocabulary) -> bool:
    if info.num_classes is None:
        return False
    return info.num_classes == len(vocabulary) and info.vocabulary_digest in ("", vocabulary.digest)


def _predict(
    predictor: Predictor,
    vocabulary: Vocabulary,
    word: str,
    name: str,
    origin: str,
    settings: PredictSettings,
    progress: Progress,
) -> ScanLabels:
    scan = open_input(word, settings.store, scale=settings.scale, up=settings.up, progress=progress)
    scan = refine_input(scan, predictor.voxel_size, progress)
    own = scan.surface.num_vertices if scan.num_own is None else scan.num_own
    voxels = voxelize_scan(scan.surface, scan.frame, predictor.voxel_size)
    found = predictor.label_voxels(voxels.cells, voxels.rgb, name=scan.name, progress=progress)
    voxels = voxels._replace(candidates=found.candidates)
    label, confidence = found.label, found.confidence
    strays = voxels.num_outside
    if strays:
        progress.warn(f"{scan.name}: {strays} of {scan.surface.num_vertices} vertices have no usable position: label 0")
    files = _write(scan, voxels, label, confidence, vocabulary, settings, name, origin)
    return ScanLabels(
        scan=scan.name,
        files=files,
        num_vertices=own,
        num_added=scan.surface.num_vertices - own,
        num_unlabelled=strays,
        num_voxels=len(voxels.keys),
        scale=scan.frame.scale,
        up=scan.frame.up,
        found=_count(scan, voxels, label, confidence, vocabulary),
    )


def _pieces(
    scan: Input,
    voxels: ScanVoxels,
    label: npt.NDArray[np.int16],
    confidence: npt.NDArray[np.float32],
    vocabulary: Vocabulary,
) -> Columns:
    """Yield raw id, confidence and colour of the vertices, piece by piece; 0 and grey for unlabelled ones.

    If the scan has colours, they are in `OWN_COLORS`.
    """
    colors = np.concatenate([vocabulary.colors, np.array([UNLABELLED], dtype=np.uint8)])
    ids = np.concatenate([vocabulary.ids, [0]])
    for start, stop, rows in vertex_rows(scan.surface, scan.frame, voxels):
        known = rows >= 0
        index = np.where(known, label[rows], len(vocabulary))
        paint = colors[index]
        values = {"red": paint[:, 0], "green": paint[:, 1], "blue": paint[:, 2]}
        values |= {"label": ids[index], "confidence": np.where(known, confidence[rows], 0)}
        if scan.surface.colors is not None:
            values |= dict(zip(OWN_COLORS, scan.surface.colors(start, stop).T, strict=True))
        yield start, stop, values


def _write(
    scan: Input,
    voxels: ScanVoxels,
    label: npt.NDArray[np.int16],
    confidence: npt.NDArray[np.float32],
    vocabulary: Vocabulary,
    settings: PredictSettings,
    name: str,
    origin: str,
) -> list[Path]:
    def pieces() -> Columns:
        return _pieces(scan, voxels, label, confidence, vocabulary)

    files = []
    for form in dict.fromkeys(settings.formats):
        path = settings.out / f"{name}.{form}"
        if form == "ply":
            present = np.unique(label)
            comments = ["made by lg3d predict", f"vocabulary {vocabulary.name}", "label 0 none"]
            if scan.num_own is not None:
                comments.append(f"the first {scan.num_own} vertices are the scan's own")
            comments += [f"label {vocabulary.ids[k]} {vocabulary.names[k]}" for k in present]
            columns = {"red": "u1", "green": "u1", "blue": "u1", "label": "i4", "confidence": "f4"}
            if scan.surface.colors is not None:
                columns |= dict.fromkeys(OWN_COLORS, "u1")
                comments.append(f"red green blue show the label; {' '.join(OWN_COLORS)} are the scan's own colours")
            write_vertices_ply(path, scan.surface, pieces(), columns=columns, comments=comments, origin=origin)
        elif form == "npz":
            write_npz(path, _arrays(scan, pieces(), vocabulary), origin=origin)
        else:
            own = scan.surface.num_vertices if scan.num_own is None else scan.num_own
            lines = (values["label"][: max(0, own - start)] for start, _, values in pieces())
            write_lines(path, lines, origin=origin)
        files.append(path)
    return files


def _arrays(scan: Input, pieces: Columns, vocabulary: Vocabulary) -> dict[str, npt.NDArray[Any]]:
    parts = list(pieces)
    xyz = np.concatenate([scan.surface.positions(start, stop) for start, stop, _ in parts])
    rgb = {}
    if scan.surface.colors is not None:
        rgb["rgb"] = np.concatenate([np.stack([values[name] for name in OWN_COLORS], axis=1) for _, _, values in parts])
    return {
        **rgb,
        "xyz": xyz if scan.surface.is_double else xyz.astype(np.float32),
        "faces": np.asarray(scan.surface.faces, dtype=np.int32),
        "label": np.concatenate([values["label"] for _, _, values in parts]).astype(np.int32),
        "confidence": np.concatenate([values["confidence"] for _, _, values in parts]).astype(np.float32),
        "ids": vocabulary.ids,
        "names": np.array(vocabulary.names),
        "num_own": np.array(scan.surface.num_vertices if scan.num_own is None else scan.num_own),
        "scale": np.array(scan.frame.scale),
        "up": np.array(scan.frame.up),
    }


def _count(
    scan: Input,
    voxels: ScanVoxels,
    label: npt.NDArray[np.int16],
    confidence: npt.NDArray[np.float32],
    vocabulary: Vocabulary,
) -> list[Found]:
    vertices = np.zeros(len(vocabulary), dtype=np.int64)
    total = np.zeros(len(vocabulary))
    for rows in _labelled_rows(scan, voxels):
        vertices += np.bincount(label[rows], minlength=len(vocabulary))
        total += np.bincount(label[rows], weights=confidence[rows], minlength=len(vocabulary))
    order = [int(k) for k in np.argsort(-vertices, kind="stable") if vertices[k]]
    return [
        Found(
            name=vocabulary.names[k],
            id=int(vocabulary.ids[k]),
            vertices=int(vertices[k]),
            share=float(vertices[k] / scan.surface.num_vertices),
            confidence=float(total[k] / vertices[k]),
        )
        for k in order
    ]


def _labelled_rows(scan: Input, voxels: ScanVoxels) -> Iterator[npt.NDArray[np.int64]]:
    for _, _, rows in vertex_rows(scan.surface, scan.frame, voxels):
        yield rows[rows >= 0]
