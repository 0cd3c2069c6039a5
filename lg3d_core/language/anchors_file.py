"""Text anchors: one vector per category, as a file and in memory; and their projection to a network's width."""

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
from lg3d_core.seal import NO_SEAL, SEAL_KEY, require_sealed_safetensors, seal_safetensors
from lg3d_core.vocabulary import Vocabulary

FORMAT = "lg3d anchors 1"
"""What versions wrote that did not seal anchors."""
SEALED_FORMAT = "lg3d anchors 2"
MIN_LENGTH, MAX_LENGTH = 1e-3, 1e4
"""Lengths that a text feature can have, normalised or not; others are damage."""
SAME_DIRECTION = 1 - 1e-10
"""Cosine above which two anchors name one direction: the rounding of float32 moves it by less."""
BLOCK_ROWS = 1024
BUNDLED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"
METADATA_KEYS = ("encoder", "weights", "prompt", "vocabulary_digest", "projection")


class Projection(NamedTuple):
    """The way from an encoder's features to anchors, so that further texts can go it.

    Attributes:
        mean: Taken off the unit features first, zero where they were not centred, shape `(D,)`, float32.
        matrix: Then multiplied with, shape `(D, dim)`, float32.
    """

    mean: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float32]

    def apply(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Bring features `(texts, D)` of any length but zero to unit vectors `(texts, dim)`, float32.

        Raises:
            ShapeError: Features of another width, or one of which nothing is left.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.matrix):
            raise ShapeError(f"expected features of width {len(self.matrix)}, got {vectors.shape}")
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        projected = (unit - self.mean) @ self.matrix.astype(np.float64)
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        if len(lengths) and lengths.min() < 1e-6:
            raise ShapeError("nothing of this text is left in the width of the anchors")
        unit_length: npt.NDArray[np.float32] = (projected / lengths).astype(np.float32)
        return unit_length


