"""`lg3d eval`."""

from typing import TYPE_CHECKING

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import EvalSettings

if TYPE_CHECKING:
    from lg3d_core.evaluation.evaluate import Evaluation


@settings_command(EvalSettings)
def evaluate(settings: EvalSettings) -> None:
    """Score a checkpoint as the public benchmark does.

    Example: lg3d eval --checkpoint runs/finetune-20260101-120000 --json
    """
    from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
    from lg3d_core.evaluation.table import instance_rows, instance_table, per_class_table

    evaluation = evaluate_checkpoint(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json(evaluation.to_dict())
        return
    show_scores(f"Scores on {settings.split}, in percent", evaluation)
    if evaluation.instances is not None:
        console.result_table("Objects at vertices, in percent", *instance_table(evaluation.instances))
    if settings.per_class:
        console.result_table("Per class, at vertices", *per_class_table(evaluation))
        if evaluation.instances is not None:
            console.result_table("Objects per class", *instance_rows(evaluation.instances))


def show_scores(title: str, evaluation: "Evaluation") -> None:
    """Print a table like the paper's Table 1, with one metric per row on a narrow terminal."""
    from lg3d_core.evaluation.table import group_table, narrow_group_table

    table = group_table(evaluation)
    console.result_table(title, *(table if console.has_room_for(table.header) else narrow_group_table(evaluation)))
