"""Text anchors from class names. Torch is imported only when a text encoder runs."""

from lg3d_core.language.anchors_file import Anchors, load_anchors, project_anchors, require_vocabulary, save_anchors
from lg3d_core.language.bundled import load_bundled_anchors
from lg3d_core.language.neighbours import Neighbour, nearest_names

__all__ = [
    "Anchors",
    "Neighbour",
    "load_anchors",
    "load_bundled_anchors",
    "nearest_names",
    "project_anchors",
    "require_vocabulary",
    "save_anchors",
]
