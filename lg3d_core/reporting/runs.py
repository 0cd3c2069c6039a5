"""A run's folder as a report reads it: settings, card, and learning curves."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.networks.checkpoint import CHECKPOINT_NAME
from lg3d_core.progress import Progress

METRICS_NAME = "metrics.jsonl"


class Curve(NamedTuple):
    """One figure over the course of a run.

    Attributes:
        step: Optimiser steps done, int64, rising.
        value: Finite, float64, same length.
    """

    step: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]


class RunRecord(NamedTuple):
    """What a run's folder says of the run.

    Attributes:
        name: What the report calls it; different for every run in one report.
        folder: Where it is.
        kind: "pretrain" or "finetune".
        method: Of pre-training: "language", "supcon" or "csc"; empty for fine-tuning.
        settings: As they were saved.
        card: How the run was made; empty where there is none.
        curves: By name (`loss`, `lr`, `val_miou_present`, ...); empty where the run logged nothing.
        checkpoint: The last one, or None where the run has not finished an epoch.
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
        """What kind of run it is, in words."""
        return f"pre-training, {self.method}" if self.kind == "pretrain" else "fine-tuning"


def read_runs(asked: Sequence[Path], runs: Path, progress: Progress) -> list[RunRecord]:
    """Read the folders of some runs.

    Args:
        asked: Folders, or names of folders in `runs`.
        runs: Where names are looked up.
        progress: Warned of what is missing or damaged.

    Raises:
        CheckpointError: One is no run's folder, is asked for twice, or holds nothing to report.
        DataError: A file in it is damaged as a whole.
    """
    folders = [_find_folder(path, runs) for path in asked]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise CheckpointError(f"{folder} was given twice: name each run once")
        seen.add(folder.resolve())
    return [_read_run(folder, name, progress) for folder, name in zip(folders, distinct_names(folders), strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths, from the folder's name on, that tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def read_curves(path: Path, progress: Progress) -> dict[str, Curve]:
    """Read `metrics.jsonl`: every finite number by its name, over the step it was logged at.

    A line that cannot be read is left out and warned of; values that are not finite are left out.

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
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, {})[record["step"]] = float(value)
    if damaged:
        rest = f" and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        progress.warn(f"{path}: line {damaged[0]}{rest} cannot be read, and is left out of the curves")
    return {
        name: Curve(
            np.array(sorted(values), dtype=np.int64), np.array([values[step] for step in sorted(values)], dtype=float)
        )
        for name, values in points.items()
    }


def find_recorded(folder: Path, recorded: str) -> Path | None:
    """Return a path that a run's settings name, also after the working directory has been moved or renamed.

    The path is looked for from here, from beside the run, and from where its runs are: as a whole, then without its
    first folders.
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
        raise CheckpointError(f"no run {path}: expected a run's folder, or the name of one in {runs}")
    raise CheckpointError(f"{path} is no run's folder (no settings.json there): name the folder that training made")


def _read_run(folder: Path, name: str, progress: Progress) -> RunRecord:
    settings = _read_object(folder / "settings.json")
    card = _read_object(folder / "card.json") if (folder / "card.json").is_file() else {}
    metrics, checkpoint = folder / METRICS_NAME, folder / CHECKPOINT_NAME
    curves = read_curves(metrics, progress) if metrics.is_file() else {}
    if not curves and not checkpoint.is_file():
        raise CheckpointError(
            f"{folder} has neither {METRICS_NAME} nor {CHECKPOINT_NAME}: it has taken no step yet, so there is nothing "
            "to report"
        )
    if not curves:
        progress.warn(f"{folder} has no {METRICS_NAME} with a step in it: the report shows no learning curves of it")
    if not checkpoint.is_file():
        progress.warn(f"{folder} holds no {CHECKPOINT_NAME} yet: the report shows its curves and card, and no scores")
    kind = settings.get("command") or card.get("kind")  # earlier versions recorded it in the card alone
    if kind not in ("pretrain", "finetune"):
        raise DataError(f"{folder}: expected settings.json to name the command pretrain or finetune, got {kind!r}")
    method = str(settings.get("method", "language")) if kind == "pretrain" else ""
    return RunRecord(name, folder, kind, method, settings, card, curves, checkpoint if checkpoint.is_file() else None)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: expected a JSON object")
    return value
