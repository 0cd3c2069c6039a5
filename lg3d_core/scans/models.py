"""Meshes in OBJ and GLB, as phones and modelling programs write them, through trimesh."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.scans.files import read_file
from lg3d_core.scans.glb_header import require_honest_glb
from lg3d_core.scans.surface import Paint, Surface, surface_in_memory

if TYPE_CHECKING:
    import trimesh

_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
"""What trimesh, and Pillow for its textures, raise where a file is damaged; none of it names the file."""
MAX_VERTICES = 1 << 24
"""Of all parts where their nodes put them: a small file may put a large part in a thousand places."""

PLAIN = 128
"""Grey of a part without colours beside parts that have some."""


def open_model(path: Path) -> Surface:
    """Read an OBJ or GLB file of at most 1 GiB; colours come from its vertices, or from textures at its vertices.

    An OBJ without textures keeps its vertices' order; where textures meet, a vertex is doubled. glTF says of itself
    that +y is up and that a unit is a metre.

    Raises:
        DataError: The file is missing, damaged, or holds no vertices.
        MissingDependencyError: trimesh is not installed.
    """
    kind = path.suffix.lower().removeprefix(".")
    data = read_file(path)
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: {kind.upper()} files need trimesh ({error}): pip install trimesh, or convert the scan to PLY"
        ) from None
    from PIL import Image

    if kind == "glb":
        require_honest_glb(data, path)
    else:
        _require_honest_obj(data, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a texture of more than 89 million pixels
            scene = trimesh.load_scene(
                io.BytesIO(data),
                file_type=kind,
                resolver=_Beside(path.parent) if kind == "obj" else {},
                process=False,
                maintain_order=True,
            )
            nodes = sorted(scene.graph.nodes_geometry)
            total = sum(len(scene.geometry[scene.graph[node][1]].vertices) for node in nodes)
            if total > max(MAX_VERTICES, len(data)):
                raise ValueError(f"its nodes put {total} vertices in place, expected at most {MAX_VERTICES}")
            parts = [_part(scene, node) for node in nodes]
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot be read as {kind.upper()} ({reason}): copy or export it again") from None
    parts = [part for part in parts if len(part[0])]
    if not parts:
        raise DataError(f"{path}: expected vertices, found none: is this a {kind.upper()} file?")
    firsts = np.cumsum([0, *(len(xyz) for xyz, _, _, _ in parts)])
    xyz = np.concatenate([part[0] for part in parts])
    faces = np.concatenate([part[2] + first for part, first in zip(parts, firsts[:-1], strict=True)])
    rgb = None
    if any(colors is not None for _, colors, _, _ in parts):
        grey = [np.full((len(part[0]), 3), PLAIN, dtype=np.uint8) for part in parts]
        rgb = np.concatenate([plain if part[1] is None else part[1] for part, plain in zip(parts, grey, strict=True)])
    is_gltf = kind == "glb"
    paint = None
    if rgb is not None and any(part[3] is not None for part in parts):
        paint = _painter(rgb, firsts, [part[3] for part in parts])
    return surface_in_memory(
        path, xyz, rgb, faces, up="y" if is_gltf else None, scale=1.0 if is_gltf else None, paint=paint
    )


def _require_honest_obj(data: bytes, path: Path) -> None:
    """Refuse faces that name a vertex far beyond the file's lines: trimesh makes a table as long as the highest.

    Raises:
        DataError: There is one of so many digits that no such vertex can be.
    """
    data = data.replace(b"\r", b"\n")
    digits = len(str(data.count(b"\n") + 1)) + 1
    far = re.compile(rb"(?<![\d.])0*[1-9]\d{%d,}" % (digits - 1))
    line_end = 0
    while line_end >= 0 and (found := far.search(data, line_end)):
        start = data.rfind(b"\n", 0, found.start()) + 1
        if data[start : found.end()].lstrip()[:1] in b"f-0123456789":  # a face, or what goes on from the line before
            name = found[0][:20].decode()
            raise DataError(f"{path}: a face names vertex {name}, beyond the file's lines: copy or export it again")
        line_end = data.find(b"\n", found.end())  # the line is a place or a name


class _Texture(NamedTuple):
    """Where each vertex of a part lies in its picture, `(vertices, 2)`, and the colours of places in that."""

    uv: npt.NDArray[np.float64]
    to_color: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.uint8]]


def _painter(rgb: npt.NDArray[np.uint8], firsts: npt.NDArray[np.int64], textures: list[_Texture | None]) -> Paint:
    """Colours of places on triangles: of the texture where their part has one, else between those of the corners."""

    def paint(corners: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        mixed = np.einsum("nk,nkc->nc", weights, rgb[corners].astype(np.float32))
        colors: npt.NDArray[np.uint8] = np.round(mixed).astype(np.uint8)
        part_of = np.searchsorted(firsts, corners[:, 0], side="right") - 1
        for part, texture in enumerate(textures):
            rows = np.flatnonzero(part_of == part)
            if texture is not None and len(rows):
                uv = np.einsum("nk,nkc->nc", weights[rows].astype(np.float64), texture.uv[corners[rows] - firsts[part]])
                colors[rows] = texture.to_color(uv)[:, :3]
        return colors

    return paint


class _Beside(Mapping[str, bytes]):
    """The files that an OBJ may name: those in its folder and below, wherever links lead."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def __getitem__(self, name: str) -> bytes:
        if "\0" in name:
            raise FileNotFoundError(f"no file {name!r}")
        path = (self._folder / name.strip().replace("\\", "/")).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise FileNotFoundError(f"no file {name!r} within {self._folder}")
        return read_file(path)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _part(
    scene: "trimesh.Scene", node: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8] | None, npt.NDArray[np.int64], "_Texture | None"]:
    """Positions, colours, triangles and texture of one mesh where its node puts it."""
    transform, name = scene.graph[node]
    mesh: Any = scene.geometry[name]
    local = np.asarray(mesh.vertices, dtype=np.float64).reshape(-1, 3)
    xyz = local @ np.asarray(transform)[:3, :3].T + np.asarray(transform)[:3, 3]
    faces = np.asarray(getattr(mesh, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(xyz)):
        raise ValueError(f"faces name vertices {faces.min()} to {faces.max()} of {len(xyz)}")
    colors = _colors(mesh, len(xyz))
    return xyz, colors, faces, None if colors is None else _texture(mesh, len(xyz))


def _texture(mesh: Any, count: int) -> _Texture | None:
    visual = getattr(mesh, "visual", None)
    if visual is None or visual.kind != "texture" or np.shape(visual.uv) != (count, 2):
        return None
    if not np.isfinite(visual.uv).all():
        return None
    return _Texture(np.asarray(visual.uv, dtype=np.float64), visual.material.to_color)


def _colors(mesh: Any, count: int) -> npt.NDArray[np.uint8] | None:
    visual = getattr(mesh, "visual", None)
    if visual is None:
        colors = getattr(mesh, "colors", None)
    elif visual.kind is None:
        return None
    else:
        plain = visual.to_color() if visual.kind == "texture" else visual
        # There may be coordinates of a texture, but a material of one colour.
        one_color = None if plain.defined else np.tile(np.asarray(visual.material.main_color), (count, 1))
        colors = plain.vertex_colors if one_color is None else one_color
    if colors is None or np.ndim(colors) != 2 or len(colors) != count:
        return None
    return np.ascontiguousarray(np.asarray(colors)[:, :3], dtype=np.uint8)
