"""Scenes as samples: what a voxel inherits, and that nothing but seed, epoch and index decides."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lg3d_core.errors import DataError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import Sample, SceneDataset, sample_scene
from tests.fake_store import FakeScene, FakeStore, make_scene, make_vocabulary

VOXEL = 0.1


def dataset(
    *, augmentation: Augmentation | None = None, seed: int = 0, budget: np.ndarray | None = None
) -> SceneDataset:
    scenes = {f"scene{k:04d}_00": make_scene(f"scene{k:04d}_00", seed=k) for k in range(3)}
    store = FakeStore(make_vocabulary("head", "common", "tail"), scenes)
    return SceneDataset(store, sorted(scenes), voxel_size=VOXEL, augmentation=augmentation, budget=budget, seed=seed)


def assert_equal_samples(one: Sample, other: Sample) -> None:
    assert one.scene_id == other.scene_id
    for left, right in zip(one[1:], other[1:], strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_an_unaugmented_voxel_has_the_data_of_its_first_vertex() -> None:
    scene = make_scene("scene", points=800)
    sample = sample_scene(scene, voxel_size=VOXEL)
    cells = np.floor(scene.xyz.astype(np.float64) / VOXEL)
    for voxel in range(0, len(sample.cells), 50):
        row = np.flatnonzero((cells == sample.cells[voxel].numpy()).all(axis=1))[0]
        np.testing.assert_allclose(sample.features[voxel], scene.rgb[row] / 255 - 0.5, atol=1e-6)
        assert sample.labels[voxel] == scene.label[row]
        assert sample.instances[voxel] == scene.instance[row]
        np.testing.assert_array_equal(sample.positions[voxel], scene.xyz[row])


def test_every_vertex_has_its_voxel_without_augmentation() -> None:
    scene = make_scene("scene")
    sample = sample_scene(scene, voxel_size=VOXEL)
    assert len(sample.point_to_voxel) == len(scene.xyz)
    cells = np.floor(scene.xyz.astype(np.float64) / VOXEL)
    np.testing.assert_array_equal(sample.cells[sample.point_to_voxel], cells)


def test_dtypes_and_shapes_fit_the_network() -> None:
    for augmentation in (None, Augmentation()):
        sample = dataset(augmentation=augmentation)[0]
        num = len(sample.cells)
        assert [tuple(t.shape) for t in sample[1:6]] == [(num, 3), (num, 3), (num,), (num,), (num, 3)]
        assert [t.dtype for t in sample[1:7]] == [
            torch.int32,
            torch.float32,
            torch.int64,
            torch.int64,
            torch.float32,
            torch.int64,
        ]
        assert sample.features.abs().max() <= 0.5
        assert len(torch.unique(sample.cells, dim=0)) == num


def test_positions_are_in_their_cells_after_augmentation() -> None:
    for seed in range(8):  # with and without mirroring
        sample = dataset(augmentation=Augmentation(), seed=seed)[1]
        inside = sample.positions / VOXEL - sample.cells
        assert inside.min() > -1e-3  # float32 at a few metres: 5e-7 m of a 0.1 m voxel, and a mirrored edge
        assert inside.max() < 1 + 1e-3


def test_labels_colours_and_instances_stay_together_when_augmented() -> None:
    scene = make_scene("scene")
    tagged = scene._replace(label=np.arange(len(scene.xyz), dtype=np.int16), instance=np.arange(len(scene.xyz)))
    keep_colors = Augmentation(contrast_probability=0, tint_probability=0, jitter_probability=0)
    sample = sample_scene(tagged, voxel_size=VOXEL, augmentation=keep_colors, rng=np.random.default_rng(0))
    torch.testing.assert_close(sample.labels, sample.instances)
    np.testing.assert_allclose(sample.features, scene.rgb[sample.labels] / 255 - 0.5, atol=1e-6)


def test_augmentation_keeps_the_number_of_voxels_of_a_dense_surface() -> None:
    u, v = np.meshgrid(np.arange(0, 4, 0.01), np.arange(0, 3, 0.01))
    xyz = np.stack([u.ravel(), v.ravel(), np.full(u.size, 0.005)], axis=1).astype(np.float32)
    zeros = np.zeros(len(xyz), dtype=np.int16)
    scene = FakeScene("floor", xyz, np.zeros((len(xyz), 3), np.uint8), zeros, zeros)
    plain = len(sample_scene(scene, voxel_size=0.05).cells)
    turned = Augmentation(elastic_probability=0, scale=(1, 1), rotation=(0, 0, np.pi))
    counts = [
        len(sample_scene(scene, voxel_size=0.05, augmentation=turned, rng=np.random.default_rng(k)).cells)
        for k in range(5)
    ]
    assert plain == 80 * 60
    # Partly covered cells along the turned rim come on top, at most two per 0.05 m of 14 m: 560. Holes would take away.
    assert plain * 0.97 < min(counts)
    assert max(counts) < plain + 560


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    one, other = dataset(augmentation=Augmentation()), dataset(augmentation=Augmentation())
    one[0], one[2]  # other samples drawn before change nothing
    assert_equal_samples(one[1], other[1])
    assert_equal_samples(one[-2], other[1])
    other.set_epoch(1)
    assert not torch.equal(one[1].features, other[1].features[: len(one[1].features)])
    one.set_epoch(1)
    assert_equal_samples(one[1], other[1])
    reseeded = dataset(augmentation=Augmentation(), seed=1)
    reseeded.set_epoch(1)
    assert not torch.equal(one[1].features, reseeded[1].features[: len(one[1].features)])


def test_a_pickled_dataset_gives_the_same_samples() -> None:
    original = dataset(augmentation=Augmentation(), seed=3)
    original.set_epoch(5)
    assert_equal_samples(pickle.loads(pickle.dumps(original))[2], original[2])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_batches_as_none(method: str) -> None:
    scenes = dataset(augmentation=Augmentation())
    alone = list(DataLoader(scenes, batch_size=2, collate_fn=collate))
    shared = list(DataLoader(scenes, batch_size=2, collate_fn=collate, num_workers=1, multiprocessing_context=method))
    assert [batch.scene_ids for batch in shared] == [("scene0000_00", "scene0001_00"), ("scene0002_00",)]
    for one, other in zip(alone, shared, strict=True):
        assert isinstance(other, Batch)
        torch.testing.assert_close(one.coordinates, other.coordinates, rtol=0, atol=0)
        torch.testing.assert_close(one.features, other.features, rtol=0, atol=0)


def test_a_budget_reaches_the_store() -> None:
    sample = dataset(budget=np.arange(5))[0]
    assert 0 < int((sample.labels >= 0).sum() + (sample.instances > 0).sum()) <= 10
    assert int((dataset()[0].labels >= 0).sum()) > 100


def test_an_empty_list_of_scenes_is_rejected_with_advice() -> None:
    with pytest.raises(DataError, match="lg3d prepare"):
        SceneDataset(FakeStore(make_vocabulary("head")), [], voxel_size=VOXEL, augmentation=None)


def test_an_index_past_the_end_ends_an_iteration() -> None:
    assert len(dataset()) == 3
    with pytest.raises(IndexError, match="scene 3 of 3"):
        dataset()[3]
    assert [sample.scene_id for sample in dataset()] == ["scene0000_00", "scene0001_00", "scene0002_00"]


def test_a_scene_without_points_is_an_empty_sample() -> None:
    empty = make_scene("empty", points=0)
    for augmentation in (None, Augmentation()):
        sample = sample_scene(empty, voxel_size=VOXEL, augmentation=augmentation, rng=np.random.default_rng(0))
        assert sample.cells.shape == (0, 3)
        assert sample.labels.shape == (0,)
