"""Files that appear whole or not at all, and locks between processes that write in one folder."""

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lg3d_core.errors import DataError

TEMPORARY_SUFFIX = ".tmp"
TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
STALE_SECONDS = 3600.0
POLL_SECONDS = 0.05
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks, as some network file systems are mounted."""


START_BYTES = 512
FOREIGN_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull where it comes from"),
    (b"<?xml", "an XML page, not the file itself: the download was refused; download it again"),
    (b"<", "a web page (HTML), not the file itself: download it again, from the address of the file"),
    (b"{", "a JSON text, not the file itself: download it again, and check the address"),
    (b"[", "a JSON text, not the file itself: download it again, and check the address"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"(\xb5/\xfd", "a Zstandard archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG image"),
)
"""What a download often is instead of the wanted binary file, by its first characters."""


def recognise_foreign(path: Path) -> str | None:
    """Return what a file is that should hold tensors, where its first bytes show that it does not.

    Returns:
        A phrase that continues "FILE is ..."; None for a file that may hold tensors, or that cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError:
        return None
    if not start:
        return "empty: write or download it again"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return None  # safetensors: eight bytes of a length, then JSON
    text = start.removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    text = text.replace(b"\0", b"").lstrip() or start
    for magic, what in FOREIGN_STARTS:
        if text.startswith(magic):
            return what
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if len(start) > 8 and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "a text file, not the file itself: download it again"
    return None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to the disk and renamed, on failure removed.

    Whenever the process is killed, `path` holds the old bytes or the new ones; what is left under the temporary name
    then is removed by `sweep_temporaries`. The temporary file is there already, empty, and locked for as long as its
    writer lives: whoever fills it opens and overwrites it.

    Raises:
        DataError: The file system refused (full disk, no permission); `path` is then as it was.
    """
    temporary, mark = path, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, mark = _make_temporary(path)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fchmod(stream.fileno(), 0o666 & ~_umask())  # some writers make files for their owner alone
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error}): nothing half-written was left; "
            "make room or choose another folder, then run again"
        ) from None
    finally:
        if mark >= 0:
            with suppress(OSError):  # where nothing could be written there may be nothing to remove
                temporary.unlink()
            os.close(mark)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`; on success it is renamed, and on failure removed with all that is in it.

    Raises:
        FileExistsError: `path` exists, and is no empty folder.
        DataError: The file system refused.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    mark = -1
    try:
        temporary.mkdir(parents=True)
        mark = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):  # no locks here: then age tells
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(error.errno, "there is something already", str(path)) from None
        raise DataError(
            f"cannot make the folder {path} ({error.strerror or error}): make room or choose another place"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if mark >= 0:
            os.close(mark)


def _make_temporary(path: Path) -> tuple[Path, int]:
    """A new file beside a path, and a descriptor that locks it, which tells `sweep_temporaries` that it is in use."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        mark = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        swept = False
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            swept = True
        except OSError:  # no locks here: then age tells
            pass
        if not swept and os.fstat(mark).st_nlink:
            return temporary, mark
        os.close(mark)


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Replace a file as a whole.

    Raises:
        DataError: The file system refused; the old file, if any, is untouched.
    """
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as stream:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


def write_text(path: Path, text: str) -> None:
    """Replace a text file, as UTF-8, as a whole.

    Raises:
        DataError: The file system refused; the old file, if any, is untouched.
    """
    write_bytes(path, text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sweep_temporaries(folder: Path, *, of: str | None = None, older_than: float = 0.0) -> int:
    """Remove what killed processes left in a folder under temporary names, if it has not changed for so many seconds.

    What a living process is about to rename stays. On a file system without locks everything stays for an hour.

    Args:
        folder: Where to look.
        of: Name of the only file whose temporaries are removed; None removes those of all files.
        older_than: Age in seconds.

    Returns:
        How many files and folders were removed.
    """
    removed = 0
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if not TEMPORARY_NAME.fullmatch(path.name) or (of is not None and _target_of(path.name) != of):
            continue
        with suppress(OSError):  # its writer was faster, or it is another user's
            is_folder = path.is_dir()
            mark = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_CLOEXEC)
            try:
                oldest = older_than
                try:
                    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                except OSError:
                    oldest = max(oldest, STALE_SECONDS)
                if time.time() - os.fstat(mark).st_mtime >= oldest:
                    shutil.rmtree(path) if is_folder else path.unlink()
                    removed += 1
            finally:
                os.close(mark)
    return removed


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder where it is missing."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _target_of(temporary: str) -> str:
    """The name that a temporary name stands for: `.NAME.12345678.tmp`."""
    return temporary[1:].rpartition(".")[0].rpartition(".")[0]


@contextmanager
def lock_file(
    path: Path,
    *,
    shared: bool = False,
    wait: bool = False,
    patience: float = 0.0,
    holder: str = "",
    optional: bool = False,
) -> Iterator[bool]:
    """Hold an advisory lock for as long as the context is open; the system gives it up when the process dies.

    Args:
        path: Lock file, made where it is missing and left in place.
        shared: Whether others may hold it shared at the same time.
        wait: Whether to wait for the lock, or to refuse when it is held.
        patience: Seconds to try for before refusing: a killed process's helpers may need a moment to end.
        holder: Who holds the lock, for the message.
        optional: Whether to go on without a lock on a file system that has none.

    Yields:
        Whether the lock is held: always, unless it is optional.

    Raises:
        DataError: The lock is held by another, cannot be had, or the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror})") from None
    try:
        flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        held = True
        deadline = time.monotonic() + patience
        try:
            while True:
                try:
                    fcntl.flock(descriptor, flags)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(POLL_SECONDS)
        except BlockingIOError:
            raise DataError(f"{path.parent} is in use by {holder or 'another process'}: wait for it to end") from None
        except OSError as error:
            held = False
            if not (optional and error.errno in NO_LOCKS):
                raise DataError(
                    f"cannot lock {path} ({error.strerror}): is this file system mounted without locks?"
                ) from None
        yield held
    finally:
        os.close(descriptor)
