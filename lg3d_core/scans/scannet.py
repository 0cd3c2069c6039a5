"""Reader of a scan in ScanNet's files: mesh, over-segmentation, annotated groups of segments, and alignment."""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import digest_contents, parse_json_object, read_file
from lg3d_core.scans.normals import vertex_normals
from lg3d_core.scans.ply import Mesh, parse_ply
from lg3d_core.vocabulary import LabelTable

MESH_SUFFIX = "_vh_clean_2.ply"
DENSE_MESH_SUFFIX = "_vh_clean.ply"
DENSE_MESH_STEM = "_vh_clean."
SEGMENTS_SUFFIX = "_vh_clean_2.0.010000.segs.json"
AGGREGATION_SUFFIX = ".aggregation.json"
INFO_SUFFIX = ".txt"
SCANS_FOLDERS = ("scans", "scans_test")

SCENE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
BENCHMARK_ID = re.compile(r"scene[0-9]{4}_[0-9]{2}")
MAX_COORDINATE = 1000.0
"""Maximum coordinate in metres; larger values indicate damage."""
MAX_ID = 2_000_000_000
"""Largest id of an object or superpoint. It leaves int32 ids for the objects that instance sampling adds."""


@dataclass(frozen=True)
class ScanFiles:
    """Files of one scan; `mesh` is the expected path, the others are None if missing."""

    scene_id: str
    folder: Path
    mesh: Path
    segments: Path | None
    aggregation: Path | None
    info: Path | None

    @property
    def is_test(self) -> bool:
        """Whether the scan is under `scans_test/` and has no annotation."""
        return self.folder.parent.name == SCANS_FOLDERS[1]

    @property
    def present(self) -> list[Path]:
        """Files that are read, in a fixed order."""
        return [path for path in (self.mesh, self.segments, self.aggregation, self.info) if path is not None]


class Group(NamedTuple):
    """Annotated object: a raw label and its segments."""

    object_id: int
    label: str
    segments: npt.NDArray[np.int64]


class Scan(NamedTuple):
    """Labelled scan, per vertex in the mesh's order.

    Attributes:
        scene_id: Name of the scan's folder.
        xyz: Axis-aligned vertices in metres, +z up, shape `(vertices, 3)`, float32.
        rgb: Colours, shape `(vertices, 3)`, uint8.
        normal: Unit normals from the faces, zero if a vertex has none, shape `(vertices, 3)`, float32.
        label: Vocabulary index, -1 if unannotated or outside the vocabulary, shape `(vertices,)`, int16.
        instance: objectId + 1, 0 for no object, shape `(vertices,)`, int32.
        segment: Segment of the over-segmentation, -1 if the scan has none, shape `(vertices,)`, int32.
        faces: Corners of the triangles, shape `(faces, 3)`, int32.
        axis_alignment: Matrix that was applied to the mesh file's coordinates, shape `(4, 4)`, float64.
        annotated: Whether the scan has groups; False for test scans.
        unmapped: Raw labels missing from the label table, with their number of objects.
        warnings: Warnings about the files, one line each.
        digest: SHA-256 over the files' bytes, first 16 hex digits.
        more_labels: Labels as in `label` of further vocabularies, by name.
    """

    scene_id: str
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    normal: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16]
    instance: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32]
    faces: npt.NDArray[np.int32]
    axis_alignment: npt.NDArray[np.float64]
    annotated: bool
    unmapped: dict[str, int]
    warnings: tuple[str, ...]
    digest: str
    more_labels: Mapping[str, npt.NDArray[np.int16]] = {}


def find_scans(raw: Path) -> list[ScanFiles]:
    """List the scans in `raw/scans` and `raw/scans_test`, sorted by id.

    Every folder that is not hidden counts as a scan. A folder without a mesh or a broken link is not skipped, but
    causes an error when it is read. An id in both folders is listed twice.

    Raises:
        DataError: The folder does not exist or has no scans; the message names the folder to pass.
    """
    if not raw.is_dir():
        raise DataError(f"no such folder: {raw} (expected the ScanNet folder, which contains scans/)")
    found = [
        _scan_files(folder, is_test=name == SCANS_FOLDERS[1])
        for name in SCANS_FOLDERS
        if (raw / name).is_dir()
        for folder in (raw / name).iterdir()
        if not folder.name.startswith(".") and _is_scan(folder)
    ]
    if not found:
        raise DataError(f"{raw} contains no scans: expected folders {raw}/scans/scene0000_00/{_hint(raw)}")
    return sorted(found, key=lambda files: (files.scene_id, files.is_test))


def _is_scan(folder: Path) -> bool:
    try:
        return folder.is_dir() or (folder.is_symlink() and not folder.exists())
    except OSError:  # e.g. a disk that does not respond, or no permission
        return True


