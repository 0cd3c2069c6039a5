"""Pictures, web pages and windows of scenes, which share one set of layers."""

from lg3d_core.viewing.layers import LegendEntry, SceneView, build_view
from lg3d_core.viewing.page import write_page
from lg3d_core.viewing.picture import render_picture
from lg3d_core.viewing.server import PageServer, serve_view
from lg3d_core.viewing.window import has_display, open_window

__all__ = [
    "LegendEntry",
    "PageServer",
    "SceneView",
    "build_view",
    "has_display",
    "open_window",
    "render_picture",
    "serve_view",
    "write_page",
]
