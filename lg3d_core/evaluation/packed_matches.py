"""Matches of scenes as one array, to send them between processes and to store them."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.instances import SceneMatches

INTEGERS, FLOATS = np.zeros(0, dtype=np.int64), np.zeros(0)
NO_MATCHES = SceneMatches(INTEGERS, INTEGERS, FLOATS, FLOATS, INTEGERS, INTEGERS, FLOATS)
"""Matches of a scene without objects and predictions."""


def pack_matches(scenes: Sequence[SceneMatches]) -> npt.NDArray[np.float64]:
    """Return one array with, for each scene, the lengths of its columns and then their values.

    Integers below 2^53 are exact.
    """
    parts = [part for scene in scenes for part in ([len(column) for column in scene], *scene)]
    return np.concatenate([FLOATS, *parts]).astype(np.float64)


def unpack_matches(packed: npt.NDArray[np.float64], num_scenes: int) -> list[SceneMatches]:
    """Return the matches of scenes from the output of `pack_matches`; further values are ignored.

    Raises:
        ValueError: The array does not have the matches of so many scenes.
    """
    scenes, start, width = [], 0, len(NO_MATCHES)
    for _ in range(num_scenes):
        lengths = packed[start : start + width]
        ends = start + width + np.append(0, np.cumsum(lengths)).astype(np.int64)
        if len(lengths) < width or (lengths < 0).any() or ends[-1] > len(packed):
            raise ValueError("the packed matches are truncated")
        columns = zip(NO_MATCHES, itertools.pairwise(ends.tolist()), strict=True)
        scenes.append(SceneMatches._make(packed[first:last].astype(empty.dtype) for empty, (first, last) in columns))
        start = int(ends[-1])
    return scenes
