"""Units and up axis of a scan of unknown origin, and detection of stray points.

Networks are trained on rooms in metres with +z up. Few files record their units and up axis, so both are estimated: the
units from typical room sizes and vertex spacings, the up axis as described in `up_axis`.
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
"""Candidate units; feet and inches are too close to metres and centimetres to be distinguished by size."""
SAMPLE_ROWS = 200_000
LARGE_SIDE, LARGE_SHARE, SCATTERED = 1 / 60, 0.2, 50_000
"""Ratio of a large triangle's side to the scan's, and share of the surface in such triangles, from which points on
the triangles are sampled too."""
TYPICAL_SIZE, SIZE_FACTOR = 5.0, 2.5
"""Longest side of a typical scan in metres, and its standard deviation as a factor (of the logarithm)."""
TYPICAL_SPACING, SPACING_FACTOR = 0.015, 2.5
"""Distance of neighbouring vertices in metres, and its standard deviation as a factor."""
PLAUSIBLE_SIZE = (0.3, 200.0)
"""Range in metres of a plausible longest side."""
CLEAR_UNIT = 2.0
"""Margin over metres, in squared deviations, that another unit needs to be chosen."""
MANY_POINTS = 2_000
"""Number of points from which most of them may be stray; in smaller scans, surfaces are too sparse to be told from
uniform noise."""
FAR_COORDINATE = 1000.0
"""Distance from the origin in metres beyond which a scan is moved there, as float32 and the voxel grid lose digits."""
OFFSET_STEP = 16.0
"""Step of the move to the origin in metres, a multiple of the coarsest voxels of the usual networks, so that
identical rooms get identical labels."""
FAR_FROM_ORIGIN = 20.0
"""Ratio of the distance from the origin to the scan's size beyond which positions are checked for lost precision."""
COARSE_STEP = 0.002
"""Distance of neighbouring positions in metres from which lost precision is reported."""
DECIMALS = (0.01, 0.1, 1.0, 10.0)
"""Steps in file units to which text files with few digits round."""


class Frame(NamedTuple):
    """Transformation from a file's coordinates to metres with +z up.

    Attributes:
        scale: Length of the file's unit in metres.
        up: Up axis of the file, a key of `UP_AXES`.
        offset: Offset that is subtracted from the file's positions first, shape `(3,)`, float64.
        low: Lowest corner of the scan without stray points, in the file's units, shape `(3,)`.
        high: Highest corner; points outside of the box are dropped.
        alignment: Rotation and shift of positions in metres with +z up, applied last, shape `(4, 4)`; None: the
            identity.
        notes: Messages about estimated values.
        doubts: Warnings about uncertain values.
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
        """Convert positions of the file to metres with +z up, shape `(rows, 3)`."""
        metres = turn_up((xyz - self.offset) * self.scale, self.up)
        return metres if self.alignment is None else metres @ self.alignment[:3, :3].T + self.alignment[:3, 3]

    def from_metres(self, xyz: Array) -> Array:
        """Invert `to_metres`."""
        if self.alignment is not None:
            xyz = (xyz - self.alignment[:3, 3]) @ self.alignment[:3, :3]
        return turn_back(xyz, self.up) / self.scale + self.offset

    def holds(self, xyz: Array) -> npt.NDArray[np.bool_]:
        """Return whether each of the file's positions is finite and inside the box, shape `(rows,)`."""
        with np.errstate(invalid="ignore"):
            return np.asarray(((xyz >= self.low) & (xyz <= self.high)).all(axis=1))


def turn_up(xyz: Array, up: str) -> Array:
    """Rotate positions about one or two axes so that `up` becomes +z, without mirroring."""
    axis, sign = UP_AXES[up]
    rest = [(axis + 1) % 3, (axis + 2) % 3]
    turned = xyz[:, [*rest, axis]].copy()
    if sign < 0:
        turned[:, 1:] *= -1  # half a turn about the first axis
    return turned


