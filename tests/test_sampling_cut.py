"""Samples that are too large for one pass: parts of scenes, and cropped pairs of views."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import collate
from lg3d_core.sampling.cut import crop_views, cut_sample
from lg3d_core.sampling.dataset import Sample, sample_scene
from lg3d_core.sampling.views import ViewPair, collate_views, sample_views
from tests.fake_store import make_scene


def sample_of(points: int = 3000, seed: int = 0) -> Sample:
    return sample_scene(make_scene(f"scene{seed}", points=points, seed=seed), voxel_size=0.1)._replace(
        placed=3, skipped=2
    )


@settings(max_examples=40, deadline=None)
@given(points=st.integers(1, 400), max_voxels=st.integers(1, 500))
def test_every_voxel_is_in_one_of_as_few_parts_as_possible(points: int, max_voxels: int) -> None:
    sample = sample_of(points)
    size = len(sample.cells)
    parts = cut_sample(sample, max_voxels)
    assert len(parts) == -(-size // max_voxels)
    sizes = [len(part.cells) for part in parts]
    assert max(sizes) <= max_voxels
    assert max(sizes) - min(sizes) <= 1 or len(parts) > 3  # thirds of halves may differ by one more
    assert sorted(map(tuple, torch.cat([p.cells for p in parts]).tolist())) == list(map(tuple, sample.cells.tolist()))


def test_a_part_keeps_the_data_of_its_voxels_in_order() -> None:
    sample = sample_of()
    row_of = {tuple(cell): row for row, cell in enumerate(sample.cells.tolist())}
    for part in cut_sample(sample, 700):
        rows = [row_of[tuple(cell)] for cell in part.cells.tolist()]
        assert rows == sorted(rows)
        for name in ("features", "labels", "instances", "positions"):
            torch.testing.assert_close(getattr(part, name), getattr(sample, name)[rows], rtol=0, atol=0)


def test_a_long_room_is_cut_across_its_length() -> None:
    cells = torch.tensor([[x, y, z] for x in range(3) for y in range(40) for z in range(5)], dtype=torch.int32)
    nothing = torch.zeros(len(cells), 3)
    labels = torch.zeros(len(cells), dtype=torch.int64)
    room = Sample("room", cells, nothing, labels, labels, nothing, labels)
    parts = cut_sample(room, 150)
    assert [(int(p.cells[:, 1].min()), int(p.cells[:, 1].max())) for p in parts] == [
        (0, 9),
        (10, 19),
        (20, 29),
        (30, 39),
    ]


def test_placed_objects_are_counted_once() -> None:
    parts = cut_sample(sample_of(), 700)
    assert [part.placed for part in parts] == [3] + [0] * (len(parts) - 1)
    assert sum(part.skipped for part in parts) == 2


def test_a_small_sample_is_not_cut() -> None:
    sample = sample_of(50)
    assert cut_sample(sample, 50) == [sample]


def test_selected_scenes_of_a_batch_are_a_batch() -> None:
    samples = [sample_of(400, seed) for seed in range(4)]
    whole = collate(samples, with_instances=True)
    for first, last in ((0, 2), (1, 2), (1, 4)):
        part, expected = whole.select(first, last), collate(samples[first:last], with_instances=True)
        assert part.scene_ids == expected.scene_ids
        assert part.scene_sizes == expected.scene_sizes
        for name in ("coordinates", "features", "labels", "instances"):
            torch.testing.assert_close(getattr(part, name), getattr(expected, name), rtol=0, atol=0)
    assert whole.coordinates[-1, 0] == 3  # the whole is untouched
    assert whole.select(0, 2).placed == 12
    assert whole.select(2, 4).placed == 0


def pair_of(seed: int = 0, *, share: float = 0.5) -> ViewPair:
    rng = np.random.default_rng(seed)
    scene = make_scene(f"scene{seed}", points=4000, seed=seed)
    return sample_views(scene, voxel_size=0.1, augmentation=Augmentation(), share=share, max_matches=2000, rng=rng)


def test_selected_scenes_of_a_view_batch_are_a_view_batch() -> None:
    pairs = [pair_of(seed) for seed in range(3)]
    whole = collate_views(pairs)
    assert whole.scene_sizes == tuple(len(p.first.cells) + len(p.second.cells) for p in pairs)
    for first, last in ((0, 1), (1, 3)):
        part, expected = whole.select(first, last), collate_views(pairs[first:last])
        assert part.scene_matches == expected.scene_matches
        for name in ("coordinates", "features", "matches", "places"):
            torch.testing.assert_close(getattr(part, name), getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize("max_voxels", [1500, 601, 2])
def test_cropped_views_still_show_one_place(max_voxels: int) -> None:
    pair = pair_of()
    cropped = crop_views(pair, max_voxels, np.random.default_rng(1))
    assert len(cropped.first.cells) + len(cropped.second.cells) == max_voxels
    assert len(cropped.matches) >= 1
    # A match is the same two voxels as before.
    before = {
        (*pair.first.cells[a].tolist(), *pair.second.cells[b].tolist()): place
        for (a, b), place in zip(pair.matches.tolist(), pair.places.tolist(), strict=True)
    }
    for (a, b), place in zip(cropped.matches.tolist(), cropped.places.tolist(), strict=True):
        assert before[(*cropped.first.cells[a].tolist(), *cropped.second.cells[b].tolist())] == place
    again = crop_views(pair, max_voxels, np.random.default_rng(1))
    torch.testing.assert_close(again.matches, cropped.matches, rtol=0, atol=0)


def test_a_crop_keeps_the_nearest_voxels() -> None:
    pair = pair_of()
    cropped = crop_views(pair, 1000, np.random.default_rng(2))
    kept = {tuple(cell) for cell in cropped.first.cells.tolist()}
    inside = torch.tensor([tuple(cell) in kept for cell in pair.first.cells.tolist()])
    middle = cropped.first.positions[:, :2].mean(dim=0)
    distance = torch.linalg.vector_norm(pair.first.positions[:, :2] - middle, dim=1)
    assert distance[inside].mean() < 0.7 * distance[~inside].mean()


def test_views_without_common_places_are_cropped_separately() -> None:
    pair = pair_of()._replace(matches=torch.zeros((0, 2), dtype=torch.int64), places=torch.zeros((0, 3)))
    cropped = crop_views(pair, 900, np.random.default_rng(0))
    assert len(cropped.first.cells) + len(cropped.second.cells) == 900
    assert cropped.matches.shape == (0, 2)


def test_small_views_are_not_cropped() -> None:
    pair = pair_of()
    assert crop_views(pair, 10_000, np.random.default_rng(0)) is pair
