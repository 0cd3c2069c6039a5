"""Vertices on triangles that are larger than a network's voxels.

Networks are trained on scans with a vertex every voxel or so. A wall of two triangles, as modelling programs and some
phones write it, has four vertices at its corners and none where it is.
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
"""Voxels; a triangle with a longer side is coarse. Scanned meshes have hardly any."""
COARSE_SHARE = 0.2
"""Of the surface; a mesh with less of it in coarse triangles stays as it is."""
FINE_EDGE = 1.5
"""Voxels; longest side of what coarse triangles are cut into. Halved triangles then have sides of about a voxel."""
SLIVER = 1.6
"""A triangle without area has three halves as long as half of it: log 3 / log 2 is the power of its length that counts
its pieces."""
AREA_PER_VERTEX = 0.35
"""Of a square on that side, about; for an estimate of how many vertices there will be."""
MOST_VERTICES = 2_000_000
"""That are put on a mesh, about; a larger one gets them farther apart."""


class Refined(NamedTuple):
    """A mesh with vertices on its large triangles.

    Attributes:
        surface: Its first rows are the vertices of before, in their order.
        edge: No side of a triangle that was cut is longer, in metres.
        longest: Longest side before, in metres.
    """

    surface: Surface
    edge: float
    longest: float


def refine_surface(surface: Surface, frame: Frame, voxel_size: float) -> Refined | None:
    """Cut triangles that are large beside a voxel; None where hardly any are.

    Args:
        surface: Scans of more than `CHUNK_ROWS` vertices are taken as fine enough.
        frame: To metres; triangles with corners that do not belong to the scan stay as they are.
        voxel_size: In metres.
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
    """The surface with the new vertices behind its own, coloured by its texture, else by its corners."""
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
