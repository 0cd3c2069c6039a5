"""What a user names on the command line: a file of any kind, or a scene of a store."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, find_frame, plain_frame
from lg3d_core.scans.open_scan import OPENERS, open_scan
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
    """

    name: str
    stem: str
    surface: Surface
    frame: Frame
    scene: "Scene | None" = None
    vocabulary: "Vocabulary | None" = None


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
        for doubt in frame.doubts:
            progress.warn(f"{name}: {doubt}")
    else:
        scene, vocabulary = _read_scene(word, store)
        surface = surface_in_memory(path, scene.xyz, scene.rgb, scene.faces)
        name, stem, frame = word, word, plain_frame()
    if surface.colors is None:
        progress.warn(f"{name}: no colours: taken as grey, which costs accuracy")
    return Input(name, stem, surface, frame, scene, vocabulary)


def _read_scene(word: str, store: Path) -> "tuple[Scene, Vocabulary]":
    from lg3d_core.store.scene_store import INDEX_NAME, SceneStore

    if not (store / INDEX_NAME).is_file():
        raise DataError(f"{word}: no such file, and there is no scene store at {store} that could have such a scene")
    opened = SceneStore(store)
    return opened.read(word), opened.vocabulary
