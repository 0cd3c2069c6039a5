"""Checkpoints as MinkowskiEngine's users have them, made by hand."""

import argparse
import enum
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Phase(enum.Enum):
    """A type of the training code that saved the checkpoint; whoever reads it need not have it."""

    TRAIN = 1


HYPER_PARAMETERS = {
    "model": "Res16UNet14A",
    "voxel_size": 0.05,
    "bn_momentum": 0.02,
    "lr": 0.05,
    "resume": None,
    "scannet_path": Path("/data/scannet"),
    "phase": Phase.TRAIN,
    "namespace": argparse.Namespace(gpus=[0, 1]),
}


def lightning_checkpoint(
    network: nn.Module,
    *,
    hyper_parameters: dict[str, Any] | None = None,
    extra_state: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """What Lightning 1.6 saves of a module whose network is its attribute `model`."""
    state = OrderedDict((f"model.{name}", tensor) for name, tensor in network.state_dict().items())
    state.update(extra_state or {})
    momenta = {k: {"momentum_buffer": torch.zeros_like(p)} for k, p in enumerate(list(network.parameters())[:3])}
    return {
        "epoch": 37,
        "global_step": 5700,
        "pytorch-lightning_version": "1.6.1",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 38}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_miou'}": {"best_model_score": torch.tensor(28.9)}},
        "optimizer_states": [{"state": momenta, "param_groups": [{"lr": 0.05, "params": [0, 1, 2]}]}],
        "lr_schedulers": [{"last_epoch": 37, "_last_lr": [0.015]}],
        "hparams_name": "config",
        "hyper_parameters": dict(HYPER_PARAMETERS if hyper_parameters is None else hyper_parameters),
    }
