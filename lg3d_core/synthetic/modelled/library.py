"""Reader of `.sh3f` furniture libraries: a zip with a catalogue in Java's properties format, and OBJ models.

Members are read into memory by plain relative names, with a size limit; nothing is unpacked to disk.
"""

import posixpath
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from lg3d_core.errors import DataError, one_line

CATALOG_NAME = "PluginFurnitureCatalog.properties"
LICENCE_NAMES = ("LICENSE.TXT", "LICENSE.txt", "LICENSE", "COPYING")
LARGEST_MEMBER = 64 << 20
"""Maximum unpacked size of a member in bytes."""
CENTIMETRE = 0.01
FIELD = re.compile(r"(\w+)#([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """Catalogue entry of a model.

    Attributes:
        library: File name of the library without its suffix.
        number: Number in the catalogue, from 1.
        id: Id in the catalogue, or `<library>#<folder>`.
        name: English name.
        section: Category in the catalogue, e.g. "Kitchen".
        member: Path of the OBJ file in the zip.
        size: Width, depth and height in metres.
        elevation: Original height of its bottom above the floor in metres.
        rotation: Row-major 3x3 matrix that is applied to the OBJ file's axes first.
        creator: Author.
        licence: Licence of the entry, or else of the library.
    """

    library: str
    number: int
    id: str
    name: str
    section: str
    member: str
    size: tuple[float, float, float]
    elevation: float
    rotation: tuple[float, ...]
    creator: str
    licence: str

    @property
    def key(self) -> str:
        """Unique key of the model in all libraries, also used as a file name."""
        return f"{self.library}-{self.number:03d}"

    def describe(self) -> str:
        """Return the description of the model for messages."""
        return f"{self.library}: {self.name!r} ({self.member})"


@dataclass(frozen=True)
class Library:
    """Catalogue of a library.

    Attributes:
        path: `.sh3f` file.
        entries: Usable entries in the catalogue's order.
        problems: One message per unusable entry.
        licence_text: Content of the licence file in the zip, or "".
    """

    path: Path
    entries: tuple[CatalogEntry, ...]
    problems: tuple[str, ...] = field(default=())
    licence_text: str = ""

    @property
    def name(self) -> str:
        """File name without the suffix."""
        return self.path.stem


def find_libraries(folder: Path) -> list[Path]:
    """Return the `.sh3f` files of a folder, sorted by name, or the file itself.

    Raises:
        DataError: There is no library.
    """
    if folder.is_file():
        return [folder]
    found = sorted(path for path in folder.glob("*.sh3f") if path.is_file()) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"--furniture {folder}: no .sh3f library there; on Debian: apt-get install sweethome3d-furniture, "
            "then --furniture /usr/share/sweethome3d/furniture"
        )
    return found


def read_library(path: Path) -> Library:
    """Read a library's catalogue; unusable entries are listed as problems.

    Raises:
        DataError: The file is not a zip file, or has no catalogue.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            table = parse_properties(read_member(archive, CATALOG_NAME).decode("latin-1"))
            licence = next((name for name in LICENCE_NAMES if name in members), None)
            text = read_member(archive, licence).decode("utf-8", errors="replace") if licence else ""
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is not a readable .sh3f library ({error}): remove it, or download it again") from None
    fields: dict[int, dict[str, str]] = {}
    for key, value in table.items():
        match = FIELD.fullmatch(key)
        if match:
            fields.setdefault(int(match[2]), {})[match[1]] = value
    entries: list[CatalogEntry] = []
    problems: list[str] = []
    for number, values in sorted(fields.items()):
        try:
            entry = _entry(path.stem, number, values, default_licence=table.get("license", "not stated"))
            if entry.member not in members:
                raise DataError(f"no member {entry.member}")
        except DataError as error:
            problems.append(one_line(f"{path.name}: model {number} ({values.get('name', 'no name')}): {error}"))
        else:
            entries.append(entry)
    return Library(path, tuple(entries), tuple(problems), text)


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member.

    Raises:
        DataError: The member is missing, damaged, encrypted, or larger than `LARGEST_MEMBER`.
    """
    try:
        size = archive.getinfo(name).file_size
        if size > LARGEST_MEMBER:
            raise DataError(f"{name} unpacks to {size} bytes, expected at most {LARGEST_MEMBER}")
        return archive.read(name)
    except KeyError:
        raise DataError(f"no member {name}") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError) as error:
        raise DataError(f"member {name} cannot be read ({error})") from None


def inside(folder: str, reference: str) -> str | None:
    """Return the member that a file in `folder` refers to, or None if the path leaves the folder."""
    reference = reference.strip().replace("\\", "/")
    if not reference or reference.startswith("/") or ":" in reference or "\0" in reference:
        return None
    joined = posixpath.normpath(posixpath.join(folder, reference))
    return joined if joined.startswith(f"{folder}/" if folder else "") and not joined.startswith("../") else None


def parse_properties(text: str) -> dict[str, str]:
    r"""Parse Java's properties format, with comments, continued lines, `\uXXXX` and `\:` escapes."""
    table: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        line = line.lstrip()
        if not line or line[0] in "#!":
            continue
        while (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1] + next(lines, "").lstrip()
        match = re.match(r"((?:\\.|[^=:\s\\])*)\s*[=:]?\s*(.*)", line)
        assert match is not None  # every part of the pattern is optional
        table[_unescape(match[1])] = _unescape(match[2]).strip()
    return table


def _unescape(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", plain, text)


def _entry(library: str, number: int, values: dict[str, str], *, default_licence: str) -> CatalogEntry:
    member = inside("", values.get("model", "").removeprefix("/"))
    if member is None:
        raise DataError(f"its path {values.get('model')!r} is not a plain path within the library")
    size = tuple(CENTIMETRE * _number(values, name) for name in ("width", "depth", "height"))
    if min(size) <= 0 or max(size) > 100:
        raise DataError(f"its size {size} is not between 0 and 100 m")
    rotation = tuple(_floats(values.get("modelRotation", "1 0 0 0 1 0 0 0 1"), "modelRotation"))
    if len(rotation) != 9:
        raise DataError(f"modelRotation has {len(rotation)} numbers, expected 9")
    return CatalogEntry(
        library=library,
        number=number,
        id=values.get("id") or f"{library}#{posixpath.dirname(member)}",
        name=values.get("name", ""),
        section=values.get("category", ""),
        member=member,
        size=(size[0], size[1], size[2]),
        elevation=CENTIMETRE * _number(values, "elevation", default="0"),
        rotation=rotation,
        creator=values.get("creator", "") or "not stated",
        licence=values.get("license", "") or default_licence,
    )


def _number(values: dict[str, str], name: str, *, default: str = "") -> float:
    found = _floats(values.get(name, default), name)
    if len(found) != 1:
        raise DataError(f"{name} is {values.get(name)!r}, expected a number")
    return found[0]


def _floats(text: str, name: str) -> list[float]:
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        raise DataError(f"{name} is {text!r}, expected numbers") from None
    if not all(abs(value) < 1e9 for value in found):
        raise DataError(f"{name} is {text!r}, expected finite numbers")
    return found
