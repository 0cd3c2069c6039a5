"""Report of the packages, devices and backends of this machine."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

from lg3d_core import __version__
from lg3d_core.sparse import describe_backends

PACKAGES = (
    "numpy",
    "h5py",
    "safetensors",
    "fpsample",
    "open_clip_torch",
    "torchvision",
    "tensorboard",
    "typer",
    "rich",
    "triton",
)


def doctor() -> dict[str, Any]:
    """Return versions, devices and optional parts as plain values."""
    facts: dict[str, Any] = {
        "lg3d": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda version": torch.version.cuda,
    }
    facts |= {name: _version(name) for name in PACKAGES}
    facts["open3d"] = _version("open3d") or _version("open3d-cpu")
    facts |= {f"backend {name}": found for name, found in describe_backends().items()}
    facts["MinkowskiEngine"] = _version("MinkowskiEngine")
    facts["display"] = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
