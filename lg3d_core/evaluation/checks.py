"""Check of a submission against the rules of the benchmark's server.

The rules on files and values are those of the benchmark's documentation. It gives no size limit, but the server unpacks
a submission within a limited time, and users report that 12 GB failed; `MAX_UNPACKED` stays below that.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from lg3d_core.errors import DataError, one_line
from lg3d_core.evaluation.instances import scored_classes
from lg3d_core.evaluation.submissions import MASK_FOLDER, Submission, Task
from lg3d_core.vocabulary import Vocabulary

MAX_SHOWN = 10
"""Maximum number of listed problems of one kind, or of one scene."""
MAX_UNPACKED = 10 << 30
"""Maximum total size of the unpacked files in bytes."""


class Problem(NamedTuple):
    """A problem that the benchmark's server would reject.

    Attributes:
        scene_id: Id of the scene, "" for the submission as a whole.
        message: What was found and what was expected, in one line.
    """

    scene_id: str
    message: str


class SceneCheck(NamedTuple):
    """Result of checking the files of one scene.

    Attributes:
        problems: Problems, at most `MAX_SHOWN` and a line that counts the others.
        masks: Paths of the masks that the scene lists.
    """

    problems: list[Problem]
    masks: frozenset[str]


def check_submission(
    submission: Submission, scenes: Mapping[str, int | None], vocabulary: Vocabulary, *, task: Task
) -> list[Problem]:
    """Return the problems that the benchmark's server would reject; an empty list for a valid submission.

    Args:
        submission: Files to check.
        scenes: Number of vertices of every scene of the split; None where it is unknown.
        vocabulary: Vocabulary with the valid raw ids.
        task: Kind of the predictions.
    """
    checks = [check_scene(submission, scene_id, n, vocabulary, task=task) for scene_id, n in scenes.items()]
    masks = frozenset().union(*(check.masks for check in checks))
    return [*check_files(submission, scenes, masks), *(problem for check in checks for problem in check.problems)]


def check_files(submission: Submission, scenes: Collection[str], masks: frozenset[str]) -> list[Problem]:
    """Return missing and additional files, files in a folder, and an excessive size.

    Args:
        submission: Files to check.
        scenes: Ids of the scenes of the split.
        masks: Paths of the masks that the scenes list.
    """
    expected = {f"{scene_id}.txt" for scene_id in scenes}
    missing = sorted(expected - submission.names)
    extra = sorted(submission.names - expected - masks)
    problems: list[Problem] = []
    for names, what in ((missing, "missing"), (extra, "not expected")):
        problems += [Problem("", one_line(f"{name} is {what}")) for name in names[:MAX_SHOWN]]
        if len(names) > MAX_SHOWN:
            problems.append(Problem("", f"{len(names) - MAX_SHOWN} more files are {what}"))
    if missing and any(PurePosixPath(name).name in expected for name in extra):
        problems.append(Problem("", "the files are in a folder: put them at the root of the zip file"))
    if submission.num_bytes > MAX_UNPACKED:
        problems.append(
            Problem(
                "",
                f"the files have {submission.num_bytes / 2**30:.1f} GiB, expected at most {MAX_UNPACKED >> 30} GiB: "
                "the server may fail to unpack more; remove predictions of low confidence",
            )
        )
    return problems


def check_scene(
    submission: Submission, scene_id: str, num_vertices: int | None, vocabulary: Vocabulary, *, task: Task
) -> SceneCheck:
    """Check the values of one scene. A missing file is left to `check_files`."""
    if f"{scene_id}.txt" not in submission.names:
        return SceneCheck([], frozenset())
    masks: set[str] = set()
    found: set[int] = set()
    check = _check_labels if task == "semantic" else _check_instances
    messages: list[str] = []
    try:
        for message in check(submission, scene_id, num_vertices, masks, found):
            messages.append(message)  # noqa: PERF402 - what came before an error is kept
    except DataError as error:
        messages.append(_shorten(error, submission))
    classes = np.ones(len(vocabulary), dtype=np.bool_) if task == "semantic" else scored_classes(vocabulary)
    unknown = sorted(found - set(vocabulary.ids[classes].tolist()))
    if unknown:
        shown = ", ".join(map(str, unknown[:MAX_SHOWN])) + (", ..." if len(unknown) > MAX_SHOWN else "")
        messages.append(f"class ids that the benchmark does not have: {shown}")
    if len(messages) > MAX_SHOWN + 1:
        messages = [*messages[:MAX_SHOWN], f"{len(messages) - MAX_SHOWN} more problems"]
    return SceneCheck([Problem(scene_id, one_line(message)) for message in messages], frozenset(masks))


def _check_labels(
    submission: Submission, scene_id: str, num_vertices: int | None, masks: set[str], found: set[int]
) -> Iterator[str]:
    """Collect the raw ids of a scene's vertices."""
    del masks
    values = submission.read_values(f"{scene_id}.txt", num_vertices=num_vertices, strict=True)
    found.update(np.unique(values).tolist())
    yield from ()


def _check_instances(
    submission: Submission, scene_id: str, num_vertices: int | None, masks: set[str], found: set[int]
) -> Iterator[str]:
    """Yield the problems of a scene's predicted objects; collect their masks and raw ids."""
    for number, text in enumerate(submission.list_lines(scene_id), start=1):
        has_three = len(text.split(" ")) == 3  # as the benchmark splits it
        if not has_three:
            yield (
                f"line {number}: expected a mask path, a class id and a confidence with one space between them, "
                f"got {text[:80]!r}"
            )
        try:
            line = submission.parse_line(scene_id, number, text)
        except DataError as error:
            if has_three:
                yield _shorten(error, submission)
            continue
        found.add(line.raw_id)
        if line.mask in masks:
            yield f"line {number}: the mask {line.mask} is listed again: only its last line counts"
            continue
        masks.add(line.mask)
        if "/" not in line.mask:
            yield f"line {number}: the mask {line.mask} is at the root: expected a path like {MASK_FOLDER}/{line.mask}"
        try:
            values = submission.read_values(line.mask, num_vertices=num_vertices, strict=True)
        except DataError as error:
            yield _shorten(error, submission)
            continue
        num_vertices = len(values)  # the masks of a scene have one length
        if len(values) and not 0 <= values.min() <= values.max() <= 1:
            yield f"{line.mask} has values other than 0 and 1"


def _shorten(error: DataError, submission: Submission) -> str:
    """Return a message without the path of the submission."""
    return str(error).removeprefix(f"{submission.path}: ").removeprefix(f"{submission.path} ")
