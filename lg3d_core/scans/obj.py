"""Reader of Wavefront OBJ and MTL files, parsed with numpy in blocks of lines.

Each `v` line becomes one vertex, in the file's order, whether or not faces use it.

Source: the Wavefront OBJ and MTL specifications, https://paulbourke.net/dataformats/obj/ and .../mtl/.
"""

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.colors import colors_as_bytes
from lg3d_core.scans.files import read_file
from lg3d_core.scans.materials import Material, Model, list_names
from lg3d_core.scans.pictures import PictureSource
from lg3d_core.scans.scan_folder import ScanFolder

BLOCK_BYTES = 1 << 26
MAX_MATERIALS = 1 << 16
"""Maximum number of materials that faces use."""
MAX_MTL_BYTES = 1 << 26
MAP_OPTIONS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3} | dict.fromkeys(
    ("-blendu", "-blendv", "-boost", "-bm", "-cc", "-clamp", "-imfchan", "-texres", "-type"), 1
)
"""Options of a texture in MTL, and the maximum number of values of each."""
DOWN = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 1.0]])
"""Map from texture coordinates, which start at the lower edge of a picture, to positions from its upper edge."""

_Bytes = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.int64]
_SPACES = np.zeros(256, dtype=bool)
_SPACES[[9, 10, 11, 12, 13, 32]] = True


def read_obj(data: bytes, path: Path) -> Model:
    """Read an OBJ file and its material files.

    Raises:
        DataError: A line cannot be parsed, or a face refers to a missing vertex.
    """
    reader = _Reader(path)
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    while start < len(data):
        stop = data.find(b"\n", start + BLOCK_BYTES) + 1 or len(data)
        while stop < len(data) and data.endswith((b"\\\n", b"\\\r\n"), start, stop):  # the line continues
            stop = data.find(b"\n", stop) + 1 or len(data)
        reader.read_block(data[start:stop])
        start = stop
    return reader.finish()


