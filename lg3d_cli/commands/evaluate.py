"""`lg3d eval`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import (
    BackendOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RunsOption,
    StoreOption,
    resolve,
)
from lg3d_core.settings import EvalSettings


def evaluate(
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
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
        runs=runs,
        split=split,
        device=device,
        backend=backend,
        precision=precision,
        export=export,
    )
    from lg3d_core.evaluation.command import evaluate_checkpoint
    from lg3d_core.evaluation.table import group_table, per_class_table

    evaluation = evaluate_checkpoint(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json(evaluation.to_dict())
        return
    console.result_table(f"Scores on {settings.split}", *group_table(evaluation))
    if per_class:
        console.result_table("Per category, at vertices", *per_class_table(evaluation))
