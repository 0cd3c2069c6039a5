"""Pictures of a textured scan, decoded on demand within limits on pixels and memory."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, first_line

MAX_PICTURE_PIXELS = 1 << 28
"""Maximum pixels of one picture, e.g. 16384 x 16384."""
MAX_PIXELS = 1 << 31
"""Maximum pixels of all pictures of a scan, e.g. 128 pictures of 4096 x 4096."""
KEPT_PIXELS = 1 << 27
"""Pixels that are cached, besides the last picture, at 3 bytes each."""
STRIP_PIXELS = 1 << 22
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF", "DDS", "PPM", "JPEG2000", "AVIF")
"""Allowed formats; some of Pillow's other formats start external programs or hold no picture."""
UNSUPPORTED = {b"\xabKTX 20": "KTX2", b"\xabKTX 11": "KTX", b"sB": "Basis", b"#?RADIANCE": "HDR", b"v/1\x01": "EXR"}
"""Formats that scans use and Pillow cannot decode, by their first bytes."""
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Errors that Pillow raises for damaged pictures."""


class PictureSource(NamedTuple):
    """Undecoded picture.

    Attributes:
        name: Name for messages.
        read: Returns the bytes of the file, or raises DataError.
    """

    name: str
    read: Callable[[], bytes]


class Pictures:
    """Decoded pictures of a scan."""

    def __init__(self, sources: Sequence[PictureSource]) -> None:
        self._sources = sources
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}
        self._sizes: dict[int, int] = {}
        self.problems: dict[int, str] = {}
        """Reason why a picture cannot be used, by its index."""

    def pixels(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Return a picture, shape `(height, width, 3)`, or None after adding an entry to `problems`."""
        if index in self.problems:
            return None
        if index not in self._kept:
            try:
                self._keep(index, self._decode(index))
            except DataError as error:
                self.problems[index] = str(error)
                return None
        return self._kept[index]

    def _keep(self, index: int, pixels: npt.NDArray[np.uint8]) -> None:
        while self._kept and sum(kept.size for kept in self._kept.values()) + pixels.size > 3 * KEPT_PIXELS:
            del self._kept[next(iter(self._kept))]
        self._kept[index] = pixels

    def _decode(self, index: int) -> npt.NDArray[np.uint8]:
        from PIL import Image

        name, read = self._sources[index]
        data = read()
        for magic, kind in UNSUPPORTED.items():
            if data.startswith(magic):
                raise DataError(f"{name} has the format {kind}, expected PNG, JPEG or WebP")
        Image.init()
        formats = [kind for kind in FORMATS if kind in Image.OPEN]
        limit = Image.MAX_IMAGE_PIXELS
        try:
            Image.MAX_IMAGE_PIXELS = None  # scans have larger pictures; this module has limits of its own
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=formats) as image:
                    width, height = image.size
                    if width * height > MAX_PICTURE_PIXELS:
                        raise DataError(f"{name} has {width} x {height} pixels, expected at most {MAX_PICTURE_PIXELS}")
                    self._sizes[index] = width * height
                    if sum(self._sizes.values()) > MAX_PIXELS:
                        raise DataError(f"{name} exceeds the limit of {MAX_PIXELS} pixels for all pictures together")
                    return _as_rgb(image)
        except UNREADABLE as error:
            reason = first_line(error)
            if type(error).__name__ == "UnidentifiedImageError":
                reason = "unknown format" if data else "empty file"
            raise DataError(f"{name} cannot be decoded ({reason})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _as_rgb(image: "object") -> npt.NDArray[np.uint8]:
    """Convert a picture to RGB in strips: a whole copy in Pillow would need 4 more bytes per pixel."""
    from PIL import Image

    assert isinstance(image, Image.Image)
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        if strip.mode.startswith("I"):  # 16-bit grey
            grey = np.clip(np.asarray(strip).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
            pixels[top : top + rows] = grey[:, :, None]
        elif strip.mode == "F":
            values = np.nan_to_num(np.asarray(strip), nan=0.0, posinf=1.0, neginf=0.0)
            pixels[top : top + rows] = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)[:, :, None]
        else:
            pixels[top : top + rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels
