"""`lg3d ask`: regions of a scan that match a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError, DataError, SettingsError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.files import require_file, require_folder
from lg3d_core.inference.files import Columns, write_npz, write_vertices_ply
from lg3d_core.inference.heat import Region, find_regions, name_features, spread_of, text_heat
from lg3d_core.inference.heat_colors import ramp_colors
from lg3d_core.inference.input import Input, open_input, refine_input
from lg3d_core.inference.objects import (
    FoundObject,
    ScanObjects,
    find_scan_objects,
    object_rows,
    round_values,
    wants_objects,
)
from lg3d_core.inference.scan_voxels import ScanVoxels, VertexRows, voxelize_scan
from lg3d_core.inference.voxel_features import VoxelFeatures
from lg3d_core.language.anchors_file import Anchors, load_anchors
from lg3d_core.language.questions import QuestionReader, open_reader
from lg3d_core.models import shipped_anchors, use_shipped
from lg3d_core.models.names import find_model
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    is_grounded,
    newest_checkpoint,
    read_info,
    read_setting,
)
from lg3d_core.networks.hub import ANCHORS_FILE
from lg3d_core.networks.minkunet import NETWORK_PLANS
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame
from lg3d_core.settings import SCRATCH, AskSettings
from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category


@dataclass(frozen=True, eq=False)
class Place:
    """Region in the scan's own units and axes.

    Attributes:
        centre: Position, shape `(3,)`.
        low: Lowest corner of its bounding box, shape `(3,)`.
        high: Highest corner of its bounding box, shape `(3,)`.
        size: Side lengths in metres: two along the floor, then the height.
        heat: Heat, 0..1.
        voxels: Number of voxels.
        names: Classes nearest to its features, most frequent first, with their shares.
    """

    centre: list[float]
    low: list[float]
    high: list[float]
    size: list[float]
    heat: float
    voxels: int
    names: list[tuple[str, float]]


class HotObject(NamedTuple):
    """Object that a text describes.

    Attributes:
        found: The object.
        heat: Mean heat over its vertices, 0..1.
        frame: Transformation of the scan's coordinates to metres.
    """

    found: FoundObject
    heat: float
    frame: Frame

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with positions in the scan's own units and axes."""
        row = self.found.to_dict(self.frame)
        del row["label"]  # anchors have names, but no raw ids
        return {"id": row.pop("id"), "name": row.pop("name"), "heat": round(self.heat, 4), **row}


