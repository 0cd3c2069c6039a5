"""Conversion of a scan's colours to bytes: the columns that hold them, and the value that is white.

Files store colours as bytes, as 10, 12 or 16-bit integers, as floats from 0 to 1 or from 0 to 255, and as bytes in a
wider type. The declared type is ambiguous, so the range is inferred from the values.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.surface import CHUNK_ROWS, as_doubles

WHITE_VALUES = (1.0, 255.0, 1023.0, 4095.0, 65535.0)
"""Values that files use for white; integers never use 1."""
UNUSUAL_WHITE = (1023.0, 4095.0)
"""White values that are rare enough to cause a warning."""
ROUNDING = 1.002
"""Factor by which rounding may exceed white."""
OVERSHOOT_SHARE = 1e-3
"""Maximum share of coloured rows above white, as interpolation produces them; they are clipped."""
HIGHEST_OVERSHOOT = 2.0
"""Largest maximum of fractions that is read as a range of 0 to 1 with overshoot."""
DARK = 1 / 16
"""Share of white below which the brightest value causes a warning."""
CONSTANT_ROWS = 100
"""Number of rows from which a constant colour causes a warning."""
SAMPLED_BLOCKS, BLOCK_ROWS = 16, 4096
"""Number of sampled rows where bytes need no range."""
SPHERICAL_HARMONIC = 0.28209479177387814
"""Constant spherical harmonic, 1 / (2 sqrt(pi)): Gaussian splats store (colour - 0.5) divided by this."""
PACKED_NAMES = ("rgb", "rgba", "color", "colour", "colors")
"""Names of columns that hold all channels of a colour."""
SPLAT_NAMES = ("f_dc_0", "f_dc_1", "f_dc_2")

_CHANNEL = re.compile(r"((?:[a-z0-9]+_)*?)(red|green|blue|r|g|b)(_?)")
_PREFIXES = ("", "diffuse_", "color_", "colour_", "rgb_", "vertex_", "scalar_", "base_", "col_", "ambient_")

ReadRows = Callable[[int, int], npt.NDArray[Any]]
"""Return rows `start` to `stop` of numbers, shape `(rows, 3)`."""


class Colors(NamedTuple):
    """Colours of a scan.

    Attributes:
        read: Return rows `start` to `stop`, shape `(rows, 3)`, uint8; None where the scan has no colours.
        doubts: Warnings about them.
    """

    read: Callable[[int, int], npt.NDArray[np.uint8]] | None
    doubts: tuple[str, ...]


def find_channels(names: Sequence[str]) -> tuple[str, str, str] | None:
    """Return the names of the columns that hold red, green and blue, or None.

    Upper case, single letters, a trailing underscore and common prefixes (`diffuse_red`, `R`, `red_`) are accepted.
    """
    groups: dict[tuple[str, bool, str], dict[str, str]] = {}
    for name in names:
        match = _CHANNEL.fullmatch(name.lower())
        if match is not None and match[1] in _PREFIXES:
            groups.setdefault((match[1], len(match[2]) == 1, match[3]), {}).setdefault(match[2][0], name)
    complete = [key for key, group in groups.items() if len(group) == 3]
    if not complete:
        return None
    best = groups[min(complete, key=lambda key: (_PREFIXES.index(key[0]), key[1], key[2]))]
    return best["r"], best["g"], best["b"]


def columns_as_rows(columns: Sequence[npt.NDArray[Any]]) -> ReadRows:
    """Return a reader of rows from one array for each channel."""
    return lambda start, stop: np.stack([column[start:stop] for column in columns], axis=1)


def splat_rows(columns: Sequence[npt.NDArray[Any]]) -> ReadRows:
    """Return a reader of colours from 0 to 1 from the first coefficients of Gaussian splats."""

    def read(start: int, stop: int) -> npt.NDArray[np.float64]:
        parts = np.stack([as_doubles(column[start:stop]) for column in columns], axis=1)
        return np.clip(0.5 + SPHERICAL_HARMONIC * parts, 0, 1)

    return read


def unpack_colors(packed: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """Split 0xAARRGGBB into channels.

    Floats hold either these bits or, after a conversion, the number itself. Bits of opaque or absent alpha are never
    whole numbers from 1 to 2^24, so the two cases can be distinguished by the values.

    Returns:
        Colours, shape `(rows, 3)`, or None if the numbers are neither.
    """
    if packed.dtype.kind in "iu" and packed.dtype.itemsize >= 4:
        bits = packed.astype(np.uint64)
    elif packed.dtype.kind == "f":
        values = as_doubles(packed)
        used = values[np.isfinite(values) & (values != 0)]
        is_number = len(used) > 0 and bool(((used >= 1) & (used < 2**32) & (used == np.floor(used))).all())
        if is_number:
            bits = np.where(np.isfinite(values), values, 0).astype(np.uint64)
        elif packed.dtype.itemsize == 4:
            bits = np.ascontiguousarray(packed).view(packed.dtype.str.replace("f", "u")).astype(np.uint64)
        else:
            return None
    else:
        return None
    return np.stack([(bits >> np.uint64(shift) & np.uint64(255)).astype(np.uint8) for shift in (16, 8, 0)], axis=1)


def decide_packed_colors(packed: npt.NDArray[Any]) -> Colors | None:
    """Return the colours of packed numbers (see `unpack_colors`), or None if the numbers are no colours."""
    rgb = unpack_colors(packed)
    if rgb is None:
        return None
    colors = decide_colors(lambda start, stop: rgb[start:stop], len(rgb))
    if packed.dtype.kind == "f" and len(packed):
        payload = np.ascontiguousarray(packed).view(packed.dtype.str.replace("f", "u"))
        num_lost = int((np.isnan(packed) & (payload & 0x3FFFFF == 0)).sum())
        if num_lost > OVERSHOOT_SHARE * len(packed):
            lost = f"{num_lost} of {len(packed)} packed colours are NaN: the program that wrote the file lost them"
            colors = colors._replace(doubts=(*colors.doubts, lost))
    return colors


def decide_colors(read: ReadRows, num_rows: int) -> Colors:
    """Find the value of white from the values of a scan, and return its colours as bytes.

    All rows are read once, in chunks; bytes are unambiguous and are only sampled. Colours that are all zero count as
    absent.
    """
    if num_rows == 0:
        return Colors(lambda start, stop: np.zeros((stop - start, 3), dtype=np.uint8), ())
    kind = read(0, 1).dtype
    if kind.kind == "i" and kind.itemsize <= 2:  # the writer declared unsigned numbers as signed
        signed, kind = read, np.dtype(f"u{kind.itemsize}")
        read = lambda start, stop: signed(start, stop).astype(kind)  # noqa: E731
    if kind == np.uint8:
        sample = _Statistics(num_rows)
        for start, stop in _blocks(num_rows):
            sample.add(read(start, stop))
        if not (sample.is_constant or sample.high <= 255 * DARK):
            return Colors(read, ())
    found = _Statistics(num_rows)
    for start in range(0, num_rows, CHUNK_ROWS):
        found.add(read(start, min(num_rows, start + CHUNK_ROWS)))
    if found.high <= 0 and found.low >= 0:
        what = "all colours are 0" if found.num_finite else "no colour is finite"
        return Colors(None, (what,))
    doubts: list[str] = []
    low, white = (0.0, 255.0) if kind == np.uint8 else _decide_range(found, kind, doubts)
    if found.is_constant and num_rows >= CONSTANT_ROWS:
        doubts.append("all vertices have the same colour: the scan probably has no colours")
    if found.num_finite < num_rows:
        doubts.append(f"{num_rows - found.num_finite} of {num_rows} colours are not finite: black is used instead")
    if found.high < DARK * white:
        doubts.append(f"the brightest colour is {found.high:.4g}, which is nearly black if {white:g} is white")
    if kind == np.uint8:
        return Colors(read, tuple(doubts))
    return Colors(lambda start, stop: _to_bytes(read(start, stop), low, white), tuple(doubts))


def colors_as_bytes(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8] | None, tuple[str, ...]]:
    """Convert colours in memory to bytes, shape `(rows, 3)`; see `decide_colors`.

    Returns:
        Colours as bytes, or None if they are all zero, and warnings about them.
    """
    colors = decide_colors(lambda start, stop: values[start:stop], len(values))
    return None if colors.read is None else colors.read(0, len(values)), colors.doubts


def _blocks(num_rows: int) -> Iterator[tuple[int, int]]:
    if num_rows <= SAMPLED_BLOCKS * BLOCK_ROWS:
        yield 0, num_rows
        return
    for k in range(SAMPLED_BLOCKS):
        start = k * (num_rows - BLOCK_ROWS) // (SAMPLED_BLOCKS - 1)
        yield start, start + BLOCK_ROWS


class _Statistics:
    """Statistics of the values of a scan's colours."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.num_finite = 0
        self.num_lit = 0
        self.num_above = dict.fromkeys(WHITE_VALUES, 0)
        self.num_negative = 0
        self.is_whole = True
        self.is_high_byte = True
        self._low = np.full(3, np.inf)
        self._high = np.full(3, -np.inf)

    def add(self, rows: npt.NDArray[Any]) -> None:
        finite = rows
        if rows.dtype.kind == "f":
            finite = as_doubles(rows)
            finite = finite[np.isfinite(finite).all(axis=1)]
        self.num_finite += len(finite)
        if len(finite) == 0:
            return
        lowest, highest = finite.min(axis=0), finite.max(axis=0)
        self._low, self._high = np.minimum(self._low, lowest), np.maximum(self._high, highest)
        if rows.dtype == np.uint8:
            return
        brightest = finite.max(axis=1)
        self.num_lit += int((brightest > 0).sum())
        self.num_negative += int((finite.min(axis=1) < 0).sum())
        for white in WHITE_VALUES:
            if highest.max() > white * ROUNDING:
                self.num_above[white] += int((brightest > white * ROUNDING).sum())
        if rows.dtype.kind == "f" and self.is_whole:
            self.is_whole = bool((finite == np.floor(finite)).all())
        if self.is_whole and self.is_high_byte:
            self.is_high_byte = bool((finite % 256 == 0).all())

    @property
    def low(self) -> float:
        return float(self._low.min())

    @property
    def high(self) -> float:
        return float(self._high.max())

    @property
    def is_constant(self) -> bool:
        return bool((self._low == self._high).all())


