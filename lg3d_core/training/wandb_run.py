"""Run of Weights & Biases with the metrics that the TensorBoard event file has."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.files import write_text
from lg3d_core.settings import Settings

ID_NAME = "wandb-id.txt"
"""File in the run's folder with its id, so that a resumed run continues it."""
PROJECT = "lg3d"
"""Project, unless `WANDB_PROJECT` is set."""


def import_wandb() -> Any:
    """Import wandb.

    Raises:
        MissingDependencyError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError(
            f"--wandb needs wandb, and {error.name} is not installed: pip install 'lg3d[wandb]', or omit --wandb"
        ) from None
    return wandb


class WandbRun:
    """Run of Weights & Biases. Its local files are in `wandb/` in the run's folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Start the run, or continue the one that was started for the folder.

        Args:
            folder: Folder of the training run.
            settings: Settings of the training run.

        Raises:
            MissingDependencyError: wandb is not installed.
            SettingsError: wandb refuses to start, e.g. without an API key or a network connection.
            DataError: The folder cannot be written.
        """
        wandb = import_wandb()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=folder.name,
                id=_find_id(folder),
                resume="allow",
                dir=str(folder),
                config=json.loads(settings.to_json()),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"wandb cannot start ({reason}): run wandb login, set WANDB_MODE=offline, or omit --wandb; resume with "
                f"--resume {folder}"
            ) from None
        # The step is a metric: wandb's own counter refuses steps that a resumed run repeats.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of one step; wandb sends them in the background."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _find_id(folder: Path) -> str:
    path = folder / ID_NAME
    if not path.is_file():
        write_text(path, f"{uuid.uuid4().hex[:8]}\n")
    return path.read_text(encoding="utf-8").strip()
