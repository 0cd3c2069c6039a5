"""Tiny rooms of boxes in ScanNet's raw format, written by hand here so that no test depends on the code it tests.

A room is a floor, two walls and a few boxes, each a grid of vertices with triangles. Every object is one segment group
of two segments; the floor is object 0.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LABEL_TABLE = [
    # id, raw_category, category, nyu40id
    (1, "wall", "wall", 1),
    (3, "floor", "floor", 2),
    (2, "chair", "chair", 5),
    (4, "table", "table", 7),
    (6, "sofa", "couch", 6),
    (6, "couch", "couch", 6),
    (56, "trash can", "trash can", 39),
    (1200, "rubber duck", "toy", 40),  # a known label whose id lies outside the 200
]

DEFAULT_OBJECTS = ("chair", "table", "sofa", "trash can", "rubber duck")

COLORS = {
    "floor": (140, 110, 80),
    "wall": (220, 220, 210),
    "chair": (200, 40, 40),
    "table": (120, 80, 30),
    "sofa": (40, 60, 200),
    "trash can": (40, 40, 40),
    "rubber duck": (240, 220, 20),
}


def write_dataset(
    raw: Path,
    *,
    train: int = 3,
    val: int = 2,
    test: int = 0,
    spacing: float = 0.1,
    objects: Sequence[str] = DEFAULT_OBJECTS,
) -> list[str]:
    """Write scene9000_00, scene9001_00, ... with their label table and split files; returns the ids in that order."""
    names = [f"scene{9000 + k:04d}_00" for k in range(train + val + test)]
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    write_label_table(raw)
    for split in ("train", "val", "test"):
        text = "".join(f"{name}\n" for name, own in zip(names, splits, strict=True) if own == split)
        (raw / f"scannetv2_{split}.txt").write_text(text)
    for k, (name, split) in enumerate(zip(names, splits, strict=True)):
        write_room(raw, name, seed=k, spacing=spacing, objects=objects, annotated=split != "test")
    return names


def write_label_table(raw: Path) -> None:
    """Write scannetv2-labels.combined.tsv with the few labels used here."""
    raw.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{id}\t{label}\t{category}\t1\t{nyu}\n" for id, label, category, nyu in LABEL_TABLE)
    (raw / "scannetv2-labels.combined.tsv").write_text("id\traw_category\tcategory\tcount\tnyu40id\n" + rows)


def write_room(
    raw: Path,
    name: str,
    *,
    seed: int = 0,
    spacing: float = 0.1,
    objects: Sequence[str] = DEFAULT_OBJECTS,
    annotated: bool = True,
) -> Path:
    """Write one room of 4 m x 3 m x 2 m and return its folder (under `scans_test` where it is not annotated)."""
    folder = raw / ("scans" if annotated else "scans_test") / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    parts = [
        ("floor", grid((0, 0, 0), (4, 0, 0), (0, 3, 0), spacing)),
        ("wall", grid((0, 0, 0), (4, 0, 0), (0, 0, 2), spacing)),
        ("wall", grid((0, 0, 0), (0, 3, 0), (0, 0, 2), spacing)),
    ]
    for k, label in enumerate(objects):
        low = np.array([0.4 + 0.7 * k, 0.6 + rng.uniform(0, 1.4), 0.0])
        size = rng.uniform(0.35, 0.6, size=3)
        parts.append((label, box(low, size, spacing)))
    vertices, faces, colors, segments, groups = [], [], [], [], []
    count = 0
    for object_id, (label, (xyz, triangles)) in enumerate(parts):
        half = len(xyz) // 2
        vertices.append(xyz)
        faces.append(triangles + count)
        colors.append(
            np.clip(np.array(COLORS.get(label, (90, 90, 90))) + rng.integers(-12, 12, size=(len(xyz), 3)), 0, 255)
        )
        segments += [10 * object_id + 7] * half + [10 * object_id + 8] * (len(xyz) - half)
        groups.append(
            {
                "id": object_id,
                "objectId": object_id,
                "segments": [10 * object_id + 7, 10 * object_id + 8],
                "label": label,
            }
        )
        count += len(xyz)
    write_binary_ply(
        folder / f"{name}_vh_clean_2.ply", np.concatenate(vertices), np.concatenate(colors), np.concatenate(faces)
    )
    (folder / f"{name}.txt").write_text("numDepthFrames = 100\nsceneType = Living room / Lounge\n")
    if annotated:
        body = {"sceneId": f"scannet.{name}", "segGroups": groups}
        (folder / f"{name}.aggregation.json").write_text(json.dumps(body))
        (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
            json.dumps({"sceneId": name, "segIndices": [int(s) for s in segments]})
        )
    return folder


def write_binary_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray, faces: np.ndarray) -> None:
    """ScanNet's mesh format: float xyz, uchar red green blue alpha, faces as uchar-counted int lists."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(xyz)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(
        struct.pack("<fff4B", *map(float, p), *map(int, c), 255) for p, c in zip(xyz, rgb, strict=True)
    ) + b"".join(struct.pack("<B3i", 3, *map(int, f)) for f in faces)
    path.write_bytes(header.encode() + body)


def grid(
    corner: Sequence[float], u: Sequence[float], v: Sequence[float], spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of vertices `spacing` apart, spanned by u and v from a corner, and its triangles."""
    corner_, u_, v_ = (np.asarray(a, dtype=float) for a in (corner, u, v))
    rows = max(2, round(float(np.linalg.norm(u_)) / spacing) + 1)
    columns = max(2, round(float(np.linalg.norm(v_)) / spacing) + 1)
    a, b = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    xyz = corner_ + a.reshape(-1, 1) * u_ + b.reshape(-1, 1) * v_
    index = np.arange(rows * columns).reshape(rows, columns)
    lower = np.stack([index[:-1, :-1], index[1:, :-1], index[:-1, 1:]], axis=-1).reshape(-1, 3)
    upper = np.stack([index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 3)
    return xyz, np.concatenate([lower, upper])


def box(low: np.ndarray, size: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """The five visible sides of a box that stands on the floor."""
    dx, dy, dz = (np.eye(3)[k] * size[k] for k in range(3))
    sides = [(low + dz, dx, dy), (low, dx, dz), (low + dy, dx, dz), (low, dy, dz), (low + dx, dy, dz)]
    vertices, faces, count = [], [], 0
    for corner, u, v in sides:
        xyz, triangles = grid(tuple(corner), tuple(u), tuple(v), spacing)
        vertices.append(xyz)
        faces.append(triangles + count)
        count += len(xyz)
    return np.concatenate(vertices), np.concatenate(faces)
