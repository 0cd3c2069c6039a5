"""CUDA's branches of the code, taken on a CPU.

Operations are not cut into pieces for threads, rows are normalised and multiplied by PyTorch, batches arrive through
page-locked memory, and training is in bfloat16. What only a GPU has, its memory and its clock, is not imitated.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lg3d_core.sparse import backends, parallel
from lg3d_core.training import batches


class Branches:
    """What happened inside them.

    Attributes:
        pinned: Addresses of tensors in what passes for page-locked memory.
    """

    def __init__(self) -> None:
        self.pinned: set[int] = set()


def take_cuda_branches(monkeypatch: pytest.MonkeyPatch) -> Branches:
    """Take the branches until the test ends."""
    taken = Branches()

    def pin(tensor: Tensor, *_: Any) -> Tensor:
        copy = tensor.clone()
        taken.pinned.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(parallel, "runs_on_workers", lambda _: False)
    monkeypatch.setattr(backends, "_fastest", lambda _: "torch")  # Triton interpreted would take hours
    monkeypatch.setattr(backends, "trains_faster_in_bf16", lambda *_: True)
    monkeypatch.setattr(batches, "copies_without_waiting", lambda _: True)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    for name, value in (
        ("is_available", True),
        ("current_accelerator", torch.device("cuda")),
        ("current_device_index", 0),
        ("set_device_index", None),
    ):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, value=value: value)
    return taken
