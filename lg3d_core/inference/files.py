"""Output files of a scan: labels or heat at its vertices, in its own units and axes."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.files import atomic_path
from lg3d_core.scans.surface import CHUNK_ROWS, Surface

Columns = Iterator[tuple[int, int, dict[str, npt.NDArray[Any]]]]
"""Pieces of a scan: first row, end row (exclusive), and values by column."""

SUFFIXES = (".ply", ".npz", ".txt", ".instances.txt", ".objects.json", ".objects.csv", ".html")
ORIGIN_ATTRIBUTE = "user.lg3d.origin"
PLY_TYPES = {"u1": "uchar", "i2": "short", "i4": "int", "f4": "float", "f8": "double"}


def write_vertices_ply(
    path: Path,
    surface: Surface,
    pieces: Columns,
    *,
    columns: dict[str, str],
    comments: Sequence[str],
    origin: str = "",
) -> None:
    """Write a scan's vertices with additional columns, and its triangles, as binary PLY, piece by piece.

    Args:
        path: Output file, replaced atomically.
        surface: Scan; positions are written as they were read.
        pieces: Values of the columns.
        columns: Name and numpy type of each column after x, y, z.
        comments: Lines of the header; line breaks are removed.
        origin: Inputs that the file was made from, for `file_names`.

    Raises:
        DataError: The file cannot be written.
    """
    number = "f8" if surface.is_double else "f4"
    fields = {"x": number, "y": number, "z": number} | columns
    record = np.dtype([(name, "<" + kind) for name, kind in fields.items()])
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {' '.join(comment.split())}" for comment in comments]
    lines += [f"element vertex {surface.num_vertices}"]
    lines += [f"property {PLY_TYPES[kind]} {name}" for name, kind in fields.items()]
    if len(surface.faces):
        lines += [f"element face {len(surface.faces)}", "property list uchar int vertex_indices"]
    lines += ["end_header", ""]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        mark_origin(temporary, origin)
        file.write("\n".join(lines).encode("utf-8"))
        for start, stop, values in pieces:
            rows = np.empty(stop - start, dtype=record)
            xyz = surface.positions(start, stop)
            for k, axis in enumerate("xyz"):
                rows[axis] = xyz[:, k]
            for name in columns:
                rows[name] = values[name]
            file.write(rows.tobytes())
        for start in range(0, len(surface.faces), CHUNK_ROWS):
            corners = surface.faces[start : start + CHUNK_ROWS]
            face = np.empty(len(corners), dtype=[("length", "u1"), ("corners", "<i4", (3,))])
            face["length"], face["corners"] = 3, corners
            file.write(face.tobytes())


def write_npz(path: Path, arrays: dict[str, npt.NDArray[Any]], *, origin: str = "") -> None:
    """Write named arrays as `.npz`, atomically.

    Raises:
        DataError: The file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        mark_origin(temporary, origin)
        np.savez(file, allow_pickle=False, **arrays)


def write_lines(path: Path, pieces: Iterable[npt.NDArray[Any]], *, origin: str = "") -> None:
    """Write one integer per line.

    Raises:
        DataError: The file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        mark_origin(temporary, origin)
        for piece in pieces:
            file.write("".join(f"{value}\n" for value in piece.tolist()))


def write_text(path: Path, text: str, *, origin: str = "") -> None:
    """Write a text file as UTF-8, atomically.

    Raises:
        DataError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        mark_origin(temporary, origin)
        temporary.write_text(text, encoding="utf-8")


def file_names(
    stems: Sequence[str], taken: Sequence[Path], folder: Path, ending: str, *, origins: Sequence[str] = ()
) -> list[str]:
    """Return a file name without suffix for each scan: its stem with an ending, numbered if that is in use.

    Files of an earlier call are replaced if they have the same origin, and kept otherwise.

    Args:
        stems: Stems of the scans.
        taken: Files that must not be replaced: the scans themselves.
        folder: Output folder.
        ending: Text after the stem.
        origins: Inputs of each scan's files, as `mark_origin` records them; empty if unknown.
    """
    blocked = {path.resolve() for path in taken}

    def is_free(name: str, origin: str) -> bool:
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        return not any(
            path.resolve() in blocked or (origin and path.exists() and not _has_origin(path, origin)) for path in paths
        )

    names: list[str] = []
    for k, stem in enumerate(stems):
        name, number = f"{stem}{ending}", 1
        while name in names or not is_free(name, origins[k] if origins else ""):
            number += 1
            name = f"{stem}{ending}-{number}"
        names.append(name)
    return names


def mark_origin(path: Path, origin: str) -> None:
    """Record the inputs of a file in an extended attribute; does nothing on a file system without them.

    Args:
        path: File, possibly still under a temporary name.
        origin: Any text; its digest is recorded.
    """
    with suppress(OSError):
        os.setxattr(path, ORIGIN_ATTRIBUTE, _digest(origin))


def _has_origin(path: Path, origin: str) -> bool:
    try:
        return os.getxattr(path, ORIGIN_ATTRIBUTE) == _digest(origin)
    except OSError:
        return False


def _digest(origin: str) -> bytes:
    return hashlib.sha256(origin.encode("utf-8", "surrogateescape")).hexdigest().encode()
