"""Tiny furniture libraries for tests: boxes with textures and materials, in the format of `.sh3f` files."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
SIDES = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
"""Corners of a box's sides from 1, counter-clockwise from outside."""
MATERIALS = "newmtl red\nKd 1 0 0\n\nnewmtl picture\nKd 1 1 1\nmap_Kd picture.png\n\nnewmtl glass\nKd 0 0 1\nd 0.05\n"


def box_obj(low: Sequence[float] = (0, 0, 0), high: Sequence[float] = (1, 1, 1), *, material: str = "red") -> str:
    """A closed box in a file's axes: x right, y up, z to the front."""
    size = np.subtract(high, low)
    lines = ["mtllib box.mtl", f"usemtl {material}"]
    lines += [
        "v " + " ".join(f"{a + s * c:.6f}" for a, s, c in zip(low, size, corner, strict=True)) for corner in CORNERS
    ]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    lines += ["f " + " ".join(f"{corner}/{k}" for k, corner in enumerate(side, start=1)) for side in SIDES]
    return "\n".join(lines) + "\n"


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def write_library(
    path: Path,
    models: Sequence[Mapping[str, str]],
    *,
    members: Mapping[str, str | bytes] | None = None,
    header: str = "license=Public domain\n",
) -> Path:
    """Write a library; each model says at least `name`, and gets a box of half a metre where it does not say more."""
    lines = [header]
    files: dict[str, str | bytes] = {"LICENSE.TXT": "Do as you like.\n"}
    for number, model in enumerate(models, start=1):
        folder = f"lib/{number}"
        values = {
            "id": f"lib#{number}",
            "category": "Living room",
            "model": f"/{folder}/box.obj",
            "width": "50",
            "depth": "40",
            "height": "60",
            "creator": "Somebody",
        } | dict(model)
        lines += [f"{key}#{number}={value}" for key, value in values.items()]
        files[f"{folder}/box.obj"] = box_obj()
        files[f"{folder}/box.mtl"] = MATERIALS
    files |= dict(members or {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines).encode("latin-1"))
        for name, content in files.items():
            archive.writestr(name, content)
    return path