def turn_back(xyz: Array, up: str) -> Array:
    """Invert `turn_up`."""
    axis, sign = UP_AXES[up]
    turned = xyz.copy()
    if sign < 0:
        turned[:, 1:] *= -1
    back = np.empty_like(turned)
    back[:, [(axis + 1) % 3, (axis + 2) % 3, axis]] = turned
    return back


def parse_scale(text: str) -> float | None:
    """Return the length of a unit in metres, from a name of `UNITS` or a positive number; `auto` gives None.

    Raises:
        ValueError: The text is none of these.
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
    """Estimate a scan's units and up axis, unless they are passed, and find stray points.

    Args:
        surface: The scan.
        scale: Unit, in the form that `parse_scale` accepts.
        up: Up axis, a key of `UP_AXES`, or `auto`.

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
            f"{surface.num_vertices - num_finite} of {surface.num_vertices} positions are not finite: they are dropped"
        )
    low, high, core = find_bulk(sample)
    core = np.concatenate([core, _on_large_triangles(surface, low, high, float(np.ptp(core, axis=0).max()))])
    size = np.ptp(core, axis=0)
    sides = " x ".join(f"{side:.4g}" for side in size)
    told = parse_scale(scale)
    if told is not None:
        metres = told
    elif surface.scale is not None:
        metres = surface.scale
    else:
        unit = guess_unit(np.maximum(size, 1e-12), spacing_of(core, surface.num_vertices * len(core) / len(sample)))
        metres = UNITS[unit]
        notes.append(f"{sides} units: the unit is assumed to be {unit} (--scale overrides)")
    longest = float(size.max()) * metres
    if not PLAUSIBLE_SIZE[0] <= longest <= PLAUSIBLE_SIZE[1]:
        doubts.append(
            f"the longest side is {longest:.3g} m with a unit of {metres:g} m, which is implausible: pass --scale"
        )
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
                f"up axis uncertain: {_signed(axis)} is assumed ({100 * guess.probability:.0f} % likely{because}), "
                f"{_signed(guess.rival)} is possible ({100 * guess.rival_probability:.0f} %); --up overrides"
            )
        elif axis != usual:
            doubts.append(
                f"{_signed(axis)} is assumed to be up, and the scan is rotated "
                f"({100 * guess.probability:.0f} % likely{because}); pass --up if this is wrong"
            )
        else:
            notes.append(f"{_signed(axis)} is up ({100 * guess.probability:.0f} % likely{because}); --up overrides")
    offset = np.zeros(3)
    if np.abs(core).max() * metres > FAR_COORDINATE:
        step = OFFSET_STEP / metres
        offset = np.floor(core.min(axis=0) / step) * step
        if offset.any():
            notes.append(f"moved to the origin by {', '.join(f'{0 - value:.0f}' for value in offset)} units")
    resolution = _resolution(surface, core)
    if resolution * metres > COARSE_STEP:
        doubts.append(
            f"positions are rounded to steps of {resolution:.3g} units ({100 * resolution * metres:.3g} cm): "
            f"coordinates of up to {np.abs(core).max():.0f} have lost precision; "
            "export them in double precision or nearer to the origin"
        )
    return Frame(metres, axis, offset, low, high, notes=tuple(notes), doubts=tuple(doubts))


