"""Colours of surfaces: textures as functions of a base colour and positions in a part's axes (metres)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lg3d_core.synthetic.shapes import Array, IntArray

Bits = npt.NDArray[np.uint32]


def hash_cells(cells: IntArray, seed: IntArray) -> Array:
    """Return a number in 0..1 for every row of integer `cells` `(rows, k)`, equal for equal rows and `seed`s."""
    bits: Bits = seed.astype(np.uint32)
    for axis in range(cells.shape[1]):
        bits = (bits ^ cells[:, axis].astype(np.uint32)) * np.uint32(0x9E3779B1)
        bits ^= bits >> np.uint32(15)
        bits *= np.uint32(0x85EBCA77)
        bits ^= bits >> np.uint32(13)
    return bits.astype(np.float64) / 4294967296.0


def _cells(local: Array, size: float | tuple[float, float, float]) -> IntArray:
    cells: IntArray = np.floor(local / np.array(size)).astype(np.int64)
    return cells


def _plain(rgb: Array, local: Array, seed: IntArray) -> Array:
    return rgb * (0.97 + 0.06 * hash_cells(_cells(local, 0.25), seed))[:, None]


def _wood(rgb: Array, local: Array, seed: IntArray) -> Array:
    warp = 0.03 * np.sin(local[:, 0] * 3.1 + seed % 7) + 0.015 * np.sin(local[:, 0] * 9.7)
    rings = np.sin((local[:, 1] + local[:, 2] * 0.6 + warp) * 80.0)
    return rgb * (0.95 + 0.07 * rings + 0.06 * hash_cells(_cells(local, 0.3), seed))[:, None]


def _planks(rgb: Array, local: Array, seed: IntArray) -> Array:
    row = np.floor(local[:, 1] / 0.12).astype(np.int64)
    along = np.floor((local[:, 0] + 0.37 * (row % 5)) / 0.9).astype(np.int64)
    tone = 0.86 + 0.26 * hash_cells(np.stack([row, along], axis=1), seed)
    return rgb * (tone + 0.03 * np.sin(local[:, 1] * 200.0))[:, None]


def _tiles(rgb: Array, local: Array, seed: IntArray) -> Array:
    phase = np.abs((local[:, :2] / 0.3) % 1.0 - 0.5)
    joint = (phase > 0.46).any(axis=1)
    tone = 0.96 + 0.07 * hash_cells(_cells(local, (0.3, 0.3, 0.3)), seed)
    return rgb * (tone - 0.17 * joint)[:, None]


def _brick(rgb: Array, local: Array, seed: IntArray) -> Array:
    row = np.floor(local[:, 2] / 0.08).astype(np.int64)
    column = np.floor((local[:, 0] + 0.1 * (row % 2)) / 0.2).astype(np.int64)
    joint = (local[:, 2] / 0.08) % 1.0 < 0.2
    tone = 0.8 + 0.35 * hash_cells(np.stack([row, column], axis=1), seed)
    return np.where(joint[:, None], 176.0, rgb * tone[:, None])


def _fabric(rgb: Array, local: Array, seed: IntArray) -> Array:
    coarse = hash_cells(_cells(local, 0.12), seed)
    return rgb * (0.88 + 0.14 * hash_cells(_cells(local, 0.018), seed) + 0.08 * coarse)[:, None]


def _weave(rgb: Array, local: Array, seed: IntArray) -> Array:
    stripe = (
        np.floor((local[:, 0] + local[:, 1]) / 0.06).astype(np.int64) + np.floor(local[:, 2] / 0.06).astype(np.int64)
    ) % 2
    return rgb * (0.9 + 0.16 * stripe + 0.08 * hash_cells(_cells(local, 0.02), seed))[:, None]


def _carpet(rgb: Array, local: Array, seed: IntArray) -> Array:
    return (
        rgb
        * (0.86 + 0.18 * hash_cells(_cells(local, 0.02), seed) + 0.08 * hash_cells(_cells(local, 0.6), seed))[:, None]
    )


def _granite(rgb: Array, local: Array, seed: IntArray) -> Array:
    return rgb * (0.9 + 0.18 * hash_cells(_cells(local, 0.015), seed))[:, None]


def _plaster(rgb: Array, local: Array, seed: IntArray) -> Array:
    return (
        rgb
        * (0.97 + 0.03 * np.sin(local[:, 0] * 1.7 + seed % 5) + 0.03 * hash_cells(_cells(local, 0.5), seed))[:, None]
    )


def _print(rgb: Array, local: Array, seed: IntArray) -> Array:
    cells = _cells(local, 0.09)
    patches = np.stack([hash_cells(cells, seed + channel) for channel in range(3)], axis=1)
    return 0.45 * rgb + 0.55 * (40.0 + 190.0 * patches)


def _spines(rgb: Array, local: Array, seed: IntArray) -> Array:
    book = np.floor(local[:, :1] / 0.034).astype(np.int64)
    hues = np.stack([hash_cells(book, seed + channel) for channel in range(3)], axis=1)
    return 0.25 * rgb + 0.75 * (30.0 + 190.0 * hues)


def _keys(rgb: Array, local: Array, seed: IntArray) -> Array:
    gap = np.abs((local[:, :2] / 0.04) % 1.0 - 0.5) > 0.36
    return rgb * (1.05 - 0.28 * gap.any(axis=1) + 0.04 * hash_cells(_cells(local, 0.04), seed))[:, None]


def _piano(rgb: Array, local: Array, seed: IntArray) -> Array:
    del seed
    black = ((local[:, 0] / 0.045) % 1.0 < 0.4) & (local[:, 1] > -0.01)
    return np.where(black[:, None], 32.0, rgb)


def _screen(rgb: Array, local: Array, seed: IntArray) -> Array:
    glare = np.clip(local[:, 0] * 0.8 + local[:, 2] * 0.9, -0.5, 0.5)
    return rgb * (1.0 + 0.3 * glare + 0.1 * hash_cells(_cells(local, 0.12), seed))[:, None] + 10.0 * (
        glare[:, None] > 0.2
    )


def _slats(rgb: Array, local: Array, seed: IntArray) -> Array:
    del seed
    return rgb * (0.86 + 0.16 * ((local[:, 2] / 0.07) % 1.0 < 0.6))[:, None]


def _leaves(rgb: Array, local: Array, seed: IntArray) -> Array:
    return rgb * (0.65 + 0.7 * hash_cells(_cells(local, 0.03), seed))[:, None]


def _text(rgb: Array, local: Array, seed: IntArray) -> Array:
    line = ((local[:, 1] + local[:, 2]) / 0.035) % 1.0 < 0.4
    word = hash_cells(_cells(local, 0.03), seed) < 0.7
    return rgb * (1.0 - 0.3 * (line & word))[:, None]


def _scribble(rgb: Array, local: Array, seed: IntArray) -> Array:
    wave = np.abs(local[:, 2] - 0.25 * np.sin(local[:, 0] * 4.0 + seed % 11)) < 0.025
    note = (hash_cells(_cells(local, 0.22), seed) < 0.16) & (hash_cells(_cells(local, 0.035), seed) < 0.55)
    ink = np.where(rgb.mean(axis=1, keepdims=True) > 128.0, (70.0, 80.0, 150.0), (214.0, 214.0, 206.0))
    return np.where((wave | note)[:, None], 0.45 * rgb + 0.55 * ink, rgb)


def _stripes(rgb: Array, local: Array, seed: IntArray) -> Array:
    width = 0.03 + 0.12 * hash_cells(np.zeros((len(seed), 1), dtype=np.int64), seed)
    axis = seed % 3
    along = np.take_along_axis(local, axis[:, None], axis=1)[:, 0]
    band = np.floor(along / width).astype(np.int64)[:, None] % 3
    hues = np.stack([hash_cells(band, seed + channel) for channel in range(3)], axis=1)
    striped: Array = rgb * (0.75 + 0.5 * hues)
    return striped


def _checks(rgb: Array, local: Array, seed: IntArray) -> Array:
    width = 0.04 + 0.1 * hash_cells(np.zeros((len(seed), 1), dtype=np.int64), seed)
    cells = np.floor(local / width[:, None]).astype(np.int64).sum(axis=1) % 2
    checked: Array = rgb * (0.82 + 0.34 * cells)[:, None]
    return checked


def _marble(rgb: Array, local: Array, seed: IntArray) -> Array:
    phase = (seed % 17)[:, None]
    warped = local + 0.08 * np.sin(local[:, [1, 2, 0]] * 9.0 + phase) + 0.03 * np.sin(local[:, [2, 0, 1]] * 31.0)
    vein = np.abs(np.sin(warped.sum(axis=1) * 7.0)) < 0.12
    veined: Array = rgb * (0.96 + 0.08 * hash_cells(_cells(local, 0.2), seed) - 0.22 * vein)[:, None]
    return veined


def _floral(rgb: Array, local: Array, seed: IntArray) -> Array:
    size = 0.09 + 0.1 * hash_cells(np.zeros((len(seed), 1), dtype=np.int64), seed)[:, None]
    place = local / size + 0.3 * np.sin(local * 13.0)
    spot = (((place % 1.0) - 0.5) ** 2).sum(axis=1) < 0.18
    hues = np.stack([hash_cells(np.zeros((len(seed), 1), dtype=np.int64), seed + 7 + c) for c in range(3)], axis=1)
    spotted: Array = rgb * (0.92 + (0.4 * hues - 0.2) * spot[:, None])
    return spotted


def _painting(rgb: Array, local: Array, seed: IntArray) -> Array:
    phase = np.stack([hash_cells(np.zeros((len(seed), 1), dtype=np.int64), seed + c) for c in range(9)], axis=1)
    scale = 4.0 + 14.0 * phase[:, 8:]
    wave = np.sin(local * scale + 6.3 * phase[:, :3]) + np.sin(local[:, [2, 0, 1]] * 1.7 * scale + 6.3 * phase[:, 3:6])
    tone = (wave.sum(axis=1) > 0.3) * 1.0 + (wave.sum(axis=1) > 1.4)
    shade = np.stack([0.35 + 0.75 * ((phase[:, c + 5] * 7.3 + 0.37 * tone) % 1.0) for c in range(3)], axis=1)
    painted: Array = (0.4 * rgb + 0.6 * 200.0 * shade) * (0.9 + 0.2 * hash_cells(_cells(local, 0.03), seed))[:, None]
    return painted


def _as_it_is(rgb: Array, local: Array, seed: IntArray) -> Array:
    del local, seed
    return rgb


TEXTURES: dict[str, Callable[[Array, Array, IntArray], Array]] = {
    "plain": _plain,
    "glaze": _plain,
    "wood": _wood,
    "planks": _planks,
    "tiles": _tiles,
    "brick": _brick,
    "fabric": _fabric,
    "weave": _weave,
    "carpet": _carpet,
    "granite": _granite,
    "plaster": _plaster,
    "print": _print,
    "spines": _spines,
    "keys": _keys,
    "piano": _piano,
    "screen": _screen,
    "slats": _slats,
    "leaves": _leaves,
    "text": _text,
    "scribble": _scribble,
    "stripes": _stripes,
    "checks": _checks,
    "marble": _marble,
    "floral": _floral,
    "painting": _painting,
    "as it is": _as_it_is,
}

TEXTURE_NAMES = tuple(TEXTURES)


def paint_vertices(rgb: Array, texture: IntArray, local: Array, seed: IntArray) -> Array:
    """Return colours 0..255 of vertices from base `rgb`, row of `TEXTURE_NAMES`, part coordinates and part's seed."""
    colors = np.empty_like(rgb)
    for code in np.unique(texture):
        rows = np.flatnonzero(texture == code)
        colors[rows] = TEXTURES[TEXTURE_NAMES[int(code)]](rgb[rows], local[rows], seed[rows])
    return colors
