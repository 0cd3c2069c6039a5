"""The frame of a scan of unknown origin: its units, its up axis, and what lies far from the rest.

Networks are trained on rooms in metres with +z up. A file seldom says what it has, so both are guessed: units from the
size of rooms and the spacing of scans, the up axis as `up_axis` describes.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.surface import CHUNK_ROWS, Surface
from lg3d_core.scans.triangles import areas, longest_sides, scatter_on_triangles
from lg3d_core.scans.up_axis import EXPECTED, UP_AXES, Z_UP, guess_up

Array = npt.NDArray[np.float64]

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "ft": 0.3048}
GUESSED_UNITS = ("m", "cm", "mm")
"""Feet and inches differ too little from metres and centimetres to be told by size."""
SAMPLE_ROWS = 200_000
LARGE_SIDE, LARGE_SHARE, SCATTERED = 1 / 60, 0.2, 50_000
"""A triangle's side beside the scan's, and the share of the surface in such triangles, from which so many points on
the triangles are looked at too."""
TYPICAL_SIZE, SIZE_FACTOR = 5.0, 2.5
"""Longest side of a scan in metres, and by what factor it varies (one standard deviation of its logarithm)."""
TYPICAL_SPACING, SPACING_FACTOR = 0.015, 2.5
"""Distance of neighbouring vertices in metres, likewise."""
PLAUSIBLE_SIZE = (0.3, 200.0)
"""Metres between which a scan's longest side is believed."""
CLEAR_UNIT = 2.0
"""How much better than metres, in squared deviations, another unit must fit before it is taken."""
FAR_COORDINATE = 1000.0
"""Metres from the origin beyond which a scan is moved there: float32 and the voxel grid lose digits far out."""
OFFSET_STEP = 16.0
"""Metres; such a scan is moved by a multiple of this, a multiple of the coarsest voxels of the usual networks, so that
equal rooms get equal labels."""
FAR_FROM_ORIGIN = 20.0
"""Times a scan's own size beyond which its positions are checked for lost digits."""
COARSE_STEP = 0.002
"""Metres between neighbouring positions from which lost precision is reported."""
DECIMALS = (0.01, 0.1, 1.0, 10.0)
"""Units to which texts with few digits round."""


class Frame(NamedTuple):
    """How a file's positions become metres with +z up, and why.

    Attributes:
        scale: Metres of one of the file's units.
        up: Axis of the file that points up, a key of `UP_AXES`.
        offset: Taken off the file's positions first, shape `(3,)`, float64.
        low: Lowest corner of what belongs to the scan, in the file's units, shape `(3,)`.
        high: Highest corner; what lies outside of the two is left out.
        alignment: Rotation and shift of positions in metres with +z up, applied last, shape `(4, 4)`; None: the
            identity.
        notes: What was guessed, for the user.
        doubts: What is probably not right.
    """

    scale: float
    up: str
    offset: Array
    low: Array
    high: Array
    alignment: Array | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def to_metres(self, xyz: Array) -> Array:
        """Positions of the file to metres with +z up, shape `(rows, 3)`."""
        metres = turn_up((xyz - self.offset) * self.scale, self.up)
        return metres if self.alignment is None else metres @ self.alignment[:3, :3].T + self.alignment[:3, 3]

    def from_metres(self, xyz: Array) -> Array:
        """The inverse of `to_metres`."""
        if self.alignment is not None:
            xyz = (xyz - self.alignment[:3, 3]) @ self.alignment[:3, :3]
        return turn_back(xyz, self.up) / self.scale + self.offset

    def holds(self, xyz: Array) -> npt.NDArray[np.bool_]:
        """Whether each of the file's positions is finite and belongs to the scan, shape `(rows,)`."""
        with np.errstate(invalid="ignore"):
            return np.asarray(((xyz >= self.low) & (xyz <= self.high)).all(axis=1))