def _resolution(surface: Surface, core: Array) -> float:
    """Return the spacing of representable positions of a scan far from the origin, 0 if it is fine enough.

    Float32 positions have 24 bits, also after a conversion to float64; text files may have few digits.
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
        steps = [distinct / unit for unit in DECIMALS] if len(distinct) > 2 else []
        decimals = [unit for unit, n in zip(DECIMALS, steps, strict=False) if np.abs(n - np.round(n)).max() < 1e-6]
        step = max([step, *decimals])
    return step


def plain_frame(alignment: Array | None = None) -> Frame:
    """Return the frame of a scan in metres with +z up that uses all positions."""
    infinity = np.full(3, np.inf)
    return Frame(1.0, "z", np.zeros(3), -infinity, infinity, alignment)


def _signed(axis: str) -> str:
    return axis if axis.startswith("-") else f"+{axis}"


def _sample(surface: Surface) -> tuple[Array, int]:
    """Return at most `SAMPLE_ROWS` finite positions from all over the scan, and the number of finite positions."""
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
    """Sample points on the triangles inside a box, if many are large relative to the scan.

    Returns:
        Positions, shape `(points, 3)`; empty if the vertices are dense enough.
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
    """Return corners of at most `SAMPLE_ROWS` triangles inside a box, shape `(triangles, 3, 3)`, or None."""
    if len(surface.faces) == 0 or surface.num_vertices > CHUNK_ROWS:
        return None
    step = -(-len(surface.faces) // SAMPLE_ROWS)
    corners = surface.positions(0, surface.num_vertices)[np.asarray(surface.faces[::step], dtype=np.int64)]
    with np.errstate(invalid="ignore"):
        inside = ((corners >= low) & (corners <= high) & np.isfinite(corners)).all(axis=(1, 2))
    return np.asarray(corners[inside])


def find_bulk(sample: Array) -> tuple[Array, Array, Array]:
    """Find the bounding box of a scan without stray points.

    A cell of a grid is stray if the cell and its neighbours hold less than half of the points that a surface would have
    there. If the box of the other cells is at most a quarter as long in some direction, the stray cells are dropped and
    the search is repeated inside the box until it hardly shrinks; otherwise all points are kept.

    Returns:
        Corners of the box with a margin (infinite if there are no stray points), and the positions inside, shape
        `(points, 3)`.
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
        empty = 1 - np.count_nonzero(count) / edge**3
        for axis in range(3):  # sum over each cell and its neighbours
            count = count + np.roll(count, 1, axis) + np.roll(count, -1, axis)
        expected = 9 * len(core) / (6 * edge**2)
        least = expected / 2
        if len(core) >= MANY_POINTS:  # most may be strays: more than 6 deviations above uniform ones is not random
            # Uniform points leave a cell empty with probability exp(-density); points on surfaces fill few cells.
            scattered = -27 * math.log(max(empty, edge**-3))
            least = max(least, scattered + 6 * math.sqrt(scattered))
        dense = count.reshape(-1)[flat] >= least
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


def spacing_of(core: Array, num_points: float) -> float:
    """Return the approximate distance of neighbouring vertices: the root of the surface per point, in file units.

    The surface is counted in cells of a grid of 48 along the longest side; each occupied cell counts as the area of one
    side.
    """
    extent = core.max(axis=0) - core.min(axis=0)
    cell = max(float(extent.max()), 1e-12) / 48
    index = ((core - core.min(axis=0)) / cell).astype(np.int64)
    occupied = len(np.unique((index[:, 0] * 64 + index[:, 1]) * 64 + index[:, 2]))
    return cell * math.sqrt(occupied / max(num_points, 1.0))


def guess_unit(size: Array, spacing: float) -> str:
    """Return the unit in which a scan fits a room best, metres unless another unit fits clearly better.

    Args:
        size: Side lengths of the bounding box, shape `(3,)`.
        spacing: Distance of neighbouring vertices.
    """

    def misfit(unit: str) -> float:
        long = math.log(float(size.max()) * UNITS[unit] / TYPICAL_SIZE) / math.log(SIZE_FACTOR)
        near = math.log(max(spacing, 1e-12) * UNITS[unit] / TYPICAL_SPACING) / math.log(SPACING_FACTOR)
        return long**2 + min(near**2, 9.0)

    best = min(GUESSED_UNITS, key=misfit)
    return best if misfit(best) + CLEAR_UNIT < misfit("m") else "m"
