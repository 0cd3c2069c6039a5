"""Assembly of a scan from the arrays of a file: labels by vocabulary, units and axes, dropped points, normals."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.frame import Frame, find_frame, guess_unit, plain_frame, spacing_of
from lg3d_core.scans.normals import vertex_normals
from lg3d_core.scans.scannet import MAX_COORDINATE, MAX_ID, Scan
from lg3d_core.scans.surface import surface_in_memory
from lg3d_core.vocabulary import Vocabulary

GREY = 128
NO_LABEL = -1
MAX_UNMAPPED, MAX_LABEL = 100, 100
"""Maximum number of raw labels outside the vocabulary that a scene file lists, and their maximum length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneArrays:
    """Arrays of one scene, in the units and axes of its file.

    Attributes:
        path: File or folder that messages name.
        xyz: Positions, shape `(points, 3)`; may hold NaN.
        rgb: Colours, shape `(points, 3)`, uint8; None for grey.
        faces: Corners of triangles, shape `(faces, 3)`; None for points.
        normal: Normals, shape `(points, 3)`; None: those of the faces.
        labels: Labels of each vocabulary in order.
        instance: Object of each point, 0 for none, shape `(points,)`, int32; None for no objects.
        segment: Segment of each point, -1 for none, shape `(points,)`, int32; None for no segments.
        warnings: Warnings about the file.
    """

    path: Path
    xyz: npt.NDArray[np.floating]
    rgb: npt.NDArray[np.uint8] | None
    faces: npt.NDArray[np.integer] | None
    normal: npt.NDArray[np.floating] | None
    labels: "Sequence[MappedLabels]"
    instance: npt.NDArray[np.int32] | None
    segment: npt.NDArray[np.int32] | None
    warnings: tuple[str, ...] = ()


class MappedLabels(NamedTuple):
    """Labels of one vocabulary.

    Attributes:
        label: Index in the vocabulary, -1 for none, shape `(points,)`, int16.
        unmapped: Raw labels outside the vocabulary, with their number of points.
    """

    label: npt.NDArray[np.int16]
    unmapped: dict[str, int]


def no_labels(num_points: int) -> MappedLabels:
    """Return labels of points without annotation."""
    return MappedLabels(np.full(num_points, NO_LABEL, dtype=np.int16), {})


def map_ids(values: npt.NDArray[Any], ids: npt.NDArray[np.integer], *, source: str) -> MappedLabels:
    """Map integers to the index of the vocabulary's class with that id; negative values and NaN mean no label.

    Args:
        values: Raw labels of the points, integers or whole floating-point numbers.
        ids: Id of each class in index order.
        source: Array or property that messages name.

    Raises:
        DataError: A value is not a whole number.
    """
    numbers = as_whole_numbers(values, source=source)
    found, row = np.unique(numbers, return_inverse=True)
    index_by_id = {int(number): index for index, number in enumerate(ids)}
    index = np.array([index_by_id.get(int(number), NO_LABEL) for number in found], dtype=np.int16)
    counts = np.bincount(row.reshape(-1), minlength=len(found))
    unmapped = {str(n): int(c) for n, c, k in zip(found, counts, index, strict=True) if k == NO_LABEL and n >= 0}
    return MappedLabels(index[row.reshape(-1)], unmapped)


def map_names(values: npt.NDArray[np.str_], vocabulary: Vocabulary) -> MappedLabels:
    """Map class names to indices; empty names mean no label."""
    found, row = np.unique(values, return_inverse=True)
    index = np.array([vocabulary.index_by_name.get(str(name), NO_LABEL) for name in found], dtype=np.int16)
    counts = np.bincount(row.reshape(-1), minlength=len(found))
    unmapped = {str(n): int(c) for n, c, k in zip(found, counts, index, strict=True) if k == NO_LABEL and n}
    return MappedLabels(index[row.reshape(-1)], unmapped)


def map_colors(rgb: npt.NDArray[np.uint8], vocabulary: Vocabulary, *, path: Path) -> MappedLabels:
    """Map the colours of points to the class with that colour; black means no label if no class is black.

    Raises:
        DataError: Two classes have the same colour.
    """
    packed_colors = _pack(vocabulary.colors)
    if len(set(packed_colors.tolist())) != len(packed_colors):
        raise DataError(f"{path}: two classes of {vocabulary.name} have the same colour: labels cannot be told apart")
    found = map_ids(_pack(rgb), packed_colors, source="colour")
    names = {key: count for key, count in found.unmapped.items() if key != "0"}
    unmapped = {f"rgb {int(k) >> 16} {int(k) >> 8 & 255} {int(k) & 255}": count for k, count in names.items()}
    return MappedLabels(found.label, unmapped)