def turn_up(xyz: Array, up: str) -> Array:
    """Turn positions about one or two axes so that `up` becomes +z; no mirror image is made."""
    axis, sign = UP_AXES[up]
    rest = [(axis + 1) % 3, (axis + 2) % 3]
    turned = xyz[:, [*rest, axis]].copy()
    if sign < 0:
        turned[:, 1:] *= -1  # half a turn about the first axis
    return turned


def turn_back(xyz: Array, up: str) -> Array:
    """The inverse of `turn_up`."""
    axis, sign = UP_AXES[up]
    turned = xyz.copy()
    if sign < 0:
        turned[:, 1:] *= -1
    back = np.empty_like(turned)
    back[:, [(axis + 1) % 3, (axis + 2) % 3, axis]] = turned
    return back


def parse_scale(text: str) -> float | None:
    """Metres of one unit: `auto` gives None, a name of `UNITS` or a positive number gives itself.

    Raises:
        ValueError: Anything else.
    """
    if text == "auto":
        return None
    if text in UNITS:
        return UNITS[text]
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def find_frame(surface: Surface, *, scale: str = "auto", up: str = "auto") -> Frame:
    """Guess a scan's units and its axis up, unless they are told, and find what lies far from the rest.

    Args:
        surface: The scan.
        scale: As `parse_scale` takes it.
        up: A key of `UP_AXES`, or `auto`.

    Raises:
        DataError: No position is finite.
    """
    sample, num_finite = _sample(surface)
    if len(sample) == 0:
        raise DataError(f"{surface.path}: none of the {surface.num_vertices} positions is finite")
    notes: list[str] = []
    doubts: list[str] = []
    if num_finite < surface.num_vertices:
        doubts.append(
            f"{surface.num_vertices - num_finite} of {surface.num_vertices} positions are not finite: left out"
        )
    low, high, core = find_bulk(sample)
    core = np.concatenate([core, _on_large_triangles(surface, low, high, float(np.ptp(core, axis=0).max()))])
    size = np.maximum(core.max(axis=0) - core.min(axis=0), 1e-12)
    sides = " x ".join(f"{side:.4g}" for side in size)
    told = parse_scale(scale)
    if told is not None:
        metres = told
    elif surface.scale is not None:
        metres = surface.scale
    else:
        unit = guess_unit(size, _spacing(core, surface.num_vertices * len(core) / len(sample)))
        metres = UNITS[unit]
        notes.append(f"{sides} units: taken as {unit} (--scale says otherwise)")
    longest = float(size.max()) * metres
    if not PLAUSIBLE_SIZE[0] <= longest <= PLAUSIBLE_SIZE[1]:
        doubts.append(f"{longest:.3g} m long with a unit of {metres:g} m: no room is; set --scale")
    axis = up
    if up == "auto":
        corners = _some_triangles(surface, low, high)
        expected = EXPECTED.get(surface.path.suffix.lower(), Z_UP)
        guess = guess_up(core * metres, None if corners is None else corners * metres, expected=expected)
        axis = guess.axis
        because = f": {', '.join(guess.reasons)}" if guess.reasons else ""
        usual = max(expected, key=lambda one: expected[one])
        if not guess.is_sure:
            doubts.append(
                f"up axis uncertain: {_signed(axis)} is taken ({100 * guess.probability:.0f} % likely{because}), "
                f"{_signed(guess.rival)} is possible ({100 * guess.rival_probability:.0f} %); pass --up if it is wrong"
            )
        elif axis != usual:
            doubts.append(
                f"taken with {_signed(axis)} up and turned ({100 * guess.probability:.0f} % likely{because}); "
                "pass --up if it is wrong"
            )
        else:
            notes.append(f"{_signed(axis)} up ({100 * guess.probability:.0f} % likely{because}); --up overrides")
    offset = np.zeros(3)
    if np.abs(core).max() * metres > FAR_COORDINATE:
        step = OFFSET_STEP / metres
        offset = np.floor(core.min(axis=0) / step) * step
        notes.append(f"moved to the origin by {', '.join(f'{value:.0f}' for value in -offset)} units")
    resolution = _resolution(surface, core)
    if resolution * metres > COARSE_STEP:
        doubts.append(
            f"positions are rounded to steps of {resolution:.3g} units ({100 * resolution * metres:.3g} cm): "
            f"coordinates of up to {np.abs(core).max():.0f} have lost precision; "
            "export them in double precision or nearer to the origin"
        )
    return Frame(metres, axis, offset, low, high, notes=tuple(notes), doubts=tuple(doubts))


