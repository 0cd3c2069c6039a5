"""The model that is part of the package: its file in half precision, its anchors, and its card."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lg3d_core.errors import CheckpointError
from lg3d_core.evaluation.evaluate import Evaluation, evaluate_scenes
from lg3d_core.evaluation.objects import Grouping
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.scores import Scores
from lg3d_core.evaluation.table import percent
from lg3d_core.files import write_text
from lg3d_core.language.anchors_file import Anchors, load_anchors, save_anchors
from lg3d_core.models import ANCHORS_NAME, CARD_NAME, CHECKPOINT_NAME
from lg3d_core.models.models import METRICS_NAME
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    is_grounded,
    load_network,
    read_setting,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.progress import Progress
from lg3d_core.reporting.runs import find_earlier_runs
from lg3d_core.store.scene_store import SceneStore

SCORES_TEXT = (
    "In percent: mIoU over the classes that occur, accuracy at vertices, and AP of objects without superpoints."
)


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Steps and hours of a run and of the runs that it started from."""

    steps: int
    hours: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores on one set of scenes.

    Attributes:
        title: Description of the scenes.
        single: Evaluation of the scenes as they are.
        voted: Evaluation with votes; None if it was not requested.
        votes: Number of votes.
    """

    title: str
    single: Evaluation
    voted: Evaluation | None
    votes: int


def ship_model(
    run: Path,
    folder: Path,
    *,
    tests: Sequence[tuple[str, Path, str]],
    data: str,
    attribution: str,
    votes: int = 8,
    adapt: float = 0.0,
    progress: Progress,
) -> Path:
    """Write the checkpoint of a run in half precision, its anchors and its card, and return the checkpoint's path.

    The scores in the card are those of the written file.

    Args:
        run: Folder of the run.
        folder: Folder to write.
        tests: Title, store and split of each set of scenes to score.
        data: Description of the training data, in Markdown.
        attribution: Attribution of the training data, in Markdown.
        votes: Number of votes of the second score of each set; 1 leaves it out.
        adapt: Share of a scan's own statistics in batch normalisation that the file records, 0..1.
        progress: Progress display.

    Raises:
        CheckpointError: The checkpoint cannot be read, or cannot answer texts.
        DataError: The anchors or a store cannot be read, or a file cannot be written.
    """
    path = resolve_checkpoint(run, progress)
    network, info = load_network(path)
    if not is_grounded(info):
        raise CheckpointError(f"{path} is not aligned with text: train it with finetune --classifier fixed-anchors")
    anchors = load_anchors(Path(read_setting(info, "anchors") or "anchors.safetensors"))
    if anchors.padded(network.num_features).digest != info.anchors_digest:
        raise CheckpointError(f"the anchors of {path} are not those that it was trained with")
    cost = measure_cost(run)
    out = folder / CHECKPOINT_NAME
    info = dataclasses.replace(info.without_paths(), adapt=adapt)
    save_checkpoint(out, halve(network), info)
    save_anchors(folder / ANCHORS_NAME, anchors)
    measured = [_measure(out, *test, votes=votes, progress=progress) for test in tests]
    card = write_card(info, anchors, cost, measured, num_bytes=out.stat().st_size, data=data, attribution=attribution)
    write_text(folder / CARD_NAME, card)
    return out


def halve(network: nn.Module) -> nn.Module:
    """Convert the parameters of a network to float16 in place; running statistics stay float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.half()
    return network


