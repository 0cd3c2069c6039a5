"""Colours of heat, the same in files, pictures, pages and windows."""

import numpy as np
import numpy.typing as npt

# Light grey over amber and red to dark plum: more heat is darker, also in greyscale.
HEAT_STOPS = ((226, 228, 231), (240, 208, 140), (236, 146, 62), (198, 54, 46), (98, 14, 66))


def ramp_colors(
    values: npt.NDArray[np.floating], colors: tuple[tuple[int, int, int], ...] = HEAT_STOPS
) -> npt.NDArray[np.uint8]:
    """Interpolate along a colour ramp of equally spaced stops, for values in 0..1, shape `(points, 3)`."""
    position = np.clip(np.nan_to_num(values), 0, 1)
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(position, stops, stop) for stop in zip(*colors, strict=True)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)
