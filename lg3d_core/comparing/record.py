"""Stored scores of finished runs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core.arrays import read_npz
from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import SceneCounts
from lg3d_core.evaluation.instances import SceneMatches
from lg3d_core.evaluation.packed_matches import unpack_matches
from lg3d_core.reporting.runs import Curve, read_validation

COUNTS_NAME = "scenes.npz"
SCORES_NAME = "scores.json"


class Record(NamedTuple):
    """Scores of one run.

    Attributes:
        counts: Counts at mesh vertices of each scene.
        scores: Output of `lg3d eval --json`.
        matches: Matched objects of each scene; None for runs of the semantic task.
        curve: Validation mIoU over optimizer steps, as `read_validation` returns it.
    """

    counts: SceneCounts
    scores: dict[str, Any]
    matches: tuple[SceneMatches, ...] | None = None
    curve: Curve | None = None


def read_record(folder: Path) -> Record:
    """Read the stored scores of a run.

    Raises:
        DataError: A file is missing or damaged.
    """
    try:
        stored = read_npz(folder / COUNTS_NAME)
        counts = SceneCounts(
            tuple(str(scene) for scene in stored["scene_ids"]),
            stored["correct"],
            stored["support"],
            stored["predicted"],
        )
        scores = json.loads((folder / SCORES_NAME).read_text(encoding="utf-8"))
        if not isinstance(scores, dict):
            raise ValueError(f"{SCORES_NAME} is not a JSON object")
        matches = None
        if "instances" in scores:
            matches = tuple(unpack_matches(stored["matches"], len(counts.scene_ids)))
    except (DataError, OSError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{folder} has no readable scores ({error}): remove the folder and compare again") from None
    return Record(counts, scores, matches, read_validation(folder))
