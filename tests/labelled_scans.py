"""Labelled rooms of boxes in the forms of other data sets, written by hand: no test depends on the code it tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.box_rooms import COLORS, DEFAULT_OBJECTS, box, grid

NAMES = ("floor", "wall", "chair", "table", "sofa", "trash can", "rubber duck")
"""Class of each label; the position is the id in the files."""


class Room(NamedTuple):
    """Room of 4 m x 3 m x 2 m; labels are positions in `NAMES`, objects are numbered from 1."""

    xyz: np.ndarray
    rgb: np.ndarray
    faces: np.ndarray
    label: np.ndarray
    instance: np.ndarray


def labelled_room(*, seed: int = 0, spacing: float = 0.1, dtype: type[np.floating] = np.float32) -> Room:
    """Floor, two walls and five boxes."""
    rng = np.random.default_rng(seed)
    parts = [
        ("floor", grid((0, 0, 0), (4, 0, 0), (0, 3, 0), spacing)),
        ("wall", grid((0, 0, 0), (4, 0, 0), (0, 0, 2), spacing)),
        ("wall", grid((0, 0, 0), (0, 3, 0), (0, 0, 2), spacing)),
    ]
    for k, label in enumerate(DEFAULT_OBJECTS):
        low = np.array([0.4 + 0.7 * k, 0.6 + rng.uniform(0, 1.4), 0.0])
        parts.append((label, box(low, rng.uniform(0.35, 0.6, size=3), spacing)))
    sizes = [len(xyz) for _, (xyz, _) in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    return Room(
        xyz=np.concatenate([xyz for _, (xyz, _) in parts]).astype(dtype),
        rgb=np.concatenate([np.tile(COLORS[name], (len(xyz), 1)) for name, (xyz, _) in parts]).astype(np.uint8),
        faces=np.concatenate([faces + start for (_, (_, faces)), start in zip(parts, starts, strict=True)]),
        label=np.repeat([NAMES.index(name) for name, _ in parts], sizes),
        instance=np.repeat(np.arange(1, len(parts) + 1), sizes),
    )


def write_names(raw: Path, *, names: tuple[str, ...] = NAMES) -> Path:
    """Write `classes.tsv`."""
    raw.mkdir(parents=True, exist_ok=True)
    path = raw / "classes.tsv"
    path.write_text("id\tname\n" + "".join(f"{k}\t{name}\n" for k, name in enumerate(names)))
    return path


def write_room_ply(path: Path, room: Room, *, with_faces: bool = True, **properties: np.ndarray) -> Path:
    """Write a binary PLY whose vertices have further properties, such as `label`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"i": "int", "u": "uchar", "f": "float"}
    fields: list[Any] = [("xyz", "<f4", (3,)), ("rgb", "u1", (3,))]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(room.xyz)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    for name, values in properties.items():
        lines.append(f"property {kinds[values.dtype.kind]} {name}")
        fields.append((name, {"i": "<i4", "u": "u1", "f": "<f4"}[values.dtype.kind]))
    rows = np.zeros(len(room.xyz), dtype=fields)
    rows["xyz"], rows["rgb"] = room.xyz, room.rgb
    for name, values in properties.items():
        rows[name] = values
    data = rows.tobytes()
    if with_faces:
        lines += [f"element face {len(room.faces)}", "property list uchar int vertex_indices"]
        triangles = np.zeros(len(room.faces), dtype=[("n", "u1"), ("corners", "<i4", (3,))])
        triangles["n"], triangles["corners"] = 3, room.faces
        data += triangles.tobytes()
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + data)
    return path


def write_pointcept_scene(folder: Path, room: Room, *, array: str = "segment", **others: np.ndarray) -> Path:
    """Write the arrays of a scene as Pointcept's preprocessing does; objects are numbered from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "coord": room.xyz,
        "color": room.rgb,
        "normal": np.tile(np.float32([0, 0, 1]), (len(room.xyz), 1)),
        array: room.label,
        "instance": room.instance - 1,
        **others,
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


def write_json(path: Path, value: object) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
