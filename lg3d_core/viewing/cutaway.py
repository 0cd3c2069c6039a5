"""Detection of surfaces that hide a room from outside: the cutaway view removes near walls and the ceiling."""

import numpy as np
import numpy.typing as npt

NEAR_HULL = 0.2  # metres: plaster, pictures, doors and window frames are this close to the room's hull
NUM_AZIMUTHS = 72
TILT = 0.75  # |cosine| from which a noisy vertex normal counts as vertical
ALIGNED = 0.5  # minimum |cosine| of a normal that faces out of the hull or into it
TRUSTED = 0.9  # share of the shell that must face inwards for the face orientation to be trusted


def find_outward(
    xyz: npt.NDArray[np.float32], normal: npt.NDArray[np.float32], instance: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return the outward direction of each vertex of a room's shell.

    The shell consists of the vertices on the hull of the floor plan or at its top whose normals are parallel to the
    hull's. Neither labels nor consistent normals are needed: CAD models orient faces arbitrarily. If the shell's faces
    are oriented consistently, as in real scans, every surface seen from behind is cut too. An object is cut completely
    (a door in its wall) or not at all (a cupboard at the wall).

    Args:
        xyz: Positions in metres, +z up, shape `(points, 3)`.
        normal: Unit normals, or zeros for missing ones, same shape.
        instance: Object number, 0 for none, shape `(points,)`.

    Returns:
        Unit vectors out of the room, zeros for vertices that are never cut, shape `(points, 3)`. A vertex is hidden
        while its vector points towards the camera. Nothing is cut from a scan that is thinner than 0.4 m.
    """
    outward = np.zeros((len(xyz), 3), dtype=np.float32)
    if len(xyz) < 3:
        return outward
    sample = xyz[:: max(1, len(xyz) // 20_000)].astype(np.float64)
    low, high = np.percentile(sample[:, 2], [0.2, 99.8])
    level = np.abs(normal[:, 2]) > TILT
    ceiling = level & (xyz[:, 2] > high - NEAR_HULL) & (xyz[:, 2] > low + 1.8)

    angles = np.arange(NUM_AZIMUTHS) * (2 * np.pi / NUM_AZIMUTHS)
    directions = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    reach = np.percentile(sample[:, :2] @ directions, 99.8, axis=0).astype(np.float32)
    if (reach + np.roll(reach, NUM_AZIMUTHS // 2)).min() < 2 * NEAR_HULL:  # a single wall has no inside
        return outward
    # For each vertex: the closest part of the hull with a matching normal, and the closest part of all.
    facing_gap, facing, any_gap, closest = (
        np.full(len(xyz), np.inf, dtype=np.float32),
        np.zeros(len(xyz), dtype=np.int64),
        np.full(len(xyz), np.inf, dtype=np.float32),
        np.zeros(len(xyz), dtype=np.int64),
    )
    for k in range(NUM_AZIMUTHS):
        aligned = np.abs(normal[:, :2] @ directions[:, k])
        gap = reach[k] - xyz[:, :2] @ directions[:, k]
        nearer = gap < any_gap
        any_gap[nearer], closest[nearer] = gap[nearer], k
        # A corner is near two walls: the closer one is used, unless the normal matches the other one.
        gap += 0.3 * (1 - aligned)
        nearer = (gap < facing_gap) & (aligned > ALIGNED)
        facing_gap[nearer], facing[nearer] = gap[nearer], k
    wall = ~level & (facing_gap < NEAR_HULL)

    flat = _majority(wall, instance)
    whole = flat & ~wall & (any_gap < 2 * NEAR_HULL) & (instance > 0)
    wall &= flat | (instance <= 0)
    outward[wall, :2] = directions.T[facing[wall]]
    outward[ceiling] = (0, 0, 1)

    floor = level & (xyz[:, 2] < low + NEAR_HULL)
    shell = wall | ceiling
    inwards = np.concatenate([(outward[shell] * normal[shell]).sum(axis=1) < 0, normal[floor, 2] > 0])
    if np.any(shell) and inwards.mean() > TRUSTED:
        outward[~shell] = -normal[~shell]
    outward[whole] = 0
    outward[whole, :2] = directions.T[closest[whole]]
    return outward


def _majority(mask: npt.NDArray[np.bool_], instance: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return whether the mask holds for most vertices of each vertex's object."""
    _, part = np.unique(instance, return_inverse=True)
    part = part.reshape(-1)
    share = np.bincount(part, weights=mask) / np.bincount(part)
    return (share > 0.5)[part]


def hidden_from(
    eye: npt.NDArray[np.float64], xyz: npt.NDArray[np.floating], outward: npt.NDArray[np.floating]
) -> npt.NDArray[np.bool_]:
    """Return the mask of rows that a camera at `eye` sees from outside, shape `(points,)`."""
    hidden: npt.NDArray[np.bool_] = ((eye - xyz) * outward).sum(axis=1) > 0
    return hidden
