"""Atomic writing of files, and locks between processes that write to the same folder."""

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

from lg3d_core.errors import DataError, SettingsError

TEMPORARY_SUFFIX = ".tmp"
TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
STALE_SECONDS = 3600.0
POLL_SECONDS = 0.05
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of file systems without locks, such as some network mounts."""


START_BYTES = 512
FOREIGN_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull in its repository"),
    (b"<?xml", "an XML page, not the file itself: the download was refused; download it again"),
    (b"<", "a web page (HTML), not the file itself: download it again from the address of the file"),
    (b"{", "a JSON text, not the file itself: check the address and download it again"),
    (b"[", "a JSON text, not the file itself: check the address and download it again"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"(\xb5/\xfd", "a Zstandard archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"ply\n", "a PLY mesh"),
    (b"ply\r\n", "a PLY mesh"),
    (b"glTF", "a glTF mesh"),
)
"""First bytes of files that are often passed or downloaded in place of the wanted file, with a description."""


def recognise_foreign(path: Path) -> str | None:
    """Return a description of a file whose first bytes show that it does not contain tensors.

    Returns:
        A phrase that continues "FILE is ..."; None for a file that may contain tensors or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError:
        return None
    if not start:
        return "empty: write or download it again"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return None  # safetensors: a length of eight bytes, then JSON
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


def require_folder(path: Path, option: str) -> None:
    """Check that a command can write into a folder, before long work. The folder may be missing.

    Args:
        path: Folder.
        option: Option that chose it.

    Raises:
        SettingsError: The folder, or a folder above it, is a file or is not writable.
    """
    place = _nearest(path)
    if not place.is_dir():
        raise SettingsError(f"{option} must be a folder, and {place} is a file: pass another {option}")
    _require_permission(place, option, option)


def require_file(path: Path | None, option: str) -> None:
    """Check that a command can write a file, before long work; nothing to check without a path.

    Raises:
        SettingsError: The path is a folder, or its folder is a file or is not writable.
    """
    if path is None:
        return
    if path.is_dir():
        raise SettingsError(f"{option} must be a file, and {path} is a folder: pass the name of a file in it")
    place = _nearest(path.parent)
    if not place.is_dir():
        raise SettingsError(f"{option} {path}: {place} is not a folder: pass another {option}")
    _require_permission(place, f"{option} {path}", option)


def _nearest(path: Path) -> Path:
    """Return a path, or the first of its parents that exists."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _require_permission(folder: Path, subject: str, option: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"{subject}: no permission to write into {folder}: pass another {option}")


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _read_umask()
"""The process's mask of permissions, read once: reading it changes it for an instant, also for other threads."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it, on failure remove it.

    If the process is killed at any moment, `path` has either the old or the new content, and `sweep_temporaries`
    removes the leftover temporary file. When the context opens, the temporary file exists and is empty; open and
    overwrite it. It is locked while its writer lives.

    Raises:
        DataError: Writing failed (full disk, no permission). `path` is unchanged.
    """
    temporary, mark = path, -1
    if os.path.isdir(path):  # unlike Path.is_dir, it does not raise without permission to look
        raise DataError(f"cannot write {path}: it is a folder: pass the name of a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, mark = _make_temporary(path)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fchmod(stream.fileno(), 0o666 & ~UMASK)  # some writers create files that only their owner can read
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error}); nothing was left half-written: "
            "free some space or choose another folder, then run again"
        ) from None
    finally:
        if mark >= 0:
            with suppress(OSError):  # there may be no file if nothing could be written
                temporary.unlink()
            os.close(mark)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`; on success rename it, on failure remove it with its content.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
        DataError: Writing failed (full disk, no permission).
    """
    temporary, mark = None, -1
    try:
        temporary, mark = _make_temporary_folder(path)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(error.errno, "it already exists", str(path)) from None
        raise DataError(
            f"cannot create the folder {path} ({error.strerror or error}): free some space or choose another place"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(mark)


def _make_temporary_folder(path: Path) -> tuple[Path, int]:
    """Create a folder beside a path; return its path and a locked descriptor that marks it as in use.

    Another process may sweep the folder before it is locked; then a new one is made.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        temporary.mkdir(parents=True)
        with suppress(FileNotFoundError):
            mark = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                swept = False
            except BlockingIOError:
                swept = True
            except OSError:  # without locks, `sweep_temporaries` uses the age
                swept = False
            if not swept and temporary.exists():
                return temporary, mark
            os.close(mark)


def _make_temporary(path: Path) -> tuple[Path, int]:
    """Create a file beside a path; return its path and a locked descriptor that marks it as in use."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        mark = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        swept = False
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            swept = True
        except OSError:  # without locks, `sweep_temporaries` uses the age
            pass
        if not swept and os.fstat(mark).st_nlink:
            return temporary, mark
        os.close(mark)


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Replace a file atomically.

    Raises:
        DataError: Writing failed. An existing file is unchanged.
    """
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as stream:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically, encoded as UTF-8; undecodable bytes of file names in the text are escaped.

    Raises:
        DataError: Writing failed. An existing file is unchanged.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def sweep_temporaries(folder: Path, *, of: str | None = None, older_than: float = 0.0) -> int:
    """Remove temporary files and folders that killed processes left in a folder.

    Those that a living process is writing are kept. On a file system without locks all are kept for an hour.

    Args:
        folder: Folder to search.
        of: Name of the only file whose temporaries are removed; None removes those of all files.
        older_than: Minimum time in seconds since the last change.

    Returns:
        Number of removed files and folders.
    """
    removed = 0
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if not TEMPORARY_NAME.fullmatch(path.name) or (of is not None and _target_of(path.name) != of):
            continue
        with suppress(OSError):  # already renamed by its writer, or owned by another user
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


def cache_folder(name: str) -> Path:
    """Return a folder for files that can be made again: `lg3d/NAME` in `XDG_CACHE_HOME`, by default `~/.cache`.

    Raises:
        DataError: The user has no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lg3d" / name
    except RuntimeError:
        raise DataError("this user has no home folder for a cache: set XDG_CACHE_HOME to a folder") from None


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder, or in its closest existing parent if it is missing."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _target_of(temporary: str) -> str:
    """Return the file name that a temporary name `.NAME.12345678.tmp` belongs to."""
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
    """Hold an advisory lock while the context is open; the system releases it when the process dies.

    Args:
        path: Lock file; created if missing, and never removed.
        shared: Whether other processes may hold a shared lock at the same time.
        wait: Whether to wait for the lock instead of failing when it is held.
        patience: Seconds to retry before failing, because workers of a killed process may need a moment to end.
        holder: Description of the likely holder, for the message.
        optional: Whether to continue without a lock on a file system without locks.

    Yields:
        Whether the lock is held; True unless `optional` is set.

    Raises:
        DataError: The lock is held by another process, locks are not supported, or the file cannot be created.
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
                    f"cannot lock {path} ({error.strerror}): the file system may be mounted without locks"
                ) from None
        yield held
    finally:
        os.close(descriptor)
