"""Reading of numpy arrays from files that may be damaged: nothing is unpickled, and errors name the file."""

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError

MAX_INFLATION = 1100
"""Maximum compression ratio of deflate; an archive that exceeds it is damaged or malicious."""
_DAMAGED = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, KeyError, TypeError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
)
"""Exceptions of `np.load` for a damaged file."""


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Map a `.npy` file.

    Raises:
        DataError: The file is missing, truncated, or not an array of numbers.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except _DAMAGED as error:
        raise DataError(f"{path}: cannot be read as a numpy array ({_reason(error)})") from None
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        raise DataError(f"{path}: expected an array of numbers")
    return values


def read_npz(path: Path, *, max_bytes: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a `.npz` file.

    Args:
        path: File.
        max_bytes: Maximum size of the unpacked arrays in bytes; None for no limit.

    Raises:
        DataError: The file is missing, damaged, too large, or contains pickled objects.
    """
    try:
        with path.open("rb") as stream:  # `np.load` does not close a damaged file that it has opened itself
            with zipfile.ZipFile(stream) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            most = MAX_INFLATION * path.stat().st_size
            most = most if max_bytes is None else min(most, max_bytes)
            if size > most:
                raise DataError(f"{path}: unpacks to {size} bytes, expected at most {most}")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except _DAMAGED as error:
        raise DataError(f"{path}: cannot be read as npz ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
