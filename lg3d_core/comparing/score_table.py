"""Tables of the command `score`."""

from lg3d_core.comparing.cells import difference_cell, interval_cell
from lg3d_core.comparing.score import ScoredPredictions, ScoreReport
from lg3d_core.comparing.statistics import Interval
from lg3d_core.evaluation.instances import InstanceScores
from lg3d_core.evaluation.table import TITLES, Table, class_rows, instance_rows


def score_table(report: ScoreReport) -> Table:
    """Return one row per submission and metric: head, common, tail and all, in percent, with intervals over scenes.

    The rows of semantic scores are those of `lg3d eval` at vertices.
    """
    several = len(report.predictions) > 1
    rows = []
    for own in report.predictions:
        for label, metric, values, intervals in _values(own):
            cells = [interval_cell(values[group], intervals[group]) for group in values]
            rows.append([f"{own.name}: {label}{TITLES[metric]}" if several else f"{label}{TITLES[metric]}", *cells])
    groups = (*report.vocabulary.groups, "all")
    return Table(["", *(group.capitalize() for group in groups)], rows)


def difference_table(report: ScoreReport) -> Table:
    """Return the differences of every other submission from the first, in points, with intervals over scenes."""
    groups = (*report.vocabulary.groups, "all")
    rows = [
        [f"{own.name}: {TITLES[metric]}", *(difference_cell(differences[group]) for group in groups)]
        for own in report.predictions[1:]
        for metric, differences in own.differences.items()
    ]
    return Table(["", *(group.capitalize() for group in groups)], rows)


def class_table(report: ScoreReport) -> Table:
    """Return one row per submission and class that occurs or was predicted, in percent."""
    tables = [
        (own.name, instance_rows(own.scores) if isinstance(own.scores, InstanceScores) else class_rows(own.scores))
        for own in report.predictions
    ]
    if len(tables) == 1:
        return tables[0][1]
    return Table(["Predictions", *tables[0][1].header], [[name, *row] for name, table in tables for row in table.rows])


def describe(report: ScoreReport) -> str:
    """Return a description of the values in the table."""
    return f"Percent at vertices of {report.num_scenes} scenes ({report.split}) [95 % interval over scenes]"


def describe_differences(report: ScoreReport) -> str:
    """Return a description of the differences."""
    over = "classes with ground truth" if report.classes == "present" else "all classes"
    return f"Difference from {report.predictions[0].name}, over {over}: points [95 % interval over scenes], relative"


def _values(own: ScoredPredictions) -> list[tuple[str, str, dict[str, float], dict[str, Interval]]]:
    """Return label, metric, values by group and intervals by group of each row."""
    scores = own.scores
    if isinstance(scores, InstanceScores):
        return [
            ("", metric, {group: scores.mean(metric, group) for group in intervals}, intervals)
            for metric, intervals in own.intervals["present"].items()
        ]
    return [
        (f"vertices, {name}: ", metric, {group: getattr(own, metric) for group, own in means.items()}, intervals)
        for classes, name, means in (
            ("all", scores.miou_name, scores.means),
            ("present", "miou_present", scores.means_present),
        )
        for metric, intervals in own.intervals[classes].items()
    ]
