"""Opening of a raw folder in a format that is passed or recognised by its files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError, UsageError
from lg3d_core.scans.formats.arkitscenes import open_arkitscenes, recognise_arkitscenes
from lg3d_core.scans.formats.labelled import open_labelled, recognise_labelled
from lg3d_core.scans.formats.names import load_vocabularies
from lg3d_core.scans.formats.pointcept import open_pointcept, recognise_pointcept
from lg3d_core.scans.formats.raw_folder import RawFolder
from lg3d_core.scans.formats.replica import open_replica, recognise_replica
from lg3d_core.scans.formats.s3dis import open_s3dis, recognise_s3dis
from lg3d_core.scans.formats.scannet import open_scannet
from lg3d_core.scans.formats.scannetpp import open_scannetpp, recognise_scannetpp
from lg3d_core.scans.scannet import MESH_SUFFIX, SCANS_FOLDERS
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

POINTS = ("points", "the vocabulary")
OBJECTS = ("objects", "the vocabulary")
UNMAPPED = {
    "scannet": ("objects", LABEL_TABLE_NAME),
    "s3dis": OBJECTS,
    "scannetpp": OBJECTS,
    "replica": OBJECTS,
    "arkitscenes": OBJECTS,
    "": POINTS,
}
"""Unit in which raw labels outside the vocabulary are counted, and what lacks them; "" for the other formats."""


class _Format(NamedTuple):
    """One format.

    Attributes:
        recognise: Returns what of the format a folder has, for a note; "" if it is of another format.
        open: Lists the scenes of a folder.
        uses: Fields of the settings that the format uses.
    """

    recognise: Callable[[Path], str]
    open: Callable[[PrepareSettings], RawFolder]
    uses: tuple[str, ...] = ()


def _recognise_scannet(raw: Path) -> str:
    meshes = (mesh for name in SCANS_FOLDERS for mesh in raw.glob(f"{name}/*/*{MESH_SUFFIX}"))
    found = next(meshes, None)
    return "" if found is None else str(found.relative_to(raw))


def _open_scannet(settings: PrepareSettings) -> RawFolder:
    return open_scannet(settings.raw_folder, load_vocabularies(settings.vocabulary or ("scannet200",)))


OPTIONAL, UNSET = ("labels", "object_ids", "scale", "up"), ((), None, "auto")
"""Fields that only some formats use, and their values where nothing was passed."""
FORMATS: dict[str, _Format] = {
    "scannet": _Format(_recognise_scannet, _open_scannet),
    "pointcept": _Format(recognise_pointcept, open_pointcept, ("labels", "object_ids", "scale", "up")),
    "s3dis": _Format(recognise_s3dis, open_s3dis, ("scale", "up")),
    "scannetpp": _Format(recognise_scannetpp, open_scannetpp, ("scale", "up")),
    "replica": _Format(recognise_replica, open_replica, ("scale", "up")),
    "arkitscenes": _Format(recognise_arkitscenes, open_arkitscenes, ("scale", "up")),
    "labelled": _Format(recognise_labelled, open_labelled, ("labels", "object_ids", "scale", "up")),
}
"""Formats by name, in the order in which they are tried."""


def open_folder(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a raw folder.

    Raises:
        DataError: The folder does not exist, is of no known format, or has no scenes.
        UsageError: An option does not apply to the format.
    """
    raw = settings.raw_folder
    if not raw.is_dir():
        raise DataError(f"{raw} is a file: expected a folder of scans" if raw.exists() else f"no such folder: {raw}")
    name, note = recognise_format(raw) if settings.format == "auto" else (str(settings.format), "")
    is_unknown, name = not name, name or "scannet"
    form = FORMATS[name]
    unused = [field for field in OPTIONAL if field not in form.uses and getattr(settings, field) not in UNSET]
    for field in unused:
        if field in ("labels", "object_ids"):
            option = "--" + field.replace("_", "-")
            raise UsageError(f"{option} does not apply to the format {name}: leave it out", fields=(field,))
    ignored = tuple(f"--{field} does not apply to the format {name} and is ignored" for field in unused)
    try:
        folder = form.open(settings)
    except DataError as error:
        if not is_unknown or isinstance(error, UsageError):  # an unknown --vocabulary has nothing to do with the format
            raise
        others = ", ".join(other for other in FORMATS if other != name)
        raise DataError(f"{error}; for another format pass --format to lg3d prepare: {others}") from None
    return replace(folder, note=note, warnings=(*ignored, *folder.warnings))


def recognise_format(raw: Path) -> tuple[str, str]:
    """Return the name of a folder's format and a note about it; both are empty without any sign of a format.

    A test of one format never needs more than the names of files.
    """
    if raw.is_dir():
        for name, form in FORMATS.items():
            found = form.recognise(raw)
            if found:
                note = f"{raw} is read as {name}: it has {found} (lg3d prepare --format overrides)"
                return name, "" if name == "scannet" else note
    return "", ""
