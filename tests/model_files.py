"""OBJ and GLB files of random form whose colours are known: one mesh, written in the many ways that programs use."""

import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

NOISE = (255, 0, 255)
"""Colour of pixels that no vertex uses."""


class Mesh(NamedTuple):
    """A mesh with one colour for each vertex."""

    xyz: np.ndarray
    rgb: np.ndarray
    faces: np.ndarray


def random_mesh(rng: random.Random) -> Mesh:
    """Return a sheet of triangles with random colours; every vertex has a face."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    wide, high = rng.randint(2, 9), rng.randint(2, 9)
    x, y = np.meshgrid(np.arange(wide), np.arange(high))
    xyz = np.stack([x, y, numbers.random(x.shape)], axis=2).reshape(-1, 3).round(3)
    corner = (np.arange(high - 1)[:, None] * wide + np.arange(wide - 1)).reshape(-1)
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + wide], 1), np.stack([corner + 1, corner + wide + 1, corner + wide], 1)]
    )
    rgb = numbers.integers(0, 256, (len(xyz), 3), dtype=np.uint8)
    rgb[0], rgb[1] = 255, 0  # so that every range of values is used whole
    return Mesh(xyz.astype(np.float32).astype(np.float64), rgb, numbers.permutation(faces))


class Atlas(NamedTuple):
    """A picture and the place of every corner in it, counted from the upper left, shape `(corners, 2)`."""

    pixels: np.ndarray
    places: np.ndarray


def make_atlas(rng: random.Random, colors: np.ndarray) -> Atlas:
    """Put one pixel for each corner at a random place of a picture."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    count = max(1, len(colors))
    wide = rng.randint(1, max(2, 2 * int(count**0.5)))
    high = -(-count // wide) + rng.randint(0, 3)
    pixels = np.full((high * wide, 3), NOISE, dtype=np.uint8)
    at = numbers.permutation(high * wide)[: len(colors)]
    pixels[at] = colors
    places = np.stack([(at % wide + 0.5) / wide, (at // wide + 0.5) / high], axis=1)
    return Atlas(pixels.reshape(high, wide, 3), places)


def picture_bytes(rng: random.Random, pixels: np.ndarray, kinds: tuple[str, ...]) -> tuple[str, bytes]:
    """Write a picture without loss; return its suffix and bytes."""
    kind = rng.choice(kinds)
    image = Image.fromarray(pixels)
    if kind in ("png", "webp") and rng.random() < 0.3:
        image.putalpha(rng.randrange(1, 256))
    stream = io.BytesIO()
    if kind == "webp":
        image.save(stream, "WEBP", lossless=True, exact=True)
    else:
        image.save(stream, {"png": "PNG", "bmp": "BMP", "tga": "TGA", "tif": "TIFF", "ppm": "PPM"}[kind])
    return kind, stream.getvalue()


def split_faces(rng: random.Random, mesh: Mesh) -> list[np.ndarray]:
    """Rows of the faces of each material."""
    count = rng.randint(1, min(4, len(mesh.faces)))
    owner = np.random.default_rng(rng.getrandbits(32)).integers(0, count, len(mesh.faces))
    owner[:count] = np.arange(count)
    return [np.flatnonzero(owner == k) for k in range(count)]


# OBJ.


def vertex_color_words(rng: random.Random, rgb: np.ndarray) -> list[str]:
    """Colours behind the positions, in one of the ranges that programs write."""
    form = rng.choice(("unit", "whole", "float255", "weight", "alpha", "sixteen", "weight255"))
    before, behind = ("1 " if form.startswith("weight") else "", "")
    if form == "alpha":
        behind = " 1"
    if form in ("whole", "weight255"):
        words = [" ".join(map(str, row)) for row in rgb.tolist()]
    elif form == "float255":
        words = [" ".join(f"{value:.6f}" for value in row) for row in rgb.tolist()]
    elif form == "sixteen":
        words = [" ".join(str(value * 257) for value in row) for row in rgb.tolist()]
    else:
        words = [" ".join(f"{value / 255:.{rng.randint(4, 8)}f}" for value in row) for row in rgb.tolist()]
    return [before + word + behind for word in words]


def write_obj(rng: random.Random, folder: Path, mesh: Mesh, stem: str = "scan") -> tuple[Path, np.ndarray]:
    """Write a mesh as OBJ; return its path and the colours that its vertices should get."""
    source = rng.choice(("vertices", "vertices", "pictures", "pictures", "seams", "seams", "plain"))
    expected = mesh.rgb.copy()
    xyz = [" ".join(repr(float(value)) for value in row) for row in mesh.xyz]
    parts = split_faces(rng, mesh)
    uv_lines: list[str] = []
    statements: list[list[str]] = []  # per material: its face lines
    mtl: list[str] = []
    names = [rng.choice(("mat{}", "Mat {}", "material.{}", "Größe_{}")).format(k) for k in range(len(parts))]
    colors = vertex_color_words(rng, mesh.rgb) if source == "vertices" else [""] * len(xyz)
    with_picture = source in ("pictures", "seams") or (source == "vertices" and rng.random() < 0.4)
    if source == "plain":
        palette = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (len(parts), 3))
        first: dict[int, int] = {}
        for k, rows in enumerate(parts):
            for row in rows:
                for vertex in mesh.faces[row].tolist():
                    first.setdefault(vertex, -1)
                    first[vertex] = min(x for x in (first[vertex], row * 100 + k) if x >= 0)
        expected = np.array([palette[first[v] % 100] for v in range(len(xyz))], dtype=np.uint8)
    for k, rows in enumerate(parts):
        faces = mesh.faces[rows]
        shown = mesh.rgb if source != "vertices" else mesh.rgb[::-1]  # a picture beside vertex colours is ignored
        entry = [f"newmtl {names[k]}", "Ka 0.2 0.2 0.2", f"Kd {rng.choice(('1 1 1', '0.8 0.8 0.8', '0 0 0'))}"]
        if source == "plain":
            entry[2] = "Kd " + " ".join(f"{value / 255:.6f}" for value in palette[k])
        uv = np.full(faces.shape, -1)
        if with_picture:
            corner_vertices = faces.reshape(-1) if source == "seams" else np.unique(faces)
            atlas = make_atlas(rng, shown[corner_vertices])
            uv = np.arange(faces.size).reshape(-1, 3) if source == "seams" else np.searchsorted(corner_vertices, faces)
            uv = uv + len(uv_lines)
            words, move = _place_picture(rng, folder, f"{stem}{k}", atlas.pixels)
            turns = (
                [rng.randint(-3, 3), rng.randint(-3, 3)] if rng.random() < 0.3 and "-clamp on" not in words else [0, 0]
            )
            u, v = move(atlas.places * [1, -1] + [0, 1] + turns)
            uv_lines += [f"vt {a!r} {b!r}" for a, b in zip(u.tolist(), v.tolist(), strict=True)]
            entry.append(f"{rng.choice(('map_Kd', 'map_kd', '  map_Kd'))} {words}")
        mtl += [*entry, "illum 2", ""]
        statements.append([_face_line(rng, face, at) for face, at in zip(faces.tolist(), uv.tolist(), strict=True)])
    uses_mtl = source != "vertices" or with_picture or rng.random() < 0.5
    vertices = [f"v {a} {b}".rstrip() for a, b in zip(xyz, colors, strict=True)]
    if source != "vertices":
        for _ in range(rng.choice((0, 0, 1, 3))):  # vertices without faces, at the end: grey
            vertices.append("v 0.5 0.5 0.5")
            expected = np.concatenate([expected, [[128, 128, 128]]]).astype(np.uint8)
    body: list[str] = []
    if source == "plain":  # in the order of the faces, so that the first face decides
        order = sorted(
            (int(row), k, line) for k, rows in enumerate(parts) for row, line in zip(rows, statements[k], strict=True)
        )
        body += [text for _, k, line in order for text in (f"usemtl {names[k]}", line)]
    else:
        for k in rng.sample(range(len(parts)), len(parts)):
            body += [f"{rng.choice('go')} part{k}"] * rng.randint(0, 1) + ["s 1"] * rng.randint(0, 1)
            body += [f"usemtl {names[k]}"] * uses_mtl + statements[k]
    if source == "vertices" and rng.random() < 0.2:
        body = []  # points
    head = ["# made by a test", f"mtllib {_mtl_words(rng, folder, stem, mtl)}"] if uses_mtl else ["# no materials"]
    text = "\n".join([*head, *vertices, *uv_lines, *(["vn 0 0 1"] * rng.randint(0, 1)), *body, ""])
    text = _restyle(rng, text)
    path = folder / f"{stem}.obj"
    path.write_bytes(text.encode())
    return path, expected


def _face_line(rng: random.Random, face: list[int], uv: list[int]) -> str:
    words = []
    form = rng.choice(("/", "//", "/n")) if uv[0] < 0 else rng.choice(("/", "/n"))
    for vertex, at in zip(face, uv, strict=True):
        word = str(vertex + 1)
        if at >= 0:
            word += f"/{at + 1}" + ("/1" if form == "/n" else "")
        elif form == "//":
            word += "//1"
        words.append(word)
    return "f " + " ".join(words)


def _place_picture(
    rng: random.Random, folder: Path, stem: str, pixels: np.ndarray
) -> tuple[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Write a picture; return how MTL names it, and what its options make of texture coordinates, undone."""
    kind, data = picture_bytes(rng, pixels, ("png", "png", "bmp", "tga", "tif", "ppm", "webp"))
    name = rng.choice((f"{stem}.{kind}", f"my {stem}.{kind}", f"{stem} ä.{kind}"))
    below = rng.choice(("", "", "textures"))
    (folder / below).mkdir(exist_ok=True)
    (folder / below / name).write_bytes(data)
    named = f"{below}/{name}" if below else name
    named = rng.choice(
        (named, named, f"./{named}", named.replace("/", "\\"), f"C:\\Users\\me\\{name}", f"/home/me/scan/{name}",
         f'"{named}"', named.upper(), f"../{name}", named.replace(" ", "%20"))
    )  # fmt: skip
    scale, offset, options = np.ones(2), np.zeros(2), ""
    for option in rng.sample(("-s", "-o", "-clamp", "-mm", "-bm", "-blendu", "-imfchan"), rng.choice((0, 0, 1, 2))):
        if option == "-s":
            scale = np.array([rng.choice((0.5, 2.0)), rng.choice((0.25, 4.0))])
            options += f"-s {scale[0]} {scale[1]}{rng.choice((' 1', ''))} "
        elif option == "-o":
            offset = np.array([rng.choice((0.5, -1.25)), 0.125])
            options += f"-o {offset[0]} {offset[1]} 0 "
        else:
            options += {"-clamp": "-clamp on ", "-mm": "-mm 0 1 ", "-bm": "-bm 0.5 "}.get(option, f"{option} on ")
    options = options.replace("-imfchan on", "-imfchan r")
    return options + named, lambda uv: tuple(((uv - offset) / scale).T)  # type: ignore[return-value]


def _mtl_words(rng: random.Random, folder: Path, stem: str, mtl: list[str]) -> str:
    name = rng.choice((f"{stem}.mtl", f"my {stem}.mtl", f"{stem}.obj.mtl"))
    end = rng.choice(("\n", "\r\n"))
    (folder / name).write_bytes(end.join(mtl).encode())
    return rng.choice((name, f"./{name}", f"C:\\x\\{name}", name.upper(), f'"{name}"'))


def _restyle(rng: random.Random, text: str) -> str:
    """Write lines in another way that means the same."""
    if rng.random() < 0.2:
        text = text.replace("\nf ", "\n\n  f ")
    if rng.random() < 0.2:
        lines = text.split("\n")
        text = "\n".join(
            f"{x}  # note" if x.startswith(("v ", "f ")) and k % 3 == 0 else x for k, x in enumerate(lines)
        )
    if rng.random() < 0.2:
        text = "\n".join(x.replace(" ", "\t") if x.startswith(("v ", "vt ", "f ")) else x for x in text.split("\n"))
    if rng.random() < 0.15:
        text = "\n".join(x.replace(" ", " \\\n ", 1) if x.startswith("f ") else x for x in text.split("\n"))
    if rng.random() < 0.1:
        text = "\ufeff" + text
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    return text if end == "\n" or ("\\\n" in text and end == "\r") else text.replace("\n", end)


# GLB.


class Glb:
    """Collects the parts of a GLB file."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}
        self._data = b""

    def view(self, data: bytes, **more: Any) -> int:
        self._data += b"\0" * (-len(self._data) % 4 + 4 * self._rng.randint(0, 2))
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self._data), "byteLength": len(data)} | more)
        self._data += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more: Any) -> int:
        """Store values plainly, with a stride, or sparsely."""
        kinds = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        entry: dict[str, Any] = {
            "componentType": kinds[values.dtype.str[1:]],
            "count": len(values),
            "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
        } | more
        rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8).reshape(len(values), -1)
        form = self._rng.choice(("plain", "plain", "stride", "sparse"))
        if form == "sparse" and values.ndim > 1:
            changed = np.array(sorted(self._rng.sample(range(len(values)), self._rng.randint(1, len(values)))))
            base = rows.copy()
            base[changed] ^= 0x3F
            entry["sparse"] = {
                "count": len(changed),
                "indices": {"bufferView": self.view(changed.astype("<u2").tobytes()), "componentType": 5123},
                "values": {"bufferView": self.view(rows[changed].tobytes())},
            }
            rows = base
        if form == "stride" and values.ndim > 1:
            stride = rows.shape[1] + self._rng.choice((4, 8)) + -rows.shape[1] % 4
            padded = np.full((len(rows), stride), 0xAB, dtype=np.uint8)
            shift = self._rng.choice((0, 4))
            padded[:, shift : shift + rows.shape[1]] = rows
            entry |= {"bufferView": self.view(padded.tobytes(), byteStride=stride), "byteOffset": shift}
        else:
            entry["bufferView"] = self.view(rows.tobytes())
        self.tree["accessors"].append(entry)
        return len(self.tree["accessors"]) - 1

    def add(self, kind: str, entry: dict[str, Any]) -> int:
        self.tree.setdefault(kind, []).append(entry)
        return len(self.tree[kind]) - 1

    def write(self, path: Path) -> None:
        if path.suffix == ".gltf":
            path.with_suffix(".bin").write_bytes(self._data)
            self.tree["buffers"] = [{"byteLength": len(self._data), "uri": f"{path.stem}.bin"}]
            path.write_text(json.dumps(self.tree))
            return
        self.tree["buffers"] = [{"byteLength": len(self._data)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        data = self._data + b"\0" * (-len(self._data) % 4)
        head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(data), len(text), 0x4E4F534A)
        path.write_bytes(head + text + struct.pack("<II", len(data), 0x004E4942) + data)


COLOR_FORMS = ("u1", "u1n", "u2n", "u2", "u2small", "u4", "f", "f255", "i2n")
"""Types and ranges of colours that programs write; one for each file."""


def color_accessor(rng: random.Random, glb: Glb, rgb: np.ndarray, form: str) -> int:
    """Store colours in one of `COLOR_FORMS`, with or without alpha."""
    if rng.random() < 0.5:
        rgb = np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)
    wide = rgb.astype(np.uint32)
    if form in ("u1", "u1n"):
        return glb.accessor(rgb, **({"normalized": True} if form == "u1n" else {}))
    if form in ("u2n", "u2"):
        return glb.accessor((wide * 257).astype("<u2"), **({"normalized": True} if form == "u2n" else {}))
    if form == "u2small":
        return glb.accessor(wide.astype("<u2"))
    if form == "u4":
        return glb.accessor(wide.astype("<u4"))
    if form == "i2n":
        return glb.accessor(np.round(wide / 255 * 32767).astype("<i2"), normalized=True)
    return glb.accessor((wide / (255 if form == "f" else 1)).astype("<f4"))


