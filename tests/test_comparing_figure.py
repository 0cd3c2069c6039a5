"""The figure of a comparison: what is drawn where, read back from the axes."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.comparing.statistics import METRICS, Spread, spread
from lg3d_core.comparing.table import ComparedRow, Comparison
from lg3d_core.reporting.runs import Curve

pytest.importorskip("matplotlib", reason="not installed here")

from lg3d_core.comparing.figure import plot_comparison, write_comparison_figure
from lg3d_core.reporting.style import drawing, encode_figure

GROUPS = ("head", "all")


def row(label: str, seeds: dict[str, tuple[float, ...]], share: float = 1.0, method: str = "") -> ComparedRow:
    """A row with these mean IoUs of each seed."""
    scores = {group: spread(values) for group, values in seeds.items()}
    by_seed = dict.fromkeys(METRICS, seeds)
    return ComparedRow(label, "r.toml", method or label, (), share, dict.fromkeys(METRICS, scores), by_seed, {})


def comparison(*rows: ComparedRow) -> Comparison:
    return Comparison(rows, GROUPS, "present", 2, 4, 9, {})


def means_of(axes) -> list[tuple[list[float], list[float]]]:
    """Places of the marks, of each set of bars."""
    return [(list(bars[0].get_xdata()), list(bars[0].get_ydata())) for bars in axes.containers]


def test_rows_of_one_share_are_drawn_below_each_other_with_seeds_and_values() -> None:
    table = comparison(
        row("Scratch", {"head": (0.10, 0.20), "all": (0.05,)}), row("Ours", {"head": (0.30, 0.34), "all": (math.nan,)})
    )
    with drawing():
        figure = plot_comparison(table)
        assert encode_figure(figure, "png").startswith(b"\x89PNG")
    head, everything = figure.axes
    assert means_of(head) == [([pytest.approx(15.0)], [0]), ([pytest.approx(32.0)], [1])]
    low, high = head.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((15 - 10 / math.sqrt(2), 15 + 10 / math.sqrt(2)))
    assert [text.get_text() for text in head.texts] == ["15.0", "32.0"]
    assert [list(line.get_xdata()) for line in head.lines if line.get_marker() == "|"][1] == pytest.approx([30, 34])
    assert [label.get_text() for label in head.get_yticklabels()] == ["Scratch", "Ours"]
    assert head.get_ylim()[0] > head.get_ylim()[1]  # the first row above
    assert [text.get_text() for text in everything.texts] == ["5.0"]  # nothing is known of the other
    assert (head.get_title(loc="left"), everything.get_title(loc="left")) == ("Head", "All")


def test_learning_curves_are_drawn_above_the_rows() -> None:
    values = {"head": (0.1,), "all": (0.2,)}
    curve = Curve(np.array([10, 20]), np.array([0.1, 0.2]))
    table = comparison(
        dataclasses.replace(row("Scratch", values), curves=(curve,)),
        dataclasses.replace(row("Ours", values), curves=(curve._replace(step=curve.step + 20), curve)),
        row("Unknown", values),
    )
    with drawing():
        figure = plot_comparison(table)
        encode_figure(figure, "png")
    above, head, _ = figure.axes
    assert [list(line.get_xdata()) for line in above.lines] == [[10, 20], [30, 40], [10, 20]]
    assert list(above.lines[0].get_ydata()) == pytest.approx([10, 20])
    assert [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()] == ["Scratch", "Ours"]
    assert above.lines[1].get_color() == above.lines[2].get_color() == head.containers[1].lines[0].get_color()
    once = comparison(dataclasses.replace(row("Scratch", values), curves=(Curve(curve.step[:1], curve.value[:1]),)))
    with drawing():
        assert len(plot_comparison(once).axes) == 2  # a single point is no curve


def test_rows_of_several_shares_become_curves_over_them() -> None:
    values = {"head": (0.1,), "all": (0.2,)}
    table = comparison(
        row("Scratch, limited=0.05", values, 0.05, "Scratch"),
        row("Ours, limited=0.05", {"head": (0.2,), "all": (0.3,)}, 0.05, "Ours"),
        row("a name that says 5 %", {"head": (0.4,), "all": (0.5,)}, 1.0, "Ours"),
        row("Scratch, limited=1.0", values, 1.0, "Scratch"),
        row("Scratch, limited=0.5", {"head": (0.15,), "all": (0.2,)}, 0.5, "Scratch"),
    )
    with drawing():
        figure = plot_comparison(table)
        encode_figure(figure, "svg")
    head = figure.axes[0]
    (scratch_x, scratch_y), (ours_x, ours_y) = means_of(head)
    assert scratch_x == pytest.approx([5, 50, 100])
    assert scratch_y == pytest.approx([10, 15, 10])
    assert (ours_x, ours_y) == (pytest.approx([5, 100]), pytest.approx([20, 40]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Scratch", "Ours"]
    assert [label.get_text() for label in head.get_xticklabels()] == ["5", "50", "100"]


def test_the_suffix_selects_the_format(tmp_path: Path) -> None:
    table = comparison(row("Scratch", {"head": (0.1,), "all": (0.1,)}))
    assert table.rows[0].scores["iou"]["all"] == Spread(0.1, pytest.approx(math.nan, nan_ok=True))
    assert write_comparison_figure(table, tmp_path / "x.PDF").read_bytes().startswith(b"%PDF")


def test_a_label_with_an_underscore_at_the_start_is_in_the_legend() -> None:
    rows = [row("_mine", {"head": (0.1,), "all": (0.1,)}, share) for share in (0.1, 1.0)]
    with drawing():
        figure = plot_comparison(comparison(*rows))
    assert [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()] == ["_mine"]
