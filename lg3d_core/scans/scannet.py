"""One scan in ScanNet's files: mesh, over-segmentation, groups of segments with a raw label, and the alignment."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import parse_json_object, read_file
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
"""Metres from the origin; what lies beyond is no room but damage."""
MAX_ID = 2**31 - 2


@dataclass(frozen=True)
class ScanFiles:
    """Where the files of one scan are; the mesh is where it should be, the others None where they are missing."""

    scene_id: str
    folder: Path
    mesh: Path
    segments: Path | None
    aggregation: Path | None
    info: Path | None

    @property
    def is_test(self) -> bool:
        """Whether the scan lies under `scans_test/`: geometry alone, whatever else is there."""
        return self.folder.parent.name == SCANS_FOLDERS[1]

    @property
    def present(self) -> list[Path]:
        """The files that are read, in a fixed order."""
        return [path for path in (self.mesh, self.segments, self.aggregation, self.info) if path is not None]


class Group(NamedTuple):
    """One annotated object: a raw label and the segments that it is made of."""

    object_id: int
    label: str
    segments: npt.NDArray[np.int64]


class Scan(NamedTuple):
    """One scan, read and labelled, per vertex in the mesh's order.

    Attributes:
        scene_id: Name of the scan's folder.
        xyz: Axis-aligned vertices in metres, +z up, shape `(vertices, 3)`, float32.
        rgb: Colours, shape `(vertices, 3)`, uint8.
        normal: Unit normals from the faces, zero where a vertex has none, shape `(vertices, 3)`, float32.
        label: Vocabulary index, -1 where unannotated or outside the vocabulary, shape `(vertices,)`, int16.
        instance: objectId + 1, 0 where no object is, shape `(vertices,)`, int32.
        segment: Segment of the over-segmentation, -1 where the scan has none, shape `(vertices,)`, int32.
        faces: Corners of the triangles, shape `(faces, 3)`, int32.
        axis_alignment: What was applied to the mesh file's coordinates, shape `(4, 4)`, float64.
        annotated: Whether there are groups at all; False for test scans.
        unmapped: Raw labels that the label table lacks, with their number of objects.
        warnings: What is odd about the files but does not stop reading, one line each.
        digest: SHA-256 over the files' bytes, first 16 hex digits.
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


def find_scans(raw: Path) -> list[ScanFiles]:
    """List the scans in `raw/scans` and `raw/scans_test`, sorted by id.

    Every folder there that is not hidden counts as a scan: one without a mesh, or a link to a folder that is missing,
    fails when it is read, and is not passed over. The same id in both folders is listed twice.

    Raises:
        DataError: No such folder, or it holds no scan; the message says which folder to give.
    """
    if not raw.is_dir():
        raise DataError(f"no such folder: {raw} (expected ScanNet's folder, which holds scans/)")
    found = [
        _scan_files(folder, is_test=name == SCANS_FOLDERS[1])
        for name in SCANS_FOLDERS
        if (raw / name).is_dir()
        for folder in (raw / name).iterdir()
        if not folder.name.startswith(".") and _is_scan(folder)
    ]
    if not found:
        raise DataError(f"{raw} holds no scans: expected folders {raw}/scans/scene0000_00/{_hint(raw)}")
    return sorted(found, key=lambda files: (files.scene_id, files.is_test))


def _is_scan(folder: Path) -> bool:
    try:
        return folder.is_dir() or (folder.is_symlink() and not folder.exists())
    except OSError:  # a disk that does not answer, or no permission
        return True


def _hint(raw: Path) -> str:
    if raw.name in SCANS_FOLDERS:
        return f"; give its parent, {raw.resolve().parent}"
    if (raw / f"{raw.name}{MESH_SUFFIX}").is_file():
        return f"; this is a single scan, give {raw.resolve().parent.parent}"
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