def write_glb(rng: random.Random, folder: Path, mesh: Mesh, stem: str = "scan") -> tuple[Path, np.ndarray, np.ndarray]:
    """Write a mesh as GLB; return its path, and the positions and colours that its vertices should get."""
    glb = Glb(rng)
    source = rng.choice(("vertices", "vertices", "pictures", "pictures", "plain", "points"))
    one_block = rng.random() < 0.5
    move, nodes = _nodes(rng)
    quantized, color_form = rng.random() < 0.25, rng.choice(COLOR_FORMS)
    parts = split_faces(rng, mesh)
    if source == "points":
        parts = parts[:1]
    positions, colors, primitives = [], [], []
    shared: dict[str, int] = {}
    for k, rows in enumerate(parts):
        faces = mesh.faces[rows]
        vertices = np.arange(len(mesh.xyz)) if one_block or source == "points" else np.unique(faces)
        local = faces if one_block else np.searchsorted(vertices, faces)
        xyz, rgb = mesh.xyz[vertices], mesh.rgb[vertices].copy()
        attributes: dict[str, int] = {}
        if not one_block or not shared:
            shared = {"POSITION": _position_accessor(rng, glb, xyz, quantized)}
            positions.append(xyz)
            if source in ("vertices", "points"):
                shared["COLOR_0"] = color_accessor(rng, glb, rgb, color_form)
            colors.append(rgb)
        attributes |= shared
        primitive: dict[str, Any] = {"attributes": attributes}
        if source == "pictures" or (source == "vertices" and rng.random() < 0.3):
            shown = rgb if source == "pictures" else rgb[::-1]
            primitive["material"] = _picture_material(rng, glb, folder, f"{stem}{k}", shown, attributes)
        elif source == "plain":
            color = [rng.randrange(256) for _ in range(3)]
            entry: dict[str, Any] = {"baseColorFactor": [*(value / 255 for value in color), 1.0]}
            primitive["material"] = glb.add("materials", {"pbrMetallicRoughness": entry})
            used = np.unique(local)
            if one_block:
                fresh = [v for v in used.tolist() if not shared.get(f"done{v}")]
                shared |= {f"done{v}": 1 for v in fresh}
                attributes.clear()
                attributes["POSITION"] = shared["POSITION"]
                used = np.array(fresh, dtype=int)
            colors[-1][used] = color
        elif rng.random() < 0.3:
            primitive["material"] = glb.add(
                "materials", {"name": "scan", "pbrMetallicRoughness": {"metallicFactor": 0}}
            )
        _draw(rng, glb, primitive, local, source == "points")
        primitives.append(primitive)
    if source == "plain" and one_block:
        for primitive in primitives:
            primitive["attributes"] = {"POSITION": shared["POSITION"]}
    glb.add("meshes", {"primitives": primitives})
    nodes(glb)
    if quantized:
        glb.tree["extensionsUsed"] = glb.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    path = folder / f"{stem}{rng.choice(('.glb', '.glb', '.gltf'))}"
    glb.write(path)
    return path, move(np.concatenate(positions)), np.concatenate(colors)


