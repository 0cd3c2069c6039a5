"""A device of its own on the CPU: tensors on it do not mix with those of the CPU, as on a GPU.

PyTorch's device `meta` gets memory. An operation on a tensor there and one on the CPU raises an error, as on CUDA, and
so does `numpy()`. Only 0-dimensional tensors, copies and indices may be on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from lg3d_core.training import learners

OTHER = torch.device("meta")
aten = torch.ops.aten
MAY_MIX = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
MAY_INDEX = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """Tensor on the other device; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=OTHER,
            requires_grad=False,
        )
        made.inner = inner
        result: Elsewhere = made
        return result

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner})"

    def tolist(self) -> Any:
        """Return the values, as of any tensor."""
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        """Raise the error of a tensor that is not on the CPU."""
        raise TypeError("can't convert a tensor of another device to numpy: copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Makes tensors on the other device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if there:
        _require_one_device(func, args, tensors)
    device = kwargs.get("device")
    if device is not None:
        there = torch.device(device) == OTHER
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.inner, (args, kwargs))
    if func is aten._to_copy.default and not there and "device" in kwargs:
        return func(*plain_args, **plain_kwargs)
    result = func(*plain_args, **plain_kwargs)
    if not there or func is aten._local_scalar_dense.default or func is aten.equal.default:
        return result
    wrapped = tree_map_only(Tensor, Elsewhere, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _require_one_device(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in MAY_MIX or (func in MAY_INDEX and isinstance(args[0], Elsewhere)):
        return
    others = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    if others:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, one is on the CPU")


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Give the other device memory within the context. It has no autocast, and random numbers are those of the CPU."""
    is_enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != OTHER.type and is_enabled(kind))
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext())
    make = torch.tensor  # makes tensors on the device without an operation
    monkeypatch.setattr(torch, "tensor", lambda data, device="cpu", **choices: make(data, **choices).to(device))
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **choices: autocast(kind.replace(OTHER.type, "cpu"), **choices))
    monkeypatch.setattr(learners, "_generator", lambda _, seed: torch.Generator().manual_seed(seed))
    with OtherDevice():
        yield OTHER
