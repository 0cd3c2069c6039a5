"""Cells of tables: scores in percent and differences in points; "-" if undefined."""

import math

from lg3d_core.comparing.statistics import Difference, Interval, Spread
from lg3d_core.evaluation.table import percent


def spread_cell(own: Spread) -> str:
    """Return a mean and, if it is defined, its standard deviation over seeds, such as `50.00 ± 1.41`."""
    deviation = "" if math.isnan(own.deviation) else f" ± {percent(own.deviation)}"
    return "-" if math.isnan(own.mean) else percent(own.mean) + deviation


def interval_cell(value: float, interval: Interval) -> str:
    """Return a score and its interval, such as `50.00 [47.00, 53.00]`."""
    return "-" if math.isnan(value) else f"{percent(value)} [{percent(interval.low)}, {percent(interval.high)}]"


def difference_cell(own: Difference) -> str:
    """Return a difference, its interval over scenes and seeds and its relative size: `+2.00 [+1.00, +3.00], +4.0 %`."""
    if math.isnan(own.value):
        return "-"
    relative = "" if math.isnan(own.relative) else f", {100 * own.relative:+.1f} %"
    return f"{100 * own.value:+.2f} [{100 * own.over_both.low:+.2f}, {100 * own.over_both.high:+.2f}]{relative}"
