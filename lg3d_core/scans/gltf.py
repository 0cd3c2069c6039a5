"""Reader of glTF 2.0, as a GLB file or as JSON with external files: the meshes of the default scene, transformed.

Every number is checked against the size of the file before anything is allocated.

Source: the glTF 2.0 specification, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

import base64
import functools
import struct
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.colors import colors_as_bytes
from lg3d_core.scans.files import parse_json_object, read_file
from lg3d_core.scans.materials import Material, Model
from lg3d_core.scans.pictures import PictureSource
from lg3d_core.scans.scan_folder import ScanFolder

HEADER = struct.Struct("<4sIIII")
CHUNK = struct.Struct("<II")
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
LISTS = (
    *("accessors", "buffers", "bufferViews", "images", "materials", "meshes"),
    *("nodes", "samplers", "scenes", "textures"),
)
MAX_LIST = 1_000_000
"""Maximum number of entries of one kind; a scan of a room has a few."""
MAX_PARTS = 1 << 16
"""Maximum number of mesh primitives that nodes instantiate."""
MAX_VERTICES = 1 << 24
"""Maximum number of vertices of all instances: a small file may instantiate a large mesh a thousand times."""
AGAIN = "copy or export it again"

DRACO, MESHOPT = "KHR_draco_mesh_compression", ("EXT_meshopt_compression", "KHR_meshopt_compression")
UNDERSTOOD = ("KHR_mesh_quantization", "KHR_texture_transform", "KHR_materials_pbrSpecularGlossiness")
PICTURE_EXTENSIONS = ("EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds", "KHR_texture_basisu")
"""Image extensions, most preferred first, for textures without a plain image."""
HARMLESS = ("KHR_materials_", "KHR_lights_", "KHR_xmp", "KHR_node_visibility", "EXT_texture_webp", "EXT_texture_avif")
"""Prefixes of extensions that change neither positions nor base colours."""
_MOVES = {"matrix", "rotation", "scale", "translation"}
_DAMAGED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


class _Primitive(NamedTuple):
    """Primitive of a mesh, with the indices of its accessors."""

    position: int
    color: int | None
    uv: int | None
    indices: int | None
    mode: int
    material: int


class _Placed(NamedTuple):
    """Vertices of one accessor under one transformation, and the primitives that use them."""

    matrix: npt.NDArray[np.float64]
    parts: list[_Primitive]


def read_gltf(data: bytes, path: Path) -> Model:
    """Read a GLB or glTF file.

    Primitives that share positions and a transformation share vertices. Colours are used as stored, without a
    conversion from linear light.

    Raises:
        DataError: The file is damaged, compressed, needs an unsupported extension, or describes far more data than it
            contains.
    """
    binary = None
    if data[:4] == b"glTF" or path.suffix.lower() == ".glb":
        text, binary = _chunks(data, path)
    else:
        text = data
    tree = parse_json_object(text, path)
    try:
        return _Reader(tree, binary, path, len(data)).model()
    except _DAMAGED as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{path}: the file is damaged ({reason}): {AGAIN}") from None


def _chunks(data: bytes, path: Path) -> tuple[bytes, memoryview | None]:
    if len(data) < HEADER.size:
        raise DataError(f"{path}: expected a GLB file, found {len(data)} bytes: {AGAIN}")
    magic, version, _, length, kind = HEADER.unpack_from(data)
    if magic != b"glTF" or version != 2 or kind != JSON_CHUNK or HEADER.size + length > len(data):
        raise DataError(f"{path}: not a complete GLB file of version 2 ({len(data)} bytes): {AGAIN}")
    start = HEADER.size + length
    binary = None
    if len(data) >= start + CHUNK.size:
        size, kind = CHUNK.unpack_from(data, start)
        if kind == BINARY_CHUNK:
            binary = memoryview(data)[start + CHUNK.size : start + CHUNK.size + size]
    return data[HEADER.size : start].rstrip(b"\0"), binary


class _Reader:
    def __init__(self, tree: dict[str, Any], binary: memoryview | None, path: Path, size: int) -> None:
        self._tree = tree
        self._binary = binary
        self._path = path
        self._folder = ScanFolder(path.parent)
        self._limit = max(MAX_VERTICES, size)
        self._num_read = 0
        self._buffers: dict[int, memoryview] = {}
        self._accessors: dict[int, npt.NDArray[Any]] = {}
        self._pictures: dict[Any, int] = {}
        self._sources: list[PictureSource] = []
        self._doubts: list[str] = []
        for kind in LISTS:
            self._entries(kind)

    def model(self) -> Model:
        """Return the meshes of the default scene as one model."""
        self._refuse_unsupported()
        placed = self._placed()
        num_vertices = sum(self._count(part.parts[0].position) for part in placed)
        if num_vertices > self._limit:
            raise ValueError(f"its nodes instantiate {num_vertices} vertices, expected at most {self._limit}")
        parts = [part for block in placed for part in block.parts]
        corners = sum(self._num_corners(part) for part in parts)
        if corners > self._limit + MAX_VERTICES:
            raise ValueError(f"its parts have {corners} corners, expected at most {self._limit + MAX_VERTICES}")
        return self._assemble(placed, num_vertices, self._materials({part.material for part in parts}))

    # Requirements of the file

    def _refuse_unsupported(self) -> None:
        required = self._tree.get("extensionsRequired", [])
        names = [str(name) for name in required] if isinstance(required, list) else [str(required)]
        for name in names:
            if name == DRACO or name in MESHOPT:
                raise self._compressed(name)
        unknown = [name for name in names if name not in UNDERSTOOD and not name.startswith(HARMLESS)]
        if unknown:
            raise DataError(
                f"{self._path}: needs the glTF extension {', '.join(unknown[:3])}, which is not supported: "
                "export it again without it, or convert it to PLY"
            )

    def _compressed(self, extension: str) -> DataError:
        kind = "Draco" if extension == DRACO else "meshopt"
        return DataError(
            f"{self._path}: compressed with {kind} ({extension}), which is not supported: export it again without "
            "compression, or convert it to PLY"
        )

    # Tree

    def _entries(self, name: str) -> list[dict[str, Any]]:
        entries = self._tree.get(name, [])
        if not isinstance(entries, list) or len(entries) > MAX_LIST or not all(isinstance(e, dict) for e in entries):
            raise ValueError(f"{name} is not a list of objects")
        return entries

    def _entry(self, name: str, index: Any) -> dict[str, Any]:
        entries: list[dict[str, Any]] = self._tree.get(name, [])
        if _whole(index) >= len(entries):
            raise ValueError(f"there is no {name}[{index}]")
        return entries[int(index)]

    def _placed(self) -> list[_Placed]:
        """Return the mesh primitives, grouped by positions and transformation, in the order of the nodes."""
        found: dict[tuple[int, bytes], _Placed] = {}
        count, used = 0, set()
        for matrix, mesh in self._nodes():
            used.add(mesh)
            for entry in self._entry("meshes", mesh).get("primitives", []):
                count += 1
                if count > MAX_PARTS:
                    raise ValueError(f"its nodes instantiate more than {MAX_PARTS} primitives: join meshes")
                part = self._primitive(entry)
                if part is not None:
                    key = (part.position, matrix.tobytes())
                    found.setdefault(key, _Placed(matrix, [])).parts.append(part)
        unused = len(self._entries("meshes")) - len(used)
        if unused and used:
            self._doubts.append(f"{unused} meshes are skipped: they are not part of the default scene")
        return list(found.values())

    def _nodes(self) -> Iterator[tuple[npt.NDArray[np.float64], int]]:
        """Return the mesh and matrix of each node of the default scene that has a mesh, depth first."""
        nodes, scenes = self._entries("nodes"), self._entries("scenes")
        if not nodes:
            for mesh in range(len(self._entries("meshes"))):
                yield np.eye(4), mesh
            return
        if scenes:
            roots = self._entry("scenes", self._tree.get("scene", 0)).get("nodes", [])
        else:
            below = {child for node in nodes for child in _list(node.get("children", []))}
            roots = [k for k in range(len(nodes)) if k not in below]
        stack = [(_whole(k), np.eye(4)) for k in reversed(_list(roots))]
        seen: set[int] = set()
        while stack:
            index, above = stack.pop()
            node = self._entry("nodes", index)
            if index in seen:
                raise ValueError(f"node {index} is in the scene twice")
            seen.add(index)
            matrix = above
            if not _MOVES.isdisjoint(node):
                with np.errstate(over="ignore", invalid="ignore"):
                    matrix = above @ _matrix(node)
            if "mesh" in node:
                yield matrix, _whole(node["mesh"])
            stack += [(_whole(child), matrix) for child in reversed(_list(node.get("children", [])))]

    def _primitive(self, entry: dict[str, Any]) -> _Primitive | None:
        attributes = entry["attributes"]
        if "POSITION" not in attributes:
            return None
        position = _whole(attributes["POSITION"])
        accessor = self._entry("accessors", position)
        if "bufferView" not in accessor and "sparse" not in accessor:
            if DRACO in entry.get("extensions", {}):
                raise self._compressed(DRACO)
            raise ValueError("the file contains no positions")
        material = _whole(entry["material"]) if "material" in entry else -1
        if material >= 0:
            self._entry("materials", material)
        return _Primitive(
            position=position,
            color=_index(attributes, "COLOR_0"),
            uv=_index(attributes, f"TEXCOORD_{self._texcoord(material)}") if material >= 0 else None,
            indices=_index(entry, "indices"),
            mode=_whole(entry.get("mode", TRIANGLES)),
            material=material,
        )

    # Numbers

    def _count(self, index: int) -> int:
        return _whole(self._entry("accessors", index)["count"])

    def _num_corners(self, part: _Primitive) -> int:
        count = self._count(part.position if part.indices is None else part.indices)
        return count if part.mode == TRIANGLES else 3 * count

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            buffer = self._entry("buffers", index)
            if "uri" in buffer:
                self._buffers[index] = memoryview(self._file(str(buffer["uri"]), "buffer"))
            elif index == 0 and self._binary is not None:
                self._buffers[index] = self._binary
            else:
                raise ValueError(f"buffer {index} has no bytes")
        return self._buffers[index]

    def _file(self, uri: str, kind: str) -> bytes:
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
        found = self._folder.find(uri)
        if found is None:
            raise DataError(f"{self._path}: the {kind} {uri[:100]!r} is missing: copy it to the same folder")
        return read_file(found)

    def _view(self, index: Any) -> tuple[memoryview, int]:
        """Return the bytes of a buffer view, and its stride (0 if tightly packed)."""
        view = self._entry("bufferViews", index)
        buffer = _whole(view.get("buffer", 0))
        compressed = [name for name in MESHOPT if name in view.get("extensions", {})]
        if (
            compressed
            and not (buffer == 0 and self._binary is not None)
            and "uri" not in self._entry("buffers", buffer)
        ):
            raise self._compressed(compressed[0])
        data = self._buffer(buffer)
        first, size = _whole(view.get("byteOffset", 0)), _whole(view["byteLength"])
        if first + size > len(data):
            raise ValueError(f"a bufferView of {size} bytes lies outside of the file")
        return data[first : first + size], _whole(view.get("byteStride", 0))

    def _array(self, view: Any, offset: Any, dtype: str, count: int, width: int) -> npt.NDArray[Any]:
        data, stride = self._view(view)
        first, row = _whole(offset), np.dtype(dtype).itemsize * width
        stride = stride or row
        if count and (stride < row or first + (count - 1) * stride + row > len(data)):
            raise ValueError(f"an accessor of {count} times {row} bytes lies outside of its bufferView")
        if count == 0:
            return np.zeros((0, width), dtype=dtype)
        return np.ndarray((count, width), dtype, data, first, (stride, np.dtype(dtype).itemsize))

    def _accessor(self, index: int) -> npt.NDArray[Any]:
        """Return the numbers of an accessor as stored, shape `(count, components)`."""
        if index not in self._accessors:
            entry = self._entry("accessors", index)
            dtype, width, count = DTYPES[entry["componentType"]], COMPONENTS[entry["type"]], _whole(entry["count"])
            self._num_read += count
            if self._num_read > self._limit + 4 * MAX_VERTICES:
                raise ValueError("its accessors describe far more numbers than the file contains")
            if "bufferView" in entry:
                values = self._array(entry["bufferView"], entry.get("byteOffset", 0), dtype, count, width)
            else:
                values = np.zeros((count, width), dtype=dtype)
            if "sparse" in entry:
                sparse = entry["sparse"]
                number, at, new = _whole(sparse["count"]), sparse["indices"], sparse["values"]
                rows = self._array(at["bufferView"], at.get("byteOffset", 0), DTYPES[at["componentType"]], number, 1)
                if rows.dtype.kind != "u" or (number and int(rows.max()) >= count):
                    raise ValueError(f"a sparse accessor names rows beyond its {count}")
                values = values.copy()
                values[rows[:, 0]] = self._array(new["bufferView"], new.get("byteOffset", 0), dtype, number, width)
            self._accessors[index] = values
        return self._accessors[index]

    def _decoded(self, index: int, width: int) -> npt.NDArray[np.float64]:
        """Return the numbers of an accessor; normalised integers become -1 to 1 or 0 to 1."""
        values = self._accessor(index)
        if values.shape[1] != width:
            raise ValueError(f"expected an accessor of {width} components, found {values.shape[1]}")
        with np.errstate(invalid="ignore"):
            numbers = values.astype(np.float64)
        if values.dtype.kind != "f" and self._entry("accessors", index).get("normalized") is True:
            numbers = np.maximum(numbers / np.iinfo(values.dtype).max, -1)
        return numbers

    # Meshes

    def _assemble(self, placed: list[_Placed], num_vertices: int, materials: list[Material]) -> Model:
        xyz = np.zeros((num_vertices, 3))
        colors = _VertexColors(num_vertices)
        faces, uv_index, material, is_point = [], [], [], []
        uv, uv_first, num_uv = [np.zeros((0, 2))], {}, 0
        first = 0
        for block in placed:
            local = self._decoded(block.parts[0].position, 3)
            with np.errstate(over="ignore", invalid="ignore"):
                xyz[first : first + len(local)] = local @ block.matrix[:3, :3].T + block.matrix[:3, 3]
            drawn = np.zeros(len(local), dtype=bool)
            for part in block.parts:
                corners = self._corners(part, len(local))
                drawn[corners] = True
                if part.color is not None:
                    colors.add(self._color(part, len(local), materials), _used(corners, len(local)), first)
                points = np.full(len(corners), part.mode < TRIANGLES)
                index = np.full(corners.shape, -1, dtype=np.int32)
                if part.uv is not None and materials[part.material].picture >= 0:
                    if part.uv not in uv_first:
                        uv_first[part.uv] = num_uv
                        uv.append(self._decoded(part.uv, 2))
                        num_uv += len(uv[-1])
                        if num_uv > self._limit:
                            raise ValueError(f"its parts have {num_uv} texture coordinates, at most {self._limit}")
                    if self._count(part.uv) != len(local):
                        raise ValueError(f"{self._count(part.uv)} texture coordinates for {len(local)} vertices")
                    index = (corners + uv_first[part.uv]).astype(np.int32)
                faces.append((corners + first).astype(np.int32))
                uv_index.append(index)
                material.append(np.full(len(corners), part.material, dtype=np.int32))
                is_point.append(points)
            rest = np.flatnonzero(~drawn)
            colored = next((part for part in block.parts if part.color is not None), None)
            if len(rest) and colored is not None:
                colors.add(self._color(colored, len(local), materials), rest, first)
            first += len(local)
        order = np.argsort(np.concatenate([np.zeros(0, dtype=bool), *is_point]), kind="stable")
        values, has_color, color_doubts = colors.finish()
        return Model(
            xyz=xyz,
            faces=np.concatenate([np.zeros((0, 3), dtype=np.int32), *faces])[order],
            num_triangles=int(len(order) - sum(int(points.sum()) for points in is_point)),
            uv=np.concatenate(uv),
            uv_index=np.concatenate([np.zeros((0, 3), dtype=np.int32), *uv_index])[order],
            material=np.concatenate([np.zeros(0, dtype=np.int32), *material])[order],
            materials=materials,
            pictures=self._sources,
            colors=values,
            has_color=has_color,
            doubts=tuple(self._doubts),
            material_doubts=self._folder.doubts(),
            color_doubts=color_doubts,
        )

    def _corners(self, part: _Primitive, num_vertices: int) -> npt.NDArray[np.int64]:
        """Return corners of a primitive's triangles, shape `(triangles, 3)`; points and line ends repeat one vertex."""
        if part.indices is None:
            order = np.arange(num_vertices)
        else:
            indices = self._accessor(part.indices)
            if indices.shape[1] != 1 or indices.dtype.kind != "u":
                raise ValueError("indices are not integers")
            order = indices[:, 0].astype(np.int64)
            if len(order) and int(order.max()) >= num_vertices:
                raise ValueError(f"a part names vertex {int(order.max())} of {num_vertices}")
        if part.mode < TRIANGLES:
            return np.repeat(order[:, None], 3, axis=1)
        if part.mode == TRIANGLES:
            return order[: len(order) - len(order) % 3].reshape(-1, 3)
        if part.mode not in (STRIP, FAN):
            raise ValueError(f"a primitive has the unknown mode {part.mode}")
        count = max(0, len(order) - 2)
        if part.mode == FAN:
            corners = np.stack([np.repeat(order[:1], count), order[1 : count + 1], order[2 : count + 2]], axis=1)
        else:
            corners = np.stack([order[:count], order[1 : count + 1], order[2 : count + 2]], axis=1)
            corners[1::2] = corners[1::2, [1, 0, 2]]
        a, b, c = corners.T
        kept: npt.NDArray[np.int64] = corners[
            (a != b) & (b != c) & (a != c)
        ]  # strips are joined by triangles without area
        return kept

    def _color(self, part: _Primitive, num_vertices: int, materials: list[Material]) -> npt.NDArray[Any]:
        assert part.color is not None
        values = self._accessor(part.color)
        if values.shape[1] not in (3, 4) or len(values) != num_vertices:
            raise ValueError(f"{len(values)} colours of {values.shape[1]} numbers for {num_vertices} vertices")
        has_picture = part.material >= 0 and materials[part.material].picture >= 0
        if has_picture and len(values) and bool((values[:, :3] == values[0, :3]).all()):
            return values[:0]  # one colour for a whole image carries no information
        if values.dtype.kind == "i" and self._entry("accessors", part.color).get("normalized") is True:
            return np.maximum(values[:, :3] / np.float32(np.iinfo(values.dtype).max), np.float32(0))
        return values[:, :3]

    # Materials

    def _materials(self, used: set[int]) -> list[Material]:
        found = []
        for number, entry in enumerate(self._entries("materials")):
            name = str(entry.get("name", number))
            if number not in used:
                found.append(Material(name))
                continue
            color, texture = self._base(entry)
            if texture is None:
                found.append(Material(name, color))
            else:
                picture, wrap = self._texture(texture)
                found.append(Material(name, color, picture, _placement(texture), wrap))
        return found

    def _base(self, material: dict[str, Any]) -> tuple[tuple[float, float, float], dict[str, Any] | None]:
        """Return the colour of a material, and its texture."""
        glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            factor, texture = glossy.get("diffuseFactor"), glossy.get("diffuseTexture")
        else:
            rough = material.get("pbrMetallicRoughness", {})
            factor, texture = rough.get("baseColorFactor"), rough.get("baseColorTexture")
            if texture is None and factor is None:
                texture = material.get("emissiveTexture")
        values = [1.0, 1.0, 1.0] if factor is None else [float(value) for value in _list(factor)[:3]]
        if len(values) != 3:
            raise ValueError(f"a colour of {len(values)} numbers")
        red, green, blue = (float(value) for value in np.clip(np.nan_to_num(values), 0, 1))
        return (red, green, blue), texture

    def _texcoord(self, material: int) -> int:
        _, texture = self._base(self._entry("materials", material))
        if texture is None:
            return 0
        moved = texture.get("extensions", {}).get("KHR_texture_transform", {})
        return _whole(moved.get("texCoord", texture.get("texCoord", 0)))

    def _texture(self, info: dict[str, Any]) -> tuple[int, tuple[str, str]]:
        texture = self._entry("textures", info["index"])
        wrap = ("repeat", "repeat")
        if "sampler" in texture:
            sampler = self._entry("samplers", texture["sampler"])
            wrap = (WRAPS.get(sampler.get("wrapS", 0), "repeat"), WRAPS.get(sampler.get("wrapT", 0), "repeat"))
        source = texture.get("source")
        for extension in PICTURE_EXTENSIONS:
            if source is None:
                source = texture.get("extensions", {}).get(extension, {}).get("source")
        if source is None:
            return self._picture(None, PictureSource("a texture", _no_picture)), wrap
        image = self._entry("images", source)
        name = f"picture {str(image.get('name') or source)[:100]}"
        if "uri" in image:
            uri = str(image["uri"])
            if not uri.startswith("data:"):
                name = f"picture {uri[:100]}"
            found = None if uri.startswith("data:") else self._folder.find(uri)
            read = (
                functools.partial(self._file, uri, "picture") if found is None else functools.partial(read_file, found)
            )
            return self._picture(found or uri, PictureSource(name, read)), wrap
        view = self._entry("bufferViews", image["bufferView"])
        key = (view.get("buffer", 0), view.get("byteOffset", 0), view.get("byteLength"))
        return self._picture(key, PictureSource(name, functools.partial(self._embedded, image["bufferView"]))), wrap

    def _embedded(self, view: int) -> bytes:
        try:
            return bytes(self._view(view)[0])
        except _DAMAGED as error:
            raise DataError(f"an embedded image is damaged ({error})") from None

    def _picture(self, key: Any, source: PictureSource) -> int:
        if key not in self._pictures:
            self._pictures[key] = len(self._sources)
            self._sources.append(source)
        return self._pictures[key]


