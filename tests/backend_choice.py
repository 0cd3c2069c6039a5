"""Backends that need something which may not be installed."""

import os

import pytest
import torch

from lg3d_core.errors import MissingDependencyError
from lg3d_core.sparse import resolve_backend


def require_backend(name: str) -> None:
    """Skip the test where a backend is not installed; fail where `LG3D_REQUIRE_<NAME>=1` promises that it is."""
    try:
        resolve_backend(name, torch.device("cpu"))
    except MissingDependencyError as error:
        if os.environ.get(f"LG3D_REQUIRE_{name.upper()}") == "1":
            pytest.fail(f"LG3D_REQUIRE_{name.upper()}=1, but {error}")
        pytest.skip(str(error))
