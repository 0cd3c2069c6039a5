"""Measurement of a run's network on a split: counts, features and predictions, cached in the run's folder."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.arrays import read_npz
from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.eval import require_classifier
from lg3d_core.evaluation.evaluate import Evaluation, evaluate_scenes, group_objects
from lg3d_core.evaluation.instances import SceneMatches, score_instances
from lg3d_core.evaluation.objects import Grouping
from lg3d_core.evaluation.predictor import Prediction, Predictor
from lg3d_core.evaluation.scores import score_confusion
from lg3d_core.files import write_bytes
from lg3d_core.language.anchors_file import Anchors, load_anchors
from lg3d_core.networks.checkpoint import CheckpointInfo, read_info
from lg3d_core.networks.minkunet import NETWORK_PLANS
from lg3d_core.objectives.language import anchor_scores
from lg3d_core.progress import Progress
from lg3d_core.reporting.objects import ObjectCase, choose_cases, find_cases, number_objects
from lg3d_core.reporting.runs import RunRecord, find_recorded
from lg3d_core.settings import ReportSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene

SILENT = Progress()
FORMAT = 2
"""Format version of the cached file; other versions are measured again."""
MIN_VOXELS = 4
"""Number of sampled features per class, if available."""


class FeatureSample(NamedTuple):
    """Voxels sampled evenly from the classes of a split.

    Attributes:
        features: Features of the network's last layer, float32 `(voxels, D)`.
        label: Annotated class, int16 `(voxels,)`.
    """

    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16]


class ScenePrediction(NamedTuple):
    """Class and confidence of every vertex of a scene, as in `Prediction`.

    Attributes:
        label: Class of every vertex, int16 `(vertices,)`.
        confidence: Confidence of every vertex, float32 `(vertices,)`.
        objects: Number of every vertex's most confident object of its class, from 1, 0 for none, int32 `(vertices,)`;
            None for a network without an offset head.
    """

    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    objects: npt.NDArray[np.int32] | None = None

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Return the parts of a prediction that are kept."""
        objects = prediction.objects
        numbers = None if objects is None else number_objects(objects, prediction.label)
        return cls(prediction.label, prediction.confidence, numbers)


@dataclass(frozen=True, eq=False)
class Measurement:
    """Results of a network on a split.

    Attributes:
        key: Digests of all inputs.
        evaluation: Scores; None for a network that cannot classify (pre-trained without text).
        vertices: Confusion matrix of vertices, int64 `(classes, classes + 1)`.
        voxels: Confusion matrix of voxels, int64 `(classes, classes + 1)`.
        sample: Sampled features.
        anchors: Text anchors of the training, or None.
        predictions: Predictions of the scenes that are shown, by id.
        cases: Best and worst objects of rare classes, of a network with an offset head.
        embedding: Positions of features and then anchors in the map, float32 `(voxels + anchors, 2)`; None until it is
            computed.
        embedding_key: Digest of the embedding's inputs.
    """

    key: str
    evaluation: Evaluation | None
    vertices: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]
    sample: FeatureSample
    anchors: Anchors | None
    predictions: dict[str, ScenePrediction] = field(default_factory=dict)
    cases: tuple[ObjectCase, ...] = ()
    embedding: npt.NDArray[np.float32] | None = None
    embedding_key: str = ""


class _Subject(NamedTuple):
    """Network of a run.

    Attributes:
        predictor: Network.
        scores: False for a network without class scores, which provides features only.
        anchors: Text anchors of the training, or None.
        grouping: Rules by which voxels form objects; None for a network without an offset head.
    """

    predictor: Predictor
    scores: bool
    anchors: Anchors | None
    grouping: Grouping | None = None