class _VertexColors:
    """Collector of vertex colours as stored; the value of white is decided for all colours of a type together."""

    def __init__(self, count: int) -> None:
        self._has_color = np.zeros(count, dtype=bool)
        self._parts: dict[np.dtype[Any], list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]] = {}

    def add(self, values: npt.NDArray[Any], rows: npt.NDArray[np.int64], first: int) -> None:
        """Set the colours of some rows, except for rows that already have one."""
        if len(values) == 0:
            return
        rows = rows[~self._has_color[rows + first]]
        self._has_color[rows + first] = True
        self._parts.setdefault(values.dtype, []).append((rows + first, values[rows]))

    def finish(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], tuple[str, ...]]:
        """Return the colours, the mask of vertices that have one, and warnings."""
        colors = np.zeros((len(self._has_color), 3), dtype=np.uint8)
        doubts: list[str] = []
        for parts in self._parts.values():
            rows = np.concatenate([rows for rows, _ in parts])
            found, about = colors_as_bytes(np.concatenate([values for _, values in parts]))
            doubts += about
            if found is None:
                self._has_color[rows] = False
            else:
                colors[rows] = found
        return colors, self._has_color, tuple(doubts)


def _no_picture() -> bytes:
    raise DataError("a texture has no picture")


def _placement(texture: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return the map from texture coordinates to image positions, as KHR_texture_transform defines it."""
    moved = texture.get("extensions", {}).get("KHR_texture_transform", {})
    offset, scale = _numbers(moved.get("offset", [0, 0]), 2), _numbers(moved.get("scale", [1, 1]), 2)
    (angle,) = _numbers([moved.get("rotation", 0)], 1)
    with np.errstate(invalid="ignore", over="ignore"):
        sin, cos = np.sin(angle), np.cos(angle)
        return np.array([[cos * scale[0], sin * scale[1], offset[0]], [-sin * scale[0], cos * scale[1], offset[1]]])


def _used(corners: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the vertices that triangles use, in order."""
    if corners.size < count:
        return np.unique(corners)
    mask = np.zeros(count, dtype=bool)
    mask[corners] = True
    return np.flatnonzero(mask)


def _matrix(node: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return the matrix of a node, shape `(4, 4)`."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = _numbers(node.get("rotation", [0, 0, 0, 1]), 4)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x, y, z, w = np.array([x, y, z, w]) / np.sqrt(x * x + y * y + z * z + w * w)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, :3] *= _numbers(node.get("scale", [1, 1, 1]), 3)
    matrix[:3, 3] = _numbers(node.get("translation", [0, 0, 0]), 3)
    return matrix


def _numbers(value: Any, count: int) -> npt.NDArray[np.float64]:
    values = _list(value)
    if len(values) != count or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"expected {count} numbers")
    return np.array([float(v) for v in values])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {str(value)[:40]}")
    return value


def _index(holder: dict[str, Any], key: str) -> int | None:
    return _whole(holder[key]) if key in holder else None


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected an integer, found {str(value)[:40]}")
    return value
