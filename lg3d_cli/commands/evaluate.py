"""`lg3d eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import (
    BackendOption,
    CheckpointOption,
    DeviceOption,
    FinalReluOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RunsOption,
    StoreOption,
    resolve,
)
from lg3d_core.settings import EvalSettings

if TYPE_CHECKING:
    from lg3d_core.evaluation.evaluate import Evaluation


def show_scores(title: str, evaluation: "Evaluation") -> None:
    """Print a table like the paper's Table 1, one metric a row where the terminal is narrow."""
    from lg3d_core.evaluation.table import group_table, narrow_group_table

    table = group_table(evaluation)
    console.result_table(title, *(table if console.has_room_for(table.header) else narrow_group_table(evaluation)))


def evaluate(
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    final_relu: FinalReluOption = None,
    runs: RunsOption = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.  [default: val]")] = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    export: Annotated[Path | None, typer.Option(help="Folder for one <scene>.txt of raw ids a scene.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also a row per category.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a checkpoint as the public benchmark does.

    Example: lg3d eval --checkpoint runs/finetune-20260101-120000 --json
    """
    settings = resolve(
        EvalSettings,
        store=store,
        checkpoint=checkpoint,
        final_relu=final_relu,
        runs=runs,
        split=split,
        device=device,
        backend=backend,
        precision=precision,
        export=export,
    )
    from lg3d_core.evaluation.command import evaluate_checkpoint
    from lg3d_core.evaluation.table import per_class_table

    evaluation = evaluate_checkpoint(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json(evaluation.to_dict())
        return
    show_scores(f"Scores on {settings.split}, in percent", evaluation)
    if per_class:
        console.result_table("Per category, at vertices", *per_class_table(evaluation))
