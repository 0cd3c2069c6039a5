"""`lg3d anchors`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import AnchorsSettings


@settings_command(AnchorsSettings)
def anchors(settings: AnchorsSettings) -> None:
    """Encode the class names as text anchors.

    Examples: lg3d anchors --encoder bundled --dim 96

    lg3d anchors --plot anchors.png
    """
    if settings.plot is not None:
        _plot(settings)
    if settings.show:
        _show(settings)
    if settings.plot is None and not settings.show:
        from lg3d_core.language.anchors import anchors as make_anchors

        path = make_anchors(settings, console.progress(quiet=settings.quiet))
        console.outcome({"anchors": path}, as_json=settings.json)


def _plot(settings: AnchorsSettings) -> None:
    from lg3d_core.language.anchors_file import load_anchors
    from lg3d_core.reporting.anchors_map import write_anchors_map

    assert settings.plot is not None
    written = write_anchors_map(
        load_anchors(settings.anchors), settings.plot, vocabulary=settings.vocabulary, order=settings.order
    )
    if settings.json and not settings.show:
        console.result_json({"anchors": str(settings.anchors), "plot": str(written)})
    else:
        console.result(written)


def _show(settings: AnchorsSettings) -> None:
    from lg3d_core.language.anchors_file import load_anchors
    from lg3d_core.language.neighbours import nearest_names

    anchors = load_anchors(settings.anchors)
    nearest = nearest_names(anchors)
    if settings.json:
        table = {name: [near._asdict() for near in nearby] for name, nearby in nearest.items()}
        console.result_json(
            {"anchors": str(settings.anchors), "dim": anchors.dim, **anchors.metadata, "nearest": table}
        )
        return
    width = max(len(nearby) for nearby in nearest.values())
    rows = [[name, *(f"{near.name} {near.cosine:.2f}" for near in nearby)] for name, nearby in nearest.items()]
    title = f"{settings.anchors}: {anchors.metadata['encoder']}, width {anchors.dim}"
    console.result_table(title, ["class", *(f"nearest {k + 1}" for k in range(width))], rows)
