"""What a user names on the command line: a file of any kind, or a scene of a store."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, find_frame, plain_frame
from lg3d_core.scans.open_scan import OPENERS, open_scan
from lg3d_core.scans.refine import COARSE_EDGE, refine_surface
from lg3d_core.scans.scannet import INFO_SUFFIX, parse_alignment
from lg3d_core.scans.surface import Surface, surface_in_memory

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.vocabulary import Vocabulary

SCANNET_MESH = re.compile(r"(?P<scene>.+)_vh_clean(_2)?(\.labels)?\.ply")
"""Names of ScanNet's meshes, which share one frame: that of the `axisAlignment` in `<scene>.txt`."""


class Input(NamedTuple):
    """A scan, and how its positions become metres.

    Attributes:
        name: What messages call it.
        stem: What written files are called.
        surface: Its vertices and triangles.
        frame: To metres with +z up.
        scene: With its annotation, where it is a scene of a store.
        vocabulary: Of that annotation.
        num_own: Vertices of the scan itself, the first ones of `surface`; None: all of them.
        is_scannet: Whether it is a mesh of ScanNet's with its `.txt`, which is used as `lg3d prepare` would.
    """

    name: str
    stem: str
    surface: Surface
    frame: Frame
    scene: "Scene | None" = None
    vocabulary: "Vocabulary | None" = None
    num_own: int | None = None
    is_scannet: bool = False


def open_input(word: str, store: Path, *, scale: str, up: str, progress: Progress) -> Input:
    """Open a file, or a scene of the store, and say what was guessed of it.

    A scene of a store is in metres with +z up: `scale` and `up` are for files. A mesh of ScanNet's beside its `.txt` is
    in metres with +z up too, and is turned and shifted by the `axisAlignment` there, as `lg3d prepare` does.

    Raises:
        DataError: Neither a file nor a scene, or one that cannot be read.
        MissingDependencyError: A file's kind needs a package that is not installed.
    """
    path = Path(word)
    scene = vocabulary = info = None
    if path.suffix.lower() in OPENERS or path.exists():
        surface = open_scan(path)
        info = _find_info(path) if scale == up == "auto" else None
        name, stem = word, path.stem
        frame = find_frame(surface, scale=scale, up=up) if info is None else _read_frame(info)
        for note in frame.notes:
            progress.note(f"{name}: {note}")
        for doubt in (*surface.doubts, *frame.doubts):
            progress.warn(f"{name}: {doubt}")
    else:
        scene, vocabulary = _read_scene(word, store)
        surface = surface_in_memory(path, scene.xyz, scene.rgb, scene.faces)
        name, stem, frame = word, word, plain_frame()
    if surface.colors is None:
        progress.warn(f"{name}: no colours: taken as grey, which costs accuracy")
    return Input(name, stem, surface, frame, scene, vocabulary, is_scannet=info is not None)


def _find_info(path: Path) -> Path | None:
    """Return the `.txt` of a ScanNet mesh, or None where the file is none or stands alone."""
    match = SCANNET_MESH.fullmatch(path.name)
    info = None if match is None else path.with_name(match["scene"] + INFO_SUFFIX)
    return info if info is not None and info.is_file() else None


def _read_frame(info: Path) -> Frame:
    """Return the frame of a ScanNet mesh by its `.txt`."""
    try:
        alignment = parse_alignment(info.read_bytes(), info)
    except OSError as error:
        raise DataError(f"cannot read {info}: {error.strerror}") from None
    note = f"in metres with +z up, axisAlignment of {info.name} applied (--up z leaves it out)"
    return plain_frame(alignment)._replace(notes=(note,))


def refine_input(scan: Input, voxel_size: float, progress: Progress) -> Input:
    """Put vertices on the large triangles of a file's mesh, a voxel apart, and say so; scenes of a store stay.

    Networks learn from scans, which have a vertex every voxel or so: between far corners they would see nothing.
    ScanNet's own meshes stay as they are, as in a store.
    """
    refined = (
        None if scan.scene is not None or scan.is_scannet else refine_surface(scan.surface, scan.frame, voxel_size)
    )
    if refined is None:
        return scan
    own, added = scan.surface.num_vertices, refined.surface.num_vertices - scan.surface.num_vertices
    progress.note(
        f"{scan.name}: triangles of up to {refined.longest:.3g} m: {added} vertices put on them, "
        f"{100 * refined.edge:.3g} cm apart at most; the first {own} of what is written are the scan's own"
    )
    if refined.edge > COARSE_EDGE * voxel_size:
        progress.warn(
            f"{scan.name}: too large for vertices a voxel ({100 * voxel_size:.3g} cm) apart: are its units right "
            "(--scale)? Labels are guesses"
        )
    return scan._replace(surface=refined.surface, num_own=own)


def _read_scene(word: str, store: Path) -> "tuple[Scene, Vocabulary]":
    from lg3d_core.store.scene_store import INDEX_NAME, SceneStore

    if not (store / INDEX_NAME).is_file():
        raise DataError(f"{word}: no such file, and there is no scene store at {store} that could have such a scene")
    opened = SceneStore(store)
    try:
        opened.entry(word)
    except DataError as error:
        raise DataError(f"no such file, and {error}") from None
    return opened.read(word), opened.vocabulary