def measure_run(
    run: RunRecord, store: SceneStore, scenes: Sequence[str], settings: ReportSettings, progress: Progress
) -> Measurement | None:
    """Measure a run's last checkpoint, or load an earlier measurement; return None without a checkpoint.

    Args:
        run: Run with the checkpoint.
        store: Store of the scenes.
        scenes: Ids of scenes whose predictions are kept.
        settings: Settings of the report.
        progress: Receives one step per scene.

    Raises:
        CheckpointError: The checkpoint cannot be used with this store, or its anchors are missing.
        DataError: The split has no scenes, or one of them cannot be read.
    """
    if run.checkpoint is None:
        return None
    info = read_info(run.checkpoint)
    if info.vocabularies:
        info, _ = info.select(store.vocabulary.digest)
    if info.num_classes is not None or run.method == "language":
        require_classifier(
            run.checkpoint, replace(info, num_classes=info.num_classes or len(store.vocabulary)), store.vocabulary
        )
    anchors = find_anchors(run, info, settings.anchors, progress)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    key = _make_key(run, run.checkpoint, store, anchors, settings, precision=precision)
    path = run.folder / f"report-{settings.split}.npz"
    kept = None if settings.fresh else _load(path, key, store, anchors)
    if kept is not None:
        progress.note(f"{run.name}: scores of {path} (--fresh measures again)")
    missing = [scene for scene in scenes if kept is None or scene not in kept.predictions]
    if kept is not None and (not missing or kept.evaluation is None):
        return kept
    subject = _load_subject(run, anchors, settings, store.vocabulary)
    if kept is None:
        kept = _measure(subject, key, store, missing, settings, progress=progress)
    else:
        kept.predictions.update(_predict_scenes(subject, store, missing, progress=progress))
    keep(run, kept, settings.split, progress)
    return kept


def keep(run: RunRecord, measurement: Measurement, split: str, progress: Progress) -> None:
    """Save a measurement in the run's folder for the next report; warn if that is impossible."""
    try:
        write_bytes(run.folder / f"report-{split}.npz", _pack(measurement))
    except DataError as error:
        progress.warn(f"the next report will measure {run.name} again: {error}")


def find_anchors(
    run: RunRecord, info: CheckpointInfo, asked: Path | None, progress: Progress = SILENT
) -> Anchors | None:
    """Load the text anchors of a network: those of the settings, of the run, or of the run that it starts from.

    Raises:
        CheckpointError: The run needs anchors for its predictions, and they are missing or differ from those of the
            training.
        DataError: The anchors file is damaged.
    """
    if info.anchors_digest is None:
        return None
    needed, recorded = info.num_classes is None, asked or _recorded_anchors(run)
    if recorded is None:
        if needed:
            raise CheckpointError(
                f"{run.folder} classifies voxels by the anchors {run.settings.get('anchors')}, which are missing: "
                "pass --anchors FILE"
            )
        problem = f"the text anchors of {run.folder} were not found"
    else:
        anchors = load_anchors(recorded).padded(NETWORK_PLANS[info.network].widths[-1])
        if anchors.digest == info.anchors_digest:
            return anchors
        problem = (
            f"{run.folder} was trained with other anchors ({info.anchors_digest}) than {recorded} holds "
            f"({anchors.digest})"
        )
        if needed:
            raise CheckpointError(f"{problem}: pass --anchors FILE")
    progress.warn(f"{problem}: the report shows no anchors of this run; pass --anchors FILE")
    return None


def _recorded_anchors(run: RunRecord) -> Path | None:
    if run.kind == "pretrain" or run.settings.get("classifier") in ("anchors", "fixed-anchors"):
        return _file(find_recorded(run.folder, str(run.settings.get("anchors", "")) or "anchors.safetensors"))
    start = find_recorded(run.folder, str(run.card.get("from", "")))
    folder = start if start is None or start.is_dir() else start.parent
    if folder is None or not (folder / "settings.json").is_file():
        return None
    try:
        earlier = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _file(find_recorded(folder, str(earlier.get("anchors", "")))) if isinstance(earlier, dict) else None


