"""`lg3d anchors`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import AnchorsOption, DeviceOption, QuietOption, VocabularyOption, resolve
from lg3d_core.settings import AnchorsSettings


def anchors(
    anchors: AnchorsOption = None,
    vocabulary: VocabularyOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="open_clip:ARCHITECTURE/WEIGHTS, or bundled.  [default: open_clip:ViT-B-32/openai]"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Text encoder's weights on disk, no download.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Template with one {}; several are averaged.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width: fewer by PCA, more by zeros.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Take encoder and width from a recipe.")] = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Encode the category names into text anchors.

    Example: lg3d anchors --encoder bundled --dim 96
    """
    settings = resolve(
        AnchorsSettings,
        recipe=recipe,
        anchors=anchors,
        vocabulary=vocabulary,
        encoder=encoder,
        checkpoint=checkpoint,
        prompt=tuple(prompt) if prompt else None,
        dim=dim,
        device=device,
    )
    from lg3d_core.language.make import make_anchors

    console.result(make_anchors(settings, console.progress(quiet=quiet)))
