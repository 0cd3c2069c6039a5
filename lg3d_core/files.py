"""Writing files so that a reader never sees half of one: a temporary name, a flush to disk, a rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lg3d_core.errors import DataError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, on failure removed.

    Raises:
        DataError: The file system refused (full disk, no permission); `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # where nothing could be written there may be nothing to remove
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Raises:
        DataError: The file system refused; the old file, if any, is untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