def _hint(raw: Path) -> str:
    if raw.name in SCANS_FOLDERS:
        return f"; pass its parent, {raw.resolve().parent}"
    if (raw / f"{raw.name}{MESH_SUFFIX}").is_file():
        return f"; this is a single scan, pass {raw.resolve().parent.parent}"
    return ""


def _scan_files(folder: Path, *, is_test: bool) -> ScanFiles:
    def where(suffix: str) -> Path | None:
        path = folder / f"{folder.name}{suffix}"
        return path if path.exists() else None

    return ScanFiles(
        scene_id=folder.name,
        folder=folder,
        mesh=folder / f"{folder.name}{MESH_SUFFIX}",
        segments=None if is_test else where(SEGMENTS_SUFFIX),
        aggregation=None if is_test else where(AGGREGATION_SUFFIX),
        info=where(INFO_SUFFIX),
    )


def read_scan(files: ScanFiles, table: LabelTable, more_tables: Mapping[str, LabelTable] | None = None) -> Scan:
    """Read one scan and label its vertices, with the table of one vocabulary or of several.

    A vertex in several groups belongs to the last one. Its instance is objectId + 1; its label is -1 if the raw label
    is outside the vocabulary. Groups with equal segments and label are reduced to the last one, with a warning. A scan
    under `scans_test/` has no labels, segments or instances.

    Raises:
        DataError: A file is missing, damaged, or does not match the mesh; the message names the file and the reason.
    """
    require_files(files)
    contents = {path: read_file(path) for path in files.present}
    mesh = parse_mesh(files, contents[files.mesh])
    alignment = _identity() if files.info is None else parse_alignment(contents[files.info], files.info)
    warnings = [] if files.info is not None else [missing_info(files)]
    xyz = (mesh.xyz.astype(np.float64) @ alignment[:3, :3].T + alignment[:3, 3]).astype(np.float32)
    num_vertices = len(xyz)
    label = np.full(num_vertices, -1, dtype=np.int16)
    instance = np.zeros(num_vertices, dtype=np.int32)
    segment = np.full(num_vertices, -1, dtype=np.int32)
    more_labels = {name: label.copy() for name in more_tables or ()}
    unmapped: dict[str, int] = {}
    if files.segments is not None and files.aggregation is not None:
        segment = parse_segments(files, contents[files.segments], num_vertices)
        groups = parse_groups(files, contents[files.aggregation])
        ids, row = np.unique(segment, return_inverse=True)
        warnings += describe_groups(files, groups, ids)
        kept = drop_repeated(groups)
        label, instance = _paint(kept, table, ids, row)
        more_labels = {name: _paint(kept, other, ids, row)[0] for name, other in (more_tables or {}).items()}
        unmapped = count_unmapped(kept, table)
    return Scan(
        scene_id=files.scene_id,
        xyz=xyz,
        rgb=mesh.rgb,
        normal=vertex_normals(xyz, mesh.faces),
        label=label,
        instance=instance,
        segment=segment,
        faces=mesh.faces,
        axis_alignment=alignment,
        annotated=files.aggregation is not None,
        unmapped=unmapped,
        warnings=tuple(warnings),
        digest=digest_contents(contents.items()),
        more_labels=more_labels,
    )


