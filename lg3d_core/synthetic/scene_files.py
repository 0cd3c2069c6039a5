"""Writer of a scanned room as ScanNet's four files."""

import json
from pathlib import Path

import numpy as np

from lg3d_core.scans.ply import Mesh, write_ply
from lg3d_core.synthetic.labels import SYNONYMS
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.scanner import ScannedRoom
from lg3d_core.synthetic.shapes import Array, yaw_matrix

ALIGNED_SHARE = 0.85
"""Share of the rooms that are stored rotated and shifted, with the inverse as `axisAlignment`."""
FORGOTTEN_SHARE = 0.025
"""Share of the segments that are unannotated."""
SYNONYM_SHARE = 0.3


def write_scene(
    folder: Path, scene_id: str, room: Room, scanned: ScannedRoom, *, scene_type: str, rng: np.random.Generator
) -> dict[str, int]:
    """Write a room into an existing folder.

    Returns:
        Number of annotated vertices by class, for classes that have any.
    """
    alignment = _random_alignment(rng) if rng.random() < ALIGNED_SHARE else None
    xyz = scanned.xyz
    if alignment is not None:
        xyz = ((xyz - alignment[:3, 3]) @ alignment[:3, :3]).astype(np.float32)
    mesh_name = f"{scene_id}_vh_clean_2"
    write_ply(folder / f"{mesh_name}.ply", Mesh(xyz, scanned.rgb, scanned.faces))
    segments = {
        "params": {
            "kThresh": "0.0001",
            "segMinVerts": "20",
            "minPoints": "750",
            "maxPoints": "30000",
            "thinThresh": "0.05",
        },
        "sceneId": scene_id,
        "segIndices": scanned.segment.tolist(),
    }
    (folder / f"{mesh_name}.0.010000.segs.json").write_text(json.dumps(segments), encoding="utf-8")
    groups, counts = _groups(room, scanned, rng)
    aggregation = {
        "sceneId": f"scannet.{scene_id}",
        "appId": "lg3d.rooms",
        "segGroups": groups,
        "segmentsFile": f"scannet.{mesh_name}.0.010000.segs.json",
    }
    (folder / f"{scene_id}.aggregation.json").write_text(json.dumps(aggregation), encoding="utf-8")
    (folder / f"{scene_id}.txt").write_text(_info(alignment, scene_type), encoding="utf-8")
    return counts


def _random_alignment(rng: np.random.Generator) -> Array:
    """Return a rigid motion about +z, 4x4, rounded as in the txt file, so that reading inverts it exactly."""
    alignment = np.eye(4)
    alignment[:3, :3] = yaw_matrix(float(rng.uniform(-np.pi, np.pi)))
    alignment[:3, 3] = [*rng.uniform(-3.0, 3.0, size=2), rng.normal(0.0, 0.1)]
    return np.round(alignment, 6)


def _groups(
    room: Room, scanned: ScannedRoom, rng: np.random.Generator
) -> tuple[list[dict[str, object]], dict[str, int]]:
    segment_ids, first, sizes = np.unique(scanned.segment, return_index=True, return_counts=True)
    owner = scanned.thing[first]
    forgotten = rng.random(len(segment_ids)) < FORGOTTEN_SHARE
    groups: list[dict[str, object]] = []
    counts: dict[str, int] = {}
    for row, thing in enumerate(room.things):
        mine = (owner == row) & ~forgotten
        if not thing.label or not mine.any():
            continue
        raw = thing.label
        if raw in SYNONYMS and rng.random() < SYNONYM_SHARE:
            raw = SYNONYMS[raw][int(rng.integers(len(SYNONYMS[raw])))]
        groups.append(
            {"id": len(groups), "objectId": len(groups), "segments": segment_ids[mine].tolist(), "label": raw}
        )
        counts[thing.label] = counts.get(thing.label, 0) + int(sizes[mine].sum())
    return groups, counts


def _info(alignment: Array | None, scene_type: str) -> str:
    lines = ["colorHeight = 968", "colorWidth = 1296", "numDepthFrames = 1000", f"sceneType = {scene_type}"]
    if alignment is not None:
        lines.insert(0, "axisAlignment = " + " ".join(f"{value:.6f}" for value in alignment.reshape(-1)) + " ")
    return "\n".join(lines) + "\n"
