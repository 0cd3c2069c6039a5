"""Training, evaluation, predict and ask with a network on another device than the CPU: no tensor is left behind."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lg3d_core.evaluation.eval import evaluate
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings, FinetuneSettings, PretrainSettings
from lg3d_core.sparse import backends, parallel
from lg3d_core.training import loop
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain
from tests.other_device import OTHER, other_device

SMALL = {"network": "14A", "voxel_size": 0.2, "jobs": 0, "epochs": 1, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every command computes on the other device."""
    monkeypatch.setattr(parallel, "runs_on_workers", lambda _: False)
    monkeypatch.setattr(backends, "_fastest", lambda _: "torch")
    for kind in ("SGD", "AdamW"):
        make = getattr(torch.optim, kind)
        monkeypatch.setattr(
            torch.optim, kind, lambda rows, make=make, **choices: make(rows, **choices | {"fused": False})
        )
    monkeypatch.setattr(loop, "model_step", lambda *_, **__: (1.0, 1))
    for name, module in list(sys.modules.items()):
        if name.startswith("lg3d_core") and hasattr(module, "resolve_device"):
            monkeypatch.setattr(module, "resolve_device", lambda _: OTHER)
    with other_device(monkeypatch):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("method", ["language", "supcon", "csc"])
def test_pretraining(method: str, store_path: Path, anchors_path: Path, tmp_path: Path) -> None:
    settings = PretrainSettings(store=store_path, anchors=anchors_path, runs=tmp_path, method=method, **SMALL)
    assert pretrain(settings, Progress()).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"optimiser": "adamw"}, {"loss": "class-balanced-focal"}, {"task": "instance"}])
def test_finetuning_and_evaluation(options: dict[str, Any], store_path: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(store=store_path, runs=tmp_path, start="scratch", **SMALL, **options)
    checkpoint = finetune(settings, Progress())
    evaluate(EvalSettings(store=store_path, checkpoint=checkpoint, precision="fp32", votes=2), Progress())
