"""`lg3d anchors`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lg3d_cli import console
from lg3d_cli.options import AnchorsOption, DeviceOption, JsonOption, QuietOption, VocabularyOption, resolve
from lg3d_core.errors import SettingsError
from lg3d_core.settings import AnchorsSettings, option_name


def anchors(
    anchors: AnchorsOption = None,
    vocabulary: VocabularyOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="open_clip:ARCHITECTURE/WEIGHTS; hf:NAME or hf:FOLDER, a text model of Hugging Face (BERT, GPT-2, "
            "MiniLM); or bundled.  [default: open_clip:ViT-B-32/openai]"
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="hf: mean over a text's tokens, or end-of-text, its last.  [default: mean]")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Text encoder's weights on disk, no download.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Template with one {}; several are averaged.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width: fewer by PCA, more by zeros.")] = None,
    centred: Annotated[
        bool | None,
        typer.Option(
            "--centred/--no-centred",
            help="Remove the categories' mean; a smaller --dim is then PCA, as in the paper, instead of an SVD.",
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Take encoder and width from a recipe.")] = None,
    device: DeviceOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Encode nothing: print each category's 5 nearest in the anchors file.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Encode nothing: draw how alike the anchors in the file are, as FILE.png, .pdf or .svg."),
    ] = None,
    order: Annotated[
        Literal["likeness", "groups"] | None,
        typer.Option(help="Of that map: by likeness, or head, common, tail.  [default: likeness]"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode the category names into text anchors.

    Examples: lg3d anchors --encoder bundled --dim 96

    lg3d anchors --plot anchors.png
    """
    encoding = {
        "vocabulary": vocabulary,
        "encoder": encoder,
        "pooling": pooling,
        "checkpoint": checkpoint,
        "prompt": tuple(prompt) if prompt else None,
        "dim": dim,
        "centred": centred,
        "device": device,
    }
    if order is not None and plot is None:
        raise SettingsError("--order is of the map that --plot FILE draws: add it, or leave --order out")
    if show or plot is not None:
        typed = [option_name(key) for key, value in encoding.items() if value is not None]
        if typed:
            asked = "--show" if show else "--plot"
            raise SettingsError(f"{asked} reads the anchors file as it is: leave out {', '.join(typed)}")
        settings = resolve(AnchorsSettings, recipe=recipe, anchors=anchors)
        if plot is not None:
            _plot(settings, plot, order=order or "likeness", as_json=as_json and not show)
        if show:
            _show(settings, as_json=as_json)
        return
    settings = resolve(AnchorsSettings, recipe=recipe, anchors=anchors, **encoding)
    from lg3d_core.language.make import make_anchors

    path = make_anchors(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json({"anchors": str(path)})
    else:
        console.result(path)


def _plot(settings: AnchorsSettings, path: Path, *, order: Literal["likeness", "groups"], as_json: bool) -> None:
    from lg3d_core.language.anchors import load_anchors
    from lg3d_core.reporting.anchors_map import write_anchors_map

    written = write_anchors_map(load_anchors(settings.anchors), path, vocabulary=settings.vocabulary, order=order)
    if as_json:
        console.result_json({"anchors": str(settings.anchors), "plot": str(written)})
    else:
        console.result(written)


def _show(settings: AnchorsSettings, *, as_json: bool) -> None:
    from lg3d_core.language.anchors import load_anchors
    from lg3d_core.language.neighbours import nearest_names

    anchors = load_anchors(settings.anchors)
    nearest = nearest_names(anchors)
    if as_json:
        table = {name: [near._asdict() for near in nearby] for name, nearby in nearest.items()}
        console.result_json(
            {"anchors": str(settings.anchors), "dim": anchors.dim, **anchors.metadata, "nearest": table}
        )
        return
    width = max(len(nearby) for nearby in nearest.values())
    rows = [[name, *(f"{near.name} {near.cosine:.2f}" for near in nearby)] for name, nearby in nearest.items()]
    title = f"{settings.anchors}: {anchors.metadata['encoder']}, width {anchors.dim}"
    console.result_table(title, ["category", *(f"nearest {k + 1}" for k in range(width))], rows)
