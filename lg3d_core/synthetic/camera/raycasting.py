"""The only place of the generator that loads open3d."""

from typing import Any

from lg3d_core.errors import MissingDependencyError
from lg3d_core.synthetic.shapes import Array, IntArray


def import_open3d() -> Any:
    """Return the module open3d.

    Raises:
        MissingDependencyError: It is not installed, or a library of the system is missing.
    """
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--scanned needs open3d, and {error.name} is not installed: pip install 'lg3d[view-cpu]' "
            "(or 'lg3d[view]' where there is no open3d-cpu), or leave --scanned out"
        ) from None
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MissingDependencyError(
            f"open3d cannot load ({reason}): apt-get install libusb-1.0-0 libgl1 libegl1, or leave --scanned out"
        ) from None
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


def build_scene(xyz: Array, faces: IntArray) -> Any:
    """Return an open3d `RaycastingScene` of one mesh, for one thread."""
    core = import_open3d().core
    scene = import_open3d().t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(core.Tensor(xyz.astype("float32")), core.Tensor(faces.astype("uint32")))
    return scene
