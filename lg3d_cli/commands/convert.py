"""`lg3d convert`."""

from typing import TYPE_CHECKING

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ConvertSettings

if TYPE_CHECKING:
    from lg3d_core.networks.convert import Comparison


@settings_command(ConvertSettings)
def convert(settings: ConvertSettings) -> None:
    """Convert weights of MinkowskiEngine 0.5, or back to it. Pickled code is never executed.

    Example: lg3d convert 34D_CLIP_finetuned.ckpt --out released.safetensors
    """
    from lg3d_core.networks.convert import convert as run
    from lg3d_core.vocabulary import load_vocabulary

    names = load_vocabulary(settings.vocabulary) if settings.vocabulary is not None else None
    comparison = run(
        settings,
        console.progress(quiet=settings.quiet),
        vocabulary=None if names is None else (names.name, names.digest),
        show=lambda found: None if settings.quiet else _show(found),
    )
    console.outcome({"out": settings.out}, as_json=settings.json, details=comparison.to_dict())


def _show(comparison: "Comparison") -> None:
    title = f"{comparison.source} as {comparison.match.network}"
    console.note_table(title, ["tensors", "name", "in the file", "in the network"], comparison.rows())
