"""Text box at the pointer, as geometry in front of the camera: open3d's basic window draws no text."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.viewing.pick import Pose

FONT_SIZE = 15
PADDING = 7
ASIDE = (14, 16)
"""Offset in pixels from the pointer to the box, right and down."""
INK, PAPER, BORDER = (29, 36, 48), (255, 255, 255), (141, 152, 171)


class Tip(NamedTuple):
    """Text box, as rectangles.

    Attributes:
        corners: Pixel offsets from the box's upper left corner, float32 `(rectangles, 4, 2)`, in order around each.
        colors: Colours in 0..1, float32 `(rectangles, 3)`.
        behind: Drawing order from front to back: 0 ink, 1 paper, 2 border, int64 `(rectangles,)`.
        width: Width of the box in pixels.
        height: Height of the box in pixels.
    """

    corners: npt.NDArray[np.float32]
    colors: npt.NDArray[np.float32]
    behind: npt.NDArray[np.int64]
    width: int
    height: int


@lru_cache(maxsize=64)
def draw_tip(lines: tuple[str, ...]) -> Tip:
    """Draw lines of text in a box, with one rectangle per inked pixel."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_SIZE)
    spacing = round(1.35 * FONT_SIZE)
    width = 2 * PADDING + max((round(font.getlength(line)) for line in lines), default=0)
    height = 2 * PADDING + spacing * len(lines)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for k, line in enumerate(lines):
        draw.text((PADDING, PADDING + spacing * (k + 0.5)), line, font=font, fill=255, anchor="lm")
    ink = np.asarray(canvas, dtype=np.float32) / 255
    top, left = np.nonzero(ink)
    coverage = ink[top, left, None]
    boxes = np.concatenate(
        [
            np.stack([left, top, left + 1, top + 1], axis=1),
            np.array([[0, 0, width, height], [-1, -1, width + 1, height + 1]]),
        ]
    ).astype(np.float32)
    ink_color, paper, border = (np.array(color, dtype=np.float32) / 255 for color in (INK, PAPER, BORDER))
    return Tip(
        corners=boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2),
        colors=np.concatenate([coverage * ink_color + (1 - coverage) * paper, paper[None], border[None]]),
        behind=np.concatenate([np.zeros(len(top), dtype=np.int64), np.array([1, 2])]),
        width=width,
        height=height,
    )


def place_tip(tip: Tip, pointer: tuple[float, float], pose: Pose, near: float) -> npt.NDArray[np.float64]:
    """Place a box next to the pointer and within the window.

    Args:
        tip: Box to place.
        pointer: Pixel position from the window's upper left corner.
        pose: Pose of the window's camera.
        near: Distance of the near plane in metres.

    Returns:
        Four corners of each rectangle in metres, shape `(4 * rectangles, 3)`.
    """
    rooms = (pose.width - tip.width - 4, pose.height - tip.height - 4)
    corner = [max(4, min(round(at) + aside, room)) for at, aside, room in zip(pointer, ASIDE, rooms, strict=True)]
    pixels = (tip.corners + np.array(corner)).reshape(-1, 2)
    return pose.to_world(pixels, np.repeat(near * (1.02 + 0.01 * tip.behind), 4))