def read_scan(files: ScanFiles, table: LabelTable) -> Scan:
    """Read one scan and label its vertices.

    A vertex in several groups takes the last group; its instance is objectId + 1; a group whose raw label lies outside
    the vocabulary gives label -1 and keeps its instance. Of groups with equal segments and label the last one counts,
    with a warning. A scan under `scans_test/` has no labels, segments or instances.

    Raises:
        DataError: A file is missing, damaged, or does not fit the mesh; the message names the file and the reason.
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
    unmapped: dict[str, int] = {}
    if files.segments is not None and files.aggregation is not None:
        segment = parse_segments(files, contents[files.segments], num_vertices)
        groups = parse_groups(files, contents[files.aggregation])
        ids, row = np.unique(segment, return_inverse=True)
        warnings += describe_groups(files, groups, ids)
        kept = drop_repeated(groups)
        label, instance = _paint(kept, table, ids, row)
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
        digest=_digest(contents.items()),
    )


def digest_scan(files: ScanFiles) -> str:
    """What `Scan.digest` would be, without making sense of the files.

    Raises:
        DataError: A file cannot be read.
    """
    return _digest((path, read_file(path)) for path in files.present)


def _digest(contents: Iterable[tuple[Path, bytes]]) -> str:
    total = hashlib.sha256()
    for path, data in contents:
        total.update(f"{path.name} {len(data)}\n".encode())
        total.update(data)
    return total.hexdigest()[:16]


def _paint(
    groups: list[Group], table: LabelTable, ids: npt.NDArray[np.int32], row: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    """Label and instance of every vertex, later groups over earlier ones."""
    label = np.full(len(ids), -1, dtype=np.int16)
    instance = np.zeros(len(ids), dtype=np.int32)
    for group in groups:
        rows = np.flatnonzero(np.isin(ids, group.segments, assume_unique=False))
        label[rows] = table.index_by_label.get(group.label, -1)
        instance[rows] = group.object_id + 1
    return label[row], instance[row]


def require_files(files: ScanFiles) -> None:
    """Refuse a scan that lacks a file it cannot do without.

    Raises:
        DataError: Naming the first such file.
    """
    require_id(files)
    missing = missing_files(files)
    if missing:
        raise DataError(missing[0])


def require_id(files: ScanFiles) -> None:
    """Refuse a name that cannot be a file's name in the store.

    Raises:
        DataError: Naming it.
    """
    if SCENE_ID.fullmatch(files.scene_id) is None:
        raise DataError(f"{files.scene_id[:100]!r} is no scene id: expected letters, digits, '_', '-' and '.'")


def missing_files(files: ScanFiles) -> list[str]:
    """One line for each missing file without which a scan cannot be read."""
    if files.folder.is_symlink() and not files.folder.exists():
        target = os.readlink(files.folder)
        return [f"{files.folder}: a link to {target}, which is missing: mount the disk, or remove the link"]
    found = []
    if not files.mesh.exists():
        dense = files.folder / f"{files.scene_id}{DENSE_MESH_SUFFIX}"
        note = f"; {dense.name} is another, denser mesh and cannot stand in for it" if dense.exists() else ""
        found.append(f"{files.mesh}: the mesh is missing{note}")
    for path, suffix in ((files.segments, SEGMENTS_SUFFIX), (files.aggregation, AGGREGATION_SUFFIX)):
        if path is None and not files.is_test:
            wanted = files.folder / f"{files.scene_id}{suffix}"
            found.append(f"{wanted}: missing (scans without annotation belong under {SCANS_FOLDERS[1]}/)")
    return found


def missing_info(files: ScanFiles) -> str:
    """The warning for a scan without its `.txt`."""
    return f"{files.folder / (files.scene_id + INFO_SUFFIX)}: missing, so the scan is taken as axis-aligned"


def parse_mesh(files: ScanFiles, data: bytes) -> Mesh:
    """Read the mesh of a scan and check what every later step relies on.

    Raises:
        DataError: Not the low-resolution mesh, damaged, without vertices, or with coordinates that are not finite or
            lie further than a kilometre out.
    """
    if files.mesh.name.endswith(DENSE_MESH_SUFFIX):
        raise DataError(f"{files.mesh}: the denser mesh; labels belong to {files.scene_id}{MESH_SUFFIX}")
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
    """The `axisAlignment` of a scan's `.txt`, or the identity where it has none.

    Other lines may hold anything. The last `axisAlignment` counts.

    Returns:
        Row-major transform of column vectors, shape `(4, 4)`, float64.

    Raises:
        DataError: `axisAlignment` is not 16 numbers, or no rotation with a shift.
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
        raise DataError(f"{path}: axisAlignment holds something that is no number: {error}") from None
    if len(numbers) != 16 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{path}: axisAlignment needs 16 finite numbers, found {len(numbers)}: {' '.join(values)[:80]}")
    matrix = np.array(numbers).reshape(4, 4)
    rotation = matrix[:3, :3]
    is_small = np.abs(rotation).max() < 2  # no product below overflows
    rigid = is_small and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6) or np.abs(matrix[:3, 3]).max() > MAX_COORDINATE:
        raise DataError(f"{path}: axisAlignment is no rotation with a shift: {matrix.tolist()}")
    return matrix


