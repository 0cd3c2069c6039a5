"""HDF5 file of one scene: format, atomic writing, and reading with full validation.

File format, with `N` vertices and `F` faces:

    points/xyz       float32 (N, 3)   metres, axis-aligned, +z up
    points/rgb       uint8   (N, 3)
    points/normal    float16 (N, 3)   unit length, zero where a vertex has no face
    points/label     int16   (N,)     vocabulary index, -1 none
    points/instance  int32   (N,)     0 none
    points/segment   int32   (N,)     -1 none
    mesh/faces       int32   (F, 3)
    labels/NAME      int16   (N,)     as points/label, for each further vocabulary of the store

The root attributes are those of `SceneHeader`. The file ends with a checksum of all its bytes, see `lg3d_core.seal`.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, first_line
from lg3d_core.files import write_bytes
from lg3d_core.seal import require_seal, seal
from lg3d_core.vocabulary import SPLITS

FORMAT_VERSION = 1
CHUNK_ROWS = 65_536
LIBRARY_VERSIONS = ("v108", "v110")
"""Oldest HDF5 format that also has checksums over the layout; readable since HDF5 1.8."""
MAX_ROWS = 1 << 26
"""Maximum number of vertices or faces, more than any room has: a file that declares more is damaged or malicious."""
MAX_INFLATION = 1100
"""Maximum compression ratio of deflate; a dataset that exceeds it has chunks that were never written."""
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

AGAIN = "prepare this scene again (run lg3d prepare)"

COLUMNS: dict[str, tuple[str, int]] = {
    "points/xyz": ("<f4", 3),
    "points/rgb": ("|u1", 3),
    "points/normal": ("<f2", 3),
    "points/label": ("<i2", 1),
    "points/instance": ("<i4", 1),
    "points/segment": ("<i4", 1),
    "mesh/faces": ("<i4", 3),
}
LABEL_COLUMN = COLUMNS["points/label"]
LABELS_GROUP = "labels"
NOT_TRAINED_ON = ("points/normal", "points/segment", "mesh/faces")
"""Datasets that training does not need unless objects are pasted; more than half of a file."""


class Scene(NamedTuple):
    """Scene of the store, with one row per vertex of the mesh.

    Attributes:
        scene_id: Id of the scene.
        split: "train", "val" or "test".
        xyz: Positions in metres, axis-aligned, +z up, shape `(points, 3)`, float32.
        rgb: Colours, shape `(points, 3)`, uint8.
        normal: Unit normals, zero where a vertex has no face, shape `(points, 3)`, float32.
        label: Vocabulary index, -1 for none, shape `(points,)`, int16.
        instance: Object, 0 for none, shape `(points,)`, int32.
        segment: Segment of the over-segmentation, -1 for none, shape `(points,)`, int32.
        faces: Corners of the triangles, shape `(faces, 3)`, int32.
        more_labels: Labels of the store's further vocabularies, by name, as `label`; empty if a scene is read.
    """

    scene_id: str
    split: str
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    normal: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16]
    instance: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32]
    faces: npt.NDArray[np.int32]
    more_labels: Mapping[str, npt.NDArray[np.int16]] = {}


class MoreLabels(NamedTuple):
    """Labels of a further vocabulary in a scene file.

    Attributes:
        vocabulary: Digest of the vocabulary.
        class_counts: Number of labelled points of each class that occurs.
    """

    vocabulary: str
    class_counts: dict[int, int]


class SceneHeader(NamedTuple):
    """Metadata of a scene file, stored as root attributes.

    Attributes:
        scene: Id of the scene.
        split: "train", "val" or "test".
        axis_alignment: Transformation applied to the raw coordinates, shape `(4, 4)`, float64.
        source_digest: Digest of the raw files' bytes.
        source_stamp: Names, sizes and times of the raw files, for a cheap check whether they changed.
        label_table: Digest of the label table.
        vocabulary: Digest of the vocabulary.
        num_points: Number of vertices.
        num_faces: Number of triangles.
        class_counts: Number of labelled points of each class that occurs.
        unmapped: Raw labels missing from the label table, with their number of objects.
        more_labels: Labels of the store's further vocabularies, by name.
    """

    scene: str
    split: str
    axis_alignment: npt.NDArray[np.float64]
    source_digest: str
    source_stamp: str
    label_table: str
    vocabulary: str
    num_points: int
    num_faces: int
    class_counts: dict[int, int]
    unmapped: dict[str, int]
    more_labels: Mapping[str, MoreLabels] = {}

    def labels_of(self, name: str | None) -> MoreLabels | None:
        """Return the labels of a vocabulary, or None; without a name, those of the first vocabulary."""
        return MoreLabels(self.vocabulary, self.class_counts) if name is None else self.more_labels.get(name)


def encode_scene(scene: Scene, header: SceneHeader) -> bytes:
    """Return the bytes of a scene file; equal input gives equal bytes.

    They are built in memory (a few megabytes), so that a full disk can only stop a plain write. HDF5 itself leaves a
    file that opens but lacks datasets when it runs out of space while closing.
    """
    image = BytesIO()
    arrays: dict[str, npt.NDArray[Any]] = {
        "points/xyz": scene.xyz,
        "points/rgb": scene.rgb,
        "points/normal": scene.normal,
        "points/label": scene.label,
        "points/instance": scene.instance,
        "points/segment": scene.segment,
        "mesh/faces": scene.faces,
    }
    with h5py.File(image, "w", libver=LIBRARY_VERSIONS) as file:
        sums = {}
        for name, (dtype, _) in COLUMNS.items():
            stored = arrays[name].astype(dtype, copy=False)
            add_column(file, name, stored, fletcher32=False)
            sums[name] = checksum(stored)
        for name, label in scene.more_labels.items():
            stored = label.astype(LABEL_COLUMN[0], copy=False)
            add_column(file, f"{LABELS_GROUP}/{name}", stored, fletcher32=False)
        file.attrs["format_version"] = FORMAT_VERSION
        attributes = header._asdict() | {"checksums": sums}
        more_labels = attributes.pop("more_labels")
        if more_labels:
            attributes["more_labels"] = {name: labels._asdict() for name, labels in more_labels.items()}
        for key, value in attributes.items():
            text = json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
            # Fixed-length text is stored in the object header, under its checksum; h5py's variable-length text is not.
            file.attrs[key] = np.bytes_(text.encode()) if isinstance(text, str) else text
    return seal(image.getvalue())


def checksum(array: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes; it verifies files without a seal, and older versions read it."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def add_column(file: h5py.File, name: str, array: npt.NDArray[Any], *, fletcher32: bool = True) -> None:
    """Store an array in compressed chunks; an array without rows is stored contiguously.

    Args:
        file: File, open for writing.
        name: Name of the dataset.
        array: Values.
        fletcher32: Whether to add a checksum to each chunk, for files read in parts without verifying the seal.
    """
    if len(array):
        chunks = (min(CHUNK_ROWS, len(array)), *array.shape[1:])
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": array.itemsize > 1}
        options |= {"fletcher32": fletcher32}
        file.create_dataset(name, data=array, chunks=chunks, track_times=False, **options)
    else:
        file.create_dataset(name, data=array, track_times=False)


def write_scene_file(path: Path, scene: Scene, header: SceneHeader) -> None:
    """Write the file of a scene atomically.

    Raises:
        DataError: The disk is full or the folder is not writable.
    """
    data = encode_scene(scene, header)
    with h5py.File(BytesIO(data), "r") as file:
        for name in COLUMNS:
            open_column(file, name, *COLUMNS[name], path=path)
        for name in scene.more_labels:
            open_column(file, f"{LABELS_GROUP}/{name}", *LABEL_COLUMN, path=path)
    write_bytes(path, data)


def read_scene_header(path: Path) -> SceneHeader:
    """Read and check the attributes of a scene file.

    Raises:
        DataError: The file is not an intact scene file of this version.
    """
    require_whole(path)
    with open_hdf5(path) as file:
        return _parse_header(file, path)


class SceneContent(NamedTuple):
    """Scene and header of a scene file."""

    scene: Scene
    header: SceneHeader


def read_scene_file(path: Path, *, num_classes: int, for_training: bool = False, labels: str | None = None) -> Scene:
    """Read the scene of a file; see `read_scene_content`."""
    return read_scene_content(path, num_classes=num_classes, for_training=for_training, labels=labels).scene


def read_scene_content(
    path: Path, *, num_classes: int, for_training: bool = False, labels: str | None = None
) -> SceneContent:
    """Read a scene and its header, and check layout and values.

    The seal is verified before HDF5 opens the file. A file of an older version, without a seal, is verified by the
    CRC-32 of each dataset that is read.

    Args:
        path: Path of the file.
        num_classes: Number of classes; labels must be below it.
        for_training: Whether to skip normals, segments and faces, which then have no rows; takes 0.4 of the time.
        labels: Name of the further vocabulary whose labels are returned as `Scene.label`; None: the first one.

    Raises:
        DataError: The file is missing, damaged, of another version, lacks the labels, or contains invalid values.
    """
    is_sealed = require_whole(path) is not None
    with open_hdf5(path) as file:
        header = _parse_header(file, path)
        columns = {name: open_column(file, name, *COLUMNS[name], path=path) for name in COLUMNS}
        for name, column in columns.items():
            rows = header.num_faces if name == "mesh/faces" else header.num_points
            if column.shape[0] != rows:
                raise DataError(f"{path}: {name} has {column.shape[0]} rows, its header records {rows}; {AGAIN}")
        left_out = NOT_TRAINED_ON if for_training else ()
        if labels is not None:
            if labels not in header.more_labels:
                raise DataError(f"{path}: has no labels of the vocabulary {labels}; {AGAIN}")
            columns["points/label"] = open_column(file, f"{LABELS_GROUP}/{labels}", *LABEL_COLUMN, path=path)
            if columns["points/label"].shape[0] != header.num_points:
                raise DataError(f"{path}: the labels {labels} have another length than the points; {AGAIN}")
        stored = {name: read_column(column) for name, column in columns.items() if name not in left_out}
        if not is_sealed:
            sums = dict(json.loads(read_attributes(file, ("checksums",), path)["checksums"]))
            wrong = [name for name, array in stored.items() if checksum(array) != sums.get(name)]
            if wrong:
                raise DataError(f"{path}: {', '.join(wrong)} damaged: the checksum does not match; {AGAIN}")
    for name in left_out:
        dtype, width = COLUMNS[name]
        stored[name] = np.zeros(0 if width == 1 else (0, width), dtype)
    arrays: dict[str, Any] = {name.partition("/")[2]: array for name, array in stored.items()}
    arrays["normal"] = arrays["normal"].astype(np.float32)
    scene = Scene(scene_id=header.scene, split=header.split, **arrays)
    _require_values(scene, num_classes, path)
    return SceneContent(scene, header)


def require_whole(path: Path, *, again: str = AGAIN) -> str | None:
    """Verify a file's seal before HDF5 opens it.

    Returns:
        The seal's digest; None for an unsealed file of an older version.

    Raises:
        DataError: The file is missing, or its bytes are not those that were written.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {again}")
    return require_seal(path, again=again)