@dataclass(frozen=True, eq=False)
class Anchors:
    """One text feature per category, in the vocabulary's order.

    Attributes:
        vectors: Shape `(classes, D)`, float32, finite, no row all zero; of unit length as `make_anchors` writes them.
        names: Category names, in index order.
        metadata: Where they come from: at least `encoder`, `weights`, `prompt`, `vocabulary_digest`, `projection`.
        projection: What brought the encoder's features to this width; None where nothing did, and in files of before
            this was kept.

    Raises:
        ShapeError: Vectors of another kind, or as many names as there are not vectors.
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
        """Width D of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> str:
        """Hash of names and vectors: equal exactly when two sets of anchors train the same way."""
        hasher = hashlib.sha256(json.dumps([list(self.names), self.dim]).encode())
        hasher.update(np.ascontiguousarray(self.vectors).tobytes())
        return hasher.hexdigest()[:16]

    @property
    def encoder_option(self) -> str:
        """The option of `lg3d anchors` that names the encoder of these anchors; empty for its default."""
        made_by, weights = self.metadata["encoder"], self.metadata["weights"]
        if made_by.startswith(BUNDLED_ENCODER):
            return " --encoder bundled"
        if made_by.startswith("open_clip:"):
            name = f"{made_by}/{weights.partition(' from ')[0]}"
            return "" if name == DEFAULT_ENCODER else f" --encoder {name}"
        return f" --encoder {made_by.rpartition(', ')[0]}" if made_by.startswith("hf:") else ""

    def padded(self, dim: int) -> "Anchors":
        """Return these anchors at a network's width, with zeros behind, which leaves all cosines as they are.

        Anchors of that width, wider ones, and those that were projected to fewer dimensions, are returned unchanged.
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
        told = change if projection == "none" else f"{projection}, {change}"
        return Anchors(vectors, self.names, {**self.metadata, "projection": told}, Projection(before.mean, matrix))


def save_anchors(path: Path, anchors: Anchors) -> None:
    """Write anchors as safetensors; a file that was there is replaced at once or not at all.

    Raises:
        ShapeError: A vector's length is out of range.
        DataError: The file cannot be written (no such folder, no permission, a full disk); nothing is left behind.
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
    """Read an anchors file back, and check all of it.

    Raises:
        DataError: No such file, one that is damaged, or one whose content is not one finite float32 vector per name.
    """
    again = "make it again with `lg3d anchors`"
    if not path.is_file():
        raise DataError(f"no anchors file {path}: {again}, or name another with --anchors")
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
                raise DataError(f"{path} is no anchors file of this version (it holds {', '.join(keys)}): {again}")
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
        raise DataError(f"anchors {path} hold no list of category names: {again}")
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
    """Refuse vectors of a length that no text feature has.

    Raises:
        ShapeError: Naming the category.
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
    """Return the names of the first two categories whose anchors have the same direction, or None."""
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
    """Check that row i of the anchors is category i of the vocabulary.

    Raises:
        DataError: They were made for another one; the message says how they differ.
    """
    if anchors.metadata["vocabulary_digest"] == vocabulary.digest and anchors.names == vocabulary.names:
        return
    if anchors.names == vocabulary.names:
        difference = "the names are the same, their ids are not"
    elif len(anchors.names) != len(vocabulary):
        difference = f"{len(anchors.names)} categories instead of {len(vocabulary)}"
    else:
        row = next(i for i, pair in enumerate(zip(anchors.names, vocabulary.names, strict=True)) if pair[0] != pair[1])
        difference = f"category {row} is {anchors.names[row]!r} instead of {vocabulary.names[row]!r}"
    raise DataError(
        f"the anchors were made for another vocabulary than {vocabulary.name} ({difference}): "
        f"make them with `lg3d anchors --vocabulary {vocabulary.name}`"
    )


def project_anchors(vectors: npt.NDArray[np.float32], dim: int, *, centred: bool = False) -> npt.NDArray[np.float32]:
    """Bring anchors to a network's width, with cosines as near to the old ones as that width allows.

    Downwards: a singular value decomposition of the unit vectors about the origin, which is the best approximation of
    the matrix of cosines at that rank; each row is then brought back to unit length. Upwards, and where there are fewer
    classes than `dim`: zeros behind, which leaves all cosines as they are. A component's sign is that which makes its
    largest entry over the classes positive, so that reruns and other machines give the same anchors.

    Args:
        vectors: Shape `(classes, D)`, any length but zero.
        dim: Width wanted.
        centred: Remove the mean of the unit vectors first, which makes it the principal component analysis that the
            paper names. Cosines change: they then scatter about zero.

    Returns:
        Unit vectors, shape `(classes, dim)`, float32.

    Raises:
        ShapeError: `dim` below 1, or a category that is orthogonal to all components that are kept.

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
        raise ShapeError(f"--dim {dim} is too narrow: nothing of category {row} is left; take a larger one")
    projected = np.zeros((len(unit), dim), dtype=np.float32)
    projected[:, : unit.shape[1]] = unit / lengths
    return projected


def fit_projection(vectors: npt.NDArray[np.float32], dim: int, *, centred: bool = False) -> Projection:
    """What `project_anchors` does with these arguments, as a matrix that further texts can be multiplied with."""
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
    """Describe what `project_anchors` does to `(num_classes, width)` anchors, for the file's metadata.

    Narrower anchors come from an SVD about the origin, which is no principal component analysis; centred they do.
    """
    if dim >= width:
        change = "none" if dim == width else f"zero-padded {width} -> {dim}"
        return change if not centred else "mean removed" if dim == width else f"mean removed, {change}"
    rank = min(num_classes, width)
    way = "pca, mean removed," if centred else "svd about the origin,"
    return f"{way} {width} -> {min(dim, rank)}" + (f", zero-padded -> {dim}" if dim > rank else "")


def removes_mean(description: str) -> bool:
    """Return whether anchors with this `projection` in their metadata had the mean of their vectors removed.

    Files of before 2026-11-26 call it `centred`, and `pca` what is an SVD about the origin.
    """
    return description.startswith("centred") or "mean removed" in description