class _Tokens(NamedTuple):
    """Words of some lines.

    Attributes:
        text: Lines with their first word blanked out.
        counts: Number of words per line, shape `(lines,)`.
        starts: Offset of each word in the text, shape `(words,)`.
    """

    text: bytes
    counts: _Rows
    starts: _Rows


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: list[npt.NDArray[np.float64]] = []
        self._colors: list[tuple[int, npt.NDArray[np.float64], _Rows]] = []
        self._uv: list[npt.NDArray[np.float64]] = []
        self._faces: list[npt.NDArray[np.int64]] = []
        self._uv_index: list[npt.NDArray[np.int64]] = []
        self._material: list[npt.NDArray[np.int32]] = []
        self._num_vertices = self._num_uv = 0
        self._names: dict[bytes, int] = {}
        self._current = -1
        self._libraries: dict[bytes, None] = {}

    def read_block(self, block: bytes) -> None:
        """Parse a block of whole lines."""
        block = block.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n\n" in block or b"\n " in block or b"\n\t" in block:
            block = re.sub(rb"\n\s+", b"\n", block)
        block = block.lstrip() + b"\n"
        buffer = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(buffer == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        first, second, third = (buffer[np.minimum(starts + k, len(buffer) - 1)] for k in range(3))
        is_vertex = (first == ord("v")) & _SPACES[second]
        is_uv = (first == ord("v")) & (second == ord("t")) & _SPACES[third]
        is_face = np.flatnonzero((first == ord("f")) & _SPACES[second])
        vertices_before = self._num_vertices + np.cumsum(is_vertex)[is_face]
        uv_before = self._num_uv + np.cumsum(is_uv)[is_face]
        self._read_vertices(self._tokens(buffer, starts, ends, np.flatnonzero(is_vertex), 1))
        self._read_uv(self._tokens(buffer, starts, ends, np.flatnonzero(is_uv), 2))
        of_line = self._read_names(
            block, starts, ends, np.flatnonzero((first == ord("u")) | (first == ord("m"))), is_face
        )
        self._read_faces(self._tokens(buffer, starts, ends, is_face, 1), vertices_before, uv_before, of_line)

    def _tokens(self, buffer: _Bytes, starts: _Rows, ends: _Rows, lines: _Rows, keyword: int) -> _Tokens:
        """Collect lines of one kind, without their keyword and comments."""
        if len(lines) == 0:
            return _Tokens(b"", lines, lines)
        chosen = np.zeros(len(starts), dtype=bool)
        chosen[lines] = True
        lengths = ends - starts + 1
        text = buffer[np.repeat(chosen, lengths)]
        line_starts = np.concatenate([[0], np.cumsum(lengths[lines])[:-1]])
        for k in range(keyword):
            text[line_starts + k] = 32
        joined = text.tobytes()
        if b"#" in joined:
            joined = re.sub(rb"#[^\n]*", lambda match: b" " * len(match[0]), joined)
        return _split(joined, line_starts)

    def _read_vertices(self, tokens: _Tokens) -> None:
        if len(tokens.counts) == 0:
            return
        values = self._parse(tokens, np.float64, "v", 3)
        first = np.cumsum(tokens.counts) - tokens.counts
        self._numbers.append(values[first[:, None] + np.arange(3)])
        for count in np.unique(tokens.counts[tokens.counts >= 6]).tolist():
            lines = np.flatnonzero(tokens.counts == count)
            rows = values[first[lines][:, None] + np.arange(3, min(count, 8))]
            self._colors.append((count, rows, self._num_vertices + lines))
        self._num_vertices += len(tokens.counts)

    def _read_uv(self, tokens: _Tokens) -> None:
        if len(tokens.counts) == 0:
            return
        values = self._parse(tokens, np.float64, "vt", 1)
        first = np.cumsum(tokens.counts) - tokens.counts
        uv = np.zeros((len(first), 2))
        uv[:, 0] = values[first]
        has_v = tokens.counts >= 2
        uv[has_v, 1] = values[first[has_v] + 1]
        self._uv.append(uv)
        self._num_uv += len(uv)

    def _read_names(
        self, block: bytes, starts: _Rows, ends: _Rows, lines: _Rows, is_face: _Rows
    ) -> npt.NDArray[np.int32]:
        """Read material names, and return the material of each face line."""
        places, ids = [-1], [self._current]
        for line in lines.tolist():
            keyword, _, rest = block[starts[line] : ends[line]].replace(b"\t", b" ").partition(b" ")
            if keyword == b"usemtl":
                places.append(line)
                ids.append(self._names.setdefault(rest.strip(), len(self._names)))
            elif keyword == b"mtllib" and len(self._libraries) < 1000:
                self._libraries[rest.strip()] = None
        if len(self._names) > MAX_MATERIALS:
            raise DataError(f"{self._path}: more than {MAX_MATERIALS} materials: join materials, or convert to PLY")
        self._current = ids[-1]
        return np.array(ids, dtype=np.int32)[np.searchsorted(places, is_face) - 1]

    def _read_faces(
        self, tokens: _Tokens, vertices_before: _Rows, uv_before: _Rows, of_line: npt.NDArray[np.int32]
    ) -> None:
        if len(tokens.counts) == 0:
            return
        lines = np.repeat(np.arange(len(tokens.counts)), tokens.counts)
        text = tokens.text
        if b"/" in text:
            # An omitted index becomes 0, which OBJ does not use.
            text = re.sub(rb"/(?=[/\s])", b"/0", text)
            line_starts = np.flatnonzero(np.frombuffer(b"\n" + text[:-1], dtype=np.uint8) == 10)
            tokens = _split(text, line_starts)
            slashes = np.frombuffer(text, dtype=np.uint8) == ord("/")
            parts = tokens.starts
            if len(parts):
                parts = 1 + np.add.reduceat(slashes, tokens.starts, dtype=np.int64)
            tokens = tokens._replace(text=text.replace(b"/", b" "))
        else:
            parts = np.ones(len(tokens.starts), dtype=np.int64)
        values = self._parse(tokens, np.int64, "f", 0, parts)
        first = np.cumsum(parts) - parts
        vertex, uv = values[first], np.zeros(len(first), dtype=np.int64)
        uv[parts >= 2] = values[first[parts >= 2] + 1]
        absolute = np.where(vertex < 0, vertex + vertices_before[lines], vertex - 1)
        if (absolute < 0).any():
            raise self._beyond(int(vertex[absolute < 0][0]))
        uv = np.where(uv < 0, np.maximum(uv + uv_before[lines], -2), uv - 1)
        triangles = np.maximum(tokens.counts - 2, 0)
        corner = np.repeat(np.cumsum(tokens.counts) - tokens.counts, triangles)
        step = np.arange(len(corner)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
        corners = np.stack([corner, corner + step + 1, corner + step + 2], axis=1)
        self._faces.append(absolute[corners])
        self._uv_index.append(uv[corners])
        self._material.append(np.repeat(of_line, triangles))

    def _parse(
        self, tokens: _Tokens, dtype: type[np.generic], keyword: str, least: int, parts: _Rows | None = None
    ) -> npt.NDArray[Any]:
        """Return the numbers of all lines as one array."""
        expected = len(tokens.starts) if parts is None else int(parts.sum())
        if expected == 0 and least == 0:
            return np.zeros(0, dtype=dtype)
        if int(tokens.counts.min()) >= least:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    values = np.fromstring(tokens.text, dtype=dtype, sep=" ")
                    if len(values) == expected:
                        return values
                except (DeprecationWarning, ValueError):
                    pass
        kind = int if dtype is np.int64 else float
        for line in tokens.text.splitlines():
            words = line.split()
            try:
                [kind(word) for word in words]
                if len(words) >= least and not any(b"_" in word for word in words):
                    continue
            except ValueError:
                pass
            shown = " ".join(word.decode(errors="replace") for word in words)[:60]
            raise DataError(
                f"{self._path}: expected numbers after {keyword}, at least {least}, found {shown!r}: "
                "copy or export it again"
            )
        raise DataError(f"{self._path}: its {keyword} lines cannot be parsed: copy or export it again")

    def _beyond(self, name: int, kind: str = "vertex") -> DataError:
        return DataError(f"{self._path}: a face refers to the missing {kind} {abs(name)}: copy or export it again")

    def finish(self) -> Model:
        """Return the model, after the whole file was read."""
        xyz = _joined(self._numbers, (0, 3), np.float64)
        faces = _joined(self._faces, (0, 3), np.int64)
        uv_index = _joined(self._uv_index, (0, 3), np.int64)
        material = _joined(self._material, (0,), np.int32)
        uv = _joined(self._uv, (0, 2), np.float64)
        if len(faces) and int(faces.max()) >= len(xyz):
            raise self._beyond(int(faces.max()) + 1)
        doubts = []
        if len(faces) and int(uv_index.max()) >= max(len(uv), len(xyz)):
            raise self._beyond(int(uv_index.max()) + 1, "texture coordinate")
        lost = ((uv_index < -1) | (uv_index >= len(uv))).any(axis=1)
        if lost.any():
            doubts.append(f"{int(lost.sum())} faces refer to missing texture coordinates")
            uv_index[lost] = -1
        colors, has_color, color_doubts = self._own_colors(len(xyz))
        used = np.unique(material)
        pictures: list[PictureSource] = []
        library = _Library(self._path, list(self._libraries), pictures)
        materials = library.materials([_text(name) for name in self._names], used.tolist())
        return Model(
            xyz=xyz,
            faces=faces.astype(np.int32),
            num_triangles=len(faces),
            uv=uv,
            uv_index=uv_index.astype(np.int32),
            material=material,
            materials=materials,
            pictures=pictures,
            colors=colors,
            has_color=has_color,
            color_doubts=color_doubts,
            material_doubts=(*doubts, *library.doubts, *library.folder.doubts()),
        )

    def _own_colors(self, count: int) -> tuple[_Bytes, npt.NDArray[np.bool_], tuple[str, ...]]:
        """Return colours stored with the positions: `x y z r g b`, `x y z w r g b` with w = 1, or with alpha."""
        colors, has_color = np.zeros((count, 3), dtype=np.uint8), np.zeros(count, dtype=bool)
        if not self._colors:
            return colors, has_color, ()
        with_weight = {
            number: number in (7, 8) and all((rows[:, 0] == 1).all() for n, rows, _ in self._colors if n == number)
            for number in {number for number, _, _ in self._colors}
        }
        parts = [rows[:, 1:4] if with_weight[number] else rows[:, :3] for number, rows, _ in self._colors]
        values, vertices = np.concatenate(parts), np.concatenate([lines for _, _, lines in self._colors])
        found, doubts = colors_as_bytes(values)
        if found is not None:
            colors[vertices], has_color[vertices] = found, True
        return colors, has_color, doubts


class _Library:
    """Materials of MTL files."""

    def __init__(self, path: Path, names: list[bytes], pictures: list[PictureSource]) -> None:
        self._path = path
        self.folder = ScanFolder(path.parent)
        self._names = names
        self._pictures = pictures
        self._by_file: dict[Path | str, int] = {}
        self.doubts: list[str] = []

    def materials(self, names: list[str], used: list[int]) -> list[Material]:
        """Return the materials with some names, without colours if they are missing."""
        if not any(k >= 0 for k in used):
            return [Material(name) for name in names]
        known: dict[str, Material] = {}
        missing = []
        for name in map(_text, self._names):
            files = self._files(name)
            missing += [] if files else [name]
            for file in files:
                for found in self._read(file):
                    known.setdefault(found.name, found)
        folded = {name.casefold(): found for name, found in reversed(known.items())}
        materials = [known.get(name) or folded.get(name.casefold()) or Material(name) for name in names]
        unknown = [names[k] for k in used if k >= 0 and materials[k].color is None and materials[k].picture < 0]
        if missing:
            self.doubts.append(f"materials are missing: the folder has no file {list_names(missing)} (mtllib)")
        elif not self._names:
            self.doubts.append("the file uses materials but names no MTL file (mtllib)")
        elif unknown:
            self.doubts.append(f"the MTL file has no colour for the materials {list_names(unknown)}")
        return materials

    def _files(self, name: str) -> list[Path]:
        """Return the files of a `mtllib` line, which holds one name, possibly with spaces, or several."""
        whole = self.folder.find(name)
        if whole is not None:
            return [whole]
        each = [self.folder.find(part) for part in name.split()]
        return [path for path in each if path is not None]

    def _read(self, file: Path) -> list[Material]:
        try:
            data = read_file(file)
        except DataError as error:
            self.doubts.append(f"materials cannot be read: {error}")
            return []
        if len(data) > MAX_MTL_BYTES:
            self.doubts.append(
                f"materials are skipped: {file.name} has {len(data)} bytes, expected at most {MAX_MTL_BYTES}"
            )
            return []
        materials: list[Material] = []
        values: dict[str, str] = {}
        text = _text(data.removeprefix(b"\xef\xbb\xbf")).replace("\\\r\n", " ").replace("\\\n", " ")
        for line in [*re.split(r"[\r\n]+", text), "newmtl"]:
            keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
            keyword, rest = keyword.lower(), rest.strip()
            if keyword == "newmtl":
                if values:
                    materials.append(self._material(values, file.parent))
                values = {"name": rest}
            elif values and rest:
                values.setdefault(keyword, rest)
        return materials

    def _material(self, values: dict[str, str], folder: Path) -> Material:
        color = _color(values.get("kd", ""))
        words = values.get("map_kd") or values.get("map_ka")
        name = values["name"]
        if words is None:
            return Material(name, color)
        scale, offset, wrap, file = _picture_options(words)
        # Most exporters write an arbitrary Kd next to a texture, and most viewers show the texture alone.
        placement = DOWN @ np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]], [0, 0, 1]])
        return Material(name, None, self._picture(file, folder), placement, (wrap, wrap))

    def _picture(self, name: str, folder: Path) -> int:
        found = self.folder.find(name, near=folder)
        if found is None and "#" in name:
            found = self.folder.find(name.partition(" #")[0], near=folder)
        if found is None:
            base = re.split(r"[/\\]", name)[-1]
            source = PictureSource(f"picture {base}", _missing(base))
        else:
            source = PictureSource(f"picture {found.name}", functools.partial(read_file, found))
        key = found or name
        if key not in self._by_file:
            self._by_file[key] = len(self._pictures)
            self._pictures.append(source)
        return self._by_file[key]


