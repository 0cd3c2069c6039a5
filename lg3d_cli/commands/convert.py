"""`lg3d convert`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import FinalReluOption, JsonOption, QuietOption, VocabularyOption, VoxelSizeOption, resolve
from lg3d_core.settings import ConvertSettings


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A Lightning .ckpt, a state dict, or lg3d's file or run folder.")],
    out: Annotated[Path, typer.Option(help="File to write; for MinkowskiEngine .ckpt is Lightning's form.")],
    to: Annotated[str | None, typer.Option(help="lg3d or minkowski.  [default: the other than the file's own]")] = None,
    voxel_size: VoxelSizeOption = None,
    vocabulary: VocabularyOption = None,
    final_relu: FinalReluOption = None,
    partial: Annotated[bool | None, typer.Option("--partial", help="Take what matches; the rest stays fresh.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn weights of MinkowskiEngine 0.5 into a checkpoint of lg3d, or back. No pickle is run.

    Example: lg3d convert 34D_CLIP_finetuned.ckpt --out released.safetensors
    """
    settings = resolve(
        ConvertSettings,
        checkpoint=checkpoint,
        out=out,
        to=to,
        voxel_size=voxel_size,
        vocabulary=vocabulary,
        final_relu=final_relu,
        partial=partial,
    )
    from lg3d_core.networks.convert import compare_checkpoint, write_conversion
    from lg3d_core.vocabulary import load_vocabulary

    names = load_vocabulary(settings.vocabulary) if settings.vocabulary is not None else None
    comparison = compare_checkpoint(
        settings, console.progress(quiet=quiet), vocabulary=None if names is None else (names.name, names.digest)
    )
    if not quiet:
        title = f"{comparison.source} as {comparison.match.network}"
        console.note_table(title, ["tensors", "name", "in the file", "in the network"], comparison.rows())
    path = write_conversion(comparison, settings)
    if as_json:
        console.result_json({"out": str(path), **comparison.to_dict()})
    else:
        console.result(path)
