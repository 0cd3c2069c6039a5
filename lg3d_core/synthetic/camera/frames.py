"""Depth and colour frames of a room with the errors of a hand-held camera."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.synthetic.camera.path import CameraPath, camera_matrix
from lg3d_core.synthetic.camera.profile import CameraProfile
from lg3d_core.synthetic.camera.raycasting import import_open3d
from lg3d_core.synthetic.shapes import Array, IntArray

NEAR = 0.4
"""Minimum measured depth in metres."""
LEAST_VALID = 0.12
"""Minimum share of valid depth; other frames are dropped."""

Float32 = npt.NDArray[np.float32]


class Source(NamedTuple):
    """Surfaces that the camera sees.

    Attributes:
        xyz: Positions in metres, shape `(vertices, 3)`.
        faces: Triangles, shape `(faces, 3)`.
        rgb: Lit colours in 0..1, shape `(vertices, 3)`, float32.
        dropout: Probability that a vertex returns no depth, shape `(vertices,)`, float32.
    """

    xyz: Array
    faces: IntArray
    rgb: Float32
    dropout: Float32


class Frame(NamedTuple):
    """Frame in the form that the fusion receives.

    Attributes:
        depth: Depth in metres, 0 for missing values, shape `(rows, columns)`, float32.
        rgb: Colours in 0..1, shape `(rows, columns, 3)`, float32.
        extrinsic: Estimated world-to-camera matrix, shape `(4, 4)`.
        faces: Row of the face of every pixel with valid depth.
    """

    depth: Float32
    rgb: Float32
    extrinsic: Array
    faces: IntArray


def intrinsic_matrix(profile: CameraProfile) -> Array:
    """Return the pinhole matrix of the frames, shape `(3, 3)`."""
    columns, rows = profile.frame_size
    focal = 0.5 * columns / np.tan(0.5 * profile.field_of_view)
    return np.array([[focal, 0.0, columns / 2], [0.0, focal, rows / 2], [0.0, 0.0, 1.0]])


def take_frames(
    source: Source, scene: Any, path: CameraPath, profile: CameraProfile, rng: np.random.Generator
) -> Iterator[Frame]:
    """Yield the frames along a path, except dropped ones."""
    core = import_open3d().core
    columns, rows = profile.frame_size
    intrinsic = intrinsic_matrix(profile)
    vertical, horizontal = np.mgrid[0:rows, 0:columns].astype(np.float32)
    slope_x, slope_y = (horizontal - columns / 2) / intrinsic[0, 0], (vertical - rows / 2) / intrinsic[1, 1]
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    radius = (slope_x**2 + slope_y**2) / (slope_x[0, 0] ** 2 + slope_y[0, 0] ** 2)
    vignette = 1 - profile.vignette * radius
    lens = 1 + 0.5 * profile.warp * _smooth_field(rng, rows, columns, 5)
    walk = _PoseError(len(path.eye), profile, rng)
    light = _ColorDrift(profile, rng)
    misaligned = rng.integers(-3, 4, size=2)
    tint = 1 + 0.05 * rng.normal(size=3)
    corner_rgb = source.rgb[source.faces].reshape(-1, 9)
    face_dropout = source.dropout[source.faces[:, 0]]
    skipping = 0
    for n, (eye, angles) in enumerate(zip(path.eye, path.angles, strict=True)):
        gain = light.step()
        if skipping == 0 and rng.random() < 0.015:
            skipping = int(rng.integers(2, 10))
        if skipping > 0:
            skipping -= 1
            continue
        truth = camera_matrix(eye, angles)
        rays = scene.create_rays_pinhole(core.Tensor(intrinsic), core.Tensor(truth), columns, rows)
        answer = scene.cast_rays(rays)
        depth = answer["t_hit"].numpy()
        hit = depth < 12.0
        face = np.where(hit, answer["primitive_ids"].numpy(), 0).astype(np.int64)
        depth = np.where(hit, depth, 0).astype(np.float32)
        facing = np.abs(_dot(answer["primitive_normals"].numpy(), rays.numpy()[..., 3:])) / length
        depth = _measure(depth, hit, facing, face_dropout[face], profile, lens, rng)
        if (depth > 0).mean() < LEAST_VALID:
            continue
        rgb = _interpolate(corner_rgb, face, answer["primitive_uvs"].numpy())
        np.copyto(rgb, 0.9, where=~hit)
        picture = _expose(rgb, gain * tint, profile.brightness, vignette, misaligned)
        if n:
            picture = _smear(picture, angles - path.angles[n - 1], intrinsic[0, 0], profile.blur)
        noisy = 0.015 * rng.standard_normal((rows, columns, 3))
        noisy += picture.transpose(1, 2, 0)
        image = np.clip(noisy, 0, 1, out=noisy).astype(np.float32)
        yield Frame(depth, image, walk.apply(truth, eye, n), face[depth > 0])


def _dot(a: Float32, b: Float32) -> Float32:
    """Return the scalar products along the last axis, which has three entries."""
    product: Float32 = a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]
    return product


def _interpolate(corner_rgb: Float32, face: IntArray, weights: Float32) -> Float32:
    """Interpolate the colours at the corners of faces.

    Args:
        corner_rgb: Colours of the three corners of every face, shape `(faces, 9)`.
        face: Face of every pixel, shape `(rows, columns)`.
        weights: Weights of the second and the third corner, shape `(rows, columns, 2)`.

    Returns:
        Colours, shape `(3, rows, columns)`: operations on whole channels are several times faster.
    """
    corners = corner_rgb.take(face, axis=0)
    second, third = weights[..., 0], weights[..., 1]
    first = 1 - second - third
    rgb = np.empty((3, *face.shape), dtype=np.float32)
    for c, channel in enumerate(rgb):
        np.multiply(corners[..., c], first, out=channel)
        channel += corners[..., 3 + c] * second
        channel += corners[..., 6 + c] * third
    return rgb


def _measure(
    depth: Float32,
    hit: npt.NDArray[np.bool_],
    facing: Float32,
    dropout: Float32,
    profile: CameraProfile,
    lens: Array,
    rng: np.random.Generator,
) -> Float32:
    """Return depth with noise and holes."""
    rows, columns = depth.shape
    valid = hit & (depth > NEAR) & (depth < profile.far)
    across, down = np.zeros_like(depth), np.zeros_like(depth)
    across[:, 1:], down[1:] = np.abs(np.diff(depth, axis=1)), np.abs(np.diff(depth, axis=0))
    edge = (across > 0.03 + 0.03 * depth) | (down > 0.03 + 0.03 * depth)
    edge[:, :-1] |= edge[:, 1:]
    edge[:-1] |= edge[1:]
    patches = 0.5 + 0.22 * _smooth_field(rng, rows, columns, 12)
    chance = 0.55 * rng.random(depth.shape, dtype=np.float32) + 0.45 * patches
    grazing = np.clip((0.28 - facing) / 0.22, 0, 1)
    distant = np.clip((depth - 0.8 * profile.far) / (0.3 * profile.far), 0, 0.8)
    lost = np.maximum(np.maximum(grazing, distant), np.maximum(dropout, np.where(edge, 0.7, 0.0))) * profile.dropout
    valid &= chance > lost
    if profile.smoothing > 1:
        depth = _average_blocks(depth, hit & (depth < 1.3 * profile.far), profile.smoothing)
    shift = rng.integers(-1, 2, size=2)
    moved = np.roll(depth, tuple(int(s) for s in shift), axis=(0, 1))
    depth = np.asarray(
        np.where(np.abs(moved - depth) < 0.3, moved, depth), dtype=np.float32
    )  # edges are displaced by up to a pixel
    sigma = profile.noise * (0.0012 + 0.0019 * np.square(depth - NEAR)) / np.clip(facing, 0.3, 1.0)
    noise = rng.standard_normal(depth.shape, dtype=np.float32)
    noise = 0.6 * noise + 0.8 * np.repeat(np.repeat(noise[::3, ::3], 3, 0), 3, 1)[:rows, :columns]
    scale = lens + profile.warp * _smooth_field(rng, rows, columns, 4)
    measured: Array = depth.astype(np.float64) * scale + sigma * noise
    if profile.quantization > 0:
        step = profile.quantization * np.square(np.maximum(measured, 0.3))
        measured = np.rint(measured / step) * step
    return np.ascontiguousarray(np.where(valid, measured, 0).astype(np.float32))


def _average_blocks(depth: Float32, valid: npt.NDArray[np.bool_], edge: int) -> Float32:
    """Average depth over blocks and interpolate between them, which rounds off edges as a coarse sensor does."""
    rows, columns = depth.shape
    low, across = -(-rows // edge), -(-columns // edge)
    padded = np.zeros((2, low * edge, across * edge), dtype=np.float32)
    padded[0, :rows, :columns], padded[1, :rows, :columns] = depth * valid, valid
    sums = padded.reshape(2, low, edge, across, edge).sum(axis=(2, 4))
    mean = sums[0] / np.maximum(sums[1], 1)
    mean[sums[1] == 0] = mean.max(initial=0.0)
    up, left = _interpolation(rows, low), _interpolation(columns, across)
    smooth = (up @ mean @ left.T).astype(np.float32)
    return np.where(np.abs(smooth - depth) < 0.25, smooth, depth)


@lru_cache(maxsize=32)
def _interpolation(fine: int, coarse: int) -> Array:
    """Return the matrix that interpolates `coarse` values linearly at `fine` positions, shape `(fine, coarse)`."""
    place = np.linspace(0, coarse - 1, fine)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(coarse)))


def _smooth_field(rng: np.random.Generator, rows: int, columns: int, waves: int) -> Array:
    """Return a smooth random image with a standard deviation of about 1."""
    grid = 1.5 * rng.standard_normal((max(2, round(waves * 0.75)), waves))
    field: Array = _interpolation(rows, len(grid)) @ grid @ _interpolation(columns, waves).T
    return field


def _expose(rgb: Float32, gain: Array, brightness: float, vignette: Array, misaligned: IntArray) -> Array:
    """Apply an imperfect automatic exposure for the mean of the frame, shape `(3, rows, columns)`."""
    mean = float(np.ascontiguousarray(rgb.transpose(1, 2, 0)).mean())
    factor = gain * (brightness / max(mean, 0.05)) ** 0.7
    exposed = np.roll(rgb, tuple(int(s) for s in misaligned), axis=(1, 2)).astype(np.float64)
    for channel, scale in zip(exposed, factor, strict=True):
        channel *= scale
        channel *= vignette
    knee = 0.7  # highlights are compressed, not clipped
    bright = exposed > knee
    exposed[bright] = knee + (1 - knee) * np.tanh((exposed[bright] - knee) / (1 - knee))
    return exposed


def _smear(rgb: Array, turn: Array, focal: float, blur: float) -> Array:
    """Blur by the motion of the image, and by the lens, shape `(3, rows, columns)`."""
    length = int(np.clip(abs(float(turn[0])) * focal * blur, 0, 16))
    steps = range(-(length // 2), length // 2 + 1, max(1, length // 6))
    moved = np.zeros_like(rgb)
    for step in steps:
        _add_rolled(moved, rgb, step)
    moved /= len(steps)
    smeared = 2 * moved
    smeared[:, 1:] += moved[:, :-1]
    smeared[:, :1] += moved[:, -1:]
    _add_rolled(smeared, moved, 1)
    smeared /= 4
    return smeared


def _add_rolled(total: Array, rgb: Array, step: int) -> None:
    """Add an image that is rolled by `step` columns to `total`."""
    step %= rgb.shape[2]
    total[..., step:] += rgb[..., : rgb.shape[2] - step]
    total[..., :step] += rgb[..., rgb.shape[2] - step :]


class _ColorDrift:
    """Drift of exposure and white balance from frame to frame."""

    def __init__(self, profile: CameraProfile, rng: np.random.Generator) -> None:
        self.rng, self.sigma = rng, profile.exposure
        self.state = rng.normal(size=4)

    def step(self) -> Array:
        self.state = 0.96 * self.state + 0.28 * self.rng.normal(size=4)
        gain: Array = np.exp(self.sigma * (self.state[0] + 0.3 * self.state[1:]))
        return gain


class _PoseError:
    """Errors of the estimated poses: slow drift, small noise and a few jumps."""

    def __init__(self, frames: int, profile: CameraProfile, rng: np.random.Generator) -> None:
        keep = 0.97
        steps = rng.normal(size=(frames, 6)) * np.sqrt(1 - keep**2)
        state = rng.normal(size=6)
        walk = []
        for step in steps:
            state = keep * state + step
            walk.append(state)
        self.error = np.array(walk) * np.repeat([profile.drift, profile.tilt], 3)
        self.error += rng.normal(size=(frames, 6)) * np.repeat([0.15 * profile.drift, 0.15 * profile.tilt], 3)
        for place in rng.integers(frames, size=profile.jumps):
            self.error[place:, :3] += rng.normal(size=3) * profile.drift
        self.error[:, 2] *= 0.6  # gravity is known

    def apply(self, truth: Array, eye: Array, n: int) -> Array:
        """Return the estimated matrix of frame `n`."""
        x, y, z = self.error[n, 3:]
        small = np.array([[1.0, -z, y], [z, 1.0, -x], [-y, x, 1.0]])
        left, _, right = np.linalg.svd(small)
        matrix = np.eye(4)
        matrix[:3, :3] = left @ right @ truth[:3, :3]
        matrix[:3, 3] = -matrix[:3, :3] @ (eye + self.error[n, :3])
        return matrix
