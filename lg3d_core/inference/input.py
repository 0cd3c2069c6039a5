"""Scans that a user names on the command line: a file of any format, or a scene of a store."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, find_frame, plain_frame
from lg3d_core.scans.open_scan import OPENERS, open_scan, require_scan
from lg3d_core.scans.refine import COARSE_EDGE, refine_surface
from lg3d_core.scans.scannet import INFO_SUFFIX, parse_alignment
from lg3d_core.scans.surface import Surface, surface_in_memory

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore
    from lg3d_core.vocabulary import Vocabulary

SCANNET_MESH = re.compile(r"(?P<scene>.+)_vh_clean(_2)?(\.labels)?\.ply")
"""Names of ScanNet's meshes, which share the frame of the `axisAlignment` in `<scene>.txt`."""


class Input(NamedTuple):
    """Scan with its transformation to metres.

    Attributes:
        name: Name for messages.
        stem: Stem of output files.
        surface: Vertices and triangles.
        frame: Transformation to metres with +z up.
        scene: Scene of a store with its annotation, if it is one.
        vocabulary: Vocabulary of that annotation.
        num_own: Number of vertices of the scan itself, the first of `surface`; None for all.
        is_scannet: Whether it is a ScanNet mesh with its `.txt`, which is handled as in `lg3d prepare`.
    """

    name: str
    stem: str
    surface: Surface
    frame: Frame
    scene: "Scene | None" = None
    vocabulary: "Vocabulary | None" = None
    num_own: int | None = None
    is_scannet: bool = False


def require_input(word: str, store: Path) -> None:
    """Check that a word names a scan that can be opened, without reading it or loading PyTorch.

    Raises:
        DataError: It is neither a file in a known format nor a scene of the store.
    """
    path = _path_of(word)
    if _is_file_name(path):
        require_scan(path)
    else:
        _open_store(word, store)


def require_some_input(words: Sequence[str], store: Path) -> dict[str, str]:
    """Return the words that fail `require_input`, with their reasons.

    Raises:
        DataError: All of them fail.
    """
    failed: dict[str, str] = {}
    for word in words:
        try:
            require_input(word, store)
        except DataError as error:
            failed[word] = str(error)
    if len(failed) == len(set(words)):
        first = next(iter(failed.values()))
        raise DataError(first if len(failed) == 1 else f"none of the {len(failed)} scans can be opened: {first}")
    return failed


def require_scene(word: str, store: Path, vocabulary: str | None) -> "SceneStore":
    """Return a store that has a scene, without reading the scene or loading PyTorch.

    Raises:
        DataError: The word is a scan file, or there is no such store or scene.
    """
    if Path(word).suffix.lower() in OPENERS:
        raise DataError(
            f"SCENE must be a scene of the store, got the scan file {word}: lg3d predict {word} --format html writes a "
            "page of it"
        )
    from lg3d_core.store.scene_store import SceneStore

    opened = SceneStore(store, vocabulary)
    opened.entry(word)
    return opened


def _path_of(word: str) -> Path:
    if not word.strip():
        raise DataError("SCAN is an empty text: expected a file, or a scene of the store")
    return Path(word)


def _is_file_name(path: Path) -> bool:
    return path.suffix.lower() in OPENERS or path.exists()


def open_input(word: str, store: Path, *, scale: str, up: str, progress: Progress) -> Input:
    """Open a file, or a scene of the store, and report what was guessed about it.

    Scenes of a store are in metres with +z up: `scale` and `up` only apply to files. A ScanNet mesh with its `.txt` is
    also in metres with +z up, and is transformed by the `axisAlignment` in it, as `lg3d prepare` does.

    Raises:
        DataError: The word is neither a file nor a scene, or the scan cannot be read.
        MissingDependencyError: The format of a file needs a package that is not installed.
    """
    path = _path_of(word)
    if not _is_file_name(path):
        return input_of_scene(*_read_scene(word, store))
    surface = open_scan(path)
    info = _find_info(path) if scale == up == "auto" else None
    frame = find_frame(surface, scale=scale, up=up) if info is None else _read_frame(info)
    _report_guesses(word, surface, frame, progress)
    return Input(word, path.stem, surface, frame, is_scannet=info is not None)


