"""Tables of a report about predicted objects."""

from collections.abc import Sequence
from typing import NamedTuple

from lg3d_core.evaluation.instances import InstanceScores
from lg3d_core.evaluation.table import Table, instance_table, percent
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.page_cell import PageCell, sort_key
from lg3d_core.reporting.subject import ReportedRun


def scored_objects(runs: Sequence[ReportedRun]) -> list[tuple[str, InstanceScores]]:
    """Return the names and scores of the runs that predict objects."""
    scored = [(run.name, run.evaluation.instances) for run in runs if run.evaluation is not None]
    return [(name, scores) for name, scores in scored if scores is not None]


def precision_table(runs: Sequence[ReportedRun]) -> Table | None:
    """Return AP, AP50 and AP25 of each run by group, as `lg3d eval` prints them. None without objects."""
    scored = scored_objects(runs)
    if not scored:
        return None
    tables = [(name, instance_table(scores)) for name, scores in scored]
    several = len(tables) > 1
    rows = [
        [f"{name}: {label}" if several else label, *cells] for name, table in tables for label, *cells in table.rows
    ]
    return Table(tables[0][1].header, rows)


class ClassPrecisions(NamedTuple):
    """AP50 by class.

    Attributes:
        header: Column names.
        rows: Name, group and further cells of each class.
    """

    header: list[str]
    rows: list[tuple[str, str, list[PageCell]]]


def class_precision_table(runs: Sequence[ReportedRun], frequency: Frequency) -> ClassPrecisions | None:
    """Return AP50 of each run and class that has objects or predictions. None without objects."""
    scored = scored_objects(runs)
    if not scored:
        return None
    first = scored[0][1]
    header = ["Class", "Group", "Training objects", "Objects here", *(f"AP50 {name}" for name, _ in scored)]
    rows = []
    for category in first.vocabulary.categories:
        index = category.index
        if first.num_objects[index] == 0 and all(scores.num_predictions[index] == 0 for _, scores in scored):
            continue
        precisions = [float(scores.ap50[index]) for _, scores in scored]
        counts = [int(frequency.instances[index]), int(first.num_objects[index])]
        cells = [PageCell(sort_key(count), f"{count:,}") for count in counts]
        cells += [PageCell(sort_key(ap), percent(ap)) for ap in precisions]
        rows.append((category.name, category.group or "-", cells))
    return ClassPrecisions(header, rows)
