"""Boxes of objects in a picture: lines with the depth of the scene, and names above them."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera
from lg3d_core.viewing.fonts import load_font
from lg3d_core.viewing.objects import ShownObject, place_objects

if TYPE_CHECKING:
    from lg3d_core.viewing.layers import SceneView

BOX_LAYERS = ("instances", "objects")
"""Layers whose boxes are drawn in a picture, if objects were predicted."""
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of `Box.corners`."""
HIDDEN = 0.22
"""Strength of a line behind a surface."""
SLACK = 0.03
"""Distance in metres that a line may lie behind a surface and still be in front: edges lie on the object's surfaces."""
INK = 0.72
"""Brightness of a line relative to the object's colour."""
Color = tuple[int, int, int]


class Lines(NamedTuple):
    """Lines of boxes as an image.

    Attributes:
        strength: Opacity of each pixel, 0..1, float32 `(rows, columns)`.
        ink: Colour of each pixel, 0..1, float32 `(rows, columns, 3)`.
        names: Name, colour, and x and y of the middle of each box's top, nearest first.
    """

    strength: npt.NDArray[np.float32]
    ink: npt.NDArray[np.float32]
    names: list[tuple[str, Color, float, float]]


def boxes_in_sight(view: "SceneView", layer: str, camera: Camera) -> list[tuple[ShownObject, Color]]:
    """Return the objects of a layer that are not cut away with the near walls, with their colours."""
    if view.object_number is None or layer not in BOX_LAYERS:
        return []
    placed = place_objects(view, layer)
    return [
        (one, placed[one.number].color)
        for one in view.boxes(layer)
        if one.number in placed and not placed[one.number].is_cut(one.box, camera.eye)
    ]


def draw_lines(
    objects: list[tuple[ShownObject, Color]],
    camera: Camera,
    depth: npt.NDArray[np.float32],
    *,
    thickness: int,
) -> Lines:
    """Draw the edges of boxes; those behind a surface are faint.

    Args:
        objects: Objects with their colours.
        camera: Camera of the picture.
        depth: Distance of the scene in front of the camera in metres, infinite for none, shape `(rows, columns)`.
        thickness: Thickness of a line in pixels.
    """
    height, width = depth.shape
    strength = np.zeros((height, width), dtype=np.float32)
    ink = np.ones((height, width, 3), dtype=np.float32)
    named = []
    drawn: list[
        tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.float32]]
    ] = []
    for one, color in objects:
        corners = one.box.corners
        ends = project(corners, camera, width=width, height=height)
        if (ends[:, 2] <= 0).any():
            continue
        own = np.array(color, dtype=np.float32) * np.float32(INK / 255)
        for a, b in EDGES:
            steps = int(2 * math.hypot(*(ends[a, :2] - ends[b, :2]))) + 2
            along = np.linspace(0, 1, min(steps, 4 * (width + height)))[:, None]
            x, y, away = project(corners[a] + along * (corners[b] - corners[a]), camera, width=width, height=height).T
            for dy in range(thickness):
                for dx in range(thickness):
                    row, column = (
                        np.floor(v + d - thickness / 2 + 0.5).astype(np.int64) for v, d in ((y, dy), (x, dx))
                    )
                    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                    row, column = row[inside], column[inside]
                    drawn.append((row, column, away[inside] <= depth[row, column] + SLACK, own))
        x, y, away = project(
            one.box.centre[None] + np.array([0, 0, one.box.size[2] / 2]), camera, width=width, height=height
        )[0]
        named.append((away, one.name, color, x, y))
    for visible in (False, True):
        for row, column, front, own in drawn:
            rows, columns = row[front == visible], column[front == visible]
            strength[rows, columns] = 1 if visible else HIDDEN
            ink[rows, columns] = own
    named.sort(key=lambda item: item[0])
    names = [(name, color, float(x), float(y)) for _, name, color, x, y in named]
    return Lines(strength, ink, names)


def project(xyz: npt.NDArray[np.floating], camera: Camera, *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Return x and y in pixels and the distance in front of the camera in metres, shape `(points, 3)`."""
    place = camera.to_view(xyz)
    away = -place[:, 2]
    scale = height / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2)) / np.where(away > 0, away, np.inf)
    return np.column_stack([width / 2 + place[:, 0] * scale, height / 2 - place[:, 1] * scale, away])


def write_names(panel: npt.NDArray[np.uint8], names: list[tuple[str, Color, float, float]]) -> npt.NDArray[np.uint8]:
    """Write names above their positions, nearest first, each only where it covers no other; return the new panel."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    size = max(12, round(panel.shape[1] / 55))
    font = load_font(size)
    taken: list[tuple[float, float, float, float]] = []
    for name, color, x, y in names:
        half = font.getlength(name) / 2 + 3
        box = (x - half, y - 1.4 * size, x + half, y)
        if box[0] < 0 or box[1] < 0 or box[2] > panel.shape[1] or box[3] > panel.shape[0]:
            continue
        if any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken):
            continue
        taken.append(box)
        ink = tuple(round(0.45 * channel) for channel in color)
        draw.text((x, y - 0.2 * size), name, font=font, fill=ink, anchor="ms", stroke_width=2, stroke_fill="white")
    return np.asarray(picture)
