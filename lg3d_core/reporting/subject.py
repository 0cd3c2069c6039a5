"""Run of a report: its record and its measurement."""

from typing import NamedTuple

from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.reporting.measure import Measurement
from lg3d_core.reporting.runs import RunRecord


class ReportedRun(NamedTuple):
    """Run and its measurement, which is None without a checkpoint."""

    record: RunRecord
    measurement: Measurement | None

    @property
    def name(self) -> str:
        """Name of the run in the report."""
        return self.record.name

    @property
    def evaluation(self) -> Evaluation | None:
        """Scores of the run, if it can classify."""
        return None if self.measurement is None else self.measurement.evaluation
