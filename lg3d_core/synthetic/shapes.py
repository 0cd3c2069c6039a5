"""Parts of things: boxes, rounded boxes, solids of revolution and panels, and their triangulation."""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Interval = tuple[float, float]
Rectangle = tuple[float, float, float, float]
"""Low x, low y, high x and high y."""


class Paint(NamedTuple):
    """Appearance of a part: a base colour in 0..255, a texture of `textures.TEXTURES`, and the texture's seed."""

    rgb: tuple[float, float, float]
    texture: str = "plain"
    seed: int = 0


class SampledMesh(NamedTuple):
    """Surface of triangles, in its thing's frame.

    Attributes:
        xyz: Positions in metres, shape `(vertices, 3)`.
        normal: Outward unit normals, shape `(vertices, 3)`.
        rgb: Colours in 0..255, shape `(vertices, 3)`.
        faces: Triangles, shape `(faces, 3)`.
    """

    xyz: Array
    normal: Array
    rgb: Array
    faces: IntArray


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a thing, in the thing's frame (metres, +z up, front towards -y).

    Attributes:
        shape: "box", "blob" (a superquadric), "lathe" (a solid of revolution about its z), "panel" (one-sided,
            facing its +z), "mesh".
        center: Centre, shape `(3,)`.
        half: Half sizes along the part's own axes, shape `(3,)`.
        turn: Rotation from the part's axes to the thing's, shape `(3, 3)`.
        paint: Colour and texture.
        profile: Profile of a lathe: (radius, height) from bottom to top on the outside, then optionally down the
            inside; radius relative to `half`, height in -1..1.
        power: Power of a blob: 2 is an ellipsoid, large values are boxes.
        openings: Rectangles in a panel's x and y that are cut out.
        mesh: Surface of a mesh around the part's centre; its colours are multiplied by `paint.rgb` / 255.
    """

    shape: str
    center: Array
    half: Array
    turn: Array
    paint: Paint
    profile: tuple[tuple[float, float], ...] = ()
    power: float = 4.0
    openings: tuple[Rectangle, ...] = field(default=())
    mesh: SampledMesh | None = None

    def colors(self) -> Array:
        """Return base colours in 0..255: one row per vertex for a mesh, else one row."""
        rgb = np.array([self.paint.rgb])
        return rgb if self.mesh is None else self.mesh.rgb * rgb / 255.0


class Surface(NamedTuple):
    """Triangles of one part in the thing's frame; `local` holds the same vertices in the part's axes (metres)."""

    xyz: Array
    normal: Array
    local: Array
    faces: IntArray


def yaw_matrix(angle: float) -> Array:
    """Return the rotation about +z, counter-clockwise, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pitch_matrix(angle: float) -> Array:
    """Return the rotation about x; a positive angle tilts the top backwards, towards +y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])


def frame_along(direction: Array) -> Array:
    """Return a rotation whose z axis is `direction`."""
    z = direction / np.linalg.norm(direction)
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def triangulate(part: Part, spacing: float) -> Surface:
    """Triangulate the surface of a part, with edges of about `spacing` metres."""
    local, normal, faces = SAMPLERS[part.shape](part, spacing)
    return Surface(local @ part.turn.T + part.center, normal @ part.turn.T, local, faces)


def _count(length: float, spacing: float) -> int:
    return max(1, round(length / spacing))


@lru_cache(maxsize=1024)
def _box_lattice(nx: int, ny: int, nz: int) -> tuple[Array, Array, IntArray]:
    """Return vertices in -1..1, outward directions and triangles of a closed box of `nx` x `ny` x `nz` cells."""
    counts = np.array([nx, ny, nz])
    grid = np.stack(np.meshgrid(*(np.arange(n + 1) for n in counts), indexing="ij"), axis=-1)
    low, high = grid == 0, grid == counts
    on_surface = (low | high).any(axis=-1)
    index = np.full(on_surface.shape, -1, dtype=np.int64)
    index[on_surface] = np.arange(on_surface.sum())
    unit = grid[on_surface] / counts * 2.0 - 1.0
    normal = high[on_surface].astype(np.float64) - low[on_surface]
    # With a single cell between opposite sides, a vertex is on one edge, never on both sides at once.
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    quads = []
    for axis in range(3):
        for side in (0, -1):
            plane = index.take(side, axis=axis)
            if (axis == 1) != (side == 0):
                plane = plane.T
            quads.append(_quads(plane))
    return unit, normal / length, np.concatenate(quads)


def _quads(index: IntArray) -> IntArray:
    """Return two triangles for each cell of a grid of vertex rows, facing the side from which the axes turn left."""
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _sample_box(part: Part, spacing: float) -> tuple[Array, Array, IntArray]:
    unit, normal, faces = _box_lattice(*(_count(2 * float(h), spacing) for h in part.half))
    return unit * part.half, normal, faces


def _sample_blob(part: Part, spacing: float) -> tuple[Array, Array, IntArray]:
    unit, _, faces = _box_lattice(*(max(2, _count(2 * float(h), spacing)) for h in part.half))
    size = np.abs(unit)
    unit = unit / (size**part.power).sum(axis=1, keepdims=True) ** (1.0 / part.power)
    normal = np.sign(unit) * np.abs(unit) ** (part.power - 1.0) / part.half
    return unit * part.half, normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9), faces


def _sample_lathe(part: Part, spacing: float) -> tuple[Array, Array, IntArray]:
    radius = float(max(part.half[0], part.half[1]))
    corners = np.array(part.profile) * (radius, float(part.half[2]))
    rows: list[Array] = []
    normals: list[Array] = []
    for (r0, z0), (r1, z1) in pairwise(corners):
        length = float(np.hypot(r1 - r0, z1 - z0))
        if length < 1e-9:
            continue
        steps = np.linspace(0.0, 1.0, _count(length, spacing) + 1)
        rows.append(np.stack([r0 + (r1 - r0) * steps, z0 + (z1 - z0) * steps], axis=1))
        normals.append(np.tile([(z1 - z0) / length, (r0 - r1) / length], (len(steps), 1)))
    ring, slope = np.concatenate(rows), np.concatenate(normals)
    widest = float(corners[:, 0].max())
    around = max(6, round(2 * np.pi * widest / spacing))
    angle = np.arange(around) * (2 * np.pi / around)
    cosine, sine = np.cos(angle), np.sin(angle)
    squash = part.half[:2] / radius
    local = np.stack(
        [
            ring[:, :1] * cosine * squash[0],
            ring[:, :1] * sine * squash[1],
            np.broadcast_to(ring[:, 1:], (len(ring), around)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    normal = np.stack(
        [
            slope[:, :1] * cosine / squash[0],
            slope[:, :1] * sine / squash[1],
            np.broadcast_to(slope[:, 1:], (len(ring), around)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    index = np.arange(len(ring) * around).reshape(len(ring), around)
    index = np.concatenate([index, index[:, :1]], axis=1)
    faces = _quads(index.T)
    return local, normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9), faces


def _breaks(half: float, cuts: list[float], spacing: float) -> Array:
    """Return grid lines over -half..half, about `spacing` apart, with a line at each cut."""
    stops = sorted({-half, half, *(min(max(cut, -half), half) for cut in cuts)})
    pieces = [np.linspace(low, high, _count(high - low, spacing) + 1)[:-1] for low, high in pairwise(stops)]
    return np.append(np.concatenate(pieces), half)


def _sample_panel(part: Part, spacing: float) -> tuple[Array, Array, IntArray]:
    x = _breaks(float(part.half[0]), [c for o in part.openings for c in (o[0], o[2])], spacing)
    y = _breaks(float(part.half[1]), [c for o in part.openings for c in (o[1], o[3])], spacing)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    index = np.arange(len(x) * len(y)).reshape(len(x), len(y))
    cells = (grid[:-1, :-1] + grid[1:, 1:]) / 2
    open_cells = np.zeros(cells.shape[:2], dtype=bool)
    for low_x, low_y, high_x, high_y in part.openings:
        inside = (cells[..., 0] > low_x) & (cells[..., 0] < high_x) & (cells[..., 1] > low_y) & (cells[..., 1] < high_y)
        open_cells |= inside
    faces = _quads(index)[np.tile(~open_cells.reshape(-1), 2)]
    used, faces_used = np.unique(faces, return_inverse=True)
    flat = grid.reshape(-1, 2)[used]
    local = np.concatenate([flat, np.zeros((len(flat), 1))], axis=1)
    return local, np.broadcast_to(np.array([0.0, 0.0, 1.0]), local.shape).copy(), faces_used.reshape(-1, 3)


def _sample_mesh(part: Part, spacing: float) -> tuple[Array, Array, IntArray]:
    del spacing  # sampled already
    assert part.mesh is not None
    return part.mesh.xyz, part.mesh.normal, part.mesh.faces


SAMPLERS = {
    "mesh": _sample_mesh,
    "box": _sample_box,
    "blob": _sample_blob,
    "lathe": _sample_lathe,
    "panel": _sample_panel,
}
