"""Two views of a scene: what they show, which of their voxels match, and how they are batched."""

import numpy as np
import pytest
import torch

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.views import ViewDataset, collate_views, sample_views
from tests.fake_store import FakeStore, make_scene, make_vocabulary

VOXEL = 0.1
STILL = Augmentation(
    elastic_probability=0,
    scale=(1.0, 1.0),
    rotation=(0.0, 0.0, np.pi),
    mirror_probability=0,
    contrast_probability=0,
    tint_probability=0,
    jitter_probability=0,
)
"""Turns about z, and nothing else."""


def views(*, share=0.5, augmentation=STILL, max_matches=10_000, seed=0, scene=None):
    return sample_views(
        scene or make_scene("a", points=4000),
        voxel_size=VOXEL,
        augmentation=augmentation,
        share=share,
        max_matches=max_matches,
        rng=np.random.default_rng(seed),
    )


def turn_between(first, second):
    """The rotation and translation that bring one set of points to another best (Kabsch)."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    left, _, right = np.linalg.svd(a.T @ b)
    return (left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right).T, b, a


def test_matched_voxels_show_one_place():
    pair = views()
    assert len(pair.matches) > 300
    first = pair.first.positions.numpy()[pair.matches[:, 0]].astype(np.float64)
    second = pair.second.positions.numpy()[pair.matches[:, 1]].astype(np.float64)
    rotation, b, a = turn_between(first, second)
    # Points of one voxel of the scene are at most its diagonal apart, whatever the turn of either view.
    assert np.linalg.norm(a @ rotation.T - b, axis=1).max() < VOXEL * np.sqrt(3) * 1.05
    assert abs(rotation[2, 2]) == pytest.approx(1.0, abs=1e-4)
    assert rotation[0, 0] < 0.999  # the views are turned against each other


def test_no_voxel_is_matched_twice_and_places_are_in_the_scene():
    scene = make_scene("a", points=4000)
    pair = views(scene=scene)
    for column in pair.matches.unbind(1):
        assert len(column.unique()) == len(column)
    assert pair.matches[:, 0].max() < len(pair.first.cells)
    assert pair.matches[:, 1].max() < len(pair.second.cells)
    points = {tuple(point) for point in scene.xyz.tolist()}
    assert all(tuple(place) in points for place in pair.places.tolist())


def test_without_augmentation_and_crop_both_views_are_equal():
    pair = views(share=1.0, augmentation=None)
    assert torch.equal(pair.first.cells, pair.second.cells)
    assert torch.equal(pair.matches[:, 0], pair.matches[:, 1])
    assert len(pair.matches) == len(pair.first.cells)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_view_holds_its_share_and_both_overlap(share):
    pair = views(share=share, augmentation=None)
    whole = views(share=1.0, augmentation=None)
    for view in (pair.first, pair.second):
        assert len(view.cells) / len(whole.first.cells) == pytest.approx(share, abs=0.1)
    assert len(pair.matches) > 50


def test_views_carry_no_labels_and_do_not_depend_on_them():
    scene = make_scene("a", points=4000)
    other = scene._replace(label=np.zeros_like(scene.label), instance=np.ones_like(scene.instance))
    one, two = views(scene=scene), views(scene=other)
    assert (one.first.labels == -1).all()
    assert (one.second.instances == 0).all()
    for a, b in zip(one[3:], two[3:], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.first.features, two.first.features)


def test_matches_are_bounded():
    assert len(views(max_matches=17).matches) == 17
    assert len(views(max_matches=17).places) == 17


def test_a_scene_of_one_point_has_one_match_and_an_empty_scene_none():
    scene = make_scene("a", points=1)
    assert views(scene=scene, augmentation=Augmentation()).matches.tolist() == [[0, 0]]
    empty = scene._replace(**{name: getattr(scene, name)[:0] for name in ("xyz", "rgb", "label", "instance")})
    assert views(scene=empty, augmentation=Augmentation()).matches.shape == (0, 2)


def test_a_batch_keeps_matches_beside_their_voxels():
    pairs = [views(seed=seed, scene=make_scene(name, seed=seed)) for seed, name in enumerate("ab")]
    batch = collate_views(pairs)
    assert batch.scene_ids == ("a", "b")
    assert batch.coordinates[:, 0].unique().tolist() == [0, 1, 2, 3]
    assert batch.scene_matches == tuple(len(pair.matches) for pair in pairs)
    for k, (pair, rows) in enumerate(zip(pairs, batch.matches.split(batch.scene_matches), strict=True)):
        for side, view in enumerate((pair.first, pair.second)):
            assert (batch.coordinates[rows[:, side], 0] == 2 * k + side).all()
            assert torch.equal(batch.features[rows[:, side]], view.features[pair.matches[:, side]])
            assert torch.equal(batch.coordinates[rows[:, side], 1:], view.cells[pair.matches[:, side]])
    assert batch.to("cpu").places.shape == (sum(batch.scene_matches), 3)
    with pytest.raises(ShapeError, match="at least one pair"):
        collate_views([])


def dataset(seed=0):
    store = FakeStore(make_vocabulary("head", "tail"), {name: make_scene(name, seed=k) for k, name in enumerate("ab")})
    return ViewDataset(
        store, ["a", "b"], voxel_size=VOXEL, augmentation=Augmentation(), share=0.5, max_matches=50, seed=seed
    )


def test_a_pair_is_drawn_from_seed_epoch_and_index_alone():
    one, two = dataset(), dataset()
    two[0], two[1]  # what was drawn before does not matter
    assert torch.equal(one[1].matches, two[-1].matches)
    assert torch.equal(one[1].first.features, two[1].first.features)
    assert not torch.equal(one[1].places, dataset(seed=1)[1].places)
    two.set_epoch(1)
    assert not torch.equal(one[1].places, two[1].places)
    assert len(one) == 2
    with pytest.raises(IndexError):
        one[2]


def test_an_empty_list_of_scenes_is_rejected():
    with pytest.raises(DataError, match="at least one scene"):
        ViewDataset(
            FakeStore(make_vocabulary("head")), [], voxel_size=VOXEL, augmentation=None, share=1.0, max_matches=5
        )