def measure_cost(run: Path) -> TrainingCost:
    """Return the steps and the time of a run and of the runs that it started from, as far as their folders exist."""
    steps, seconds = 0, 0.0
    for folder in (run, *find_earlier_runs(run).folders):
        records = [json.loads(line) for line in (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()]
        taken = [record["seconds"] for record in records if "loss" in record]
        steps, seconds = steps + len(taken), seconds + sum(taken)
    return TrainingCost(steps=steps, hours=seconds / 3600)


def _measure(path: Path, title: str, store: Path, split: Any, *, votes: int, progress: Progress) -> Measured:
    opened = SceneStore(store)
    scene_ids = opened.scene_ids(split)
    predictor, info = Predictor.load(path)
    grouping = Grouping.for_voxels(info.voxel_size) if info.offset_head else None
    single = evaluate_scenes(predictor, opened, scene_ids, grouping=grouping, progress=progress)
    voted = None
    if votes > 1:
        more = dataclasses.replace(predictor, votes=votes)
        voted = evaluate_scenes(more, opened, scene_ids, grouping=grouping, progress=progress)
    return Measured(title=title, single=single, voted=voted, votes=votes)


def write_card(
    info: CheckpointInfo,
    anchors: Anchors,
    cost: TrainingCost,
    measured: Sequence[Measured],
    *,
    num_bytes: int,
    data: str,
    attribution: str,
) -> str:
    """Return the card of a shipped model in Markdown."""
    rows = [
        ("network", f"MinkUNet {info.network}"),
        ("voxels", f"{100 * info.voxel_size:g} cm"),
        ("classes", f"{info.num_classes} of {info.vocabulary}"),
        ("text queries", f"yes, anchors by {anchors.metadata['encoder']}"),
        ("object offsets", "yes" if info.offset_head else "no"),
        ("size", f"{num_bytes / 1e6:.1f} MB, float16"),
        ("adaptation", f"{100 * info.adapt:g} % of a scan's own statistics (`--adapt {info.adapt:g}`)"),
        ("training", f"{cost.steps} steps, {cost.hours:.1f} hours on one CPU core"),
    ]
    lines = [
        "# The model that comes with lg3d",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    lines += ["", "## Training data", "", data.strip()]
    lines += ["", "## Scores", "", SCORES_TEXT, ""]
    groups = measured[0].single.vertex.vocabulary.groups if measured else {}
    lines += [
        f"| {' | '.join(['scenes', 'number', 'classes', 'votes', 'mIoU', *groups, 'accuracy', 'AP50', 'AP25'])} |",
        "|" + "---|" * (8 + len(groups)),
    ]
    for test in measured:
        lines.append(_score_row(test.title, 1, test.single))
        if test.voted is not None:
            lines.append(_score_row(test.title, test.votes, test.voted))
    for test in measured:
        lines += ["", f"IoU per class on {test.title}, in percent, best first:", "", _class_line(test.single.vertex)]
    lines += ["", "## Limits", "", _limits(measured)]
    lines += ["", "## Licence and attribution", "", attribution.strip(), ""]
    return "\n".join(lines)


def _score_row(title: str, votes: int, evaluation: Evaluation) -> str:
    scores = evaluation.vertex
    groups = [percent(scores.means_present[name].iou) for name in scores.vocabulary.groups]
    cells = [title, str(evaluation.num_scenes), str(scores.num_present), str(votes), percent(scores.miou_present)]
    objects = evaluation.instances
    precisions = ["-", "-"] if objects is None else [percent(objects.mean(metric)) for metric in ("ap50", "ap25")]
    return f"| {' | '.join([*cells, *groups, percent(scores.accuracy), *precisions])} |"


def _class_line(scores: Scores) -> str:
    present = [k for k in range(len(scores.vocabulary)) if scores.support[k]]
    present.sort(key=lambda k: -scores.iou[k])
    found = [f"{scores.vocabulary.names[k]} {100 * scores.iou[k]:.0f}" for k in present if scores.iou[k] >= 0.005]
    missed = len(present) - len(found)
    return ", ".join(found) + f"; {missed} further classes below 0.5" * bool(missed) + "."


def _limits(measured: Sequence[Measured]) -> str:
    text = (
        "Trained on simulated scans of synthetic rooms, never on real ones. Expect walls, floors, ceilings and "
        "large common furniture to be found, and many small or rare objects to be missed or confused. "
    )
    for test in measured:
        scores = test.single.vertex
        never = sum(1 for k in range(len(scores.vocabulary)) if scores.support[k] and scores.iou[k] < 0.005)
        text += f"On {test.title}, {never} of {scores.num_present} classes have an IoU below 0.5 %. "
    return text + "Outdoor scans, single objects and scans without a floor are outside the training data."
