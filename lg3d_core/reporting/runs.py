"""Reader of a run's folder for reports: settings, card, and learning curves."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.models.models import METRICS_NAME, VALIDATION
from lg3d_core.networks.checkpoint import CARD_NAME, CHECKPOINT_NAME
from lg3d_core.progress import Progress
from lg3d_core.settings import SCRATCH

MAX_STEP = (1 << 63) - 1
"""Maximum of int64."""


class Curve(NamedTuple):
    """Course of one logged value.

    Attributes:
        step: Optimizer steps, int64, increasing.
        value: Finite values, float64, same length as `step`.
    """

    step: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]


class RunRecord(NamedTuple):
    """Record of a run's folder.

    Attributes:
        name: Name in the report, unique among its runs.
        folder: Folder of the run.
        kind: "pretrain" or "finetune".
        method: Method of pre-training: "language", "supcon" or "csc"; empty for fine-tuning.
        settings: Saved settings of the run.
        card: Model card of the run; may be empty.
        curves: Curves by name (`loss`, `lr`, `val_miou_present`, ...); empty if the run logged nothing.
        checkpoint: Last checkpoint; None before the first finished epoch.
    """

    name: str
    folder: Path
    kind: str
    method: str
    settings: dict[str, Any]
    card: dict[str, Any]
    curves: dict[str, Curve]
    checkpoint: Path | None

    @property
    def title(self) -> str:
        """Return a description of the kind of run."""
        return f"pre-training, {self.method}" if self.kind == "pretrain" else "fine-tuning"


def read_runs(asked: Sequence[Path], runs: Path, progress: Progress) -> list[RunRecord]:
    """Read the folders of some runs.

    Args:
        asked: Run folders, or their names in `runs`.
        runs: Folder in which names are looked up.
        progress: Receives warnings about missing and damaged files.

    Raises:
        CheckpointError: A folder is not a run, occurs twice, or contains nothing to report.
        DataError: A file of a run is damaged.
    """
    folders = [_find_folder(path, runs) for path in asked]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise CheckpointError(f"{folder} is listed twice: pass each run once")
        seen.add(folder.resolve())
    return [_read_run(folder, name, progress) for folder, name in zip(folders, distinct_names(folders), strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest distinct suffixes of paths, starting at a folder's name."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def read_curves(path: Path, progress: Progress) -> dict[str, Curve]:
    """Read `metrics.jsonl`: every finite number by its name, over its optimizer step.

    Unreadable lines are skipped with a warning; non-finite values are skipped.

    Raises:
        DataError: The file cannot be read at all.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    points: dict[str, dict[int, float]] = {}
    damaged = []
    for number, line in enumerate(lines, start=1):
        record = _parse_line(line)
        if record is None:
            damaged.append(number)
            continue
        for name, value in record.items():
            if name != "step" and _is_finite(value):
                points.setdefault(name, {})[record["step"]] = float(value)
    if damaged:
        rest = f" and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        progress.warn(f"{path}: line {damaged[0]}{rest} cannot be read: skipped in the curves")
    return {
        name: Curve(
            np.array(sorted(values), dtype=np.int64), np.array([values[step] for step in sorted(values)], dtype=float)
        )
        for name, values in points.items()
    }


def read_validation(folder: Path) -> Curve | None:
    """Return a run's validation mIoU in 0..1 over optimizer steps; pre-training and earlier runs count.

    Returns:
        The curve; None if there was no validation, or if the record of this run or of an earlier one is missing.

    Raises:
        DataError: A file of a run is damaged.
    """
    if not (folder / METRICS_NAME).is_file():
        return None
    curve = read_curves(folder / METRICS_NAME, Progress()).get(VALIDATION)
    earlier, is_complete = find_earlier_runs(folder)
    if curve is None or not is_complete:
        return None
    losses = [read_curves(run / METRICS_NAME, Progress()).get("loss") for run in earlier]
    if any(loss is None for loss in losses):
        return None
    return curve._replace(step=curve.step + sum(int(loss.step[-1]) for loss in losses if loss is not None))


class EarlierRuns(NamedTuple):
    """Runs that a run started from.

    Attributes:
        folders: Folders with logged steps, the latest run first.
        is_complete: Whether the last one, or without any the run itself, started from scratch.
    """

    folders: tuple[Path, ...]
    is_complete: bool


def find_earlier_runs(folder: Path) -> EarlierRuns:
    """Return the runs that a run started from, as far as their folders exist.

    Raises:
        DataError: A card is damaged.
    """
    folders = [folder]
    while (folders[-1] / CARD_NAME).is_file():
        start = _read_object(folders[-1] / CARD_NAME).get("from", SCRATCH)
        if start == SCRATCH:
            return EarlierRuns(tuple(folders[1:]), True)
        found = find_recorded(folders[-1], start)
        if found is None or found.parent in folders or not (found.parent / METRICS_NAME).is_file():
            break
        folders.append(found.parent)
    return EarlierRuns(tuple(folders[1:]), False)


def find_recorded(folder: Path, recorded: str) -> Path | None:
    """Return a path from a run's settings, also if the working directory was moved or renamed.

    The path is searched relative to the working directory, the run, and the parent of the run's folder: completely,
    then without its first components.
    """
    parts = Path(recorded).parts
    for k in range(len(parts)):
        rest = Path(*parts[k:])
        for base in (Path(), folder.parent, folder.parent.parent):
            if (base / rest).exists():
                return base / rest
    return None


def _find_folder(path: Path, runs: Path) -> Path:
    for folder in (path, runs / path):
        if (folder / "settings.json").is_file():
            return folder
    if not path.exists() and not (runs / path).exists():
        raise CheckpointError(f"no such run: {path}; expected a run's folder, or the name of one in {runs}")
    raise CheckpointError(
        f"{path} is not a run's folder (it has no settings.json): pass a folder that training created"
    )


def _read_run(folder: Path, name: str, progress: Progress) -> RunRecord:
    settings = _read_object(folder / "settings.json")
    card = _read_object(folder / CARD_NAME) if (folder / CARD_NAME).is_file() else {}
    metrics, checkpoint = folder / METRICS_NAME, folder / CHECKPOINT_NAME
    curves = read_curves(metrics, progress) if metrics.is_file() else {}
    if not curves and not checkpoint.is_file():
        raise CheckpointError(
            f"{folder} has neither {METRICS_NAME} nor {CHECKPOINT_NAME}: the run has not finished a step yet"
        )
    if not curves:
        progress.warn(f"{folder} has no {METRICS_NAME} with a step: the report omits its learning curves")
    if not checkpoint.is_file():
        progress.warn(f"{folder} has no {CHECKPOINT_NAME} yet: the report shows its curves and card without scores")
    kind = settings.get("command") or card.get("kind")  # earlier versions recorded it only in the card
    if kind not in ("pretrain", "finetune"):
        raise DataError(f"{folder}: expected settings.json to name the command pretrain or finetune, got {kind!r}")
    method = str(settings.get("method", "language")) if kind == "pretrain" else ""
    return RunRecord(name, folder, kind, method, settings, card, curves, checkpoint if checkpoint.is_file() else None)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int) or not 0 <= record["step"] <= MAX_STEP:
        return None
    return record


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: expected a JSON object")
    return value
