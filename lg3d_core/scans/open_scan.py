"""Opening of a scan by its file suffix."""

from collections.abc import Callable
from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.scans.e57 import open_e57
from lg3d_core.scans.las import open_las
from lg3d_core.scans.models import open_model
from lg3d_core.scans.pcd import open_pcd
from lg3d_core.scans.ply import open_ply
from lg3d_core.scans.surface import Surface

OPENERS: dict[str, Callable[[Path], Surface]] = {
    ".ply": open_ply,
    ".pcd": open_pcd,
    ".obj": open_model,
    ".glb": open_model,
    ".gltf": open_model,
    ".las": open_las,
    ".laz": open_las,
    ".e57": open_e57,
}


def open_scan(path: Path) -> Surface:
    """Open a PLY, PCD, OBJ, GLB, glTF, LAS, LAZ or E57 file.

    Raises:
        DataError: The file is missing, damaged, of an unknown format, or has no vertices.
        MissingDependencyError: The package that reads its format is not installed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        known = ", ".join(suffix.removeprefix(".").upper() for suffix in OPENERS)
        if path.is_dir():
            raise DataError(f"{path}: expected a file in one of {known}, found a folder: pass the scans in it")
        found = f"the suffix {path.suffix!r}" if path.suffix else "a name without suffix"
        raise DataError(f"{path}: expected a scan in one of {known}, found {found}: convert or rename it")
    surface = opener(path)
    if surface.num_vertices == 0:
        raise DataError(f"{path}: the scan has no vertices")
    return surface