def _paint(
    groups: list[Group], table: LabelTable, ids: npt.NDArray[np.int32], row: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    """Return label and instance of every vertex; later groups overwrite earlier ones."""
    label = np.full(len(ids), -1, dtype=np.int16)
    instance = np.zeros(len(ids), dtype=np.int32)
    for group in groups:
        rows = np.flatnonzero(np.isin(ids, group.segments, assume_unique=False))
        label[rows] = table.index_by_label.get(group.label, -1)
        instance[rows] = group.object_id + 1
    return label[row], instance[row]


def require_files(files: ScanFiles) -> None:
    """Raise DataError if a required file is missing.

    Raises:
        DataError: A file is missing; the message names the first one.
    """
    require_id(files.scene_id)
    missing = missing_files(files)
    if missing:
        raise DataError(missing[0].reason)


def require_id(scene_id: str) -> None:
    """Raise DataError if an id cannot be a file name in the store.

    Raises:
        DataError: The id is invalid.
    """
    if SCENE_ID.fullmatch(scene_id) is None:
        raise DataError(f"{scene_id[:100]!r} is not a scene id: expected letters, digits, '_', '-' and '.'")


class MissingFile(NamedTuple):
    """Missing file or folder without which a scan cannot be read.

    Attributes:
        path: Missing file or folder.
        reason: Message that names it.
    """

    path: Path
    reason: str


def missing_files(files: ScanFiles) -> list[MissingFile]:
    """Return the missing files without which a scan cannot be read."""
    if files.folder.is_symlink() and not files.folder.exists():
        target = os.readlink(files.folder)
        reason = f"{files.folder}: broken link to {target}: mount the disk, or remove the link"
        return [MissingFile(files.folder, reason)]
    found = []
    if not files.mesh.exists():
        dense = files.folder / f"{files.scene_id}{DENSE_MESH_SUFFIX}"
        note = f"; {dense.name} is a different, denser mesh and cannot replace it" if dense.exists() else ""
        found.append(MissingFile(files.mesh, f"{files.mesh}: the mesh is missing{note}"))
    for path, suffix in ((files.segments, SEGMENTS_SUFFIX), (files.aggregation, AGGREGATION_SUFFIX)):
        if path is None and not files.is_test:
            wanted = files.folder / f"{files.scene_id}{suffix}"
            reason = f"{wanted}: missing (scans without annotation belong under {SCANS_FOLDERS[1]}/)"
            found.append(MissingFile(wanted, reason))
    return found


def missing_info(files: ScanFiles) -> str:
    """Return the warning for a scan without its `.txt`."""
    return f"{files.folder / (files.scene_id + INFO_SUFFIX)}: missing: the scan is assumed to be axis-aligned"


def parse_mesh(files: ScanFiles, data: bytes) -> Mesh:
    """Read and check the mesh of a scan.

    Raises:
        DataError: The mesh is not the low-resolution one, is damaged, has no vertices, or has coordinates that are not
            finite or exceed a kilometre.
    """
    if files.mesh.name.endswith(DENSE_MESH_SUFFIX):
        raise DataError(f"{files.mesh}: this is the denser mesh; labels belong to {files.scene_id}{MESH_SUFFIX}")
    mesh = parse_ply(data, files.mesh)
    if not len(mesh.xyz):
        raise DataError(f"{files.mesh}: the mesh has no vertices")
    bad: npt.NDArray[np.bool_] = ~np.all(np.isfinite(mesh.xyz), axis=1, keepdims=True)[:, 0]
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{files.mesh}: {int(bad.sum())} of {len(bad)} vertices have coordinates that are not finite, "
            f"the first is vertex {row}: {mesh.xyz[row].tolist()}"
        )
    furthest = float(np.abs(mesh.xyz).max())
    if furthest > MAX_COORDINATE:
        raise DataError(
            f"{files.mesh}: a coordinate of {furthest:.6g} m, expected at most {MAX_COORDINATE:.0f} m: "
            "are these metres, or is the file damaged?"
        )
    return mesh


def parse_alignment(data: bytes, path: Path) -> npt.NDArray[np.float64]:
    """Return the `axisAlignment` of a scan's `.txt`, or the identity if it has none.

    Other lines are ignored. The last `axisAlignment` counts.

    Returns:
        Row-major transform of column vectors, shape `(4, 4)`, float64.

    Raises:
        DataError: `axisAlignment` is not 16 numbers, or not a rotation with a translation.
    """
    values: list[str] | None = None
    for line in data.decode("utf-8", errors="replace").splitlines():
        key, equals, text = line.partition("=")
        if equals and key.strip() == "axisAlignment":
            values = text.split()
    if values is None:
        return _identity()
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise DataError(f"{path}: axisAlignment contains an invalid number: {error}") from None
    if len(numbers) != 16 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{path}: axisAlignment needs 16 finite numbers, found {len(numbers)}: {' '.join(values)[:80]}")
    matrix = np.array(numbers).reshape(4, 4)
    rotation = matrix[:3, :3]
    is_small = np.abs(rotation).max() < 2  # avoids overflow in the products below
    rigid = is_small and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6) or np.abs(matrix[:3, 3]).max() > MAX_COORDINATE:
        raise DataError(f"{path}: axisAlignment is not a rotation with a translation: {matrix.tolist()}")
    return matrix


def _identity() -> npt.NDArray[np.float64]:
    return np.eye(4)


def parse_segments(files: ScanFiles, data: bytes, num_vertices: int | None) -> npt.NDArray[np.int32]:
    """Return the segment of every vertex, shape `(vertices,)`, int32; with `num_vertices` None, the length is not
    checked.

    Raises:
        DataError: The file is invalid, belongs to another scene, or has another length than the mesh.
    """
    assert files.segments is not None
    body = parse_json_object(data, files.segments)
    _require_scene(body.get("sceneId"), files, files.segments)
    ids = _whole_numbers(body.get("segIndices"), "segIndices", files.segments)
    if num_vertices is not None and len(ids) != num_vertices:
        raise DataError(
            f"{files.segments}: segIndices has {len(ids)} entries, expected {num_vertices}, one per vertex of "
            f"{files.mesh.name}"
        )
    return ids.astype(np.int32)