def _identity() -> npt.NDArray[np.float64]:
    return np.eye(4)


def parse_segments(files: ScanFiles, data: bytes, num_vertices: int | None) -> npt.NDArray[np.int32]:
    """The segment of every vertex, shape `(vertices,)`, int32; a length of None is not checked.

    Raises:
        DataError: Not of this form, of another scene, or of another length than the mesh.
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
    """The annotated objects, in the file's order.

    Raises:
        DataError: Not of this form, of another scene, or made for another mesh.
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
        raise DataError(f"{path}: group {row} is no object but a {type(entry).__name__}")
    object_id, label = entry.get("objectId"), entry.get("label")
    if not isinstance(object_id, int) or isinstance(object_id, bool) or not 0 <= object_id <= MAX_ID:
        raise DataError(f"{path}: group {row} has objectId {object_id!r}, expected a whole number from 0 to {MAX_ID}")
    if not isinstance(label, str):
        raise DataError(f"{path}: group {row} (objectId {object_id}) has no label")
    segments = _whole_numbers(entry.get("segments"), f"segments of group {row}", path)
    return Group(object_id, label, np.unique(segments))


def _whole_numbers(value: Any, what: str, path: Path) -> npt.NDArray[np.int64]:
    if not isinstance(value, list):
        raise DataError(f"{path}: expected {what} as a list, found {type(value).__name__}")
    if not value:
        return np.empty(0, dtype=np.int64)
    # Types first: numpy makes room for the longest text in every row, and would turn text and numbers into text.
    is_whole = set(map(type, value)) == {int}
    try:
        array = np.array(value) if is_whole else np.empty(0, dtype=object)
    except (ValueError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.dtype != np.int64 or array.ndim != 1 or int(array.min()) < 0 or int(array.max()) > MAX_ID:
        raise DataError(f"{path}: {what} must be whole numbers from 0 to {MAX_ID}")
    return array


def _require_scene(named: Any, files: ScanFiles, path: Path) -> None:
    """Refuse a file that names another scene; what is no ScanNet id (a path, a title) says nothing."""
    found = BENCHMARK_ID.search(named) if isinstance(named, str) else None
    if found is not None and BENCHMARK_ID.search(files.scene_id) and found[0] not in files.scene_id:
        raise DataError(f"{path}: belongs to scene {named[:100]!r}, expected {files.scene_id}")


def drop_repeated(groups: list[Group]) -> list[Group]:
    """Return the groups without those whose segments and label a later one repeats, as one public scan has them twice.

    The last copy stays, where it is: it paints over what lies between the two.
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
    """Raw labels that the table lacks, with their number of objects, the most frequent first."""
    missing = Counter(group.label for group in groups if group.label not in table.index_by_label)
    return dict(sorted(missing.items(), key=lambda item: (-item[1], item[0])))


def describe_groups(files: ScanFiles, groups: list[Group], ids: npt.NDArray[np.int32]) -> list[str]:
    """What is odd about the groups of a scan, one line for each kind.

    Args:
        files: Whose groups they are.
        groups: As in the file.
        ids: Segments that the mesh has.

    Raises:
        DataError: No group names a segment of this mesh: the annotation is another scan's.
    """
    strangers = {k: int((~np.isin(group.segments, ids)).sum()) for k, group in enumerate(groups)}
    named = sum(len(group.segments) for group in groups)
    if named and sum(strangers.values()) == named:
        raise DataError(f"{files.aggregation}: none of its {named} segments exists in the mesh: is it another scan's?")
    kept = {id(group) for group in drop_repeated(groups)}
    repeats = [group for group in groups if id(group) not in kept]
    ids_in_use = Counter(group.object_id for group in groups if id(group) in kept)
    kinds = (
        ("groups have no segments", [group.object_id for group in groups if not len(group.segments)]),
        ("groups name segments that do not exist", [groups[k].object_id for k, count in strangers.items() if count]),
        ("groups are repeated by a later one, which counts", [group.object_id for group in repeats]),
        ("objectIds are given to several groups", [object_id for object_id, n in ids_in_use.items() if n > 1]),
    )
    return [f"{files.aggregation}: {len(found)} {what} (objectId {_listed(found)})" for what, found in kinds if found]


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
