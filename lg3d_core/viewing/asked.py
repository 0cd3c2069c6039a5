"""Heat of text queries, as layers of a view and on an open page that accepts further queries."""

import threading
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, DataError, MissingDependencyError
from lg3d_core.inference.ask import Answer, Conversation
from lg3d_core.inference.input import Input
from lg3d_core.progress import Progress
from lg3d_core.scans.normals import vertex_normals
from lg3d_core.settings import AskSettings, ViewSettings
from lg3d_core.store.scene_file import Scene
from lg3d_core.viewing.layers import SceneView, build_view, heat_name
from lg3d_core.viewing.objects import PredictedObjects
from lg3d_core.viewing.server import publish_heat, serve_view
from lg3d_core.vocabulary import Vocabulary

GREY = 170
"""Colour of a scan without colours: light, so that its shape is visible."""
MOST_POINTS = 1_500_000
"""Maximum number of vertices on a page; a larger scan is subsampled and shown without its triangles."""


class ShownScan(NamedTuple):
    """Displayable form of a scan.

    Attributes:
        scene: Scene in metres with +z up.
        rows: Rows of the scan's vertices that are shown, shape `(points,)`, int64.
    """

    scene: Scene
    rows: npt.NDArray[np.int64]


def scene_of_scan(scan: Input, progress: Progress) -> ShownScan:
    """Convert a scan of any origin to a scene without annotation; unusable positions are dropped.

    Raises:
        DataError: No position is usable.
    """
    step = -(-scan.surface.num_vertices // MOST_POINTS)
    if step > 1:
        progress.note(f"{scan.name}: {scan.surface.num_vertices} vertices: 1 in {step} is shown, as points")
    rows, xyz, rgb = [], [], []
    for start, stop in scan.surface.chunks():
        raw = scan.surface.positions(start, stop)
        usable = np.flatnonzero(scan.frame.holds(raw) & np.isfinite(raw).all(axis=1))
        usable = usable[(usable + start) % step == 0]
        rows.append(usable + start)
        xyz.append(scan.frame.to_metres(raw[usable]).astype(np.float32))
        colors = scan.surface.colors
        rgb.append(np.full((len(usable), 3), GREY, np.uint8) if colors is None else colors(start, stop)[usable])
    kept, positions = np.concatenate(rows), np.concatenate(xyz)
    if len(kept) == 0:
        raise DataError(f"{scan.name}: none of the {scan.surface.num_vertices} vertices can be shown")
    faces = np.zeros((0, 3), dtype=np.int32)
    if step == 1 and len(scan.surface.faces):
        place = np.full(scan.surface.num_vertices, -1, dtype=np.int32)
        place[kept] = np.arange(len(kept), dtype=np.int32)
        faces = place[np.asarray(scan.surface.faces)]
        faces = faces[(faces >= 0).all(axis=1)]
    none = np.zeros(len(kept), dtype=np.int32)
    scene = Scene(
        scene_id=scan.stem,
        split="",
        xyz=positions,
        rgb=np.concatenate(rgb),
        normal=vertex_normals(positions, faces),
        label=np.full(len(kept), -1, dtype=np.int16),
        instance=none,
        segment=none - 1,
        faces=faces,
    )
    return ShownScan(scene, kept)


def view_answers(conversation: Conversation, answers: Sequence[Answer], progress: Progress) -> SceneView:
    """Return a view of the queried scene or scan, with the heat of each text as a layer."""
    view, _ = _view(conversation, answers, progress)
    return view


def _view(
    conversation: Conversation, answers: Sequence[Answer], progress: Progress
) -> tuple[SceneView, npt.NDArray[np.int64]]:
    known, vocabulary = conversation.scan.scene, conversation.scan.vocabulary
    if known is not None and vocabulary is not None:
        shown = ShownScan(known, np.arange(len(known.xyz)))
    else:
        shown, vocabulary = scene_of_scan(conversation.scan, progress), Vocabulary("none", "id", ())
    heat = {answer.text: conversation.at_vertices(answer)[shown.rows] for answer in answers}
    objects = None
    if conversation.found is not None:
        owner = conversation.objects_at_vertices()[shown.rows]
        objects = PredictedObjects(conversation.found.objects, owner)
    return build_view(shown.scene, vocabulary, heat=heat, objects=objects), shown.rows


def heat_of_scene(settings: ViewSettings, progress: Progress) -> dict[str, npt.NDArray[np.float32]]:
    """Return the heat of the texts of `settings.heat` at a scene's vertices.

    The model is that of `find_grounded`: the newest language-grounded run, else the shipped one.

    Raises:
        CheckpointError: There is no such model, or its anchors or their encoder are missing.
    """
    asked = AskSettings(
        scan=settings.scene,
        texts=settings.heat,
        store=settings.store,
        runs=settings.runs,
        device=settings.device,
        backend=settings.backend,
    )
    try:
        conversation = Conversation(asked, progress)
    except (CheckpointError, MissingDependencyError) as error:
        raise type(error)(f"--heat: {error} (lg3d ask shows heat too, and has more options)") from None
    return {answer.text: conversation.at_vertices(answer) for answer in conversation.ask(asked.texts)}


class AskedPage:
    """Served page of a queried scan, with a text box; `show` and phrases typed on the page update its heat.

    Args:
        conversation: Queries about the scan.
        answers: Initial answers on the page.
        progress: Receives the instructions for opening the page.
        port: Port to serve on; 0 chooses a free port.

    Raises:
        DataError: The port is in use.
    """

    def __init__(
        self, conversation: Conversation, answers: Sequence[Answer], progress: Progress, *, port: int = 0
    ) -> None:
        self._conversation = conversation
        view, self._rows = _view(conversation, answers, progress)
        self._number = len(view.heat)
        self._lock = threading.Lock()
        self._server = serve_view(view, progress, port=port, answer=self._answer)

    @property
    def address(self) -> str:
        """Return the address of the page for a browser on this machine."""
        return self._server.address

    def ask(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts, one question at a time, and show their heat on all open pages.

        Raises:
            UsageError: A text is empty.
            DataError: The heat cannot be written.
        """
        with self._lock:
            answers = self._conversation.ask(texts)
            self.show(answers)
        return answers

    def _answer(self, phrase: str) -> str:
        """Answer a phrase that was typed on the page, as one line for the page."""
        (answer,) = self.ask([phrase])
        near = ", ".join(name for name, _ in answer.nearest[:3])
        return f"“{answer.text}”: highest heat {answer.highest:.2f}; nearest names: {near}"

    def show(self, answers: Sequence[Answer]) -> None:
        """Show heat on all open pages, and keep the latest for pages that are opened later."""
        for answer in answers:
            self._number += 1
            heat = self._conversation.at_vertices(answer)[self._rows]
            publish_heat(self._server, heat_name(self._number), answer.text, heat)

    def wait(self) -> None:
        """Wait until the user presses Ctrl-C."""
        self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
