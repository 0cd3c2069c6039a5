"""Subdivision of triangles that are larger than a network's voxels.

Networks are trained on scans with about one vertex per voxel. Modelling programs and some phones export a wall as two
triangles, with vertices only at its four corners.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.frame import Frame
from lg3d_core.scans.surface import CHUNK_ROWS, Surface
from lg3d_core.scans.triangles import Cut, areas, cut_triangles, longest_sides

COARSE_EDGE = 3.0
"""Side length in voxels above which a triangle is coarse. Scanned meshes have hardly any coarse triangles."""
COARSE_SHARE = 0.2
"""Minimum share of the surface in coarse triangles; other meshes are not changed."""
FINE_EDGE = 1.5
"""Longest side in voxels after the subdivision; halved triangles then have sides of about a voxel."""
SLIVER = 1.6
"""Exponent of the length in the number of pieces, log 3 / log 2: a flat triangle gives three of half its length."""
AREA_PER_VERTEX = 0.35
"""Approximate vertices per square of this side, for estimates of the number of vertices."""
MOST_VERTICES = 2_000_000
"""Approximate maximum of added vertices; larger meshes get them farther apart."""


class Refined(NamedTuple):
    """Mesh with vertices added on its large triangles.

    Attributes:
        surface: Refined scan, which starts with the original vertices in their order.
        edge: Longest side of a subdivided triangle in metres.
        longest: Longest side before the subdivision in metres.
    """

    surface: Surface
    edge: float
    longest: float


def refine_surface(surface: Surface, frame: Frame, voxel_size: float) -> Refined | None:
    """Subdivide triangles that are large relative to a voxel; return None if there are hardly any.

    Args:
        surface: Scan; more than `CHUNK_ROWS` vertices are assumed to be fine enough.
        frame: Transformation to metres; triangles with corners outside of its box are not changed.
        voxel_size: Edge of a voxel in metres.
    """
    if len(surface.faces) == 0 or surface.num_vertices > CHUNK_ROWS:
        return None
    xyz = surface.positions(0, surface.num_vertices)
    faces = np.asarray(surface.faces, dtype=np.int64)
    usable = (frame.holds(xyz) & np.isfinite(xyz).all(axis=1))[faces].all(axis=1)
    longest, area = np.zeros(len(faces)), np.zeros(len(faces))
    with np.errstate(over="ignore"):
        longest[usable] = longest_sides(xyz, faces[usable]) * frame.scale
        area[usable] = areas(xyz, faces[usable]) * frame.scale**2
        coarse = longest > COARSE_EDGE * voxel_size
        if not coarse.any() or area[coarse].sum() < COARSE_SHARE * area.sum():
            return None
        edge = max(
            FINE_EDGE * voxel_size,
            math.sqrt(float(area[coarse].sum()) / (AREA_PER_VERTEX * MOST_VERTICES)),
            float((longest[coarse] ** SLIVER).sum() / MOST_VERTICES) ** (1 / SLIVER),
        )
    cut = cut_triangles(xyz, faces, coarse, edge=edge / frame.scale)
    return Refined(_joined(surface, xyz, cut), edge, float(longest.max())) if len(cut.xyz) else None


def _joined(surface: Surface, xyz: npt.NDArray[np.float64], cut: Cut) -> Surface:
    """Append new vertices to a surface, coloured by its texture or interpolated from the corners."""
    points = np.concatenate([xyz, cut.xyz])
    colors = None
    if surface.colors is not None:
        own = surface.colors(0, surface.num_vertices)
        if surface.paint is not None:
            new = surface.paint(cut.face, cut.weights)
        else:
            corners = np.asarray(surface.faces, dtype=np.int64)[cut.face]
            new = np.round(np.einsum("nk,nkc->nc", cut.weights, own[corners].astype(np.float32))).astype(np.uint8)
        rgb = np.concatenate([own, new])
        colors = lambda start, stop: rgb[start:stop]  # noqa: E731
    return replace(
        surface,
        num_vertices=len(points),
        positions=lambda start, stop: points[start:stop],
        colors=colors,
        faces=cut.faces,
        paint=None,
    )
