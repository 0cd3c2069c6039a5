"""Lookup of files that a scan refers to: materials, pictures and buffers."""

import os
import unicodedata
import urllib.parse
from pathlib import Path

MAX_DEPTH = 3
"""Depth of subfolders in which a base name is searched."""
SHOWN = 3
"""Number of files that a warning lists."""
MAX_ENTRIES = 20_000
"""Maximum number of directory entries that are searched."""


class ScanFolder:
    """Folder of a scan; files outside of it are never opened, whatever names and links refer to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._by_name: dict[str, list[Path]] | None = None
        self._replaced: dict[str, Path] = {}
        self._found: dict[tuple[str, Path], Path | None] = {}

    def find(self, name: str, *, near: Path | None = None) -> Path | None:
        """Return the file with a name, or None if it is not found.

        The name may have quotes, backslashes, percent escapes or different capitals, or be a path of another machine.
        If the path does not exist, files with the same base name are searched in the folder and its subfolders.

        Args:
            name: As the scan or its materials spell it.
            near: Folder to which the name is relative; the scan's own by default.
        """
        key = (name, near or self._folder)
        if key not in self._found:
            self._found[key] = self._find(*key)
        return self._found[key]

    def _find(self, name: str, near: Path) -> Path | None:
        plain = name.strip().strip("\"'").strip().replace("\\", "/")
        spellings = list(dict.fromkeys((plain, urllib.parse.unquote(plain))))
        for spelling in spellings:
            for folder in dict.fromkeys((near, self._folder)):
                found = self._inside(folder / spelling) if spelling and "\0" not in spelling else None
                if found is not None:
                    return found
        for spelling in spellings:
            parts = [_folded(part) for part in spelling.split("/") if part]
            candidates = self._index().get(parts[-1], []) if parts else []
            if candidates:
                found = max(candidates, key=lambda path: (_shared_parts(path, parts), -len(path.parts)))
                self._replaced[name] = found
                return found
        return None

    def doubts(self) -> tuple[str, ...]:
        """Return a warning about files that were found by their base names only."""
        if not self._replaced:
            return ()
        pairs = [f"{path.name} for {name}" for name, path in self._replaced.items()]
        more = f", and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        what = "pictures or materials are not at their paths: files of the same names in the folder are used"
        return (f"{what} ({', '.join(pairs[:SHOWN])}{more})",)

    def _inside(self, path: Path) -> Path | None:
        try:
            path = path.resolve()
            return path if path.is_relative_to(self._folder) and path.is_file() else None
        except (OSError, ValueError, RuntimeError):  # a name that is too long, or a cycle of links
            return None

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            entries = 0
            for folder, below, names in os.walk(self._folder):
                entries += len(below) + len(names)
                if entries > MAX_ENTRIES:
                    break
                if len(Path(folder).relative_to(self._folder).parts) >= MAX_DEPTH:
                    below.clear()
                below.sort()
                for name in sorted(names):
                    path = self._inside(Path(folder) / name)
                    if path is not None:
                        self._by_name.setdefault(_folded(name), []).append(path)
        return self._by_name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shared_parts(path: Path, parts: list[str]) -> int:
    """Return the number of trailing components that two paths have in common."""
    own = [_folded(part) for part in path.parts]
    count = 0
    while count < min(len(own), len(parts)) and own[-1 - count] == parts[-1 - count]:
        count += 1
    return count
