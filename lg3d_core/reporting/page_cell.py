"""Cells of the sortable tables of a report."""

import math
from typing import NamedTuple


class PageCell(NamedTuple):
    """Cell of a table of classes.

    Attributes:
        order: Number to sort by; empty for none.
        text: Shown text.
        is_iou: Whether the cell is an IoU.
        bar: IoU in 0..1, drawn as a bar; empty for none.
    """

    order: str
    text: str
    is_iou: bool = False
    bar: str = ""


def sort_key(value: float) -> str:
    """Return a number as `PageCell.order`."""
    return "" if math.isnan(value) else f"{value:.6g}"
