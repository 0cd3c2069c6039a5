"""Errors that a user can fix. A message states what was expected, what was found, and what to do next."""

import errno

MAX_CHARACTERS = 1500
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: str) -> str:
    """Return text without characters that would control a terminal; they are escaped as in Python's `repr`.

    These are control characters, line breaks, marks that change the writing direction, and undecodable bytes of a file
    name.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(text: str) -> str:
    """Return text as one printable line, also if parts of it come from a hostile file.

    Characters that end the line, move the cursor or change the writing direction are escaped as in Python's `repr`, and
    the middle of a long text is omitted.
    """
    text = printable(text)
    if len(text) > MAX_CHARACTERS:
        half = MAX_CHARACTERS // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half} characters) ... {text[-half:]}"
    return text


def explain_os_error(error: OSError) -> str:
    """Return a message for a failed file operation, with advice."""
    name, reason = error.filename or "a file", error.strerror or str(error)
    if error.errno in DISK_FULL:
        return f"cannot write {error.filename or 'the output'} ({reason}): free some space, then run again"
    if isinstance(error, PermissionError):
        return f"cannot open {name} ({reason}): change its permissions, or name another path"
    return f"cannot use {name} ({reason})"


class Lg3dError(Exception):
    """Base class of all errors that the command line reports as one line with an exit code."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class SettingsError(Lg3dError):
    """An invalid option, recipe or settings file; the message names the option.

    Attributes:
        fields: Names of the settings with invalid values; empty if the error does not concern values.
    """

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class UsageError(SettingsError):
    """An invalid value on the command line, reported with exit code 2."""

    exit_code = 2


class DataError(Lg3dError):
    """Missing, damaged or inconsistent content of a scan, store, anchors file or table."""


class ChoiceError(DataError, UsageError):
    """An option value that names something unknown, such as a split or a vocabulary."""


class ShapeError(Lg3dError):
    """An array or tensor with a wrong shape, dtype or range at a public boundary."""


class CheckpointError(Lg3dError):
    """A checkpoint that cannot be read or does not fit the network, vocabulary or anchors."""


class MissingDependencyError(Lg3dError):
    """An optional package or weights that are not installed; the message states how to get them."""


class MemoryLimitError(Lg3dError):
    """Insufficient GPU or main memory; the message names the setting to change."""


class Interrupted(Exception):
    """A run that was asked to stop and has saved its state; the message states how to resume it."""


class LostProcessError(Lg3dError):
    """A process of a distributed run that died or sent no heartbeat in time."""


class EndedElsewhere(Exception):
    """The end of a process whose error or interruption another process of the same run reports.

    Attributes:
        interrupted: Whether the run was asked to stop and its state is saved.
    """

    def __init__(self, *, interrupted: bool = False) -> None:
        super().__init__("another process of this run says why it ends")
        self.interrupted = interrupted
