"""Checkpoints of a run and the state to resume it from: what is written after an epoch, and read on a resume."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.settings import TrainSettings
from lg3d_core.training.run import Run


class Position(NamedTuple):
    """Position of a run: complete epochs, optimiser steps in the next one, and the best validation score.

    An epoch is complete when it is validated and its checkpoint is written.
    """

    epoch: int
    step: int
    best: float


class Snapshots:
    """Checkpoints and resumable state of a run; only the leader writes them.

    Args:
        run: Folder of the run.
        settings: Settings of the run.
        info: Metadata of the checkpoints; `epoch` is filled in.
        digests: Digests of the inputs, by name; saved with the state and compared when it is resumed.
        leads: Whether this process writes.
    """

    def __init__(
        self, run: Run, *, settings: TrainSettings, info: CheckpointInfo, digests: Mapping[str, str], leads: bool
    ) -> None:
        self.run = run
        self.settings = settings
        self.info = info
        self.digests = dict(digests)
        self.leads = leads

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer, *, per_epoch: int) -> Position:
        """Load the saved state of the run, if it has one, and return the position.

        Args:
            network: Receives the weights.
            optimiser: Receives the momenta.
            per_epoch: Optimiser steps per epoch.

        Raises:
            CheckpointError: The state is damaged or does not fit the settings.
            DataError: The state was saved by a run with other data or anchors.
        """
        state = self.run.load_resume()
        if state is None:
            return Position(0, 0, -math.inf)
        self._require_equal_inputs(state.get("digests"))
        try:
            is_start = state["network"] is None and (state["epoch"], state["step"]) == (0, 0)
            if not is_start:
                network.load_state_dict(state["network"])
                optimiser.load_state_dict(state["optimiser"])
            position = Position(int(state["epoch"]), int(state["step"]), float(state["best"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.run.resume_file} does not fit the settings of this run ({reason}): restore settings.json, or "
                "start a new run"
            ) from None
        epochs = self.settings.epochs
        in_range = 0 <= position.epoch <= epochs and 0 <= position.step <= per_epoch
        if not in_range or (position.epoch == epochs and position.step) or math.isnan(position.best):
            raise CheckpointError(
                f"{self.run.resume_file} is damaged: epoch {position.epoch}, step {position.step}, "
                f"best {position.best}, expected at most {epochs} epochs of {per_epoch} steps"
            )
        if self.leads:
            self.run.drop_metrics_after(position.epoch * per_epoch + position.step, validated=position.step < per_epoch)
        return position

    def save_start(self, position: Position) -> None:
        """Write a state without tensors if there is none, so that a state that is missing later is known to be lost."""
        if self.leads and not self.run.resume_file.is_file():
            self._write_state({"network": None, "optimiser": None}, position)

    def save_state(self, network: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
        """Write the state from which the run is resumed."""
        if self.leads:
            self._write_state({"network": network.state_dict(), "optimiser": optimiser.state_dict()}, position)

    def save_checkpoint(self, network: nn.Module, *, epoch: int) -> None:
        """Write the checkpoint after an epoch."""
        if self.leads:
            save_checkpoint(self.run.checkpoint, network, dataclasses.replace(self.info, epoch=epoch))

    def save_best(self, network: nn.Module, *, epoch: int) -> None:
        """Write the checkpoint of the best epoch so far."""
        if self.leads:
            save_checkpoint(self.run.best, network, dataclasses.replace(self.info, epoch=epoch))

    def _write_state(self, tensors: Mapping[str, object], position: Position) -> None:
        self.run.save_resume({**tensors, **position._asdict(), "digests": self.digests})

    def _require_equal_inputs(self, saved: object) -> None:
        """Reject resuming with another store, split, label budget or text anchors.

        States of older versions have no digests and are accepted.

        Raises:
            DataError: The inputs differ; the message names them.
        """
        if not isinstance(saved, dict):
            return
        different = [name for name, digest in self.digests.items() if saved.get(name, digest) != digest]
        if not different:
            return
        named = ", ".join(f"{name} {self.digests[name]} instead of {saved[name]}" for name in different)
        advice = []
        if different != ["text anchors"]:
            advice.append(f"pass --store with the folder of an equal store (now {self.settings.store})")
        if "text anchors" in different:
            advice.append("pass --anchors with the file that the run was trained with")
        raise DataError(
            f"{self.run.folder} was trained with other data ({named}): {', '.join(advice)}, or start a new run"
        )
