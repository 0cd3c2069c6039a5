"""Ray casting with open3d, which no other module of the generator imports."""

from typing import Any

from lg3d_core.errors import MissingDependencyError, first_line
from lg3d_core.synthetic.shapes import Array, IntArray


def import_open3d() -> Any:
    """Import open3d.

    Raises:
        MissingDependencyError: open3d is not installed, or a system library is missing.
    """
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--scanned needs open3d, and {error.name} is not installed: pip install 'lg3d[view-cpu]' "
            "(or 'lg3d[view]' where there is no open3d-cpu), or omit --scanned"
        ) from None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"open3d cannot load ({first_line(error)}): apt-get install libusb-1.0-0 libgl1 libegl1, or omit --scanned"
        ) from None
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


def build_scene(xyz: Array, faces: IntArray) -> Any:
    """Return an open3d `RaycastingScene` of one mesh, for one thread."""
    core = import_open3d().core
    scene = import_open3d().t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(core.Tensor(xyz.astype("float32")), core.Tensor(faces.astype("uint32")))
    return scene