def _file(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None


def _load_subject(
    run: RunRecord, anchors: Anchors | None, settings: ReportSettings, vocabulary: Vocabulary
) -> _Subject:
    assert run.checkpoint is not None
    predictor, info = Predictor.load(
        run.checkpoint,
        device=settings.device,
        precision=settings.precision,
        backend=settings.backend,
        vocabulary=vocabulary.digest,
    )
    if info.num_classes is not None:
        grouping = Grouping.for_voxels(info.voxel_size) if info.offset_head else None
        return _Subject(predictor, True, anchors, grouping)
    if anchors is None:
        zeros = replace(predictor, score=lambda features: features.new_zeros(len(features), len(vocabulary)))
        return _Subject(zeros, False, None)
    vectors = torch.from_numpy(anchors.vectors).to(predictor.device)
    distance = run.settings.get("distance", "cosine")
    scored = replace(predictor, score=lambda features: anchor_scores(features, vectors, distance=distance))
    return _Subject(scored, True, anchors)


def _measure(
    subject: _Subject,
    key: str,
    store: SceneStore,
    scenes: Sequence[str],
    settings: ReportSettings,
    *,
    progress: Progress,
) -> Measurement:
    size = len(store.vocabulary)
    vertices, voxels = ConfusionMatrix(size), ConfusionMatrix(size)
    present = int((store.class_counts(settings.split) > 0).sum())
    draw = _Draw(max(MIN_VOXELS, settings.points // max(present, 1)), settings.seed)
    predictions: dict[str, ScenePrediction] = {}
    cases: list[ObjectCase] = []
    rarest = store.vocabulary.rarest_group(store.class_counts("train"))

    def observe(scene: "Scene", prediction: Prediction) -> None:
        vertices.update(scene.label, prediction.label)
        voxels.update(prediction.voxel_truth, prediction.voxel_label)
        assert prediction.features is not None
        draw.add(prediction.voxel_truth, prediction.features)
        if scene.scene_id in scenes:
            predictions[scene.scene_id] = ScenePrediction.of(prediction)
        if prediction.objects is not None:
            cases.extend(find_cases(scene, prediction.objects, store.vocabulary, group=rarest))

    evaluation = evaluate_scenes(
        subject.predictor,
        store,
        store.scene_ids(settings.split),
        grouping=subject.grouping,
        observe=observe,
        keep_features=True,
        progress=progress,
    )
    return Measurement(
        key=key,
        evaluation=evaluation if subject.scores else None,
        vertices=vertices.counts,
        voxels=voxels.counts,
        sample=draw.sample(),
        anchors=subject.anchors,
        predictions=predictions if subject.scores else {},
        cases=tuple(choose_cases(cases)),
    )


def _predict_scenes(
    subject: _Subject, store: SceneStore, scenes: Sequence[str], *, progress: Progress
) -> dict[str, ScenePrediction]:
    found = {}
    with progress.task("predict", total=len(scenes), unit="scene") as task:
        for scene in scenes:
            prediction = subject.predictor.predict(store.read(scene), progress=progress)
            if subject.grouping is not None:
                objects = group_objects(prediction, store.vocabulary, subject.grouping)
                prediction = prediction._replace(objects=objects)
            found[scene] = ScenePrediction.of(prediction)
            task.advance(status=scene)
    return found


class _Draw:
    """Sampler of voxels, uniform within each class, scene by scene."""

    def __init__(self, per_category: int, seed: int) -> None:
        self.per_category = per_category
        self.rng = np.random.default_rng(seed)
        self.features: list[npt.NDArray[np.float32]] = []
        self.labels: list[npt.NDArray[np.int16]] = []
        self.ranks: list[npt.NDArray[np.float64]] = []

    def add(self, truth: npt.NDArray[np.int16], features: Tensor) -> None:
        """Sample from a scene's voxels."""
        rank = self.rng.random(len(truth))
        rows = _lowest(rank, truth, self.per_category)
        if len(rows):
            self.features.append(features[torch.from_numpy(rows)].numpy())
            self.labels.append(truth[rows])
            self.ranks.append(rank[rows])

    def sample(self) -> FeatureSample:
        """Return the sample, sorted by class."""
        if not self.labels:
            return FeatureSample(np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int16))
        label = np.concatenate(self.labels)
        rows = _lowest(np.concatenate(self.ranks), label, self.per_category)
        return FeatureSample(np.concatenate(self.features)[rows], label[rows])


def _lowest(rank: npt.NDArray[np.float64], label: npt.NDArray[np.int16], count: int) -> npt.NDArray[np.int64]:
    """Return the rows with the lowest ranks of every class, sorted by class; unlabelled rows are skipped."""
    order = np.lexsort((rank, label))
    order = order[label[order] >= 0]
    first = np.searchsorted(label[order], label[order], side="left")
    rows: npt.NDArray[np.int64] = order[np.arange(len(order)) - first < count]
    return rows


def _make_key(
    run: RunRecord,
    checkpoint: Path,
    store: SceneStore,
    anchors: Anchors | None,
    settings: ReportSettings,
    *,
    precision: str,
) -> str:
    """Return the digests of all inputs of a measurement, as JSON."""
    try:
        with checkpoint.open("rb") as stream:
            weights = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {checkpoint}: {error.strerror}") from None
    return json.dumps(
        {
            "format": FORMAT,
            "checkpoint": weights,
            "store": store.digest,
            "split": settings.split,
            "anchors": None if anchors is None else anchors.digest,
            "distance": run.settings.get("distance", "cosine") if run.kind == "pretrain" else None,
            "precision": precision,
            "points": settings.points,
            "seed": settings.seed,
        }
    )


def _pack(measurement: Measurement) -> bytes:
    arrays: dict[str, Any] = {
        "key": measurement.key,
        "vertices": measurement.vertices,
        "voxels": measurement.voxels,
        "features": measurement.sample.features,
        "feature_label": measurement.sample.label,
        "embedding_key": measurement.embedding_key,
    }
    if measurement.embedding is not None:
        arrays["embedding"] = measurement.embedding
    if measurement.evaluation is not None:
        scenes = measurement.evaluation.scenes
        arrays["scene_ids"] = np.array(scenes.scene_ids, dtype=np.str_)
        arrays["scene_counts"] = np.stack(scenes[1:])
        arrays["num_labelled"] = measurement.evaluation.num_labelled_scenes
        arrays["seconds"] = measurement.evaluation.seconds
        if measurement.evaluation.matches is not None:
            arrays |= _pack_rows("matches", measurement.evaluation.matches)
    if measurement.cases:
        arrays |= _pack_rows("cases", measurement.cases)
    for scene, prediction in measurement.predictions.items():
        arrays[f"label/{scene}"] = prediction.label
        arrays[f"confidence/{scene}"] = prediction.confidence
        if prediction.objects is not None:
            arrays[f"objects/{scene}"] = prediction.objects
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _load(path: Path, key: str, store: SceneStore, anchors: Anchors | None) -> Measurement | None:
    """Load the measurement of an earlier report, if its inputs are the same and it is readable."""
    try:
        arrays = read_npz(path)
    except DataError:
        return None
    return _unpack(arrays, store, anchors) if str(arrays.get("key")) == key else None


def _unpack(arrays: dict[str, npt.NDArray[Any]], store: SceneStore, anchors: Anchors | None) -> Measurement:
    vertices, voxels = ConfusionMatrix(len(store.vocabulary)), ConfusionMatrix(len(store.vocabulary))
    vertices.counts[:], voxels.counts[:] = arrays["vertices"], arrays["voxels"]
    evaluation = None
    if "scene_counts" in arrays:
        scene_ids = tuple(arrays["scene_ids"].tolist())
        matches = tuple(SceneMatches(*row) for row in _unpack_rows("matches", SceneMatches._fields, arrays)) or None
        evaluation = Evaluation(
            vertex=score_confusion(vertices, store.vocabulary),
            voxel=score_confusion(voxels, store.vocabulary),
            scenes=SceneCounts(scene_ids, *arrays["scene_counts"]),
            num_scenes=len(scene_ids),
            num_labelled_scenes=int(arrays["num_labelled"]),
            seconds=float(arrays["seconds"]),
            export=None,
            instances=None if matches is None else score_instances(matches, store.vocabulary),
            matches=matches,
        )
    shown = [name.removeprefix("label/") for name in arrays if name.startswith("label/")]
    return Measurement(
        key=str(arrays["key"]),
        evaluation=evaluation,
        vertices=vertices.counts,
        voxels=voxels.counts,
        sample=FeatureSample(arrays["features"], arrays["feature_label"]),
        anchors=anchors,
        predictions={
            s: ScenePrediction(arrays[f"label/{s}"], arrays[f"confidence/{s}"], arrays.get(f"objects/{s}"))
            for s in shown
        },
        cases=tuple(ObjectCase.of(row) for row in _unpack_rows("cases", ObjectCase._fields, arrays)),
        embedding=arrays.get("embedding"),
        embedding_key=str(arrays["embedding_key"]),
    )


def _pack_rows(name: str, rows: Sequence[NamedTuple]) -> dict[str, npt.NDArray[Any]]:
    """Return one array per field of tuples of arrays and scalars: the values of all rows, and their number in each."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for k, field_name in enumerate(rows[0]._fields):
        values = [np.atleast_1d(row[k]) for row in rows]
        arrays[f"{name}/{field_name}"] = np.concatenate(values)
        arrays[f"{name}/{field_name}/sizes"] = np.array([len(value) for value in values])
    return arrays


def _unpack_rows(
    name: str, fields: Sequence[str], arrays: dict[str, npt.NDArray[Any]]
) -> list[tuple[npt.NDArray[Any], ...]]:
    """Return the rows of `_pack_rows`, each value as an array; none if the file has none."""
    if f"{name}/{fields[0]}" not in arrays:
        return []
    columns = [np.split(arrays[f"{name}/{one}"], np.cumsum(arrays[f"{name}/{one}/sizes"])[:-1]) for one in fields]
    return list(zip(*columns, strict=True))
