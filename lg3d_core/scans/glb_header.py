"""What a GLB file declares, held against its bytes before anything is made of it.

Source: the glTF 2.0 specification, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 and 4.4.
"""

import struct
from pathlib import Path
from typing import Any

from lg3d_core.errors import DataError
from lg3d_core.scans.files import parse_json_object

HEADER = struct.Struct("<4sIIII")
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MAX_LIST = 1_000_000
"""Entries of one kind; a scan of a room has some."""


def require_honest_glb(data: bytes, path: Path) -> None:
    """Refuse a file whose numbers lie outside of its bytes, or ask for more memory than it has bytes.

    Raises:
        DataError: It is no GLB of version 2, or its accessors, views and buffer do not lie within each other.
    """
    again = "copy or export it again"
    if len(data) < HEADER.size:
        raise DataError(f"{path}: expected a GLB file, found {len(data)} bytes: {again}")
    magic, version, _, length, kind = HEADER.unpack_from(data)
    if magic != b"glTF" or version != 2 or kind != JSON_CHUNK or HEADER.size + length > len(data):
        raise DataError(f"{path}: no whole GLB file of version 2 ({len(data)} bytes): {again}")
    tree = parse_json_object(data[HEADER.size : HEADER.size + length].rstrip(b"\0"), path)
    binary = max(0, len(data) - HEADER.size - length - 8)
    try:
        views = _entries(tree, "bufferViews")
        for view in views:
            first, size = _whole(view.get("byteOffset", 0)), _whole(view["byteLength"])
            if _whole(view.get("buffer", 0)) != 0 or first + size > binary:
                raise ValueError(f"a bufferView of {size} bytes lies outside of the file")
        for accessor in _entries(tree, "accessors"):
            width = COMPONENT_BYTES[accessor["componentType"]] * COMPONENTS[accessor["type"]]
            count, first = _whole(accessor["count"]), _whole(accessor.get("byteOffset", 0))
            view = views[_whole(accessor["bufferView"])] if "bufferView" in accessor else {"byteLength": binary}
            stride = _whole(view.get("byteStride", 0)) or width
            if count and (stride < width or first + (count - 1) * stride + width > _whole(view["byteLength"])):
                raise ValueError(f"an accessor of {count} times {width} bytes lies outside of its bufferView")
        for buffer in _entries(tree, "buffers"):
            if "uri" in buffer:
                raise ValueError("a buffer lies in another file")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{path}: the GLB file is damaged ({reason}): {again}") from None


def _entries(tree: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = tree.get(name, [])
    if not isinstance(entries, list) or len(entries) > MAX_LIST or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{name} is no list of objects")
    return entries


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number, found {str(value)[:40]}")
    return value
