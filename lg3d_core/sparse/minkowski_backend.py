"""Sparse convolution with MinkowskiEngine 0.5, including its neighbour search and gradients.

It is optional (`make minkowski`) and imported when the backend is selected. Reference: `lg3d_core.sparse.reference`.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.sparse.coordinates import unpack
from lg3d_core.sparse.kernel_maps import KernelMap, Level
from lg3d_core.sparse.old_collections import old_names

VERSION = "0.5"
ADVICE = "run `make minkowski` in lg3d's folder (six minutes, CPU), or see docs/howto/minkowski-engine.md"
PLAN = "minkowski"


class Registered(NamedTuple):
    """Level registered with MinkowskiEngine's coordinate manager."""

    key: Any
    """Key of the level in the manager."""
    to_theirs: Tensor | None
    """Row of lg3d for each row of MinkowskiEngine; None if the order is the same."""
    to_ours: Tensor | None
    """Row of MinkowskiEngine for each row of lg3d; None if the order is the same."""


class Plan(NamedTuple):
    """Data cached on a kernel map: the manager with its own map, and both levels by stride."""

    manager: Any
    levels: dict[int, Registered]


class MinkowskiBackend:
    """MinkowskiEngine's convolutions in float32 and float64; narrower dtypes are computed in float32."""

    name = "minkowski"

    def __init__(self) -> None:
        """Import MinkowskiEngine.

        Raises:
            MissingDependencyError: It is not installed, does not load, or is not version 0.5.
        """
        self._engine = import_engine()

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        if kernel_map.num_outputs == 0 or kernel_map.num_inputs == 0:
            return features.new_zeros(kernel_map.num_outputs, features.shape[1]) @ weight.sum(0)
        assert kernel_map.levels is not None
        plan = self._plan(kernel_map, features.device)
        source, target = (plan.levels[level.stride] for level in kernel_map.levels)
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        rows = features.to(dtype)
        if source.to_theirs is not None:
            rows = rows[source.to_theirs]
        function = self._engine.MinkowskiConvolutionFunction
        if kernel_map.is_reversed:
            function = self._engine.MinkowskiConvolutionTransposeFunction
        output: Tensor = function.apply(
            rows,
            weight.to(dtype).contiguous(),
            self._engine.KernelGenerator(
                kernel_size=round(kernel_map.num_offsets ** (1 / 3)),
                stride=1 if kernel_map.is_submanifold else 2,
                dimension=3,
            ),
            sys.modules["MinkowskiEngineBackend._C"].ConvolutionMode.DEFAULT,
            source.key,
            target.key,
            plan.manager,
        )
        if target.to_ours is not None:
            output = output[target.to_ours]
        return output.to(features.dtype)

    def _plan(self, kernel_map: KernelMap, device: torch.device) -> Plan:
        plan: Plan | None = kernel_map.plans.get(PLAN)
        if plan is None:
            assert kernel_map.levels is not None
            manager = self._new_manager(device)
            levels = {level.stride: _register(level, manager) for level in kernel_map.levels}
            plan = kernel_map.plans[PLAN] = Plan(manager, levels)
        return plan

    def _new_manager(self, device: torch.device) -> Any:
        kinds = self._engine.CoordinateMapType
        if device.type == "cuda" and not self._engine.is_cuda_available():
            raise SettingsError(
                "--backend minkowski: this MinkowskiEngine was built for the CPU: pass --device cpu or --backend auto"
            )
        return self._engine.CoordinateManager(
            D=3,
            num_threads=torch.get_num_threads(),
            coordinate_map_type=kinds.CUDA if device.type == "cuda" else kinds.CPU,
        )


def _register(level: Level, manager: Any) -> Registered:
    coordinates = unpack(level.keys)
    key, (to_theirs, to_ours) = manager.insert_and_map(coordinates, [level.stride] * 3)
    if len(to_theirs) == 0 or torch.equal(to_theirs.cpu(), torch.arange(len(coordinates))):
        return Registered(key, None, None)
    return Registered(key, to_theirs.long(), to_ours.long())


def import_engine() -> Any:
    """Import MinkowskiEngine 0.5, which needs names that `collections` no longer has.

    Raises:
        MissingDependencyError: It is not installed, does not load, or is another version.
    """
    try:
        with old_names(), _kept_environment("OMP_NUM_THREADS"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about a CPU build and about the number of threads
            import MinkowskiEngine
    except ImportError as error:
        if getattr(error, "name", None) == "MinkowskiEngine":
            raise MissingDependencyError(f"--backend minkowski: MinkowskiEngine is not installed: {ADVICE}") from None
        raise MissingDependencyError(
            f"--backend minkowski: MinkowskiEngine does not load ({error}); it must match this PyTorch: {ADVICE}"
        ) from None
    if not MinkowskiEngine.__version__.startswith(VERSION + "."):
        raise MissingDependencyError(
            f"--backend minkowski: expected MinkowskiEngine {VERSION}, got {MinkowskiEngine.__version__}: {ADVICE}"
        )
    return MinkowskiEngine


@contextmanager
def _kept_environment(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
