"""`lg3d compare`."""

from typing import TYPE_CHECKING

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import CompareSettings

if TYPE_CHECKING:
    from lg3d_core.comparing.table import Comparison


@settings_command(CompareSettings)
def compare(settings: CompareSettings) -> None:
    """Train, score and compare recipes, one row each. Finished runs are reused.

    LG3D_EPOCHS, or epochs in lg3d.toml, does not change the recipes: pass --epochs, or set it in the table [compare].
    The same holds for network, voxel_size, anchors, allow_leak and jobs.

    Example: lg3d compare examples/tables/table1-*.toml --seeds 3 --network 14A --voxel-size 0.05 --epochs 30
    """
    from lg3d_core.comparing.compare import compare as run
    from lg3d_core.files import require_file

    progress = console.progress(quiet=settings.quiet)
    require_file(settings.plot, "--plot")  # before the runs, which take hours
    comparison = run(settings, progress)
    if settings.plot is not None:
        from lg3d_core.comparing.figure import write_comparison_figure

        progress.note(f"drawn: {write_comparison_figure(comparison, settings.plot)}")
    _show(comparison, settings)


def _show(comparison: "Comparison", settings: CompareSettings) -> None:
    from lg3d_core.comparing.table import (
        describe,
        describe_differences,
        difference_table,
        instance_summary,
        score_table,
        to_markdown,
    )

    if settings.json:
        console.result_json(comparison.to_dict())
        return
    if settings.markdown:
        console.result_lines(to_markdown(comparison).rstrip())
        return
    metrics = list(comparison.metrics)
    if "ap" in metrics:
        console.result_table(describe(comparison), *instance_summary(comparison))
    fits = console.has_room_for(score_table(comparison).header)
    for part in [metrics] if fits else [[metric] for metric in metrics]:
        console.result_table(describe(comparison), *score_table(comparison, part))
    for metric in comparison.compared_metrics:
        console.result_table(describe_differences(comparison, metric), *difference_table(comparison, metric))