def _resolution(surface: Surface, core: Array) -> float:
    """Return the step between the positions that a scan far from the origin can have, 0 where it is fine enough.

    Positions of float32, also where a writer turned them into float64, have 24 bits; texts may have few digits.
    """
    farthest = float(np.abs(core).max())
    extent = float(np.ptp(core, axis=0).max())
    if not FAR_FROM_ORIGIN * extent < farthest < float(np.finfo(np.float32).max):
        return 0.0
    step = 0.0
    for axis in range(3):
        values = core[:, axis]
        if not surface.is_double or (values == values.astype(np.float32)).all():
            step = max(step, float(np.spacing(np.float32(np.abs(values).max()))))
        distinct = np.unique(values)
        decimals = [unit for unit in DECIMALS if len(distinct) > 2 and np.allclose(distinct / unit % 1, 0, atol=1e-9)]
        step = max([step, *decimals])
    return step


def plain_frame(alignment: Array | None = None) -> Frame:
    """Return the frame of a scan in metres with +z up, all of whose positions are used."""
    infinity = np.full(3, np.inf)
    return Frame(1.0, "z", np.zeros(3), -infinity, infinity, alignment)


def _signed(axis: str) -> str:
    return axis if axis.startswith("-") else f"+{axis}"


def _sample(surface: Surface) -> tuple[Array, int]:
    """At most `SAMPLE_ROWS` finite positions from all over the scan, and how many are finite in all."""
    share = min(1.0, SAMPLE_ROWS / surface.num_vertices)
    rng = np.random.default_rng(0)
    parts, num_finite = [], 0
    for start, stop in surface.chunks():
        xyz = surface.positions(start, stop)
        xyz = xyz[np.isfinite(xyz).all(axis=1)]
        num_finite += len(xyz)
        parts.append(xyz if share == 1.0 else xyz[rng.random(len(xyz)) < share])
    return np.concatenate(parts), num_finite