def _missing(name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise DataError(f"the picture {name} is missing")

    return read


def _picture_options(words: str) -> tuple[list[float], list[float], str, str]:
    """Split a texture line into scale, offset, wrapping mode and file name."""
    scale, offset, wrap = [1.0, 1.0], [0.0, 0.0], "repeat"
    while words.startswith("-"):
        option, _, rest = words.partition(" ")
        if option.lower() not in MAP_OPTIONS or not rest.strip():
            break
        values: list[str] = []
        rest = rest.strip()
        while len(values) < MAP_OPTIONS[option.lower()] and " " in rest:
            word, _, behind = rest.partition(" ")
            if values and _number(word) is None:
                break
            values.append(word)
            rest = behind.strip()
        numbers = [number for number in map(_number, values) if number is not None]
        if option.lower() in ("-s", "-o"):
            target = scale if option.lower() == "-s" else offset
            target[: min(2, len(numbers))] = numbers[:2]
        elif option.lower() == "-clamp" and values and values[0].lower() == "on":
            wrap = "clamp"
        words = rest
    return scale, offset, wrap, words


def _number(word: str) -> float | None:
    return float(word) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", word, re.ASCII) else None


def _color(words: str) -> tuple[float, float, float] | None:
    values = [_number(word) for word in words.split("#")[0].split()][:3]
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or any(value is None for value in values):
        return None
    numbers = np.array(values, dtype=np.float64)
    numbers = np.clip(numbers / 255 if numbers.max() > 1.002 else numbers, 0, 1)
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _split(text: bytes, line_starts: _Rows) -> _Tokens:
    spaces = _SPACES[np.frombuffer(text, dtype=np.uint8)]
    begins = ~spaces
    begins[1:] &= spaces[:-1]
    return _Tokens(text, np.add.reduceat(begins, line_starts, dtype=np.int64), np.flatnonzero(begins))


def _joined(parts: list[npt.NDArray[Any]], shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(shape, dtype=dtype)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
