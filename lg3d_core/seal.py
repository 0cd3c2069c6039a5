"""Checksums over all bytes of a file: damage is found before a library interprets the content.

Three forms, by what the file's own library accepts:

- HDF5 and other files whose reader ignores trailing bytes: a mark of 16 bytes and the SHA-256 of everything before it.
- Zip archives (`torch.save`): the same bytes, declared as the archive's comment, so that the file stays a valid zip.
- safetensors, whose size must match its header: the SHA-256 as the metadata entry `seal`, computed with zeros in its
  place.

A seal protects against accidents. Whoever changes a file on purpose can seal it again, so the content is still read
without being trusted.
"""

import hashlib
import json
import os
import re
import struct
import time
from pathlib import Path
from typing import BinaryIO

from lg3d_core.errors import DataError

MARK = b"\nlg3d-seal-0001\n"
SEAL_BYTES = len(MARK) + hashlib.sha256().digest_size
PIECE = 1 << 20
MAX_DAMAGED_MARK = 4
"""A mark that differs in at most this many bytes is a damaged seal, not a file without one."""
SEAL_KEY = "seal"
NO_SEAL = "0" * 64
"""Placeholder of the same length as a digest, in the metadata of a safetensors file that is about to be sealed."""
SEAL_ENTRY = re.compile(rb'"seal":"(.{64})"', re.DOTALL)
END_OF_ZIP = struct.Struct("<4s4H2LH")
END_OF_ZIP_MAGIC = b"PK\x05\x06"
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

SETTLED_SECONDS = 2.0
"""A file that was changed more recently may change again without another modification time."""

_verified: set[tuple[str, int, int, int, int]] = set()
"""Files that were verified by this process: path, inode, size, and times of the last change."""


class SealError(DataError):
    """The bytes of a file differ from those that were sealed.

    Attributes:
        reason: What differs, and what the user can do about it, without the path.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)  # worker processes send it as its message
        self.reason = reason or message


def _seal_error(path: Path, difference: str, again: str) -> SealError:
    return SealError(f"{path}: damaged ({difference}); {again}", reason=f"{difference}; {again}")


def seal(data: bytes) -> bytes:
    """Return the bytes of a file with their seal appended."""
    return data + MARK + hashlib.sha256(data).digest()


def sealed_digest(path: Path) -> str | None:
    """Return the digest that a file's seal states, as 64 hex digits, without verifying it; None without a seal.

    Raises:
        DataError: The file cannot be read.
    """
    end = _read_end(path, SEAL_BYTES)
    return end[len(MARK) :].hex() if len(end) == SEAL_BYTES and end.startswith(MARK) else None


def require_seal(path: Path, *, again: str) -> str | None:
    """Verify the seal at the end of a file.

    Args:
        path: The file; one without a seal, as older versions wrote it, passes.
        again: What the user can do about a damaged file, for the message.

    Returns:
        The digest, as 64 hex digits; None without a seal.

    Raises:
        DataError: The bytes differ from those that were sealed, or cannot be read.
    """
    end = _read_end(path, SEAL_BYTES)
    different = sum(a != b for a, b in zip(end, MARK, strict=False))
    if len(end) < SEAL_BYTES or different > MAX_DAMAGED_MARK:
        return None
    expected = end[len(MARK) :].hex()
    if different or _digest_start(path, path.stat().st_size - SEAL_BYTES) != expected:
        raise _seal_error(path, "checksum mismatch", again)
    return expected


def seal_zip(path: Path) -> None:
    """Append a seal to a zip archive without a comment, as its comment.

    Raises:
        OSError: The file system refused.
        ValueError: The file is not a complete zip archive.
    """
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - END_OF_ZIP.size))
        if not _is_plain_end(stream.read()):
            raise ValueError(f"{path} is not a complete zip archive")
        stream.seek(size - 2)
        stream.write(struct.pack("<H", SEAL_BYTES))
        stream.seek(0)
        digest = _digest_stream(stream, size)
        stream.seek(size)
        stream.write(MARK + digest)


def require_sealed_zip(path: Path, *, again: str) -> str | None:
    """Verify the seal of a zip archive; see `require_seal`. Only an archive without a comment counts as unsealed.

    Raises:
        DataError: The bytes differ from those that were sealed, or cannot be read.
    """
    expected = require_seal(path, again=again)
    if expected is None and not _is_plain_end(_read_end(path, END_OF_ZIP.size)):
        raise _seal_error(path, "its end is missing", again)
    return expected


def seal_safetensors(data: bytes) -> bytearray:
    """Fill in the seal of a safetensors file whose metadata has the entry `seal` with the value `NO_SEAL`.

    The library writes metadata in random order; here they are sorted, so that equal content gives equal bytes.
    """
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    metadata = dict(sorted(header.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    start = struct.pack("<Q", len(text)) + text
    found = _find_entry(start)
    assert found is not None, "the metadata has a placeholder"
    sealed = bytearray(len(start) + len(data) - 8 - length)
    sealed[: len(start)] = start
    sealed[len(start) :] = memoryview(data)[8 + length :]
    sealed[found[0] : found[0] + len(NO_SEAL)] = hashlib.sha256(sealed).hexdigest().encode()
    return sealed


def require_sealed_safetensors(path: Path, *, again: str) -> bool:
    """Verify the seal of a safetensors file; each file once per process.

    Args:
        path: The file.
        again: What the user can do about a damaged file, for the message.

    Returns:
        Whether there is a seal. A flipped bit can hide it by changing its key; so a format in which every file has one
        has to require it.

    Raises:
        DataError: The bytes differ from those that were sealed, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            identity = (str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if identity in _verified:
                return True
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if length > min(MAX_HEADER, status.st_size):
                return False  # the library says what is wrong with the header
            header = start + stream.read(length)
            found = _find_entry(header)
            if found is None:
                return False
            offset, expected = found
            total = hashlib.sha256(header[:offset] + NO_SEAL.encode() + header[offset + len(NO_SEAL) :])
            while piece := stream.read(PIECE):
                total.update(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if total.hexdigest().encode() != expected:
        raise _seal_error(path, "checksum mismatch", again)
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
        _verified.add(identity)
    return True


def _find_entry(header: bytes) -> tuple[int, bytes] | None:
    """Offset of the digest in a safetensors header, and the digest as hex digits."""
    match = SEAL_ENTRY.search(header)
    return None if match is None else (match.start(1), match[1])


def _read_end(path: Path, size: int) -> bytes:
    """The last bytes of a file, fewer where it is shorter."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
            return stream.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _is_plain_end(end: bytes) -> bool:
    """Whether bytes are the end of a zip archive without a comment."""
    return len(end) == END_OF_ZIP.size and end.startswith(END_OF_ZIP_MAGIC) and end[-2:] == b"\0\0"


def _digest_start(path: Path, size: int) -> str:
    """SHA-256 of the first bytes of a file, as hex digits."""
    try:
        with path.open("rb") as stream:
            return _digest_stream(stream, size).hex()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _digest_stream(stream: BinaryIO, size: int) -> bytes:
    total = hashlib.sha256()
    while size > 0 and (piece := stream.read(min(PIECE, size))):
        total.update(piece)
        size -= len(piece)
    return total.digest()
