"""Text anchors, one vector per class: file format, checks, and projection to a network's width."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.files import recognise_foreign, sweep_temporaries, write_bytes
from lg3d_core.language.encoder_names import EncoderRecord, parse_record
from lg3d_core.seal import NO_SEAL, SEAL_KEY, require_sealed_safetensors, seal_safetensors
from lg3d_core.vocabulary import Vocabulary

FORMAT = "lg3d anchors 1"
"""Format written by versions that did not seal anchors."""
SEALED_FORMAT = "lg3d anchors 2"
MIN_LENGTH, MAX_LENGTH = 1e-3, 1e4
"""Range of valid lengths of a text feature, normalised or not."""
SAME_DIRECTION = 1 - 1e-10
"""Cosine above which two anchors count as equal; larger than the rounding error of float32."""
BLOCK_ROWS = 1024
DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"
METADATA_KEYS = ("encoder", "weights", "prompt", "vocabulary_digest", "projection")


class Projection(NamedTuple):
    """Linear projection from an encoder's features to anchors, which can be applied to further texts.

    Attributes:
        mean: Vector subtracted from the unit features, zero if they were not centred, shape `(D,)`, float32.
        matrix: Matrix that the difference is multiplied with, shape `(D, dim)`, float32.
    """

    mean: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float32]

    def apply(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Project non-zero features `(texts, D)` to unit vectors `(texts, dim)`, float32.

        Raises:
            ShapeError: The features have another width, or a projected feature is zero.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.matrix):
            raise ShapeError(f"expected features of width {len(self.matrix)}, got {vectors.shape}")
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        projected = (unit - self.mean) @ self.matrix.astype(np.float64)
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        if len(lengths) and lengths.min() < 1e-6:
            raise ShapeError("the projection of this text to the width of the anchors is zero")
        unit_length: npt.NDArray[np.float32] = (projected / lengths).astype(np.float32)
        return unit_length


@dataclass(frozen=True, eq=False)
class Anchors:
    """Text anchors, one feature per class in the order of the vocabulary.

    Attributes:
        vectors: Anchors, shape `(classes, D)`, float32, finite, non-zero; of unit length if written by `lg3d anchors`.
        names: Class names, in index order.
        metadata: Origin; at least `encoder`, `weights`, `prompt`, `vocabulary_digest`, `projection`.
        projection: Projection from the encoder's features to this width; None if there was none, and in files of older
            versions.

    Raises:
        ShapeError: The vectors have another shape or type, or their number differs from that of the names.
    """

    vectors: npt.NDArray[np.float32]
    names: tuple[str, ...]
    metadata: dict[str, str]
    projection: "Projection | None" = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32 or 0 in self.vectors.shape:
            shape, dtype = self.vectors.shape, self.vectors.dtype
            raise ShapeError(f"anchors must be float32 (classes, D), got {dtype} {shape}")
        if len(self.names) != len(self.vectors):
            raise ShapeError(f"anchors have {len(self.vectors)} vectors for {len(self.names)} names")
        if not np.isfinite(self.vectors).all():
            row = int(np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))[0])
            raise ShapeError(f"the anchor of {self.names[row]!r} is not finite")
        if not self.vectors.any(axis=1).all():
            row = int(np.flatnonzero(~self.vectors.any(axis=1))[0])
            raise ShapeError(f"the anchor of {self.names[row]!r} is all zero: it has no direction")
        missing = [key for key in METADATA_KEYS if key not in self.metadata]
        if missing:
            raise ShapeError(f"anchors lack the metadata {', '.join(missing)}")

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> str:
        """Hash of names and vectors, equal exactly if two sets of anchors train identically."""
        hasher = hashlib.sha256(json.dumps([list(self.names), self.dim]).encode())
        hasher.update(np.ascontiguousarray(self.vectors).tobytes())
        return hasher.hexdigest()[:16]

    @property
    def encoder(self) -> EncoderRecord:
        """The encoder that made these anchors."""
        return parse_record(self.metadata["encoder"], self.metadata["weights"])

    @property
    def encoder_option(self) -> str:
        """Option of `lg3d anchors` that selects the encoder of these anchors; empty for the default."""
        option = self.encoder.option
        return "" if option in ("", DEFAULT_ENCODER) else f" --encoder {option}"

    def padded(self, dim: int) -> "Anchors":
        """Return these anchors padded with zeros to a network's width, which does not change cosines.

        Anchors of that width, wider ones, and those that were projected to fewer dimensions are returned unchanged.
        """
        width, projection = self.dim, self.metadata["projection"]
        lost = any(int(after) < int(before) for before, after in re.findall(r"(\d+) -> (\d+)", projection))
        if dim <= width or lost:
            return self
        vectors = np.zeros((len(self.vectors), dim), dtype=np.float32)
        vectors[:, :width] = self.vectors
        before = self.projection or Projection(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))
        matrix = np.zeros((len(before.matrix), dim), dtype=np.float32)
        matrix[:, :width] = before.matrix
        change = f"zero-padded {width} -> {dim}"
        description = change if projection == "none" else f"{projection}, {change}"
        return Anchors(
            vectors, self.names, {**self.metadata, "projection": description}, Projection(before.mean, matrix)
        )


def save_anchors(path: Path, anchors: Anchors) -> None:
    """Write anchors as safetensors, atomically.

    Raises:
        ShapeError: The length of a vector is out of range.
        DataError: The file cannot be written.
    """
    _require_lengths(anchors)
    metadata = {
        **anchors.metadata,
        "format": SEALED_FORMAT,
        "names": json.dumps(list(anchors.names), ensure_ascii=False),
    }
    metadata[SEAL_KEY] = NO_SEAL
    tensors = {"anchors": np.ascontiguousarray(anchors.vectors)}
    if anchors.projection is not None:
        tensors |= {f"projection.{name}": np.ascontiguousarray(value) for name, value in _named(anchors.projection)}
    sweep_temporaries(path.parent, of=path.name)
    write_bytes(path, seal_safetensors(safetensors.numpy.save(tensors, metadata=metadata)))


def load_anchors(path: Path) -> Anchors:
    """Read and check an anchors file.

    Raises:
        DataError: The file is missing or damaged, or does not contain one finite float32 vector per name.
    """
    again = "create it again with `lg3d anchors`"
    if not path.is_file():
        raise DataError(f"no anchors file {path}: {again}, or pass another file with --anchors")
    foreign = recognise_foreign(path)
    if foreign is not None:
        raise DataError(f"anchors {path} cannot be read: it is {foreign}, or {again}")
    is_sealed = require_sealed_safetensors(path, again=again)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            keys = list(file.keys())
            projected = sorted(keys) == ["anchors", "projection.matrix", "projection.mean"]
            known = metadata.get("format") in (FORMAT, SEALED_FORMAT)
            if metadata.get("format") == SEALED_FORMAT and not is_sealed:
                raise DataError(f"{path}: damaged: its checksum is missing; {again}")
            if not known or not (projected or keys == ["anchors"]):
                raise DataError(
                    f"{path} is not an anchors file of this version (it contains {', '.join(keys)}): {again}"
                )
            dtypes = sorted({file.get_slice(name).get_dtype() for name in keys})
            if dtypes != ["F32"]:
                raise DataError(f"anchors {path} are of type {', '.join(dtypes)}, expected F32: {again}")
            vectors: npt.NDArray[np.float32] = file.get_tensor("anchors")
            projection = None
            if projected:
                projection = Projection(file.get_tensor("projection.mean"), file.get_tensor("projection.matrix"))
        names = json.loads(metadata.get("names", ""))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"anchors {path} cannot be read ({error}): {again}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"anchors {path} contain no list of class names: {again}")
    own = {key: value for key, value in metadata.items() if key not in ("format", "names", SEAL_KEY)}
    try:
        if projection is not None and vectors.ndim == 2:
            _require_projection(projection, vectors.shape[1])
        anchors = Anchors(vectors, tuple(names), own, projection)
        _require_lengths(anchors)
        return anchors
    except ShapeError as error:
        raise DataError(f"anchors {path} cannot be used: {error}; {again}") from None


def _require_lengths(anchors: Anchors) -> None:
    """Reject vectors whose length no text feature has.

    Raises:
        ShapeError: A length is out of range; the message names the class.
    """
    lengths = np.linalg.norm(anchors.vectors.astype(np.float64), axis=1)
    odd = np.flatnonzero((lengths < MIN_LENGTH) | (lengths > MAX_LENGTH))
    if len(odd):
        row = int(odd[0])
        raise ShapeError(
            f"the anchor of {anchors.names[row]!r} has length {float(lengths[row]):.3g}, expected {MIN_LENGTH:g} to "
            f"{MAX_LENGTH:g}"
        )


def find_equal(anchors: Anchors) -> tuple[str, str] | None:
    """Return the names of the first two classes whose anchors have the same direction, or None."""
    unit = anchors.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for first in range(0, len(unit), BLOCK_ROWS):
        cosines = unit[first : first + BLOCK_ROWS] @ unit[first:].T
        pairs = np.argwhere(np.triu(cosines, 1) > SAME_DIRECTION)
        if len(pairs):
            one, other = (anchors.names[first + int(row)] for row in pairs[0])
            return one, other
    return None


def _named(projection: Projection) -> list[tuple[str, npt.NDArray[np.float32]]]:
    return [("mean", projection.mean), ("matrix", projection.matrix)]


def _require_projection(projection: Projection, dim: int) -> None:
    mean, matrix = projection
    if mean.dtype != np.float32 or matrix.dtype != np.float32 or matrix.shape != (*mean.shape, dim):
        raise ShapeError(f"the projection {matrix.shape} with the mean {mean.shape} does not give width {dim}")
    if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
        raise ShapeError("the projection is not finite")


def require_vocabulary(anchors: Anchors, vocabulary: Vocabulary) -> None:
    """Check that row i of the anchors is class i of the vocabulary.

    Raises:
        DataError: The anchors were made for another vocabulary; the message describes the difference.
    """
    if anchors.metadata["vocabulary_digest"] == vocabulary.digest and anchors.names == vocabulary.names:
        return
    if anchors.names == vocabulary.names:
        difference = "the names are the same, their ids differ"
    elif len(anchors.names) != len(vocabulary):
        difference = f"{len(anchors.names)} classes instead of {len(vocabulary)}"
    else:
        row = next(i for i, pair in enumerate(zip(anchors.names, vocabulary.names, strict=True)) if pair[0] != pair[1])
        difference = f"class {row} is {anchors.names[row]!r} instead of {vocabulary.names[row]!r}"
    raise DataError(
        f"the anchors were made for another vocabulary than {vocabulary.name} ({difference}): "
        f"run `lg3d anchors --vocabulary {vocabulary.name}`"
    )


def project_anchors(vectors: npt.NDArray[np.float32], dim: int, *, centred: bool = False) -> npt.NDArray[np.float32]:
    """Project anchors to a network's width, preserving cosines as well as that width allows.

    Narrower: singular value decomposition of the unit vectors about the origin, the best approximation of the cosine
    matrix at that rank; each row is then normalised. Wider, or with fewer classes than `dim`: zeros are appended, which
    does not change cosines. The sign of a component makes its largest entry over the classes positive, so that reruns
    and other machines give the same anchors.

    Args:
        vectors: Non-zero vectors, shape `(classes, D)`.
        dim: Requested width.
        centred: Whether to subtract the mean of the unit vectors first, as in the principal component analysis that the
            paper names. Cosines then change and scatter about zero.

    Returns:
        Unit vectors, shape `(classes, dim)`, float32.

    Raises:
        ShapeError: `dim` is below 1, or a class is orthogonal to all components that are kept.

    Source: section 4 (PCA of CLIP's features for the small backbone).
    """
    if dim < 1:
        raise ShapeError(f"anchors need a width of at least 1, got {dim}")
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    if centred:
        unit -= unit.mean(axis=0)
    if dim < unit.shape[1]:
        left, singular, _ = np.linalg.svd(unit, full_matrices=False)
        scores = (left * singular)[:, :dim]
        largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
        unit = scores * np.where(largest < 0, -1.0, 1.0)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    if lengths.min() < 1e-6:
        row = int(lengths.argmin())
        raise ShapeError(f"--dim {dim} is too narrow: the projection of class {row} is zero; pass a larger value")
    projected = np.zeros((len(unit), dim), dtype=np.float32)
    projected[:, : unit.shape[1]] = unit / lengths
    return projected


def fit_projection(vectors: npt.NDArray[np.float32], dim: int, *, centred: bool = False) -> Projection:
    """Return the projection of `project_anchors` for the same arguments, for use with further texts."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    width = unit.shape[1]
    mean = unit.mean(axis=0) if centred else np.zeros(width)
    matrix = np.zeros((width, dim))
    if dim < width:
        left, singular, right = np.linalg.svd(unit - mean, full_matrices=False)
        scores = (left * singular)[:, :dim]
        largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
        matrix[:, : scores.shape[1]] = right[:dim].T * np.where(largest < 0, -1.0, 1.0)
    else:
        matrix[:, :width] = np.eye(width)
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


def describe_projection(num_classes: int, width: int, dim: int, *, centred: bool = False) -> str:
    """Describe for the metadata how `project_anchors` changes `(num_classes, width)` anchors.

    Narrower anchors are made by an SVD about the origin, which is a principal component analysis only if centred.
    """
    if dim >= width:
        change = "none" if dim == width else f"zero-padded {width} -> {dim}"
        return change if not centred else "mean removed" if dim == width else f"mean removed, {change}"
    rank = min(num_classes, width)
    way = "pca, mean removed," if centred else "svd about the origin,"
    return f"{way} {width} -> {min(dim, rank)}" + (f", zero-padded -> {dim}" if dim > rank else "")


def removes_mean(description: str) -> bool:
    """Return whether anchors with this `projection` in their metadata were centred.

    Files written before 2026-11-26 use `centred` for it, and `pca` for an SVD about the origin.
    """
    return description.startswith("centred") or "mean removed" in description
