"""Reader of the `.npz` files in which runs store their scores."""

import io
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.submissions import DAMAGED

DAMAGED_ARRAYS = (*DAMAGED, KeyError, TypeError, SyntaxError, MemoryError, tokenize.TokenError)
"""Exceptions of `np.load` for a damaged file."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of a `.npz` file by name.

    Raises:
        DataError: The file is missing, damaged, or contains pickled objects.
    """
    try:
        # Read all bytes first: `np.load` leaves a damaged archive open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED_ARRAYS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason})") from None
