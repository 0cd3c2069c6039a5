"""Scan of a room with a simulated hand-held depth camera."""

import numpy as np

from lg3d_core.errors import DataError
from lg3d_core.synthetic.camera.frames import Source, take_frames
from lg3d_core.synthetic.camera.fusion import fuse, nearest_things
from lg3d_core.synthetic.camera.lighting import bake_light
from lg3d_core.synthetic.camera.path import walk
from lg3d_core.synthetic.camera.profile import CameraProfile, draw_profile
from lg3d_core.synthetic.camera.raycasting import build_scene
from lg3d_core.synthetic.camera.segmentation import segment_mesh, split_by_thing
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.scanner import ScannedRoom, Surfaces, base_colors, sample_surfaces
from lg3d_core.synthetic.shapes import Array
from lg3d_core.synthetic.textures import hash_cells

SOURCE_SPACING = 0.02
"""Vertex distance in metres of the scene that the camera sees; colours and light are stored per vertex."""
# Probability that a transparent, reflective or polished thing returns no depth.
SHINY = {
    "window": 0.75,
    "mirror": 0.7,
    "tv": 0.5,
    "monitor": 0.45,
    "laptop": 0.3,
    "shower door": 0.7,
    "refrigerator": 0.2,
    "microwave": 0.25,
    "bottle": 0.3,
    "water bottle": 0.5,
    "sink": 0.2,
    "toaster": 0.3,
    "lamp": 0.2,
    "light": 0.4,
    "ceiling light": 0.4,
}
DARK = 45.0
"""Colour value in 0..255 below which surfaces return less depth."""


def scan_with_camera(
    room: Room, rng: np.random.Generator, *, held_out: bool, profile: CameraProfile | None = None
) -> ScannedRoom:
    """Scan a furnished room with a random camera.

    Args:
        room: Room to scan.
        rng: Random number generator.
        held_out: Whether to draw the camera from the settings reserved for validation.
        profile: Camera; None draws a random one.

    Raises:
        DataError: No frame contains valid depth.
    """
    profile = profile or draw_profile(rng, held_out=held_out)
    surfaces = sample_surfaces(room, SOURCE_SPACING)
    scene = build_scene(surfaces.xyz, surfaces.faces)
    base = base_colors(room, surfaces)
    light = bake_light(room, surfaces.xyz, surfaces.normal, surfaces.faces, scene, rng)
    rgb = np.clip(base / 255.0 * light, 0, 1.5).astype(np.float32)
    dropout = _dropout(room, surfaces, base, rng)
    source = Source(surfaces.xyz, surfaces.faces, rgb, dropout.astype(np.float32))
    path = walk(room, surfaces.xyz, scene, profile, rng)
    mesh, seen = fuse(take_frames(source, scene, path, profile, rng), profile, len(surfaces.faces))
    if not len(mesh.faces):
        raise DataError("no frame of the camera contains valid depth")
    faces = surfaces.faces[seen]
    thing = nearest_things(mesh.xyz, surfaces.xyz, faces, surfaces.thing[faces[:, 0]])
    segment, thing = split_by_thing(segment_mesh(mesh.xyz, mesh.faces), thing)
    colors = np.rint(mesh.rgb * 255).astype(np.uint8)
    return ScannedRoom(
        mesh.xyz.astype(np.float32), colors, mesh.faces.astype(np.int32), thing, segment, profile.voxel_size
    )


def _dropout(room: Room, surfaces: Surfaces, base: Array, rng: np.random.Generator) -> Array:
    """Return the probability that each vertex returns no depth; it varies in patches that are fixed in space."""
    shiny = np.array([SHINY.get(thing.label, 0.0) * rng.uniform(0.3, 1.3) for thing in room.things])
    polished = np.where(rng.random(len(room.things)) < 0.08, rng.uniform(0.2, 0.7, size=len(room.things)), 0.0)
    dark = np.clip((DARK - base.mean(axis=1)) / DARK, 0, 1) * rng.uniform(0.1, 0.8)
    chance = np.maximum.reduce([shiny[surfaces.thing], polished[surfaces.thing], dark])
    seed = np.full(len(base), int(rng.integers(1 << 30)))
    patches = sum(
        hash_cells(np.floor(surfaces.xyz / size + shift).astype(np.int64), seed)
        for size, shift in ((0.11, 0.3), (0.19, 0.1), (0.31, 0.7))
    )
    probability: Array = np.clip(chance * (0.4 + 0.8 * np.asarray(patches) / 1.5), 0, 0.97)
    return probability
