"""The check of submissions behind `lg3d score --check`."""

from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core.comparing.score import name_all
from lg3d_core.errors import DataError
from lg3d_core.evaluation.checks import Problem, check_files
from lg3d_core.evaluation.score_scenes import SceneChecker, SceneJob
from lg3d_core.evaluation.submissions import Submission, Task, is_safe_path
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.settings import ScoreSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import SPLITS, Vocabulary, load_vocabulary

MAX_DIGITS = 18
"""Maximum number of digits of a number of vertices."""


class CheckedPredictions(NamedTuple):
    """Problems of one submission.

    Attributes:
        name: Name of the submission.
        path: Zip file or folder.
        task: Kind of the predictions; None if it cannot be determined.
        num_bytes: Total size of the files, unpacked.
        problems: Problems, those of the whole submission first; empty for a valid submission.
    """

    name: str
    path: Path
    task: Task | None
    num_bytes: int
    problems: list[Problem]


class CheckReport(NamedTuple):
    """Problems of submissions that the benchmark's server would reject.

    Attributes:
        num_scenes: Number of expected scenes.
        predictions: Submissions in the order of the command line.
    """

    num_scenes: int
    predictions: list[CheckedPredictions]

    @property
    def lines(self) -> list[str]:
        """One line per problem, with the name of the submission if there are several."""
        several = len(self.predictions) > 1
        return [
            ": ".join(part for part in (own.name if several else "", problem.scene_id, problem.message) if part)
            for own in self.predictions
            for problem in own.problems
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "num_scenes": self.num_scenes,
            "predictions": [
                {
                    "name": own.name,
                    "path": str(own.path),
                    "task": own.task,
                    "bytes": own.num_bytes,
                    "problems": [problem._asdict() for problem in own.problems],
                }
                for own in self.predictions
            ],
        }


def check(settings: ScoreSettings, progress: Progress) -> CheckReport:
    """Check submissions against the benchmark's rules, with the scenes of a store or of a file.

    Raises:
        DataError: The store or the file of scenes is missing, damaged or empty.
    """
    if settings.scene_list is None:
        store = SceneStore(settings.store, settings.vocabulary)
        scenes: dict[str, int | None] = {s: store.entry(s).num_points for s in store.scene_ids(settings.split)}
        vocabulary = store.vocabulary
        if not scenes:
            raise DataError(f"no scenes to check in {store.path}: pass another --split than {settings.split}")
        others = {scene_id: split for split in SPLITS for scene_id in store.scene_ids(split) if scene_id not in scenes}
    else:
        scenes, others = read_scenes(settings.scene_list), {}
        vocabulary = load_vocabulary(settings.vocabulary or "scannet200")
        unknown = sum(number is None for number in scenes.values())
        if unknown:
            progress.warn(
                f"{settings.scene_list} has no number of vertices for {unknown} scenes: the length of their files "
                "is not checked"
            )
    checked = [
        _check(name, path, scenes, vocabulary, others, settings, progress)
        for name, path in zip(name_all(settings.predictions), settings.predictions, strict=True)
    ]
    return CheckReport(len(scenes), checked)


def read_scenes(path: Path) -> dict[str, int | None]:
    """Read a file with one scene id per line, each optionally with its number of vertices.

    Raises:
        DataError: The file cannot be read, has no scenes, or a line is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise DataError(f"cannot read the scenes of {path} ({reason}): pass another --scene-list") from None
    scenes: dict[str, int | None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split()
        if not values:
            continue
        is_valid = (
            is_safe_path(values[0])
            and "/" not in values[0]
            and len(values) <= 2
            and all(v.isdecimal() and len(v) <= MAX_DIGITS for v in values[1:])
        )
        if not is_valid or values[0] in scenes:
            raise DataError(
                f"{path}, line {number}: expected a new scene id and optionally its number of vertices, such as "
                f"scene0707_00 123456, got {line[:80]!r}"
            )
        scenes[values[0]] = int(values[1]) if len(values) == 2 else None
    if not scenes:
        raise DataError(f"{path} has no scenes: expected one scene id per line")
    return scenes


def _check(
    name: str,
    path: Path,
    scenes: dict[str, int | None],
    vocabulary: Vocabulary,
    others: dict[str, str],
    settings: ScoreSettings,
    progress: Progress,
) -> CheckedPredictions:
    try:
        submission = Submission(path)
    except DataError as error:
        return CheckedPredictions(name, path, None, 0, [Problem("", str(error))])
    with submission:
        size = submission.num_bytes
        try:
            task = submission.task if settings.task == "auto" else settings.task
        except DataError as error:
            return CheckedPredictions(
                name, path, None, size, [*check_files(submission, scenes, frozenset()), Problem("", str(error))]
            )
        jobs = [SceneJob(s, n) for s, n in scenes.items() if f"{s}.txt" in submission.names]
        masks: set[str] = set()
        found: dict[str, list[Problem]] = {}
        with (
            SceneChecker(path, vocabulary, task) as checker,
            progress.task(f"check {name}", total=len(jobs), unit="scene") as shown,
        ):
            for job, checked in run_in_processes(checker, jobs, num_processes=settings.jobs):
                masks |= checked.masks
                found[job.scene_id] = checked.problems
                shown.advance(status=job.scene_id)
        problems = check_files(submission, scenes, frozenset(masks))
        splits = {others[scene_id] for scene_id in submission.scene_ids if scene_id in others}
        if splits and not jobs:
            split = min(splits)
            problems.append(Problem("", f"its scenes are those of the split {split}: pass --split {split}"))
        problems += [problem for job in jobs for problem in found[job.scene_id]]
        return CheckedPredictions(name, path, task, size, problems)
