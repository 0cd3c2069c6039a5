"""What is written of a scan: labels or heat at its own vertices, in its own units and axes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.files import atomic_path
from lg3d_core.scans.surface import CHUNK_ROWS, Surface

Columns = Iterator[tuple[int, int, dict[str, npt.NDArray[Any]]]]
"""Pieces of a scan: first row, row behind the last, and values by column."""

PLY_TYPES = {"u1": "uchar", "i2": "short", "i4": "int", "f4": "float", "f8": "double"}


def write_vertices_ply(
    path: Path, surface: Surface, pieces: Columns, *, columns: dict[str, str], comments: Sequence[str]
) -> None:
    """Write a scan's vertices with further columns, and its triangles, as binary PLY, a piece at a time.

    Args:
        path: File to replace as a whole.
        surface: The scan; positions are written as they were read.
        pieces: Values of the columns.
        columns: Name and numpy type of each column behind x, y, z.
        comments: Lines of the header; line breaks in them are taken out.

    Raises:
        DataError: The file system refused.
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


def write_npz(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays by name, as `numpy.load` reads them; the file is replaced as a whole.

    Raises:
        DataError: The file system refused.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_lines(path: Path, pieces: Iterable[npt.NDArray[Any]]) -> None:
    """Write a whole number per line.

    Raises:
        DataError: The file system refused.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for piece in pieces:
            file.write("".join(f"{value}\n" for value in piece.tolist()))


def file_names(stems: Sequence[str], taken: Sequence[Path], folder: Path, ending: str) -> list[str]:
    """A name without suffix for each scan: its own with an ending, numbered where two would be the same.

    Args:
        stems: Of the scans.
        taken: Files that must not be replaced: the scans themselves.
        folder: Where the files go.
        ending: Behind the stem.
    """
    blocked = {path.resolve() for path in taken}
    names: list[str] = []
    for stem in stems:
        name, number = f"{stem}{ending}", 1
        while name in names or any((folder / f"{name}{suffix}").resolve() in blocked for suffix in (".ply", ".npz")):
            number += 1
            name = f"{stem}{ending}-{number}"
        names.append(name)
    return names