def parse_groups(files: ScanFiles, data: bytes) -> list[Group]:
    """Return the annotated objects, in the file's order.

    Raises:
        DataError: The file is invalid, belongs to another scene, or to another mesh.
    """
    path = files.aggregation
    assert path is not None
    body = parse_json_object(data, path)
    _require_scene(body.get("sceneId"), files, path)
    segments_file = body.get("segmentsFile")
    _require_scene(segments_file, files, path)
    if isinstance(segments_file, str) and DENSE_MESH_STEM in segments_file:
        raise DataError(
            f"{path}: made for {segments_file[:100]!r}, expected {files.scene_id}{SEGMENTS_SUFFIX}: "
            "this is the annotation of another mesh"
        )
    entries = body.get("segGroups")
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list segGroups, found {type(entries).__name__}")
    return [_parse_group(entry, row, path) for row, entry in enumerate(entries)]


def _parse_group(entry: Any, row: int, path: Path) -> Group:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: expected group {row} as an object, found {type(entry).__name__}")
    object_id, label = entry.get("objectId"), entry.get("label")
    if not isinstance(object_id, int) or isinstance(object_id, bool) or not 0 <= object_id <= MAX_ID:
        raise DataError(f"{path}: group {row} has objectId {object_id!r}, expected an integer from 0 to {MAX_ID}")
    if not isinstance(label, str):
        raise DataError(f"{path}: group {row} (objectId {object_id}) has no label")
    segments = _whole_numbers(entry.get("segments"), f"segments of group {row}", path)
    return Group(object_id, label, np.unique(segments))


def _whole_numbers(value: Any, what: str, path: Path) -> npt.NDArray[np.int64]:
    if not isinstance(value, list):
        raise DataError(f"{path}: expected {what} as a list, found {type(value).__name__}")
    if not value:
        return np.empty(0, dtype=np.int64)
    # Types first: numpy would convert a mix of text and numbers to text of the longest width.
    is_whole = set(map(type, value)) == {int}
    try:
        array = np.array(value) if is_whole else np.empty(0, dtype=object)
    except (ValueError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.dtype != np.int64 or array.ndim != 1 or int(array.min()) < 0 or int(array.max()) > MAX_ID:
        raise DataError(f"{path}: {what} must be integers from 0 to {MAX_ID}")
    return array


def _require_scene(named: Any, files: ScanFiles, path: Path) -> None:
    """Raise DataError if a file names another scene; values that are not ScanNet ids (a path, a title) are ignored."""
    found = BENCHMARK_ID.search(named) if isinstance(named, str) else None
    if found is not None and BENCHMARK_ID.search(files.scene_id) and found[0] not in files.scene_id:
        raise DataError(f"{path}: belongs to scene {named[:100]!r}, expected {files.scene_id}")


def drop_repeated(groups: list[Group]) -> list[Group]:
    """Return the groups without those that a later group repeats (segments and label), as in one public scan.

    The last copy is kept at its position, as it overwrites the groups between the two.
    """
    seen: set[tuple[str, bytes]] = set()
    kept = []
    for group in reversed(groups):
        key = (group.label, group.segments.tobytes())
        if key not in seen or not len(group.segments):
            kept.append(group)
        seen.add(key)
    return kept[::-1]


def count_unmapped(groups: list[Group], table: LabelTable) -> dict[str, int]:
    """Return the raw labels missing from the table, with their number of objects, most frequent first."""
    missing = Counter(group.label for group in groups if group.label not in table.index_by_label)
    return dict(sorted(missing.items(), key=lambda item: (-item[1], item[0])))


def describe_groups(files: ScanFiles, groups: list[Group], ids: npt.NDArray[np.int32]) -> list[str]:
    """Return warnings about the groups of a scan, one line per kind.

    Args:
        files: Files of the scan.
        groups: Groups in the file's order.
        ids: Segment ids of the mesh.

    Raises:
        DataError: No group refers to a segment of this mesh: the annotation belongs to another scan.
    """
    strangers = {k: int((~np.isin(group.segments, ids)).sum()) for k, group in enumerate(groups)}
    named = sum(len(group.segments) for group in groups)
    if named and sum(strangers.values()) == named:
        raise DataError(
            f"{files.aggregation}: none of its {named} segments exists in the mesh: does it belong to another scan?"
        )
    kept = {id(group) for group in drop_repeated(groups)}
    repeats = [group for group in groups if id(group) not in kept]
    ids_in_use = Counter(group.object_id for group in groups if id(group) in kept)
    kinds = (
        ("groups have no segments", [group.object_id for group in groups if not len(group.segments)]),
        (
            "groups refer to segments that do not exist",
            [groups[k].object_id for k, count in strangers.items() if count],
        ),
        ("groups are repeated by a later one, which is used", [group.object_id for group in repeats]),
        ("objectIds occur in several groups", [object_id for object_id, n in ids_in_use.items() if n > 1]),
    )
    return [f"{files.aggregation}: {len(found)} {what} (objectId {_listed(found)})" for what, found in kinds if found]


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