def _decide_range(found: _Statistics, kind: np.dtype[Any], doubts: list[str]) -> tuple[float, float]:
    """Return the values of black and white, and append warnings about uncertain guesses."""
    is_float = kind.kind == "f"
    if is_float and found.low < -0.05 and found.low >= -ROUNDING and found.high <= ROUNDING:
        doubts.append(f"colours from {found.low:.4g} to {found.high:.4g}: a range of -1 to 1 is assumed")
        return -1.0, 1.0
    candidates = [white for white in WHITE_VALUES if white > 1 or is_float]
    allowed = OVERSHOOT_SHARE * found.num_lit
    white = next((white for white in candidates if found.num_above[white] <= allowed), None)
    if white is None:
        white = 2.0 ** min(math.ceil(math.log2(found.high + 1)), 1023) - 1  # 1024 exceeds float64
        doubts.append(f"colours up to {found.high:.6g}: a range of 0 to {white:.6g} is assumed")
    elif white == 255 and is_float and not found.is_whole and found.high <= HIGHEST_OVERSHOOT:
        white = 1.0
    if white == 1 and found.is_whole:
        doubts.append("all colours are 0 or 1: a range of 0 to 1 is assumed")
    if white in UNUSUAL_WHITE:
        doubts.append(f"colours up to {found.high:g}: a range of 0 to {white:g} is assumed")
    if found.num_above.get(white):
        doubts.append(
            f"{found.num_above[white]} of {found.num_rows} colours exceed {white:g} (up to {found.high:.4g}): clipped"
        )
    if found.low < -0.05 * white:
        doubts.append(f"{found.num_negative} of {found.num_rows} colours are negative: clipped")
    if white == 65535 and found.is_whole and found.is_high_byte:
        white = 65280.0  # bytes in the upper half of 16 bits
    return 0.0, white


def _to_bytes(values: npt.NDArray[Any], low: float, white: float) -> npt.NDArray[np.uint8]:
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = as_doubles(values)
        numbers[~np.isfinite(numbers).all(axis=1)] = low
        return np.clip((numbers - low) * (255 / (white - low)) + 0.5, 0, 255).astype(np.uint8)
