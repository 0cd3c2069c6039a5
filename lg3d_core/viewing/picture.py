"""Picture of a scene for a paper: its layers in a grid from one camera, with titles and a legend."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import MissingDependencyError, SettingsError, printable
from lg3d_core.files import atomic_path
from lg3d_core.inference.heat_colors import ramp_colors
from lg3d_core.viewing.box_lines import BOX_LAYERS, boxes_in_sight, draw_lines, write_names
from lg3d_core.viewing.camera import ASPECT, FIELD_OF_VIEW, Camera
from lg3d_core.viewing.cutaway import hidden_from
from lg3d_core.viewing.fonts import load_font
from lg3d_core.viewing.layers import NEUTRAL, SceneView
from lg3d_core.viewing.open3d_buffers import render_buffers

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from lg3d_core.viewing.fonts import Font

PICTURE_LAYERS = ("colours", "truth", "prediction", "errors")
SAMPLE_LAYERS = ("colours", "truth", "instances", "augmentation")
"""Layers of a picture of a training sample."""
MAX_LEGEND = 30
"""Maximum number of classes in the legend: a poor network predicts many more, in invisible regions."""
SUPERSAMPLING = 2  # each pixel is the mean of 2 x 2 rendered pixels
EDGE_STRENGTH = 14.0
LegendLine = tuple[tuple[int, int, int] | None, str, str]
"""Optional colour, name and note."""
INK, QUIET = (29, 36, 48), (93, 103, 120)


def render_picture(
    view: SceneView, path: Path, *, layers: tuple[str, ...] | None = None, panel_width: int = 1000
) -> None:
    """Write a PNG of a scene's layers.

    The near walls and the ceiling are cut away. Class colours are exact, except for the shading.

    Args:
        view: Scene to draw.
        path: PNG file, written atomically.
        layers: Names of layers in reading order; by default the view's layers among `PICTURE_LAYERS` (`SAMPLE_LAYERS`
            for a training sample), or the colours and each heat if the view has heat.
        panel_width: Width of a panel in pixels, before white margins are trimmed.

    Raises:
        SettingsError: The view does not have a layer.
        DataError: The file cannot be written.
        MissingDependencyError: open3d, Pillow or OpenGL is missing.
    """
    usual: tuple[str, ...] = SAMPLE_LAYERS if "augmentation" in view.layers else PICTURE_LAYERS
    if view.heat:
        usual = ("colours", *view.heat_texts)
    shown = tuple(name for name in usual if name in view.layers) if layers is None else layers
    unknown = [name for name in shown if name not in view.layers]
    if unknown or not shown:
        raise SettingsError(
            f"{view.scene_id} has no layer {', '.join(unknown)}: it has {', '.join(view.layers)}", fields=("layer",)
        )
    panels = render_layers(view, shown, width=panel_width, height=round(panel_width / ASPECT))
    picture = compose(view, dict(zip(shown, panels, strict=True)))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def render_layers(view: SceneView, layers: tuple[str, ...], *, width: int, height: int) -> list[npt.NDArray[np.uint8]]:
    """Draw layers from the view's first camera on white, cropped to the same size, shape `(rows, columns, 3)` each.

    The layers of objects have boxes with names, if objects were predicted.

    The scene is rendered once as triangle numbers, from which every layer is coloured.
    """
    camera = view.camera
    hidden = hidden_from(camera.eye, view.xyz, view.outward)
    # The last corner of a triangle decides its class and whether it is cut, as on the page.
    faces = view.faces[~hidden[view.faces[:, 2]]]
    kept = np.flatnonzero(~hidden) if len(faces) == 0 else np.arange(len(view.xyz))
    smooth = [name for name in layers if view.is_smooth(name)]
    columns, rows = width * SUPERSAMPLING, height * SUPERSAMPLING
    pixels_per_metre = rows / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2)) / camera.distance
    buffers = render_buffers(
        view.xyz[kept],
        faces,
        camera,
        width=columns,
        height=rows,
        point_size=1.5 * view.spacing * pixels_per_metre,
        blends=[view.normal[kept] / 2 + 0.5, *(view.layers[name][kept] / 255.0 for name in smooth)],
    )
    shade = shade_normals(buffers.blends[0] * 2 - 1, camera)
    edges = _darken_edges(buffers.depth, radius=SUPERSAMPLING)
    seen = buffers.primitive >= 0
    corner = faces[:, 2] if len(faces) else kept
    blended = dict(zip(smooth, buffers.blends[1:], strict=True))
    lines = {
        name: draw_lines(boxes_in_sight(view, name, camera), camera, buffers.depth, thickness=2 * SUPERSAMPLING)
        for name in layers
        if name in BOX_LAYERS
    }
    drawn = np.logical_or.reduce([seen, *(own.strength > 0 for own in lines.values())])
    trim = _content(drawn, margin=8 * SUPERSAMPLING)
    panels = []
    for name in layers:
        if name in blended:
            strength = np.float32(0.6 if name == "colours" else 1.0)  # scanned colours contain the lighting already
            color = blended[name] * (1 - strength * (1 - shade[..., None]))
        else:
            color = view.layers[name][corner[buffers.primitive]] / np.float32(255) * shade[..., None]
        color = np.where(seen[..., None], np.clip(color * edges[..., None], 0, 1), np.float32(1))
        if name in lines:
            color = color + lines[name].strength[..., None] * (lines[name].ink - color)
        panel = _shrink(color[trim])
        if name in lines:
            top, left = trim[0].start, trim[1].start
            places = [
                (word, c, (x - left) / SUPERSAMPLING, (y - top) / SUPERSAMPLING) for word, c, x, y in lines[name].names
            ]
            panel = write_names(panel, places)
        panels.append(panel)
    return panels


def shade_normals(normal: npt.NDArray[np.floating], camera: Camera) -> npt.NDArray[np.float32]:
    """Return the brightness under a lamp above the viewer's left shoulder and some light from above.

    Args:
        normal: Normals of any length and sign, shape `(..., 3)`; zero vectors get full brightness.
        camera: Camera of the view.

    Returns:
        Brightness of about 0.7 to 1, float32, shape `(...)`.
    """
    length = np.linalg.norm(normal, axis=-1)
    unit = normal / np.maximum(length, 1e-3)[..., None]
    right, _, backward = camera.axes.astype(np.float32)
    side = np.where(unit @ backward < 0, np.float32(-1), np.float32(1))
    light = backward - 0.45 * right
    lamp = np.maximum(side * (unit @ (light / np.linalg.norm(light))), 0)
    shade = np.minimum(0.68 + 0.28 * lamp + 0.08 * np.maximum(side * unit[..., 2], 0), 1.02)
    return np.where(length > 0.3, shade, 1.0).astype(np.float32)


def _darken_edges(depth: npt.NDArray[np.float32], *, radius: int) -> npt.NDArray[np.float32]:
    """Darken pixels next to nearer surfaces, so that objects stand out from their background.

    Source: eye-dome lighting (Boucheny, 2009), two rings of eight neighbours.
    """
    log = np.log2(np.where(np.isfinite(depth), np.maximum(depth, 1e-3), np.float32(1e6)))
    total = np.zeros_like(log)
    for step in (radius, 2 * radius):
        padded = np.pad(log, step, mode="edge")
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            for sign in (-1, 1):
                y, x = step + sign * dy * step, step + sign * dx * step
                nearer = log - padded[y : y + log.shape[0], x : x + log.shape[1]]
                total += np.clip(nearer, 0, 0.25)
    darkened: npt.NDArray[np.float32] = np.maximum(np.exp(-EDGE_STRENGTH * total / 16), 0.45).astype(np.float32)
    return darkened


def _content(seen: npt.NDArray[np.bool_], *, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the visible scene, with a margin, in multiples of the supersampling."""
    slices = []
    for axis in (0, 1):
        filled = np.flatnonzero(seen.any(axis=1 - axis))
        low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, seen.shape[axis])
        low = max(0, low - margin) // SUPERSAMPLING * SUPERSAMPLING
        high = min(seen.shape[axis], -(-(high + margin) // SUPERSAMPLING) * SUPERSAMPLING)
        slices.append(slice(low, high))
    return slices[0], slices[1]


def _shrink(color: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    rows, columns = (size // SUPERSAMPLING for size in color.shape[:2])
    block = color[: rows * SUPERSAMPLING, : columns * SUPERSAMPLING]
    mean = block.reshape(rows, SUPERSAMPLING, columns, SUPERSAMPLING, 3).mean(axis=(1, 3))
    shrunk: npt.NDArray[np.uint8] = np.round(mean * 255).astype(np.uint8)
    return shrunk


def compose(view: SceneView, panels: dict[str, npt.NDArray[np.uint8]]) -> "Image":
    """Arrange panels in two columns (three panels in one row), with titles above and the legend below.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise MissingDependencyError("pictures need Pillow: pip install pillow, or pass --html FILE") from None
    height, width = next(iter(panels.values())).shape[:2]
    unit = max(12, round((width + 200) / 50))  # size of text and gaps, proportional to the picture
    font, bold = load_font(unit), load_font(round(unit * 1.25))
    columns = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // columns)
    gap = unit
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    noted = {
        name: width - _draw_note(scratch, view, name, (width, 0), available=width, font=font, unit=unit)
        for name in panels
    }
    titles = {name: " ".join(view.title(name).split()) for name in panels}  # a text may have several lines
    stacked = any(bold.getlength(titles[name]) + noted[name] + unit > width for name in panels)
    note_top = round(1.75 * unit) if stacked else 0  # below the titles if a title leaves no space
    title_height = 2 * unit + note_top
    page_width = columns * width + (columns + 1) * gap
    entries = legend_lines(view, panels)
    grid_bottom = gap + rows * (title_height + height)
    cell, line = _cell_width(entries, font, unit, page_width - 2 * gap), round(1.6 * unit)
    per_row = max(1, (page_width - 2 * gap) // cell)
    picture = Image.new("RGB", (page_width, grid_bottom + gap + -(-len(entries) // per_row) * line + gap), "white")
    draw = ImageDraw.Draw(picture)
    for k, (name, panel) in enumerate(panels.items()):
        left, top = gap + k % columns * (width + gap), gap + k // columns * (title_height + height)
        corner = (left + width, top + note_top)
        _draw_note(draw, view, name, corner, available=width, font=font, unit=unit)
        draw.text((left, top), shorten(titles[name], bold, width), font=bold, fill=INK)
        picture.paste(Image.fromarray(panel), (left, top + title_height))
    # Column by column, as a sorted legend is read.
    per_column = -(-len(entries) // per_row)
    for k, (color, name, note) in enumerate(entries):
        left, top = gap + k // max(per_column, 1) * cell, grid_bottom + gap + k % max(per_column, 1) * line
        _draw_entry(draw, (left, top), color, name, note, available=cell, font=font, unit=unit)
    return picture


def shorten(text: str, font: "Font", available: float) -> str:
    """Shorten a text with an ellipsis if it is too wide."""
    if font.getlength(text) <= available:
        return text
    while text and font.getlength(text + "…") > available:
        text = text[:-1]
    return text.rstrip() + "…"


def _draw_note(
    draw: "ImageDraw",
    view: SceneView,
    layer: str,
    corner: tuple[int, int],
    *,
    available: int,
    font: "Font",
    unit: int,
) -> int:
    """Draw the note of a layer flush right above its panel, which is `available` pixels wide; return its left edge."""
    right, top = corner
    key = view.key(layer)
    notes = [(color, name if share is None else f"{name} {_percent(share)}") for color, name, share in key.swatches]
    plain = {"colours": printable(view.scene_id)}
    if view.scores is not None:
        plain["prediction"] = f"mIoU {100 * view.scores.miou:.1f}"

    def write(text: str, end: int) -> int:
        draw.text((end, top + 0.75 * unit), text, font=font, fill=QUIET, anchor="rm")
        return end - round(font.getlength(text))

    if key.ramp:
        length = 6 * unit
        right = write(key.high, right) - unit // 2
        colors = ramp_colors(np.linspace(0, 1, length), key.ramp)
        for k, color in enumerate(colors.tolist()):
            x = right - length + k
            draw.line((x, top + unit // 4 + 1, x, top + unit + unit // 4), fill=tuple(color))
        right = write(key.low, right - length - unit // 2) - unit
    for color, text in reversed(notes):
        right = write(text, right) - round(1.5 * unit)
        _draw_swatch(draw, (right, top + unit // 4), color, unit)
        right -= unit
    if layer in plain:
        right = write(shorten(plain[layer], font, available), right) - unit
    return right


def legend_lines(view: SceneView, panels: dict[str, npt.NDArray[np.uint8]]) -> list[LegendLine]:
    """Return colour, name and note of the legend's lines: the largest classes by share, then unannotated vertices."""
    entries: list[LegendLine] = []
    if {"truth", "prediction"} & set(panels):
        guessed = "prediction" in panels or not view.scores
        legend = [entry for entry in view.legend if guessed or entry.share > 0]
        # "and 1 more" would take as much space as the name itself
        most = MAX_LEGEND if len(legend) > MAX_LEGEND + 1 else len(legend)
        for entry in legend[:most]:
            note = _percent(entry.share) if entry.iou is None else f"IoU {100 * entry.iou:.0f}"
            entries.append((entry.color, entry.name, note))
        if len(legend) > most:
            entries.append((None, f"and {len(legend) - most} more", ""))
    if "truth" in panels and (view.label < 0).any():
        entries.append((NEUTRAL, "unannotated", _percent(float((view.label < 0).mean()))))
    return entries


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _cell_width(entries: list[LegendLine], font: "Font", unit: int, available: int) -> int:
    """Return the width of the widest entry, extended so that whole columns fill the line."""
    longest = max((font.getlength(name) + font.getlength(note) for _, name, note in entries), default=0)
    wanted = longest + 4.5 * unit
    return int(available / max(1, available // wanted))


def _draw_entry(
    draw: "ImageDraw",
    corner: tuple[int, int],
    color: tuple[int, int, int] | None,
    name: str,
    note: str,
    *,
    available: int,
    font: "Font",
    unit: int,
) -> None:
    left, top = corner
    name = shorten(name, font, available - 2.1 * unit - font.getlength(note))
    if color is not None:
        _draw_swatch(draw, corner, color, unit)
    ink = QUIET if color is None else INK
    draw.text((left + 1.6 * unit, top + unit / 2), name, font=font, fill=ink, anchor="lm")
    offset = left + 2.1 * unit + font.getlength(name)
    draw.text((offset, top + unit / 2), note, font=font, fill=QUIET, anchor="lm")


def _draw_swatch(draw: "ImageDraw", corner: tuple[int, int], color: tuple[int, int, int], unit: int) -> None:
    left, top = corner
    outline = tuple(round(0.75 * channel) for channel in color)
    draw.rounded_rectangle((left, top, left + unit, top + unit), radius=unit // 4, fill=color, outline=outline)
