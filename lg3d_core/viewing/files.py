"""Where pictures and pages go: folders are made, and files appear whole or not at all."""

from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.store.atomic import write_atomically


def write_result(path: Path, data: bytes) -> None:
    """Write a file in a folder that may not be there yet.

    Raises:
        DataError: The folder cannot be made, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {path.parent} ({error.strerror}): choose another place") from None
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it, such as {path / 'scene.html'}")
    write_atomically(path, data)
