"""Reader of meshes and points in OBJ, GLB and glTF, as phones, scanners and modelling programs export them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import read_file
from lg3d_core.scans.gltf import read_gltf
from lg3d_core.scans.materials import color_model
from lg3d_core.scans.obj import read_obj
from lg3d_core.scans.surface import Surface, surface_in_memory

SINGLE_ERROR = 1e-5
"""Maximum rounding error of float32 relative to a scan's extent."""


def open_model(path: Path) -> Surface:
    """Open an OBJ, GLB or glTF file of at most 1 GiB, with its vertices in the file's order.

    Vertices without a colour of their own get the colour of their texture or material. Missing files and colours become
    warnings in `Surface.doubts`. The unit of glTF is one metre.

    Raises:
        DataError: The file is missing, damaged, compressed, or holds no vertices.
    """
    kind = path.suffix.lower().removeprefix(".")
    is_gltf = kind in ("glb", "gltf")
    data = read_file(path)
    model = read_gltf(data, path) if is_gltf else read_obj(data, path)
    if len(model.xyz) == 0:
        raise DataError(f"{path}: expected the vertices of a model in {kind.upper()}, found none")
    colors = color_model(model)
    return surface_in_memory(
        path,
        model.xyz if _needs_double(model.xyz) else model.xyz.astype(np.float32),
        colors.rgb,
        model.faces[: model.num_triangles],
        scale=1.0 if is_gltf else None,
        paint=colors.paint,
        doubts=colors.doubts,
    )


def _needs_double(xyz: npt.NDArray[np.float64]) -> bool:
    """Return whether float32 would lose precision: positions far from the origin relative to their extent."""
    finite = xyz[np.isfinite(xyz).all(axis=1)]
    if len(finite) == 0:
        return False
    low, high = finite.min(axis=0), finite.max(axis=0)
    with np.errstate(over="ignore"):
        reach, extent = float(np.maximum(np.abs(low), np.abs(high)).max()), float((high - low).max())
    single = np.finfo(np.float32)
    return reach > float(single.max) or reach * float(single.eps) > SINGLE_ERROR * extent