def _position_accessor(rng: random.Random, glb: Glb, xyz: np.ndarray, quantized: bool) -> int:
    if not quantized:
        return glb.accessor(xyz.astype("<f4"))
    form = rng.choice(("u2", "i2", "u2n"))
    xyz[:] = np.round(xyz * 100)
    if form == "u2n":
        whole = xyz.astype("<u2")
        xyz /= 65535
        return glb.accessor(whole, normalized=True)
    return glb.accessor(xyz.astype(f"<{form}"))


def _picture_material(
    rng: random.Random, glb: Glb, folder: Path, stem: str, rgb: np.ndarray, attributes: dict[str, int]
) -> int:
    atlas = make_atlas(rng, rgb)
    kind, data = picture_bytes(rng, atlas.pixels, ("png", "webp"))
    image: dict[str, Any] = {"mimeType": f"image/{kind}"}
    if rng.random() < 0.6:
        image["bufferView"] = glb.view(data)
    else:
        name = f"{stem} ü.{kind}"
        (folder / name).write_bytes(data)
        image = {"uri": rng.choice((name, name.replace(" ", "%20"), f"other/{name}"))}
    number = glb.add("images", image)
    texture: dict[str, Any] = {"source": number}
    if kind == "webp" and rng.random() < 0.7:
        texture = {"extensions": {"EXT_texture_webp": {"source": number}}}
    uv = atlas.places
    transform: dict[str, Any] = {}
    if rng.random() < 0.3:
        scale, offset = np.array([0.5, 2.0]), np.array([0.25, -0.5])
        transform = {"scale": scale.tolist(), "offset": offset.tolist()}
        uv = (uv - offset) / scale
    texcoord = rng.choice((0, 0, 1, 3))
    info: dict[str, Any] = {"index": glb.add("textures", texture), "texCoord": texcoord}
    if transform:
        if rng.random() < 0.5:
            info["texCoord"] = 7
            transform["texCoord"] = texcoord
        info["extensions"] = {"KHR_texture_transform": transform}
    small = not transform and max(atlas.pixels.shape) < 60 and rng.random() < 0.4
    values = np.round(uv * 65535).astype("<u2") if small else uv.astype("<f4")
    attributes[f"TEXCOORD_{texcoord}"] = glb.accessor(values, **({"normalized": True} if small else {}))
    if texcoord:
        attributes["TEXCOORD_0"] = glb.accessor(np.zeros((len(uv), 2), "<f4"))
    return glb.add("materials", {"pbrMetallicRoughness": {"baseColorTexture": info}})


