"""The whole pipeline on procedural rooms; each step is equivalent to one command."""

import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.files import require_folder
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.progress import Progress
from lg3d_core.settings import (
    AnchorsSettings,
    DemoSettings,
    EvalSettings,
    FinetuneSettings,
    PrepareSettings,
    PretrainSettings,
    RoomsSettings,
    ViewSettings,
)
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.synthetic import write_rooms
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain
from lg3d_core.viewing.view import view as show_scene


class DemoOutcome(NamedTuple):
    """Result of the demo.

    Attributes:
        evaluation: Scores on the validation rooms.
        scene: Id of the validation room that is shown.
        files: Image and page of that room.
        seconds: Wall-clock time of each step.
    """

    evaluation: Evaluation
    scene: str
    files: list[Path]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return {
            "scores": self.evaluation.to_dict(),
            "scene": self.scene,
            "files": [str(path) for path in self.files],
            "seconds": self.seconds,
        }


def demo(settings: DemoSettings, progress: Progress) -> DemoOutcome:
    """Run rooms, prepare, anchors, pretrain, finetune, eval and view in one folder with one recipe.

    A repeated demo keeps the existing rooms and store and starts new training runs.
    """
    require_folder(settings.out, "--out")
    steps = _Steps(progress)
    out = settings.out
    raw, store, anchors, runs = out / "rooms", out / "data", out / "anchors.safetensors", out / "runs"

    steps.begin("rooms", raw, "--scenes", settings.scenes, "--seed", settings.seed, "--vertices", settings.vertices)
    rooms = RoomsSettings(
        out=raw, scenes=settings.scenes, seed=settings.seed, vertices=settings.vertices, jobs=settings.jobs
    )
    write_rooms(rooms, progress)

    steps.begin("prepare", raw, "--store", store)
    prepare_store(PrepareSettings(raw=raw, store=store, jobs=settings.jobs), progress)

    steps.begin("anchors", "--recipe", settings.recipe, "--anchors", anchors)
    make_anchors(AnchorsSettings.resolve(recipe=settings.recipe, anchors=anchors), progress)

    common: dict[str, Any] = {"store": store, "runs": runs, "seed": settings.seed, "device": settings.device}
    device = () if settings.device == DemoSettings.device else ("--device", settings.device)
    typed = ("--recipe", settings.recipe, "--store", store, "--runs", runs, "--seed", settings.seed, *device)
    steps.begin("pretrain", *typed, "--anchors", anchors)
    pretrained = pretrain(PretrainSettings.resolve(recipe=settings.recipe, anchors=anchors, **common), progress)

    steps.begin("finetune", *typed, "--anchors", anchors, "--from", pretrained)
    tuned = finetune(
        FinetuneSettings.resolve(recipe=settings.recipe, anchors=anchors, start=str(pretrained), **common), progress
    )

    steps.begin("eval", "--store", store, "--checkpoint", tuned, *device)
    evaluation = evaluate_checkpoint(EvalSettings(store=store, checkpoint=tuned, device=settings.device), progress)

    scene = SceneStore(store).scene_ids("val")[0]
    png, html = out / f"{scene}.png", out / f"{scene}.html"
    steps.begin("view", scene, "--store", store, "--checkpoint", tuned, "--png", png, "--html", html, *device)
    files = show_scene(
        ViewSettings(scene=scene, store=store, checkpoint=tuned, png=png, html=html, device=settings.device), progress
    )
    return DemoOutcome(evaluation, scene, files, steps.finish())


class _Steps:
    """Reports each step as the equivalent command, and measures its time."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.current = ""
        self.start = time.perf_counter()

    def begin(self, command: str, *words: object) -> None:
        """Report the command of the next step and start its time."""
        self._close()
        self.current = command
        self.progress.note("$ " + shlex.join(["lg3d", command, *map(str, words)]))

    def finish(self) -> dict[str, float]:
        """Report and return the seconds of every step."""
        self._close()
        self.progress.note(", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items()))
        return self.seconds

    def _close(self) -> None:
        now = time.perf_counter()
        if self.current:
            self.seconds[self.current] = round(now - self.start, 2)
        self.start = now