def _on_large_triangles(surface: Surface, low: Array, high: Array, extent: float) -> Array:
    """Points on the triangles inside a box, where many are large beside the scan: their corners tell too little of it.

    Returns:
        Positions, shape `(points, 3)`; none where the vertices tell enough.
    """
    if len(surface.faces) == 0 or surface.num_vertices > SAMPLE_ROWS:
        return np.zeros((0, 3))
    xyz = surface.positions(0, surface.num_vertices)
    faces = np.asarray(surface.faces, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        inside = np.all((xyz >= low) & (xyz <= high) & np.isfinite(xyz), axis=1)
    faces = faces[np.all(np.asarray(inside)[faces], axis=1)]
    area = areas(xyz, faces)
    large = longest_sides(xyz, faces) > LARGE_SIDE * extent
    if not area[large].sum() > LARGE_SHARE * area.sum():
        return np.zeros((0, 3))
    return scatter_on_triangles(xyz, faces, SCATTERED)


def _some_triangles(surface: Surface, low: Array, high: Array) -> Array | None:
    """Return corners of at most `SAMPLE_ROWS` triangles inside a box, shape `(triangles, 3, 3)`; None without any."""
    if len(surface.faces) == 0 or surface.num_vertices > CHUNK_ROWS:
        return None
    step = -(-len(surface.faces) // SAMPLE_ROWS)
    corners = surface.positions(0, surface.num_vertices)[np.asarray(surface.faces[::step], dtype=np.int64)]
    with np.errstate(invalid="ignore"):
        inside = ((corners >= low) & (corners <= high) & np.isfinite(corners)).all(axis=(1, 2))
    return np.asarray(corners[inside])


def find_bulk(sample: Array) -> tuple[Array, Array, Array]:
    """Find the box of a scan without strays.

    Cells of a grid in which, with their neighbours, lies less than half of what a surface would put there are strays.
    Where the box of the other cells is at most a quarter as long in some direction, there are strays, and the box is
    looked at again on its own until it hardly shrinks; otherwise everything belongs to the scan.

    Returns:
        Corners of a box with a margin about what belongs to the scan (infinite where there are no strays), and the
        positions inside, shape `(points, 3)`.
    """
    core = sample
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    shrinks = 0.25
    for _ in range(12):
        edge = int(np.clip(math.sqrt(len(core) / 48), 4, 64))
        first, last = core.min(axis=0), core.max(axis=0)
        extent = last - first
        with np.errstate(over="ignore"):
            cell = max(float(extent.max()), 1e-12) / edge
            index = np.minimum(((core - first) / cell).astype(np.int64), edge - 1)
        if len(core) < 100 or not np.isfinite(cell):
            if np.isfinite(cell):
                break
            core = core[np.abs(core).max(axis=1) < 1e150]
            continue
        flat = ((index[:, 0] + 1) * (edge + 2) + index[:, 1] + 1) * (edge + 2) + index[:, 2] + 1
        count = np.bincount(flat, minlength=(edge + 2) ** 3).reshape((edge + 2,) * 3)
        for axis in range(3):  # sum over each cell and its neighbours
            count = count + np.roll(count, 1, axis) + np.roll(count, -1, axis)
        expected = 9 * len(core) / (6 * edge**2)
        scattered = 27 * len(core) / edge**3  # if all were strays: more than 6 deviations above that is no chance
        dense = count.reshape(-1)[flat] >= max(expected / 2, scattered + 6 * math.sqrt(scattered))
        if not dense.any():
            break
        inner_low, inner_high = core[dense].min(axis=0), core[dense].max(axis=0)
        inner = inner_high - inner_low
        if not (inner < extent * shrinks).any():
            break
        shrinks = 0.75
        margin = np.maximum(0.25 * float(inner.max()), cell * 1e-6)
        low, high = inner_low - margin, inner_high + margin
        core = core[((core >= inner_low) & (core <= inner_high)).all(axis=1)]
    return low, high, core


def _spacing(core: Array, num_points: float) -> float:
    """About how far neighbouring vertices lie from each other: the root of the surface per point, in file units.

    The surface is counted in cells of a grid of 48 along the longest side; each cell that it crosses stands for one
    cell's face.
    """
    extent = core.max(axis=0) - core.min(axis=0)
    cell = max(float(extent.max()), 1e-12) / 48
    index = ((core - core.min(axis=0)) / cell).astype(np.int64)
    occupied = len(np.unique((index[:, 0] * 64 + index[:, 1]) * 64 + index[:, 2]))
    return cell * math.sqrt(occupied / max(num_points, 1.0))


def guess_unit(size: Array, spacing: float) -> str:
    """The unit in which a scan looks most like a room; metres unless another looks clearly more so.

    Args:
        size: Sides of its box, shape `(3,)`.
        spacing: Distance of neighbouring vertices.
    """

    def misfit(unit: str) -> float:
        long = math.log(float(size.max()) * UNITS[unit] / TYPICAL_SIZE) / math.log(SIZE_FACTOR)
        near = math.log(max(spacing, 1e-12) * UNITS[unit] / TYPICAL_SPACING) / math.log(SPACING_FACTOR)
        return long**2 + min(near**2, 9.0)

    best = min(GUESSED_UNITS, key=misfit)
    return best if misfit(best) + CLEAR_UNIT < misfit("m") else "m"
