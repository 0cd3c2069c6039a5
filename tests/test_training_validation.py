"""What is told of the validation within a run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.evaluate import Counts, score_counts
from lg3d_core.progress import Progress, Task
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.finetune import finetune
from lg3d_core.training.validation import Validation
from tests.fake_store import make_vocabulary
from tests.notes import Notes


class Watcher(Notes):
    """Keeps the names of tasks, and the status of each."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, list[str]] = {}

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        del total, unit
        seen: list[str] = []
        self.statuses[description] = seen

        class Watched(Task):
            def advance(self, steps: int = 1, *, status: str = "") -> None:
                del steps
                seen.append(status)

        yield Watched()


def test_validation_counts_its_scenes(store_path: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    finetune(
        FinetuneSettings(
            store=store_path, runs=tmp_path, start="scratch", network="14A", voxel_size=0.2, jobs=0, device="cpu"
        ),
        watcher,
    )
    assert list(watcher.statuses) == ["finetune"]  # the validation is no task of its own
    counted = [status for status in watcher.statuses["finetune"] if "validation" in status]
    assert counted == [f"epoch 1/1, validation {done}/2" for done in range(3)]


def test_undefined_scores_are_not_logged_because_json_has_no_nan() -> None:
    vocabulary = make_vocabulary("head", "tail")
    nothing = Counts(ConfusionMatrix(2), ConfusionMatrix(2), np.zeros((1, 3, 2), dtype=np.int64), 0)
    validation = Validation(score_counts(nothing, vocabulary, ["a"], seconds=0.0, progress=Progress()))
    assert math.isnan(validation.score)
    assert validation.logged == {"miou_2": 0.0}
