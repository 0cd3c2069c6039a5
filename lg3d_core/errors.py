"""The errors a user can fix. Every message says what was expected, what came, and what to do next."""

import errno

MAX_CHARACTERS = 1500
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: str) -> str:
    """Return text with everything spelled out, as in Python's `repr`, that would steer a terminal.

    These are control characters, line breaks, marks that turn the direction of writing, and bytes of a file name that
    are no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Text as one line that a terminal shows as it is, also where a hostile file had a part in it.

    What would end the line, move the cursor or turn the direction of writing is spelled out, as in Python's `repr`, and
    the middle of a long text is left out.
    """
    text = printable(text)
    if len(text) > MAX_CHARACTERS:
        half = MAX_CHARACTERS // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half} characters) ... {text[-half:]}"
    return text


def explain_os_error(error: OSError) -> str:
    """Return what the file system refused, and what to do about it."""
    name, reason = error.filename or "a file", error.strerror or str(error)
    if error.errno in DISK_FULL:
        return f"cannot write {error.filename or 'the output'} ({reason}): make room, then run again"
    if isinstance(error, PermissionError):
        return f"cannot open {name} ({reason}): change its permissions, or name another path"
    return f"cannot use {name} ({reason})"


class Lg3dError(Exception):
    """Base of every error that the command line turns into one line and an exit code."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class SettingsError(Lg3dError):
    """An option, a recipe or a settings file that cannot be used; the message names the option.

    Attributes:
        fields: Names of the settings whose values cannot be used; empty where it is no matter of their values.
    """

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class UsageError(SettingsError):
    """A wrong value that was typed on the command line, which ends with exit code 2."""

    exit_code = 2


class DataError(Lg3dError):
    """A scan, store, anchors file or table whose content is missing, damaged or inconsistent."""


class ChoiceError(DataError, UsageError):
    """A name, passed as an option's value, of something that does not exist, such as a split or a vocabulary."""


class ShapeError(Lg3dError):
    """An array or tensor of the wrong shape, dtype or range at a public boundary."""


class CheckpointError(Lg3dError):
    """A checkpoint that cannot be read, or that does not fit the network, vocabulary or anchors."""


class MissingDependencyError(Lg3dError):
    """Something optional that is not installed, or weights that are not at hand; the message says how to get it."""


class MemoryLimitError(Lg3dError):
    """A GPU or a machine without enough memory; the message names the setting to change."""


class Interrupted(Exception):
    """A run was asked to stop, has saved its state, and can be continued; the message says how."""


class LostProcessError(Lg3dError):
    """A process of a run of several is gone, or silent for too long."""


class EndedElsewhere(Exception):
    """Another process of this run says why it ends; this one ends without a word.

    Attributes:
        interrupted: The run was asked to stop, and its state is saved.
    """

    def __init__(self, *, interrupted: bool = False) -> None:
        super().__init__("another process of this run says why it ends")
        self.interrupted = interrupted
