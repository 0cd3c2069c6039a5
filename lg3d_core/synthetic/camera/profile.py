"""Properties of one scan: the camera, its errors and the resolution of the mesh."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class CameraProfile:
    """Camera and its user. Lengths in metres, angles in radians, colours in 0..1."""

    field_of_view: float
    """Horizontal opening angle."""
    frame_size: tuple[int, int]
    """Columns and rows of a depth frame."""
    frames_per_area: float
    """Frames for each square metre of floor."""
    voxel_size: float
    """Voxel edge of the fused volume."""
    spacing: float
    """Edge of the cells whose vertices are merged after the fusion."""
    truncation: float
    """Truncation distance of the signed distance, in voxels."""
    noise: float
    """Depth noise, as a factor of a structured-light camera's."""
    warp: float
    """Standard deviation of the smooth depth error, as a share of the depth."""
    quantization: float
    """Step of the depth values at 1 m; it grows with the square of the depth."""
    far: float
    """Depth beyond which nothing is measured."""
    dropout: float
    """Factor of the probability that a surface returns no depth."""
    smoothing: int
    """Edge in pixels of the blocks over which depth is averaged, as in a phone's coarse depth sensor; 1 for none."""
    drift: float
    """Standard deviation of the position error."""
    tilt: float
    """Standard deviation of the rotation error."""
    jumps: int
    """Number of jumps of the position error; surfaces that are seen before and after a jump are doubled."""
    looks_up: float
    """Weight of views to the ceiling, relative to any other surface."""
    exposure: float
    """Standard deviation of the drifting exposure and white balance."""
    brightness: float
    """Target mean of the automatic exposure."""
    blur: float
    """Share of the motion between two frames over which colours are smeared."""
    vignette: float
    """Loss of brightness in the corners of a frame."""
    min_weight: float
    """Minimum number of frames that have seen a voxel."""
    smallest_component: int
    """Minimum number of vertices of a connected component."""


def draw_profile(rng: np.random.Generator, *, held_out: bool) -> CameraProfile:
    """Return a random camera; `held_out` cameras have another opening angle, noise, drift and resolution."""

    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    phone = rng.random() < 0.3
    voxel = u(0.0165, 0.0185) if held_out else (u(0.012, 0.016) if rng.random() < 0.55 else u(0.019, 0.023))
    return CameraProfile(
        field_of_view=np.radians(u(64, 68) if held_out else u(54, 63)),
        frame_size=(256, 192) if rng.random() < 0.6 else (320, 240),
        frames_per_area=u(17, 28),
        voxel_size=voxel,
        spacing=max(u(0.019, 0.026), 1.05 * voxel),
        truncation=u(3.2, 5.0),
        noise=(u(1.3, 1.6) if held_out else u(0.4, 1.3)) * (0.4 if phone else 1.0),
        warp=u(0.002, 0.007),
        quantization=0.0 if phone else u(0.0005, 0.002),
        far=u(3.8, 5.2) if phone else u(3.3, 4.8),
        dropout=(u(0.2, 0.5) if phone else u(0.6, 1.3)),
        smoothing=int(rng.integers(3, 7)) if phone else 1,
        drift=u(0.009, 0.012) if held_out else u(0.001, 0.009) if rng.random() < 0.7 else u(0.012, 0.018),
        tilt=np.radians(u(0.05, 0.3)),
        jumps=int(rng.integers(0, 3)),
        looks_up=0.0 if rng.random() < 0.7 else u(0.1, 0.8),
        exposure=u(0.02, 0.14),
        brightness=u(0.26, 0.5),
        blur=u(0.1, 0.7),
        vignette=u(0.05, 0.4),
        min_weight=float(rng.choice([1.5, 2.5, 3.5])),
        smallest_component=int(rng.integers(60, 500)),
    )
