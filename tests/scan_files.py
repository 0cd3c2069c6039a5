"""Small scans in the forms that other programs write, byte by byte, so that no test depends on the code it tests."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.labelled_scans import labelled_room


def furnished_room(*, seed: int = 0, spacing: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in metres with +z up, colours and triangles of a room of 4 m x 3 m x 2 m with boxes in it."""
    room = labelled_room(seed=seed, spacing=spacing, dtype=np.float64)
    return room.xyz, room.rgb, room.faces


def points_ply(
    path: Path, xyz: np.ndarray, rgb: np.ndarray | None = None, *, order: str = "<", kind: str = "f"
) -> Path:
    """Binary PLY of points without faces; `order` as in struct, `kind` is f or d."""
    name = {"<": "little", ">": "big"}[order]
    number = {"f": "float", "d": "double"}[kind]
    lines = ["ply", f"format binary_{name}_endian 1.0", "comment by hand", f"element vertex {len(xyz)}"]
    lines += [f"property {number} {axis}" for axis in "xyz"]
    fields = [("xyz", f"{order}f{np.dtype(kind).itemsize}", (3,))]
    if rgb is not None:
        lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
        fields += [("rgb", "u1", (3,))]
    rows = np.zeros(len(xyz), dtype=fields)
    rows["xyz"] = xyz
    if rgb is not None:
        rows["rgb"] = rgb
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + rows.tobytes())
    return path


def polygons_ply(path: Path, xyz: np.ndarray, polygons: Sequence[Sequence[int]], *, ascii: bool = False) -> Path:
    """PLY without colours and with faces of any number of corners, each followed by a flag."""
    lines = ["ply", f"format {'ascii' if ascii else 'binary_little_endian'} 1.0", f"element vertex {len(xyz)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"element face {len(polygons)}", "property list uchar int vertex_index", "property uchar flag"]
    head = "\n".join([*lines, "end_header", ""]).encode()
    if ascii:
        body = "".join(f"{x} {y} {z}\n" for x, y, z in xyz.tolist())
        body += "".join(f"{len(p)} {' '.join(map(str, p))} 7\n" for p in polygons)
        path.write_bytes(head + body.encode())
    else:
        faces = b"".join(struct.pack(f"<B{len(p)}iB", len(p), *p, 7) for p in polygons)
        path.write_bytes(head + xyz.astype("<f4").tobytes() + faces)
    return path
