"""A checksum over all bytes of a file, at its end: damage is noticed before anything makes sense of the content.

HDF5 has checksums of its own, but its library has to walk through a damaged file to meet them, and may loop or crash
on the way. A sealed file is HDF5, 16 bytes of a mark, and the SHA-256 of what lies before them; the library reads as
far as its own header says, and does not see the seal. A seal is against accidents: whoever changes a file on purpose
can seal it anew, so the content is still read without being trusted.
"""

import hashlib
from pathlib import Path

from lg3d_core.errors import DataError

MARK = b"\nlg3d-seal-0001\n"
SEAL_BYTES = len(MARK) + hashlib.sha256().digest_size
PIECE = 1 << 20


def seal(data: bytes) -> bytes:
    """The bytes of a file with their seal."""
    return data + MARK + hashlib.sha256(data).digest()


def sealed_digest(path: Path) -> str | None:
    """What the seal of a file says, as 64 hex digits, without looking at the rest; None where it has none.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - SEAL_BYTES))
            end = stream.read(SEAL_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return end[len(MARK) :].hex() if len(end) == SEAL_BYTES and end.startswith(MARK) else None


def require_seal(path: Path, *, again: str) -> str | None:
    """Hold a file against its seal.

    Args:
        path: The file; one without a seal, as older versions wrote it, passes.
        again: What the user can do about a damaged one, for the message.

    Returns:
        The seal, as 64 hex digits; None where there is none.

    Raises:
        DataError: The bytes are not those that were sealed, or cannot be read.
    """
    expected = sealed_digest(path)
    if expected is None:
        return None
    total = hashlib.sha256()
    try:
        left = path.stat().st_size - SEAL_BYTES
        with path.open("rb") as stream:
            while left > 0 and (piece := stream.read(min(PIECE, left))):
                total.update(piece)
                left -= len(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if total.hexdigest() != expected:
        raise DataError(f"{path}: damaged: another checksum than when it was written; {again}")
    return expected
