"""Interactive HTML page of a scene: one file with plain WebGL2, no library and no network access."""

import base64
import html
import json
import secrets
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.files import write_text
from lg3d_core.viewing.camera import FIELD_OF_VIEW
from lg3d_core.viewing.layers import ERROR_COLORS, NEUTRAL, SceneView
from lg3d_core.viewing.objects import Placed, ShownObject, place_objects

COMPRESSION = 4  # zlib level: 9 saves 3 % more and takes five times as long
MAX_OBJECTS = 1000
"""Maximum number of objects with a box, the most confident ones: a poor network predicts many more."""
# Parts of one script, concatenated in this order.
SCRIPTS = (
    "scene",
    "arrays",
    "shaders",
    "boxes",
    "buffers",
    "colors",
    "coarse",
    "camera",
    "drawing",
    "pointer",
    "panel",
    "gallery",
    "objects",
    "flight",
    "build",
    "hands",
    "start",
)
LIVE_SCRIPTS = ("live",)


def write_page(view: SceneView, path: Path) -> None:
    """Write the interactive page of a scene: layers, legend, isolation, hover, comparison, gallery, screenshot.

    A vertex takes about 20 bytes. The file is written atomically.

    Raises:
        DataError: The file cannot be written.
    """
    write_text(path, build_page(view))


def build_page(view: SceneView, *, live: bool = False, asks: bool = False) -> str:
    """Return the HTML of a page; names from files are inserted only as JSON with `<` escaped, and as an escaped title.

    The content security policy allows only the page's own style and script, which carry a random nonce.

    Args:
        view: Scene to show.
        live: Whether the page receives heat of further texts from its server. Such a page may connect to that server
            only; other pages have no network access.
        asks: Whether a live page has a text box, whose phrases it sends to its server.
    """
    manifest, data = pack_arrays(page_arrays(view))
    described = describe(view) | {"arrays": manifest, "asks": asks}
    description = json.dumps(described, ensure_ascii=True, allow_nan=False)
    name = view.scene_id.encode("utf-8", "backslashreplace").decode()  # undecodable bytes of a file name are escaped
    nonce = secrets.token_urlsafe(18)
    connect = "; connect-src 'self'" if live else ""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; "
        f"base-uri 'none'; form-action 'none'{connect}"
    )
    parts, rest = [], _part("page.html")
    for mark, text in (  # in the template's order, so that inserted text is never replaced again
        ("__POLICY__", policy),
        ("__TITLE__", html.escape(f"{name} · lg3d")),
        ("__NONCE__", nonce),
        ("__STYLE__", _part("page.css")),
        ("__DESCRIPTION__", description.replace("<", "\\u003c")),
        ("__DATA__", base64.b64encode(data).decode("ascii")),
        ("__NONCE__", nonce),
        ("__SCRIPT__", "\n".join(_part(f"{name}.js") for name in (*SCRIPTS, *(LIVE_SCRIPTS if live else ())))),
    ):
        before, found, rest = rest.partition(mark)
        assert found, f"the template lacks {mark}"
        parts += [before, text]
    return "".join([*parts, rest])


def _part(name: str) -> str:
    return (resources.files("lg3d_core.viewing") / "data" / "page" / name).read_text(encoding="utf-8")


def describe(view: SceneView) -> dict[str, Any]:
    """Return the description of the page, all but the arrays, ready for JSON."""
    low, high = view.xyz.min(axis=0).astype(float), view.xyz.max(axis=0).astype(float)
    return {
        "scene": view.scene_id,
        "low": low.tolist(),
        "size": np.maximum(high - low, 1e-6).tolist(),
        "layers": [_describe_layer(view, name) for name in view.layers],
        "legend": [entry._asdict() for entry in view.legend],
        "scores": None if view.scores is None else view.scores._asdict(),
        "errors": [
            {"name": name, "color": ERROR_COLORS[name], "share": share} for name, share in view.error_shares.items()
        ],
        "neutral": NEUTRAL,
        "gallery": {"annotated": view.gallery.annotated, "parts": [part._asdict() for part in view.gallery.parts]},
        "objects": None if view.object_number is None else _describe_objects(view, view.objects, "objects"),
        "num_objects": len(view.objects),
        "instances": _describe_objects(view, view.annotated_objects, "instances"),
        "camera": view.camera._asdict() | {"fov": FIELD_OF_VIEW},
        "points": len(view.xyz),
        "faces": len(view.faces),
        "spacing": view.spacing,
    }


