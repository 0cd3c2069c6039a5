"""Font of pictures."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as PlainFont

    Font = FreeTypeFont | PlainFont

FONT_FILE = Path("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Font in the package matplotlib, as in the figures of `lg3d report`."""
SCALE = 0.92
"""Size relative to that of Pillow's font, whose letters are smaller."""


def load_font(size: int) -> "Font":
    """Return DejaVu Sans, which has Latin, Greek and Cyrillic letters.

    Without matplotlib, it is Pillow's own font, which has ASCII letters.

    Args:
        size: Height of a line in pixels.
    """
    from PIL import ImageFont

    path = _find_font()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), SCALE * size)


@cache
def _find_font() -> Path | None:
    package = importlib.util.find_spec("matplotlib")  # located without an import, which takes half a second
    path = None if package is None or package.origin is None else Path(package.origin).parent / FONT_FILE
    return path if path is not None and path.is_file() else None