@contextmanager
def open_hdf5(path: Path, *, again: str = AGAIN) -> Iterator[h5py.File]:
    """Open a file for reading while the context is open.

    Args:
        path: Path of the file.
        again: Advice on a damaged file, for messages.

    Raises:
        DataError: The file is missing or not HDF5, or code in the context runs into damage, which HDF5 reports in many
            ways.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {again}")
    try:
        # Without HDF5's lock: files are replaced by renaming, and their writer holds a lock for a moment longer.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, AttributeError) as error:
        size = path.stat().st_size
        raise DataError(
            f"{path}: damaged, not an intact HDF5 file ({size} bytes; {first_line(error)[:120]}); {again}"
        ) from None


def open_column(
    file: h5py.File, name: str, dtype: str, width: int, *, path: Path, max_rows: int = MAX_ROWS, again: str = AGAIN
) -> h5py.Dataset:
    """Find a dataset and check everything that can be known without reading its values.

    Links, external storage, virtual datasets, foreign filters, other types and absurd sizes are rejected.

    Raises:
        DataError: The dataset is invalid; the message names it and the reason.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        prefix = "/".join(parts[:depth])
        if not isinstance(file.get(prefix, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: expected a dataset {name} inside the file, got none or a link; {again}")
    column = file[name]
    if not isinstance(column, h5py.Dataset) or column.external is not None or column.is_virtual:
        raise DataError(f"{path}: {name} is not a dataset stored in this file; {again}")
    expected = "(rows,)" if width == 1 else f"(rows, {width})"
    shape_ends = () if width == 1 else (width,)
    if column.dtype != np.dtype(dtype) or not column.shape or column.shape[1:] != shape_ends:
        found = f"{column.dtype} {column.shape}"
        raise DataError(f"{path}: expected {name} as {np.dtype(dtype)} {expected}, got {found}; {again}")
    if column.shape[0] > max_rows:
        raise DataError(f"{path}: {name} declares {column.shape[0]} rows, expected at most {max_rows}; {again}")
    plist = column.id.get_create_plist()
    filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
    stored = column.id.get_storage_size()
    chunk_rows = column.chunks[0] if column.chunks else 0
    if not filters <= FILTERS or chunk_rows > MAX_ROWS or column.nbytes > MAX_INFLATION * stored:
        raise DataError(f"{path}: {name} declares {column.nbytes} bytes but stores {stored}; {again}")
    return column


def read_column(column: h5py.Dataset, part: slice | tuple[()] = ()) -> npt.NDArray[Any]:
    """Read a checked dataset, or a part of its rows; call it within `open_hdf5`."""
    values: npt.NDArray[Any] = column[part]
    return values


def _parse_header(file: h5py.File, path: Path) -> SceneHeader:
    names = [name for name in SceneHeader._fields if name not in SceneHeader._field_defaults]
    attributes = read_attributes(file, ("format_version", *names), path)
    version = attributes.pop("format_version")
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {version}, expected {FORMAT_VERSION}: prepare it with this version")
    alignment = np.asarray(attributes["axis_alignment"], dtype=np.float64).reshape(4, 4)
    counts = {int(key): int(value) for key, value in json.loads(attributes["class_counts"]).items()}
    unmapped = {str(key): int(value) for key, value in json.loads(attributes["unmapped"]).items()}
    points, faces = int(attributes["num_points"]), int(attributes["num_faces"])
    more_labels = {
        str(name): MoreLabels(str(fields["vocabulary"]), {int(k): int(n) for k, n in fields["class_counts"].items()})
        for name, fields in json.loads(_text(file.attrs.get("more_labels", "{}"))).items()
    }
    text = ("scene", "split", "source_digest", "source_stamp", "label_table", "vocabulary")
    wrong = [key for key in text if not isinstance(attributes[key], str)]
    if wrong or attributes["split"] not in SPLITS or min(points, faces) < 0:
        raise DataError(f"{path}: its attributes {', '.join(wrong) or 'split'} are invalid; {AGAIN}")
    parsed = {"axis_alignment": alignment, "class_counts": counts, "unmapped": unmapped}
    parsed |= {"more_labels": more_labels}
    return SceneHeader(**(attributes | parsed | {"num_points": points, "num_faces": faces}))


def read_attributes(file: h5py.File, names: tuple[str, ...], path: Path, *, again: str = AGAIN) -> dict[str, Any]:
    """Read the named root attributes of a file; call it within `open_hdf5`.

    Raises:
        DataError: An attribute is missing.
    """
    missing = [name for name in names if name not in file.attrs]
    if missing:
        raise DataError(f"{path}: expected the attributes {', '.join(names)}, but {missing[0]} is missing; {again}")
    values = {name: file.attrs[name] for name in names}
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _require_values(scene: Scene, num_classes: int, path: Path) -> None:
    """Reject values out of range, so that readers need not check them."""
    for name, values, low, high in (
        ("label", scene.label, -1, num_classes - 1),
        ("instance", scene.instance, 0, None),
        ("segment", scene.segment, -1, None),
        ("faces", scene.faces, 0, len(scene.xyz) - 1),
    ):
        if values.size and (values.min() < low or (high is not None and values.max() > high)):
            limit = "" if high is None else f" to {high}"
            found = f"{values.min()} to {values.max()}"
            raise DataError(f"{path}: {name} contains {found}, expected {low}{limit or ' or more'}; {AGAIN}")
    if not (np.isfinite(scene.xyz).all() and np.isfinite(scene.normal).all()):
        raise DataError(f"{path}: coordinates or normals are not finite; {AGAIN}")