def _describe_objects(view: SceneView, objects: Sequence[ShownObject], layer: str) -> list[dict[str, Any]]:
    """Return the objects of a layer, with the corners of their boxes and their colours."""
    placed = place_objects(view, layer)
    nowhere = Placed(NEUTRAL, np.zeros(3))
    return [
        {
            **{key: value for key, value in one._asdict().items() if key != "box"},
            "color": placed.get(one.number, nowhere).color,
            "outward": placed.get(one.number, nowhere).outward.round(3).tolist(),
            "middle": one.box.centre.tolist(),
            "size": one.box.size.tolist(),
            "radius": max(float(np.linalg.norm(one.box.size)) / 2, 0.02),
            "corners": one.box.corners.round(4).tolist(),
        }
        for one in objects[:MAX_OBJECTS]
    ]


# Kind and array of each layer's colours; class colours come from the legend.
DRAWN_FROM = {
    "colours": ("rgb", "rgb"),
    "truth": ("category", "label"),
    "prediction": ("category", "predicted"),
    "errors": ("errors", "label"),
    "confidence": ("ramp", "confidence"),
    "instances": ("instance", "instance"),
    "objects": ("instance", "object"),
    "augmentation": ("rgb", "augmentation"),
}


def _describe_layer(view: SceneView, name: str) -> dict[str, Any]:
    kind, array = ("ramp", name) if name in view.heat_texts else DRAWN_FROM[name]
    key = view.key(name)
    swatches = [{"color": color, "name": meaning, "share": share} for color, meaning, share in key.swatches]
    return {
        "name": name,
        "title": view.title(name),
        "text": view.heat_texts.get(name),
        "smooth": view.is_smooth(name),
        "kind": kind,
        "array": array,
        "key": key._asdict() | {"swatches": swatches},
    }


def page_arrays(view: SceneView) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the page in small types: positions as 16 bits of the bounding box, normals as signed bytes.

    Layers of classes or instances are not stored: the page computes their colours from the numbers.
    """
    low, high = view.xyz.min(axis=0), view.xyz.max(axis=0)
    scaled = (view.xyz - low).astype(np.float64) / np.maximum(high - low, 1e-6).astype(np.float64)
    arrays: dict[str, npt.NDArray[Any]] = {
        "position": np.round(scaled * 65535).astype(np.uint16),
        "normal": np.round(np.clip(view.normal, -1, 1) * 127).astype(np.int8),
        "outward": np.round(view.outward * 127).astype(np.int8),
        "rgb": view.layers["colours"],
        "label": view.label.astype(np.int16),
    }
    if view.predicted is not None and view.confidence is not None:
        arrays["predicted"] = view.predicted.astype(np.int16)
        arrays["confidence"] = np.round(np.clip(np.nan_to_num(view.confidence), 0, 1) * 255).astype(np.uint8)
    for name, values in zip(view.heat_texts, view.heat.values(), strict=True):
        arrays[name] = np.round(values * 255).astype(np.uint8)
    if view.gallery.parts:
        arrays["part"] = view.gallery.number
    if "augmentation" in view.layers:
        arrays["augmentation"] = view.layers["augmentation"]
    for layer, name, numbers in (("instances", "instance", view.instance), ("objects", "object", view.object_number)):
        if layer in view.layers and numbers is not None:
            arrays[name] = numbers.astype(np.int32)
            distinct, first = np.unique(numbers, return_index=True)
            arrays[f"{name}_number"] = distinct.astype(np.int32)
            arrays[f"{name}_color"] = view.layers[layer][first]
    if len(view.faces):
        # Consecutive triangles share or neighbour vertices, so differences are small and compress well.
        flat = view.faces.reshape(-1).astype(np.int64)
        arrays["face_steps"] = np.diff(flat, prepend=0).astype(np.int32)
    return arrays


def pack_arrays(arrays: dict[str, npt.NDArray[Any]]) -> tuple[list[dict[str, Any]], bytes]:
    """Concatenate and deflate arrays, each with the equal-significance bytes of its numbers together (little endian).

    Returns:
        Name, type, shape and offset of each array in the inflated bytes, and the deflated bytes (zlib's format).
    """
    manifest, parts, offset = [], [], 0
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        columns = little.view(np.uint8).reshape(len(little), -1)
        part = np.ascontiguousarray(columns.T).tobytes()
        manifest.append(
            {"name": name, "type": array.dtype.name, "rows": len(array), "width": columns.shape[1], "offset": offset}
        )
        parts.append(part)
        offset += len(part)
    return manifest, zlib.compress(b"".join(parts), COMPRESSION)
