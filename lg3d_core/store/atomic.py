"""Files that appear whole or not at all, and locks between processes that write one store."""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lg3d_core.errors import DataError

TEMPORARY_SUFFIX = ".tmp"
STALE_SECONDS = 3600.0


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk and rename it.

    Whenever the process is killed, `path` holds the old bytes or the new ones. What is left under a temporary name is
    removed here when the write fails, and by `sweep_temporaries` when the process was killed.

    Raises:
        DataError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        try:
            with temporary.open("xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}, {len(data)} bytes): nothing half-written was left; "
            "make room or choose another folder, then run again: it continues"
        ) from None


def sweep_temporaries(folder: Path, *, older_than: float = 0.0) -> int:
    """Remove what killed processes left in a folder under temporary names, if it has not changed for so many seconds.

    Returns:
        How many files were removed.
    """
    removed = 0
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # its writer was faster
            continue
    return removed


@contextmanager
def lock_file(path: Path, *, shared: bool = False, wait: bool = False, holder: str = "") -> Iterator[None]:
    """Hold an advisory lock for as long as the context is open; the system gives it up when the process dies.

    Args:
        path: Lock file, made where it is missing and left in place.
        shared: Whether others may hold it shared at the same time.
        wait: Whether to wait for the lock, or to refuse when it is held.
        holder: Who holds the lock, for the message.

    Raises:
        DataError: The lock is held, or the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror})") from None
    try:
        flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(descriptor, flags)
        except BlockingIOError:
            raise DataError(f"{path.parent} is in use by {holder or 'another process'}: wait for it to end") from None
        except OSError as error:
            raise DataError(
                f"cannot lock {path} ({error.strerror}): is this file system mounted without locks?"
            ) from None
        yield
    finally:
        os.close(descriptor)
