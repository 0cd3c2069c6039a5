"""Which surfaces hide the room from outside: the doll's house view takes the near walls and the ceiling away."""

import numpy as np
import numpy.typing as npt

NEAR_HULL = 0.18  # metres: plaster, pictures, doors and window frames lie this close to the room's hull
NUM_AZIMUTHS = 72
STEEP = 0.85  # |normal z| from which a surface counts as horizontal
TRUSTED = 0.9  # share of the shell that must face inwards before the winding of all faces is believed


def find_outward(xyz: npt.NDArray[np.float32], normal: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Tell which way out of the room each vertex of its shell faces.

    A vertex lies on the shell where nothing of the scene is further out along its normal or against it (but for
    outliers). Labels are not needed, nor are normals that all point the same way: CAD models wind their faces either
    way. Where the shell shows that the winding is sound, as in real scans, every surface seen from behind is cut too.

    Args:
        xyz: Positions in metres, +z up, shape `(points, 3)`.
        normal: Unit normals, or zeros where there are none, same shape.

    Returns:
        `(points,)`: +1 where `normal` points out of the room, -1 where its opposite does, 0 for what is never cut. A
        vertex is hidden while its outward side faces the camera.
    """
    outward = np.zeros(len(xyz), dtype=np.int8)
    if len(xyz) < 3:
        return outward
    sample = xyz[:: max(1, len(xyz) // 20_000)].astype(np.float64)
    low, high = np.percentile(sample[:, 2], [0.2, 99.8])
    level = np.abs(normal[:, 2]) > STEEP
    ceiling = level & (xyz[:, 2] > high - NEAR_HULL) & (xyz[:, 2] > low + 1.8)
    outward[ceiling] = np.where(normal[ceiling, 2] >= 0, 1, -1)

    angles = np.arange(NUM_AZIMUTHS) * (2 * np.pi / NUM_AZIMUTHS)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    reach = np.percentile(sample[:, :2] @ directions, 99.8, axis=0)
    upright = np.flatnonzero((np.abs(normal[:, 2]) < 1 - STEEP) & (np.abs(normal).sum(axis=1) > 0))
    azimuth = np.arctan2(normal[upright, 1], normal[upright, 0])
    for sign in (1, -1):
        nearest = np.round((azimuth + (0 if sign == 1 else np.pi)) / (2 * np.pi) * NUM_AZIMUTHS).astype(int)
        nearest %= NUM_AZIMUTHS
        along = (xyz[upright, :2] * directions.T[nearest]).sum(axis=1)
        outward[upright[reach[nearest] - along < NEAR_HULL]] = sign
    floor = level & (xyz[:, 2] < low + NEAR_HULL)
    inwards = np.concatenate([outward[outward != 0] < 0, normal[floor, 2] > 0])
    if len(inwards) and inwards.mean() > TRUSTED and np.any(outward):
        outward[(outward == 0) & (np.abs(normal).sum(axis=1) > 0)] = -1
    return outward


def hidden_from(
    eye: npt.NDArray[np.float64],
    xyz: npt.NDArray[np.floating],
    normal: npt.NDArray[np.floating],
    outward: npt.NDArray[np.integer],
) -> npt.NDArray[np.bool_]:
    """Rows whose outward side faces a camera at `eye`, shape `(points,)`."""
    facing = ((eye - xyz) * normal).sum(axis=1)
    hidden: npt.NDArray[np.bool_] = facing * outward > 0
    return hidden
