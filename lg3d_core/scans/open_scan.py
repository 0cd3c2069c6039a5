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


def require_scan(path: Path) -> None:
    """Check that a scan file exists, has a known suffix and can be opened, without reading it.

    Raises:
        DataError: It does not; the message states why.
    """
    known = ", ".join(suffix.removeprefix(".").upper() for suffix in OPENERS)
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if path.is_dir():
            raise DataError(f"{path}: expected a file in one of {known}, found a folder: pass the scans in it")
        if not path.is_file():
            raise DataError(f"{path}: expected a file in one of {known}, found a pipe or device: write it to a file")
        if path.suffix.lower() not in OPENERS:
            found = f"the suffix {path.suffix!r}" if path.suffix else "a name without suffix"
            raise DataError(f"{path}: expected a scan in one of {known}, found {found}: convert or rename it")
        path.open("rb").close()
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty: copy or export it again")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def open_scan(path: Path) -> Surface:
    """Open a PLY, PCD, OBJ, GLB, glTF, LAS, LAZ or E57 file.

    Raises:
        DataError: The file is missing, damaged, of an unknown format, or has no vertices.
        MissingDependencyError: The package that reads its format is not installed.
    """
    require_scan(path)
    surface = OPENERS[path.suffix.lower()](path)
    if surface.num_vertices == 0:
        raise DataError(f"{path}: the scan has no vertices")
    return surface
