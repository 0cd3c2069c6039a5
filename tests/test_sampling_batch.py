"""Samples put together."""

import pickle

import numpy as np
import pytest
import torch

from lg3d_core.errors import ShapeError
from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import Sample


def sample(scene_id: str, cells: list[list[int]], label: int) -> Sample:
    num = len(cells)
    return Sample(
        scene_id=scene_id,
        cells=torch.tensor(cells, dtype=torch.int32).reshape(num, 3),
        features=torch.full((num, 3), label / 10),
        labels=torch.full((num,), label),
        instances=torch.arange(num),
        positions=torch.zeros((num, 3)),
        point_to_voxel=torch.zeros(0, dtype=torch.int64),
    )


SAMPLES = [sample("a", [[0, -1, 2], [5, 5, 5]], 1), sample("b", [], 2), sample("c", [[7, 8, 9]], 3)]


def test_scenes_follow_one_another_with_their_number_in_front() -> None:
    batch = collate(SAMPLES, with_instances=True)
    assert batch.coordinates.tolist() == [[0, 0, -1, 2], [0, 5, 5, 5], [2, 7, 8, 9]]
    assert batch.coordinates.dtype == torch.int32
    assert batch.coordinates.is_contiguous()
    assert batch.labels.tolist() == [1, 1, 3]
    assert batch.instances is not None
    assert batch.instances.tolist() == [0, 1, 0]
    assert batch.select(2, 3).instances.tolist() == [0]  # type: ignore[union-attr]
    assert collate(SAMPLES).instances is None
    torch.testing.assert_close(batch.features[:, 0], torch.tensor([0.1, 0.1, 0.3]))
    assert batch.scene_ids == ("a", "b", "c")
    assert batch.scene_sizes == (2, 0, 1)


def test_a_shift_moves_the_whole_batch_by_up_to_99_voxels() -> None:
    plain = collate(SAMPLES)
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(2000):
        moved = collate(SAMPLES, rng=rng)
        difference = moved.coordinates - plain.coordinates
        assert (difference == difference[0]).all()
        assert difference[0, 0] == 0
        shifts.append(difference[0, 1:].tolist())
    assert np.min(shifts, axis=0).tolist() == [0, 0, 0]
    assert np.max(shifts, axis=0).tolist() == [99, 99, 99]


def test_a_shift_depends_only_on_the_generator() -> None:
    one, other = (collate(SAMPLES, rng=np.random.default_rng([1, 2])) for _ in range(2))
    torch.testing.assert_close(one.coordinates, other.coordinates)


def test_a_batch_moves_to_a_device_with_all_its_tensors() -> None:
    batch = collate(SAMPLES, with_instances=True).to("meta")
    assert {t.device.type for t in batch if isinstance(t, torch.Tensor)} == {"meta"}
    assert batch.scene_ids == ("a", "b", "c")


def test_a_batch_survives_pickling() -> None:
    batch = collate(SAMPLES)
    again = pickle.loads(pickle.dumps(batch))
    assert isinstance(again, Batch)
    torch.testing.assert_close(again.coordinates, batch.coordinates)


def test_a_batch_of_no_samples_is_rejected() -> None:
    with pytest.raises(ShapeError, match="at least one sample"):
        collate([])
