"""Reading of numpy arrays from files: memory-mapped, never pickled, with errors that name the file."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import MAX_FILE_BYTES

MAX_INFLATION = 1100
"""Maximum compression ratio of deflate; an archive that exceeds it is damaged or malicious."""
_DAMAGED = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, KeyError, TypeError, SyntaxError),
    *(zlib.error, tokenize.TokenError),
)


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


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a `.npz` file of at most 1 GiB.

    Raises:
        DataError: The file is missing, damaged, too large, or contains pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > MAX_FILE_BYTES or size > MAX_INFLATION * max(path.stat().st_size, 1):
                raise DataError(f"{path}: unpacks to {size} bytes, expected at most {MAX_FILE_BYTES}")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*_DAMAGED, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as npz ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
