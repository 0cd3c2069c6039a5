"""A run's folder: settings, card, metrics, checkpoints, and the state to resume from."""

import json
import pickle
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lg3d_core import __version__
from lg3d_core.errors import CheckpointError, SettingsError
from lg3d_core.files import atomic_path, write_text
from lg3d_core.networks.checkpoint import BEST_NAME, CHECKPOINT_NAME
from lg3d_core.settings import FinetuneSettings, PretrainSettings

RESUME_NAME = "resume.pt"


class Run:
    """One training run's folder and what is written there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / CHECKPOINT_NAME
        self.best = folder / BEST_NAME
        self.resume_file = folder / RESUME_NAME
        self.metrics_file = folder / "metrics.jsonl"

    @classmethod
    def create(cls, settings: PretrainSettings | FinetuneSettings) -> "Run":
        """Make a new run's folder with its settings in it.

        Raises:
            SettingsError: A folder of that name exists.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = settings.runs / (settings.name or f"{settings.command}-{stamp}")
        number = 1
        while settings.name is None and folder.exists():
            number += 1
            folder = settings.runs / f"{settings.command}-{stamp}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise SettingsError(
                f"{folder} exists: take another --name, or continue it with --resume {folder}"
            ) from None
        except OSError as error:
            raise SettingsError(f"cannot make the run's folder {folder}: {error.strerror}") from None
        run = cls(folder)
        write_text(folder / "settings.json", settings.to_json())
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run's folder.

        Raises:
            CheckpointError: Nothing there to resume.
        """
        if not (folder / "settings.json").is_file():
            raise CheckpointError(f"--resume {folder}: no settings.json there, so it is no run's folder")
        return cls(folder)

    def write_card(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Record how this run was made."""
        card = {
            "kind": kind,
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {
                "lg3d": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            **facts,
        }
        write_text(self.folder / "card.json", json.dumps(card, indent=2, default=str) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def drop_metrics_after(self, step: int, *, validated: bool) -> None:
        """Forget what an interrupted run logged beyond the step that is resumed from, or beside it of a validation."""
        if not self.metrics_file.is_file():
            return
        kept = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run may be cut short
            if record["step"] < step or (record["step"] == step and (validated or "loss" in record)):
                kept.append(line + "\n")
        write_text(self.metrics_file, "".join(kept))

    def save_resume(self, state: Mapping[str, Any]) -> None:
        """Write the state to continue from, whole or not at all.

        Raises:
            DataError: The file system refused; the older state is untouched.
        """
        with atomic_path(self.resume_file) as temporary:
            try:
                torch.save(dict(state), temporary)
            except RuntimeError as error:  # torch's zip writer hides the reason of a failed write
                raise OSError(f"no room for the state to resume from ({error})") from None

    def load_resume(self) -> dict[str, Any] | None:
        """The state to continue from, or None where the run was stopped before it saved one.

        Raises:
            CheckpointError: The file is damaged.
        """
        if not self.resume_file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.resume_file, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.resume_file} is damaged: {error}") from None
        return state
