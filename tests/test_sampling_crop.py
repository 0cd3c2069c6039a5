"""Training on pieces of scenes."""

import numpy as np
import torch

from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.crop import crop_scene
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.views import ViewDataset
from tests.fake_store import FakeStore, make_scene, make_vocabulary

EDGE = 1.0


def fake_store() -> FakeStore:
    scenes = {f"scene{k:04d}_00": make_scene(f"scene{k:04d}_00", seed=k) for k in range(3)}
    return FakeStore(make_vocabulary("head", "common", "tail"), scenes)


def test_a_crop_is_a_square_around_a_point_with_all_points_inside() -> None:
    scene = make_scene("scene", points=3000)
    piece = crop_scene(scene, EDGE, np.random.default_rng(4))
    middle = scene.xyz[np.random.default_rng(4).integers(3000), :2]
    inside = [k for k, (x, y, _) in enumerate(scene.xyz) if abs(x - middle[0]) <= 0.5 and abs(y - middle[1]) <= 0.5]
    assert 0 < len(inside) < 3000
    np.testing.assert_array_equal(piece.xyz, scene.xyz[inside])
    np.testing.assert_array_equal(piece.rgb, scene.rgb[inside])
    np.testing.assert_array_equal(piece.label, scene.label[inside])
    np.testing.assert_array_equal(piece.instance, scene.instance[inside])


def test_a_crop_larger_than_the_room_keeps_the_whole_room() -> None:
    scene = make_scene("scene")
    np.testing.assert_array_equal(crop_scene(scene, 100.0, np.random.default_rng(0)).xyz, scene.xyz)


def test_a_scene_without_points_stays_empty() -> None:
    assert len(crop_scene(make_scene("scene", points=0), EDGE, np.random.default_rng(0)).xyz) == 0


def test_every_epoch_has_another_crop_and_the_same_seed_the_same() -> None:
    store = fake_store()

    def positions(epoch: int, seed: int = 0) -> torch.Tensor:
        scenes = SceneDataset(store, sorted(store.scenes), voxel_size=0.1, augmentation=None, crop=EDGE, seed=seed)
        scenes.set_epoch(epoch)
        return scenes[0].positions

    first = positions(0)
    assert (first[:, :2].amax(0) - first[:, :2].amin(0)).max() <= EDGE
    torch.testing.assert_close(positions(0), first, rtol=0, atol=0)
    assert not torch.equal(positions(1), first)
    assert not torch.equal(positions(0, seed=1), first)


def test_two_views_are_cut_out_of_one_piece() -> None:
    store = fake_store()
    views = ViewDataset(
        store, sorted(store.scenes), voxel_size=0.1, augmentation=None, share=0.5, max_matches=50, crop=EDGE
    )
    pair = views[1]
    both = torch.cat([pair.first.positions, pair.second.positions])
    assert (both[:, :2].amax(0) - both[:, :2].amin(0)).max() <= EDGE
    assert len(pair.matches) > 0
    assert len(views[1].first.cells) < len(
        ViewDataset(
            store, sorted(store.scenes), voxel_size=0.1, augmentation=Augmentation(), share=0.5, max_matches=50
        )[1].first.cells
    )