@dataclass(frozen=True, eq=False)
class Answer:
    """Result for one text.

    Attributes:
        text: Text as passed.
        nearest: Classes nearest to the text according to the encoder, with cosines.
        highest: Highest heat in the scan, 0..1.
        places: Best regions, hottest first; empty if no voxel reaches the threshold.
        heat: Heat of every voxel, shape `(voxels,)`, float32.
        files: Written files.
        objects: Best objects, hottest first; None without objects.
    """

    text: str
    nearest: list[tuple[str, float]]
    highest: float
    places: list[Place]
    heat: npt.NDArray[np.float32]
    files: list[Path]
    objects: list[HotObject] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the heat as plain values for JSON."""
        return {
            "text": self.text,
            "nearest": [{"name": name, "cosine": cosine} for name, cosine in self.nearest],
            "highest": self.highest,
            "places": [
                place.__dict__ | {"names": [{"name": name, "share": share} for name, share in place.names]}
                for place in self.places
            ],
            "objects": None if self.objects is None else [one.to_dict() for one in self.objects],
            "files": [str(path) for path in self.files],
        }


class Grounded(NamedTuple):
    """Language-grounded model.

    Attributes:
        checkpoint: Path of the checkpoint.
        predictor: Network and how it is run.
        anchors: Text anchors that the features were trained towards.
        reader: Encoder of texts in the space of the anchors.
        info: Metadata of the checkpoint.
    """

    checkpoint: Path
    predictor: Predictor
    anchors: Anchors
    reader: QuestionReader
    info: CheckpointInfo


def load_grounded(settings: AskSettings, progress: Progress) -> Grounded:
    """Load a checkpoint, its anchors and their encoder.

    Raises:
        CheckpointError: The checkpoint is not language-grounded, or the anchors or the encoder are not its own.
        MissingDependencyError: The encoder is not available.
        DataError: The anchors cannot be read.
    """
    path = find_grounded(settings.checkpoint, settings.runs, progress)
    info = read_info(path)
    require_grounded(path, info)
    anchors = find_anchors(path, info, settings.anchors)
    own = next((own.digest for own in info.vocabularies if own.anchors_digest == anchors.digest), None)
    predictor, info = Predictor.for_scans(path, settings, vocabulary=own)
    reader = open_reader(
        anchors,
        encoder=settings.encoder,
        checkpoint=settings.encoder_checkpoint,
        device=predictor.device,
        progress=progress,
    )
    return Grounded(path, predictor, anchors, reader, info)


class Conversation:
    """Scan with its features, which answers any number of texts.

    Attributes:
        scan: Scan.
        checkpoint: Path of the checkpoint.
    """

    def __init__(
        self,
        settings: AskSettings,
        progress: Progress,
        *,
        model: Grounded | None = None,
        scan: Input | None = None,
    ) -> None:
        """Open the scan and load the model.

        Args:
            settings: Settings of the command.
            progress: Receives notes and warnings.
            model: Model that is already loaded; None loads that of the settings.
            scan: Scan that is already open; None opens that of the settings.

        Raises:
            CheckpointError: The checkpoint is not language-grounded, or the anchors or the encoder are not its own.
            MissingDependencyError: The encoder is not available.
            DataError: The scan or the anchors cannot be read.
        """
        if settings.out is not None:
            require_folder(settings.out, "--out")
        require_file(settings.html, "--html")
        self._settings = settings
        self._progress = progress
        if scan is None:
            scan = open_input(settings.scan, settings.store, scale=settings.scale, up=settings.up, progress=progress)
        model = model or load_grounded(settings, progress)
        self.checkpoint = model.checkpoint
        self._anchors, self._predictor, self._reader = model.anchors, model.predictor, model.reader
        voxel_size = self._predictor.voxel_size
        self.scan: Input = refine_input(scan, voxel_size, progress)
        self._voxels: ScanVoxels = voxelize_scan(self.scan.surface, self.scan.frame, voxel_size)
        if self._voxels.num_outside:
            progress.warn(
                f"{self.scan.name}: {self._voxels.num_outside} vertices have no usable position: their heat is 0"
            )
        self._vectors = torch.from_numpy(self._anchors.vectors).to(self._predictor.device)
        self._scale = spread_of(self._vectors.cpu())
        network = self._predictor.network
        self._classify = None if network.num_classes is None else network.classify
        self._features = VoxelFeatures(self._predictor, self._voxels, name=self.scan.name, progress=progress)
        self._rows = VertexRows(self.scan.surface, self.scan.frame, self._voxels)
        self._nearest: npt.NDArray[np.int16] | None = None
        self._wants_objects = wants_objects(settings.objects, model.info, self.checkpoint, progress)
        self._points_of_voxel: npt.NDArray[np.int64] | None = None

    def ask(self, texts: Sequence[str], *, threshold: float | None = None, regions: int | None = None) -> list[Answer]:
        """Return an answer per text.

        Args:
            texts: Texts.
            threshold: Minimum heat of a place, 0..1; None takes that of the settings.
            regions: Maximum number of places per text; None takes that of the settings.

        Raises:
            SettingsError: A text is empty.
            DataError: The heat cannot be written.
        """
        for text in texts:
            _require_words(text)
        vectors = self._reader.read(texts)
        found = self.found  # before the heat, so that the network runs once
        heat = self._heat(torch.from_numpy(vectors).to(self._predictor.device))
        threshold = self._settings.threshold if threshold is None else threshold
        regions = self._settings.regions if regions is None else regions
        return [
            self._answer(text, vectors[k], heat[:, k], found, threshold=threshold, count=regions)
            for k, text in enumerate(texts)
        ]

    def at_vertices(self, answer: Answer) -> npt.NDArray[np.float32]:
        """Return the heat of an answer at the scan's vertices, shape `(vertices,)`, 0..1; 0 at unusable positions."""
        return self._at_vertices(answer.heat)

    def _at_vertices(self, heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = np.concatenate([rows for _, _, rows in self._rows()])
        return np.where(rows >= 0, heat[rows], 0).astype(np.float32)

    @cached_property
    def found(self) -> ScanObjects | None:
        """Return the objects of the scan; None if they are not requested and the checkpoint has no offset head."""
        if not self._wants_objects:
            return None
        names = self._anchors.names
        score = self._classify or self._score_by_cosine
        features = VoxelFeatures(
            replace(self._predictor, score=score), self._voxels, name=self.scan.name, progress=self._progress
        )
        labels = features.label()
        self._features = features
        return find_scan_objects(
            self.scan,
            self._voxels,
            labels,
            features,
            rows=self._rows,
            score=score,
            vocabulary=_vocabulary_of(names),
            min_points=self._settings.min_points,
        )

    def objects_at_vertices(self) -> npt.NDArray[np.int32]:
        """Return the object of each vertex of the scan, -1 for none, shape `(vertices,)`."""
        assert self.found is not None
        return np.concatenate([own for _, _, own in object_rows(self._rows, self.found.number)])

    def _score_by_cosine(self, features: Tensor) -> Tensor:
        """Return the cosines with the anchors, divided by their spread, as in the heat, shape `(voxels, classes)`."""
        unit = torch.nn.functional.normalize
        cosines: Tensor = unit(features.float(), dim=1) @ unit(self._vectors, dim=1).T
        return cosines / self._scale

    def _heat(self, texts: Tensor) -> npt.NDArray[np.float32]:
        heat = np.empty((len(self._voxels.keys), len(texts)), dtype=np.float32)
        nearest = np.empty(len(self._voxels.keys), dtype=np.int16)
        with torch.inference_mode():
            for rows, part in self._features:
                features = self._aligned(part)
                heat[rows] = text_heat(features, self._vectors, texts, scale=self._scale).cpu().numpy()
                unit = torch.nn.functional.normalize(self._vectors, dim=1)
                nearest[rows] = (features @ unit.T).argmax(dim=1).to(torch.int16).cpu().numpy()
        self._nearest = nearest
        return heat

    def _aligned(self, features: Tensor) -> Tensor:
        """Return features that are compared with texts; those of a fixed classifier are replaced by its names."""
        return features if self._classify is None else name_features(self._classify(features), self._vectors)

    def _answer(
        self,
        text: str,
        vector: npt.NDArray[np.float32],
        heat: npt.NDArray[np.float32],
        found: ScanObjects | None,
        *,
        threshold: float,
        count: int,
    ) -> Answer:
        unit = self._anchors.vectors / np.linalg.norm(self._anchors.vectors, axis=1, keepdims=True)
        cosines = unit @ vector
        order = np.argsort(-cosines, kind="stable")[:5]
        regions = find_regions(
            self._voxels.cells, heat, voxel_size=self._voxels.voxel_size, threshold=threshold, count=count
        )
        return Answer(
            text=text,
            nearest=[(self._anchors.names[k], round(float(cosines[k]), 4)) for k in order],
            highest=float(heat.max()),
            places=[self._place(region) for region in regions],
            objects=None if found is None else self._rank_objects(found, heat, threshold=threshold, count=count),
            heat=heat,
            files=self._write(text, heat),
        )

    def _place(self, region: Region) -> Place:
        assert self._nearest is not None
        frame = self.scan.frame
        corners = frame.from_metres(np.stack([region.low, region.high]))
        counts = np.bincount(self._nearest[region.rows], minlength=len(self._anchors.names))
        top = [int(k) for k in np.argsort(-counts, kind="stable")[:3] if counts[k]]
        return Place(
            centre=round_values(frame.from_metres(region.centre[None])[0]),
            low=round_values(corners.min(axis=0)),
            high=round_values(corners.max(axis=0)),
            size=round_values(region.high - region.low),
            heat=round(region.heat, 4),
            voxels=region.voxels,
            names=[(self._anchors.names[k], round(float(counts[k] / region.voxels), 4)) for k in top],
        )

    def _rank_objects(
        self, found: ScanObjects, heat: npt.NDArray[np.float32], *, threshold: float, count: int
    ) -> list[HotObject]:
        """Return the objects whose vertices have a mean heat of at least the threshold, hottest first."""
        if self._points_of_voxel is None:
            self._points_of_voxel = np.zeros(len(heat), dtype=np.int64)
            for _, _, rows in self._rows():
                self._points_of_voxel += np.bincount(rows[rows >= 0], minlength=len(heat))
        own = found.number >= 0
        warmth = np.bincount(
            found.number[own], weights=(heat * self._points_of_voxel)[own], minlength=len(found.objects)
        )
        means = [float(warmth[one.id] / one.points) for one in found.objects]
        order = [k for k in np.argsort([-mean for mean in means], kind="stable") if means[k] >= threshold]
        return [HotObject(found.objects[k], means[k], self.scan.frame) for k in order[:count]]

    def _write(self, text: str, heat: npt.NDArray[np.float32]) -> list[Path]:
        if self._settings.out is None:
            return []
        files = []
        surface = self.scan.surface
        name = f"{self.scan.stem}.{file_part(text)}"
        for form in dict.fromkeys(self._settings.formats):
            path = self._settings.out / f"{name}.{form}"
            if form == "ply":
                columns = {"red": "u1", "green": "u1", "blue": "u1", "heat": "f4"}
                comments = ["made by lg3d ask", f"heat of the text: {text}"]
                write_vertices_ply(path, surface, self._pieces(heat), columns=columns, comments=comments)
            else:
                xyz = np.concatenate([surface.positions(start, stop) for start, stop in surface.chunks()])
                write_npz(
                    path,
                    {
                        "xyz": xyz if surface.is_double else xyz.astype(np.float32),
                        "heat": self._at_vertices(heat),
                        "text": np.array(text),
                    },
                )
            files.append(path)
        return files

    def _pieces(self, heat: npt.NDArray[np.float32]) -> Columns:
        for start, stop, rows in self._rows():
            values = np.where(rows >= 0, heat[rows], 0).astype(np.float32)
            paint = ramp_colors(values)
            yield start, stop, {"red": paint[:, 0], "green": paint[:, 1], "blue": paint[:, 2], "heat": values}


def ask(settings: AskSettings, progress: Progress) -> list[Answer]:
    """Answer the texts of the settings; see `Conversation`."""
    return Conversation(settings, progress).ask(settings.texts)


def find_grounded(checkpoint: Path | None, runs: Path, progress: Progress) -> Path:
    """Return the checkpoint that was passed, else that of the newest language-grounded run, else the shipped one.

    Raises:
        CheckpointError: There is none.
    """
    if checkpoint is not None:
        return find_model(checkpoint, progress)
    newest = newest_checkpoint(runs, "pretrain", "finetune", accepts=lambda path: is_grounded(read_info(path)))
    if newest is not None:
        progress.note(f"using the newest language-grounded run: {newest}")
        return newest
    # A pre-training run without anchors gets an error that names the method.
    newest = newest_checkpoint(runs, "pretrain") or use_shipped(runs, progress)
    if newest is None:
        raise CheckpointError(
            f"no language-grounded run in {runs}: run lg3d pretrain, or lg3d finetune --classifier fixed-anchors, or "
            "pass --checkpoint FILE"
        )
    return newest


def require_grounded(path: Path, info: CheckpointInfo) -> None:
    """Reject checkpoints whose features are not aligned with text.

    Training a classifier destroys the alignment: in the demo scenes, 52 % of the voxels are nearest to the anchor of
    their class before it, and 13 % after. A classifier that is fixed to the anchors keeps it.

    Raises:
        CheckpointError: The checkpoint was trained without text anchors, or its classifier was trained afterwards.
    """
    if is_grounded(info):
        return
    if info.kind != "pretrain" or info.num_classes is not None:
        start = read_setting(info, "start")
        where = f"its pre-training run {start}" if start not in (None, SCRATCH) else "a run of lg3d pretrain"
        raise CheckpointError(
            f"{path} is fine-tuned, and its features are no longer aligned with text: pass --checkpoint with {where}, "
            "or fine-tune with --classifier fixed-anchors"
        )
    raise CheckpointError(
        f"{path} was trained without text anchors, so it cannot answer text queries: pass --checkpoint with a run of "
        "lg3d pretrain (--method language)"
    )


def find_anchors(path: Path, info: CheckpointInfo, given: Path | None) -> Anchors:
    """Return the anchors that a checkpoint was trained with: those that were passed, or those of its run.

    Of several vocabularies, the passed anchors may be those of any; without `given`, those of the first are returned.

    Raises:
        CheckpointError: The anchors differ, or cannot be found.
        DataError: The file that was passed cannot be read.
    """
    width = NETWORK_PLANS[info.network].widths[-1]
    if given is not None:
        anchors = load_anchors(given).padded(width)
        trained = [own.anchors_digest for own in info.vocabularies] or [str(info.anchors_digest)]
        if anchors.digest not in trained:
            raise CheckpointError(
                f"{given} ({anchors.digest}) are not the anchors that {path} was trained with ({', '.join(trained)})"
            )
        return anchors
    named = Path(read_setting(info, "anchors") or "anchors.safetensors")
    candidates = [
        named,
        path.parent / named.name,
        path.parent / ANCHORS_FILE,
        path.parents[min(2, len(path.parents) - 1)] / named.name,
    ]
    shipped = shipped_anchors()
    if shipped is not None:
        candidates.append(shipped)
    for candidate in dict.fromkeys(candidates):
        try:
            anchors = load_anchors(candidate).padded(width)
        except DataError:
            continue
        if anchors.digest == info.anchors_digest:
            return anchors
    looked = ", ".join(str(candidate) for candidate in dict.fromkeys(candidates))
    raise CheckpointError(
        f"the anchors that {path} was trained with ({info.anchors_digest}) are not at {looked}: pass --anchors FILE"
    )


def _require_words(text: str) -> None:
    if not isinstance(text, str):
        raise SettingsError(f"expected a text such as 'somewhere to sit', got {type(text).__name__}")
    if not text.strip():
        raise SettingsError("expected a text such as 'somewhere to sit', got an empty one", fields=("texts", "heat"))


def _vocabulary_of(names: Sequence[str]) -> Vocabulary:
    """Return a vocabulary of names without raw ids."""
    return Vocabulary("anchors", "id", tuple(Category(k, k, name, "", True, (0, 0, 0)) for k, name in enumerate(names)))


def file_part(text: str) -> str:
    """Convert a text to a part of a file name: letters and digits of any language, and hyphens."""
    return re.sub(r"[^\w]+", "-", text).strip("-_")[:60] or "text"
