"""`lg3d compare`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_recipes
from lg3d_cli.options import DeviceOption, JsonOption, NetworkOption, QuietOption, StoreOption, VoxelSizeOption, resolve
from lg3d_core.settings import CompareSettings


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            help="Recipes, a row each; the first is what others are held against.", autocompletion=complete_recipes
        ),
    ],
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of runs and table.  [default: compare]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of every row, with seeds 0, 1, ...  [default: 3]")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at the same time.  [default: 1]")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Anchors file, instead of those that recipes describe.")] = None,
    network: NetworkOption = None,
    voxel_size: VoxelSizeOption = None,
    epochs: Annotated[int | None, typer.Option(help="Of fine-tuning, instead of the recipes'.")] = None,
    pretrain_epochs: Annotated[int | None, typer.Option(help="Of pre-training, instead of the recipes'.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value or command.key=value, instead of the recipes'.")
    ] = None,
    device: DeviceOption = None,
    split: Annotated[str | None, typer.Option(help="Scenes to score.  [default: val]")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Means over present or all categories.  [default: present]")
    ] = None,
    resamples: Annotated[int | None, typer.Option(help="Bootstrap samples.  [default: 2000]")] = None,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown on stdout.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the mIoU too: a .png, .pdf or .svg file; over the share of labels, if rows differ in it."
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Train, score and set against each other the rows of a table.

    Example: lg3d compare examples/tables/table1-*.toml --seeds 3 --network 14A --voxel-size 0.05 --epochs 30
    """
    options = {key: value for key, value in locals().items() if key not in ("as_json", "markdown", "plot", "quiet")}
    settings = resolve(CompareSettings, **options)
    from lg3d_core.comparing.command import compare as run
    from lg3d_core.comparing.table import describe, describe_differences, difference_table, score_table, to_markdown

    progress = console.progress(quiet=quiet)
    if plot is not None:
        from lg3d_core.reporting.style import figure_kind

        figure_kind(plot)  # before the hours that the runs take
    comparison = run(settings, progress)
    if plot is not None:
        from lg3d_core.comparing.figure import write_comparison_figure

        progress.note(f"drawn: {write_comparison_figure(comparison, plot)}")
    if as_json:
        console.result_json(comparison.to_dict())
        return
    if markdown:
        console.result_lines(to_markdown(comparison).rstrip())
        return
    table = score_table(comparison)
    parts = (
        [["iou", "precision", "recall"]] if console.has_room_for(table.header) else [["iou"], ["precision"], ["recall"]]
    )
    for metrics in parts:
        console.result_table(describe(comparison), *score_table(comparison, metrics))
    if len(comparison.rows) > 1:
        console.result_table(describe_differences(comparison), *difference_table(comparison))