def _pack(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    channels = rgb.astype(np.int64)
    packed: npt.NDArray[np.int64] = (channels[:, 0] << 16) | (channels[:, 1] << 8) | channels[:, 2]
    return packed


def as_whole_numbers(values: npt.NDArray[Any], *, source: str) -> npt.NDArray[np.int64]:
    """Convert labels to int64; NaN becomes -1.

    Raises:
        DataError: A value is not a whole number, or too large.
    """
    if values.dtype.kind not in "iufb":
        raise DataError(f"{source}: expected numbers, found {values.dtype}")
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -1, values)
        with np.errstate(invalid="ignore"):
            wrong = ~((values == np.floor(values)) & (np.abs(values) < 2**53))
        if wrong.any():
            raise DataError(f"{source}: expected whole numbers, found {values[wrong][0]:g} at point {wrong.argmax()}")
    elif values.size and int(values.max()) >= 2**63 - 1:
        raise DataError(f"{source}: a value of {values.max()} is too large")
    return values.astype(np.int64)


def as_objects(values: npt.NDArray[Any], *, source: str, from_zero: bool = False) -> npt.NDArray[np.int32]:
    """Convert object ids to those of a store, where 0 means no object; large ids are renumbered.

    Args:
        values: Id of each point, integers or whole floating-point numbers.
        source: Array or property that messages name.
        from_zero: Whether 0 is an object and negative ids mean none; else this holds only if there are negative ids.

    Raises:
        DataError: A value is not a whole number.
    """
    numbers = as_whole_numbers(values, source=source)
    if from_zero or (numbers.size and numbers.min() < 0):
        numbers = np.where(numbers < 0, 0, numbers + 1)
    if numbers.size and numbers.max() > MAX_ID:
        ids = np.unique(numbers[numbers > 0])
        numbers = np.where(numbers > 0, np.searchsorted(ids, numbers) + 1, 0)
    return numbers.astype(np.int32)