def input_of_scene(scene: "Scene", vocabulary: "Vocabulary") -> Input:
    """Return a scene of a store, which is in metres with +z up."""
    surface = surface_in_memory(Path(scene.scene_id), scene.xyz, scene.rgb, scene.faces)
    return Input(scene.scene_id, scene.scene_id, surface, plain_frame(), scene, vocabulary)


def open_arrays(
    xyz: npt.NDArray[np.floating],
    rgb: npt.NDArray[np.uint8] | None,
    faces: npt.NDArray[np.integer] | None,
    *,
    scale: str,
    up: str,
    progress: Progress,
) -> Input:
    """Open a scan in memory, and report what was guessed about it, as for a file.

    Args:
        xyz: Positions, shape `(vertices, 3)`; may hold NaN.
        rgb: Colours, shape `(vertices, 3)`, uint8; None for grey.
        faces: Corners of triangles, shape `(faces, 3)`; None for points.
        scale: Unit, as for a file.
        up: Up axis, as for a file.
        progress: Receives notes and warnings.

    Raises:
        DataError: There are no vertices, or no position is finite.
    """
    name = "arrays"
    if len(xyz) == 0:
        raise DataError(f"{name}: the scan has no vertices")
    surface = surface_in_memory(Path(name), xyz, rgb, faces)
    frame = find_frame(surface, scale=scale, up=up)
    _report_guesses(name, surface, frame, progress)
    return Input(name, name, surface, frame)


def _report_guesses(name: str, surface: Surface, frame: Frame, progress: Progress) -> None:
    for note in frame.notes:
        progress.note(f"{name}: {note}")
    for doubt in (*surface.doubts, *frame.doubts):
        progress.warn(f"{name}: {doubt}")
    if surface.colors is None:
        progress.warn(f"{name}: no colours: using grey, which reduces accuracy")


def _find_info(path: Path) -> Path | None:
    """Return the path of the `.txt` of a ScanNet mesh, or None if the file is none or has no `.txt`."""
    match = SCANNET_MESH.fullmatch(path.name)
    info = None if match is None else path.with_name(match["scene"] + INFO_SUFFIX)
    return info if info is not None and info.is_file() else None


def _read_frame(info: Path) -> Frame:
    """Return the frame in the `.txt` of a ScanNet mesh."""
    try:
        alignment = parse_alignment(info.read_bytes(), info)
    except OSError as error:
        raise DataError(f"cannot read {info}: {error.strerror}") from None
    note = f"in metres with +z up, axisAlignment of {info.name} applied (pass --up z to ignore it)"
    return plain_frame(alignment)._replace(notes=(note,))


def refine_input(scan: Input, voxel_size: float, progress: Progress) -> Input:
    """Add vertices on the large triangles of a file's mesh, one voxel apart; scenes of a store are unchanged.

    Networks are trained on scans, which have about one vertex per voxel: a large triangle would be empty for them.
    ScanNet's own meshes are unchanged, as in a store.
    """
    refined = (
        None if scan.scene is not None or scan.is_scannet else refine_surface(scan.surface, scan.frame, voxel_size)
    )
    if refined is None:
        return scan
    own, added = scan.surface.num_vertices, refined.surface.num_vertices - scan.surface.num_vertices
    progress.note(
        f"{scan.name}: triangles of up to {refined.longest:.3g} m: added {added} vertices on them, "
        f"at most {100 * refined.edge:.3g} cm apart; the first {own} rows of the output are the scan's own"
    )
    if refined.edge > COARSE_EDGE * voxel_size:
        progress.warn(
            f"{scan.name}: too large for vertices one voxel ({100 * voxel_size:.3g} cm) apart: check its units "
            "(--scale); labels are unreliable"
        )
    return scan._replace(surface=refined.surface, num_own=own)


def _read_scene(word: str, store: Path) -> "tuple[Scene, Vocabulary]":
    opened = _open_store(word, store)
    return opened.read(word), opened.vocabulary


def _open_store(word: str, store: Path) -> "SceneStore":
    """Return the store of a scene."""
    from lg3d_core.store.scene_store import INDEX_NAME, SceneStore

    if word == "-":
        raise DataError("scans cannot be read from standard input: pass a file")
    if not (store / INDEX_NAME).is_file():
        raise DataError(f"{word}: no such file, and no scene store at {store} with a scene of that name")
    opened = SceneStore(store)
    try:
        opened.entry(word)
    except DataError as error:
        raise DataError(f"no such file, and {error}") from None
    return opened