def _draw(rng: random.Random, glb: Glb, primitive: dict[str, Any], faces: np.ndarray, is_points: bool) -> None:
    """Say which triangles a part has: indexed, or as one strip with triangles of no area between."""
    kind = rng.choice(("<u2", "<u4"))
    if is_points:
        primitive["mode"] = 0
    elif rng.random() < 0.25:
        strip: list[int] = []
        for a, b, c in faces.tolist():
            strip += [strip[-1], a] if strip else []
            strip += [a, b, c]
            strip += [c] if len(strip) % 2 else []
        primitive |= {"mode": 5, "indices": glb.accessor(np.array(strip, dtype=kind))}
    else:
        primitive["indices"] = glb.accessor(faces.reshape(-1).astype(kind))
        if rng.random() < 0.5:
            primitive["mode"] = 4


def _nodes(rng: random.Random) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[Glb], None]]:
    """Return what the nodes make of positions, and how they are added."""
    form = rng.choice(("none", "plain", "moved", "matrix", "chain", "scenes"))
    if form in ("none", "plain", "scenes"):

        def add(glb: Glb) -> None:
            if form != "none":
                glb.tree |= {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}], "scene": 0}
            if form == "scenes":
                glb.tree |= {"nodes": [{"mesh": 0}, {"translation": [9, 9, 9], "mesh": 0}]}
                glb.tree |= {"scenes": [{"nodes": [1]}, {"nodes": [0]}], "scene": 1}

        return lambda xyz: xyz, add
    shift = np.array([1.0, -2.0, 0.5])
    if form == "chain":  # a quarter turn about z over a scale and a shift

        def add_chain(glb: Glb) -> None:
            half = float(np.sqrt(0.5))
            glb.tree |= {"nodes": [{"children": [1], "rotation": [0, 0, half, half]}]}
            glb.tree["nodes"] += [{"mesh": 0, "scale": [2, 2, 2], "translation": shift.tolist()}]
            glb.tree |= {"scenes": [{"nodes": [0]}]}

        return lambda xyz: (2 * xyz + shift)[:, [1, 0, 2]] * [-1, 1, 1], add_chain

    def add_moved(glb: Glb) -> None:
        matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, *shift.tolist(), 1]
        node = {"translation": shift.tolist()} if form == "moved" else {"matrix": matrix}
        glb.tree |= {"nodes": [{"mesh": 0} | node], "scenes": [{"nodes": [0]}], "scene": 0}

    return lambda xyz: xyz + shift, add_moved
