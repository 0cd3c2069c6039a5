"""What a user names on the command line: a file of any kind, or a scene of a store."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, find_frame, plain_frame
from lg3d_core.scans.open_scan import OPENERS, open_scan
from lg3d_core.scans.refine import COARSE_EDGE, refine_surface
from lg3d_core.scans.surface import Surface, surface_in_memory

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.vocabulary import Vocabulary


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
    """

    name: str
    stem: str
    surface: Surface
    frame: Frame
    scene: "Scene | None" = None
    vocabulary: "Vocabulary | None" = None
    num_own: int | None = None


def open_input(word: str, store: Path, *, scale: str, up: str, progress: Progress) -> Input:
    """Open a file, or a scene of the store, and say what was guessed of it.

    A scene of a store is in metres with +z up: `scale` and `up` are for files.

    Raises:
        DataError: Neither a file nor a scene, or one that cannot be read.
        MissingDependencyError: A file's kind needs a package that is not installed.
    """
    path = Path(word)
    scene = vocabulary = None
    if path.suffix.lower() in OPENERS or path.exists():
        surface = open_scan(path)
        name, stem, frame = word, path.stem, find_frame(surface, scale=scale, up=up)
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
    return Input(name, stem, surface, frame, scene, vocabulary)


def refine_input(scan: Input, voxel_size: float, progress: Progress) -> Input:
    """Put vertices on the large triangles of a file's mesh, a voxel apart, and say so; scenes of a store stay.

    Networks learn from scans, which have a vertex every voxel or so: between far corners they would see nothing.
    """
    refined = None if scan.scene is not None else refine_surface(scan.surface, scan.frame, voxel_size)
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
