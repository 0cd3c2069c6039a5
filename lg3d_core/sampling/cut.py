"""Limits on the voxels of one forward pass: scenes are split into parts, pairs of views are cropped."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.sampling.dataset import Sample
from lg3d_core.sampling.views import ViewPair


def cut_sample(sample: Sample, max_voxels: int) -> list[Sample]:
    """Split a training sample into the fewest parts of at most `max_voxels` voxels, all of nearly equal size.

    The sample is halved recursively across the longer horizontal side. Every voxel is in exactly one part, so the only
    loss is the context of voxels near a cut.

    Args:
        sample: Sample of a scene. The parts have an empty `point_to_voxel`.
        max_voxels: Maximum number of voxels per part, at least 1.

    Returns:
        The parts, or only the sample itself if it is small enough. The first part has the counts of placed objects.
    """
    number = -(-len(sample.cells) // max_voxels)
    if number <= 1:
        return [sample]
    cells = sample.cells.numpy()
    parts = [torch.from_numpy(rows) for rows in _halve(cells, np.arange(len(cells)), number)]
    return [
        _take(sample, rows)._replace(placed=0 if k else sample.placed, skipped=0 if k else sample.skipped)
        for k, rows in enumerate(parts)
    ]


def _halve(cells: npt.NDArray[np.int32], rows: npt.NDArray[np.int64], number: int) -> list[npt.NDArray[np.int64]]:
    """Split the ascending `rows` into `number` ascending sets whose sizes differ by at most one."""
    if number == 1:
        return [rows]
    floor = cells[rows, :2]
    axis = int(np.ptp(floor, axis=0).argmax())
    order = np.argsort(floor[:, axis], kind="stable")
    first = number // 2
    middle = len(rows) * first // number
    halves = (np.sort(rows[order[:middle]]), np.sort(rows[order[middle:]]))
    return _halve(cells, halves[0], first) + _halve(cells, halves[1], number - first)


def view_cropping_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random generator of a sample's view crop, independent of the sample's other random draws."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(3,)))


def crop_views(pair: ViewPair, max_voxels: int, rng: np.random.Generator) -> ViewPair:
    """Keep the voxels of two views that are horizontally nearest to a random place visible in both.

    Args:
        pair: Two views of one scene.
        max_voxels: Maximum number of voxels of both views together, at least 2; each view keeps its share.
        rng: Random generator of the place. If the views share no place, one is drawn in each view.

    Returns:
        The cropped pair, or the pair itself if it is small enough.
    """
    sizes = len(pair.first.cells), len(pair.second.cells)
    if sum(sizes) <= max_voxels:
        return pair
    share = min(max(1, max_voxels * sizes[0] // sum(sizes)), max_voxels - 1)
    if len(pair.matches):
        middles = pair.matches[int(rng.integers(len(pair.matches)))].tolist()
    else:
        middles = [int(rng.integers(max(1, size))) for size in sizes]
    first = _nearest_rows(pair.first, middles[0], share)
    second = _nearest_rows(pair.second, middles[1], max_voxels - share)
    rows = torch.stack(
        [_new_rows(first, sizes[0])[pair.matches[:, 0]], _new_rows(second, sizes[1])[pair.matches[:, 1]]]
    )
    kept = (rows >= 0).all(dim=0)
    return pair._replace(
        first=_take(pair.first, first),
        second=_take(pair.second, second),
        matches=rows.T[kept].contiguous(),
        places=pair.places[kept],
    )


def _nearest_rows(sample: Sample, middle: int, number: int) -> Tensor:
    floor = sample.positions[:, :2].numpy()
    if number >= len(floor):
        return torch.arange(len(floor))
    distance = ((floor - floor[middle]) ** 2).sum(axis=1)
    return torch.from_numpy(np.sort(np.argpartition(distance, number - 1)[:number]))


def _new_rows(kept: Tensor, size: int) -> Tensor:
    """Return the new row of each old row, -1 for dropped rows."""
    rows = torch.full((size,), -1, dtype=torch.int64)
    rows[kept] = torch.arange(len(kept))
    return rows


def _take(sample: Sample, rows: Tensor) -> Sample:
    return sample._replace(
        cells=sample.cells[rows],
        features=sample.features[rows],
        labels=sample.labels[rows],
        instances=sample.instances[rows],
        positions=sample.positions[rows],
        point_to_voxel=sample.point_to_voxel[:0],
    )
