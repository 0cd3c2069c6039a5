"""Folder of a training run: settings, card, metrics, checkpoints, and the state to resume from."""

import itertools
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lg3d_core import __version__
from lg3d_core.errors import CheckpointError, DataError, SettingsError, first_line
from lg3d_core.files import atomic_folder, atomic_path, lock_file, sweep_temporaries, write_bytes, write_text
from lg3d_core.networks.checkpoint import BEST_NAME, CARD_NAME, CHECKPOINT_NAME
from lg3d_core.networks.torch_files import DAMAGE, read_torch_file
from lg3d_core.seal import SealError, require_sealed_zip, seal_zip
from lg3d_core.settings import FinetuneSettings, PretrainSettings

S = TypeVar("S", PretrainSettings, FinetuneSettings)

RESUME_NAME = "resume.pt"
SETTINGS_NAME = "settings.json"
PATIENCE = 5.0
"""Seconds to wait for another process that was killed while it trained the run."""


class Run:
    """Folder of one training run and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / CHECKPOINT_NAME
        self.best = folder / BEST_NAME
        self.resume_file = folder / RESUME_NAME
        self.metrics_file = folder / "metrics.jsonl"

    @classmethod
    def create(cls, settings: PretrainSettings | FinetuneSettings, facts: Mapping[str, Any] | None = None) -> "Run":
        """Create the folder of a new run with its settings and card, atomically.

        Args:
            settings: Settings of the run.
            facts: Facts for the run's card.

        Raises:
            SettingsError: A folder of that name exists.
            DataError: The folder cannot be written.
        """
        name = settings.name or f"{settings.command}-{time.strftime('%Y%m%d-%H%M%S')}"
        sweep_temporaries(settings.runs)
        for number in itertools.count(1):
            folder = settings.runs / (name if number == 1 else f"{name}-{number}")
            if settings.name is None and folder.exists():
                continue
            try:
                with atomic_folder(folder) as unfinished:
                    write_text(unfinished / SETTINGS_NAME, settings.to_json())
                    write_text(unfinished / CARD_NAME, _card(settings.command, facts or {}))
                break
            except FileExistsError:
                if settings.name is None:  # another run was created in the same second
                    continue
                raise SettingsError(
                    f"{folder} exists: pass another --name, or resume it with {cls(folder).resume_option}"
                ) from None
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open the folder of an existing run.

        Raises:
            CheckpointError: The folder is not that of a run.
        """
        if not (folder / SETTINGS_NAME).is_file():
            raise CheckpointError(f"--resume {folder}: no settings.json there, so it is not the folder of a run")
        return cls(folder)

    @property
    def resume_option(self) -> str:
        """Option that resumes the run, as typed in a shell."""
        return f"--resume {shlex.quote(str(self.folder))}"

    def card(self) -> dict[str, Any]:
        """Return the recorded facts on the start of the run; empty if the run has no card.

        Raises:
            CheckpointError: The card is damaged or cannot be read.
        """
        path = self.folder / CARD_NAME
        try:
            card = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CheckpointError(f"cannot read {path} ({error.strerror})") from None
        except (ValueError, RecursionError):
            card = None
        if not isinstance(card, dict):
            raise CheckpointError(f"{path} is damaged (not a JSON object): restore it from a copy, or start a new run")
        return card

    def read_settings(self, kind: type[S]) -> S:
        """Read the run's settings.

        Raises:
            SettingsError: The file is unreadable or damaged, or holds settings of another command.
        """
        path = self.folder / SETTINGS_NAME
        try:
            return kind.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"cannot read {path} ({error.strerror})") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{path} is damaged: not UTF-8 text; restore it, or start a new run") from None
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from None

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Lock the run against other processes while the context is open, and remove leftover temporary files.

        Raises:
            DataError: Another process is training the run.
        """
        lock = self.folder / ".lock"
        with lock_file(lock, patience=PATIENCE, holder="another lg3d process that trains this run", optional=True):
            sweep_temporaries(self.folder)
            yield

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            DataError: The file cannot be written.
        """
        try:
            with self.metrics_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        except OSError as error:
            raise DataError(
                f"cannot write {self.metrics_file} ({error.strerror or error}): free disk space, then resume with "
                f"{self.resume_option}"
            ) from None

    def drop_metrics_after(self, step: int, *, validated: bool = True) -> None:
        """Remove records after the step that is resumed from and, unless `validated`, the validation at that step."""
        if not self.metrics_file.is_file():
            return
        kept = []
        try:
            lines = self.metrics_file.read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"cannot read {self.metrics_file} ({error.strerror})") from None
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                done = record["step"]
                keeps = done < step or (done == step and (validated or "loss" in record))
            except (ValueError, RecursionError, TypeError, KeyError):
                if number == len(lines):
                    continue  # the last line of a killed run may be truncated
                raise DataError(
                    f"{self.metrics_file}: line {number} is damaged (not a JSON object with a step): repair or delete "
                    "the line, then resume"
                ) from None
            if keeps:
                kept.append(line + b"\n")
        write_bytes(self.metrics_file, b"".join(kept))

    def save_resume(self, state: Mapping[str, Any]) -> None:
        """Write the state to resume from, atomically.

        Raises:
            DataError: The file cannot be written; the previous state is unchanged.
        """
        with atomic_path(self.resume_file) as temporary:
            if self.metrics_file.is_file():  # the metrics of a saved step must be on disk before its state
                with self.metrics_file.open("rb+") as stream:
                    os.fsync(stream.fileno())
            try:
                torch.save(dict(state), temporary)
            except RuntimeError as error:  # torch's zip writer hides the reason of a failed write
                raise OSError(f"no space for the state to resume from ({error})") from None
            seal_zip(temporary)

    def load_resume(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None if the run was stopped before its first step.

        A run writes a state before its first step, so a run with steps and without a state has lost it.

        Raises:
            CheckpointError: The file is damaged, or missing although the run has taken steps.
        """
        if not self.resume_file.is_file():
            if self.checkpoint.exists() or (self.metrics_file.is_file() and self.metrics_file.stat().st_size):
                raise CheckpointError(
                    f"{self.resume_file} is missing, so this run cannot be resumed: restore it, or start a new run"
                )
            return None
        try:
            require_sealed_zip(self.resume_file, again="restore it from a copy, or start a new run")
            read_torch_file(self.resume_file)  # rejects files that would need more memory or time than their size
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state: Any = torch.load(self.resume_file, map_location="cpu", weights_only=True)
        except SealError as error:
            raise CheckpointError(f"{self.resume_file} is damaged: {error.reason}") from None
        except DataError as error:
            raise CheckpointError(str(error)) from None
        except (CheckpointError, RuntimeError, OSError, *DAMAGE) as error:
            raise CheckpointError(f"{self.resume_file} is damaged: {first_line(error)}") from None
        if not isinstance(state, dict):
            raise CheckpointError(f"{self.resume_file} is damaged: expected a dict, got {type(state).__name__}")
        return state


def _card(kind: str, facts: Mapping[str, Any]) -> str:
    """Return the facts on how a run was made, as JSON."""
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
    return json.dumps(card, indent=2, default=str) + "\n"
