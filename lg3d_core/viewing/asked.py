"""Heat of texts on what was asked about: layers of a view, and of a page that is open while somebody asks on."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.inference.ask import Answer, Conversation
from lg3d_core.inference.input import Input
from lg3d_core.progress import Progress
from lg3d_core.scans.normals import vertex_normals
from lg3d_core.settings import AskSettings, ViewSettings
from lg3d_core.store.scene_file import Scene
from lg3d_core.viewing.layers import HEAT, SceneView, build_view
from lg3d_core.viewing.server import publish_heat, serve_view
from lg3d_core.vocabulary import Vocabulary

GREY = 170
"""Of a scan without colours: light, so that its shape is seen."""
MOST_POINTS = 1_500_000
"""Vertices of a page. Of a larger scan every k-th is shown, without its triangles."""


class ShownScan(NamedTuple):
    """A scan as it is shown.

    Attributes:
        scene: In metres with +z up.
        rows: Vertices of the scan that are shown, shape `(points,)`, int64.
    """

    scene: Scene
    rows: npt.NDArray[np.int64]


def scene_of_scan(scan: Input, progress: Progress) -> ShownScan:
    """A scan of any origin as a scene without annotation; positions that are not usable are left out.

    Raises:
        DataError: None is usable.
    """
    step = -(-scan.surface.num_vertices // MOST_POINTS)
    if step > 1:
        progress.note(f"{scan.name}: {scan.surface.num_vertices} vertices: one of {step} is shown, as points")
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
        raise DataError(f"{scan.name}: none of its {scan.surface.num_vertices} vertices can be shown")
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
    """What was asked about, with the heat of each text as a layer."""
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
    return build_view(shown.scene, vocabulary, heat=heat), shown.rows


def heat_of_scene(settings: ViewSettings, progress: Progress) -> dict[str, npt.NDArray[np.float32]]:
    """Heat of the texts of `settings.heat` at a scene's vertices, from the newest pre-training run.

    Raises:
        CheckpointError: There is no such run, or its anchors or their encoder are not at hand.
    """
    asked = AskSettings(
        scan=settings.scene,
        texts=settings.heat,
        store=settings.store,
        runs=settings.runs,
        device=settings.device,
        backend=settings.backend,
    )
    conversation = Conversation(asked, progress)
    return {answer.text: conversation.at_vertices(answer) for answer in conversation.ask(asked.texts)}


class AskedPage:
    """A served page of what is asked about, with a text box: `show`, and what is typed there, move its heat.

    Args:
        conversation: With the scan.
        answers: That the page has from the start.
        progress: Told how to reach it.
        port: To serve on; 0 takes any that is free.

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
        """Where the page is, for a browser on this machine."""
        return self._server.address

    def ask(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts, one question at a time whoever asks, and show their heat on all pages that are open.

        Raises:
            UsageError: A text that says nothing.
            DataError: The heat cannot be written.
        """
        with self._lock:
            answers = self._conversation.ask(texts)
            self.show(answers)
        return answers

    def _answer(self, phrase: str) -> str:
        """Answer a phrase that was typed on the page, in a line for the page."""
        (answer,) = self.ask([phrase])
        near = ", ".join(name for name, _ in answer.nearest[:3])
        return f"“{answer.text}”: highest heat {answer.highest:.2f}; nearest names: {near}"

    def show(self, answers: Sequence[Answer]) -> None:
        """Show heat on all pages that are open, and keep the latest for those that are opened later."""
        for answer in answers:
            self._number += 1
            heat = self._conversation.at_vertices(answer)[self._rows]
            publish_heat(self._server, f"{HEAT}{self._number}", answer.text, heat)

    def wait(self) -> None:
        """Return when the user presses Ctrl-C."""
        self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
