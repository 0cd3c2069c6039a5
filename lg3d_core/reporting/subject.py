"""One run in a report: its record and what was measured of it."""

from typing import NamedTuple

from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.reporting.measure import Measurement
from lg3d_core.reporting.runs import RunRecord


class ReportedRun(NamedTuple):
    """A run and its measurement; None where it has no checkpoint."""

    record: RunRecord
    measurement: Measurement | None

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.record.name

    @property
    def evaluation(self) -> Evaluation | None:
        """Its scores, if it names voxels."""
        return None if self.measurement is None else self.measurement.evaluation
