"""Size-limited reading of raw files, with errors that name the file, and the digest of several files."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lg3d_core.errors import DataError

MAX_FILE_BYTES = 1 << 30
PIECE_BYTES = 1 << 24


def read_file(path: Path) -> bytes:
    """Read a file of at most 1 GiB.

    Raises:
        DataError: The file is missing, unreadable, too large, or not a regular file.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: expected a file, found {'something else' if path.exists() else 'nothing'}")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json_object(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a file that holds one JSON object.

    Raises:
        DataError: The file is not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {len(data)} bytes"
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise DataError(f"{path}: not JSON ({what} at {where}): download it again") from None
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: invalid JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def digest_contents(contents: Iterable[tuple[Path, bytes]]) -> str:
    """Return the SHA-256 over names, sizes and bytes of files, first 16 hex digits."""
    total = hashlib.sha256()
    for path, data in contents:
        total.update(f"{path.name} {len(data)}\n".encode())
        total.update(data)
    return total.hexdigest()[:16]


def digest_files(paths: Iterable[Path]) -> str:
    """Return `digest_contents` of files of any size, which are read in pieces.

    Raises:
        DataError: A file cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    total.update(piece)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return total.hexdigest()[:16]