def require_length(values: npt.NDArray[Any], num_points: int, *, source: str) -> npt.NDArray[Any]:
    """Return an array with one row per point, and drop a second axis of length 1.

    Raises:
        DataError: The array has another length or shape.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or len(values) != num_points:
        raise DataError(f"{source}: expected {num_points} values, one per point, found an array {values.shape}")
    return values


def metre_frame(arrays: SceneArrays, *, scale: str, up: str) -> Frame:
    """Return the frame of a scan whose format defines metres and +z up.

    Args:
        arrays: The scan.
        scale: Unit, as in `parse_scale`; `auto` means metres, and a size that contradicts this is an error.
        up: Up axis; `auto` means +z.

    Raises:
        DataError: No position is finite, or the size fits another unit.
    """
    finite = arrays.xyz[np.isfinite(arrays.xyz).all(axis=1)].astype(np.float64)
    if not len(finite):
        raise DataError(f"{arrays.path}: none of the {len(arrays.xyz)} positions is finite")
    if scale == "auto":
        size = np.maximum(np.ptp(finite, axis=0), 1e-12)
        unit = guess_unit(size, spacing_of(finite, float(len(finite))))
        if unit != "m":
            sides = " x ".join(f"{side:.4g}" for side in size)
            raise DataError(
                f"{arrays.path}: {sides} units: expected metres, but {unit} fit a room better: pass --scale {unit}, or "
                "--scale m if these are metres"
            )
        scale = "m"
    if scale == "m" and up in ("auto", "z"):
        return plain_frame()
    surface = surface_in_memory(arrays.path, arrays.xyz, arrays.rgb, arrays.faces)
    found = find_frame(surface, scale=scale, up="z" if up == "auto" else up)
    return found._replace(low=np.full(3, -np.inf), high=np.full(3, np.inf), notes=(), doubts=())


def assemble(
    arrays: SceneArrays, frame: Frame, *, scene_id: str, vocabularies: Sequence[Vocabulary], digest: str
) -> Scan:
    """Return a scan in metres with +z up; points outside of the frame are dropped, with a warning.

    Raises:
        DataError: No point is left, or a coordinate exceeds a kilometre.
    """
    warnings = [*arrays.warnings, *frame.doubts]
    xyz = arrays.xyz.astype(np.float64)
    kept = frame.holds(xyz) & np.isfinite(xyz).all(axis=1)
    if not kept.all():
        warnings.append(f"{arrays.path}: {int((~kept).sum())} of {len(kept)} points are far out or not finite: dropped")
    if not kept.any():
        raise DataError(f"{arrays.path}: no point is left, expected finite positions")
    metres = frame.to_metres(xyz[kept])
    if float(np.abs(metres).max()) > MAX_COORDINATE:
        raise DataError(
            f"{arrays.path}: a coordinate of {np.abs(metres).max():.6g} m, expected at most {MAX_COORDINATE:.0f} m: "
            "pass --scale, or check the file"
        )
    positions = metres.astype(np.float32)
    faces = np.zeros((0, 3), np.int32) if arrays.faces is None else _keep_faces(arrays.faces, kept)
    alignment = _alignment_of(frame)
    if arrays.normal is not None:
        normal = _turn_normals(arrays.normal[kept], alignment)
    else:
        normal = vertex_normals(positions, faces)
    rgb = np.full((len(xyz), 3), GREY, dtype=np.uint8) if arrays.rgb is None else arrays.rgb
    labels = [mapped.label[kept] for mapped in arrays.labels]
    num_points = len(positions)
    return Scan(
        scene_id=scene_id,
        xyz=positions,
        rgb=rgb[kept],
        normal=normal,
        label=labels[0],
        instance=np.zeros(num_points, np.int32) if arrays.instance is None else arrays.instance[kept],
        segment=np.full(num_points, -1, np.int32) if arrays.segment is None else arrays.segment[kept],
        faces=faces,
        axis_alignment=alignment,
        annotated=bool((labels[0] != NO_LABEL).any()),
        unmapped=_most_frequent(arrays.labels[0].unmapped),
        warnings=tuple(warnings),
        digest=digest,
        more_labels={v.name: label for v, label in zip(vocabularies[1:], labels[1:], strict=True)},
    )


def _most_frequent(unmapped: dict[str, int]) -> dict[str, int]:
    """Return the most frequent raw labels, and the number of points of all others together."""
    ranked = sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))
    listed = {label[:MAX_LABEL]: count for label, count in ranked[:MAX_UNMAPPED]}
    if len(ranked) > MAX_UNMAPPED:
        listed[f"{len(ranked) - MAX_UNMAPPED} other labels"] = sum(count for _, count in ranked[MAX_UNMAPPED:])
    return listed


def _keep_faces(faces: npt.NDArray[np.integer], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    if kept.all():
        return faces.astype(np.int32)
    whole = faces[kept[faces].all(axis=1)]
    rows: npt.NDArray[np.int32] = (np.cumsum(kept) - 1)[whole].astype(np.int32)
    return rows


def _alignment_of(frame: Frame) -> npt.NDArray[np.float64]:
    """Return the transformation of a frame as a matrix, shape `(4, 4)`."""
    moved = frame.to_metres(np.concatenate([np.zeros((1, 3)), np.eye(3)]))
    matrix = np.eye(4)
    matrix[:3, :3] = (moved[1:] - moved[0]).T
    matrix[:3, 3] = moved[0]
    return matrix


def _turn_normals(normal: npt.NDArray[np.floating], alignment: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rotate normals with the points, and bring them to unit length; invalid ones become zero."""
    plain = bool(np.array_equal(alignment[:3, :3], np.eye(3)))
    turned = normal.astype(np.float64) if plain else normal.astype(np.float64) @ alignment[:3, :3].T
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(length) & (length > 0)
    is_unit = np.abs(length - 1) < 1e-3 if plain else np.zeros_like(valid)  # rounding of a stored unit vector is kept
    unit = np.zeros_like(turned)
    np.divide(turned, np.where(is_unit, 1.0, length), out=unit, where=valid)
    return unit.astype(np.float32)


def digest_choice(*parts: object) -> str:
    """Return the digest of the choices that determine the labels of a scene, 16 hex digits."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
