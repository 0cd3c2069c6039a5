"""Tiles and their rims: every voxel once, and the same labels as in one piece."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.errors import SettingsError
from lg3d_core.evaluation.predictor import FIXED_BYTES, Predictor, VoxelLabels
from lg3d_core.inference.scan_voxels import ScanVoxels, pack, unpack, voxelize_scan
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.tiles import reach_of, tile_voxels
from lg3d_core.progress import Progress
from lg3d_core.sampling.voxels import mean_colors, voxelize
from lg3d_core.scans.frame import plain_frame
from lg3d_core.scans.surface import Surface, surface_in_memory
from lg3d_core.sparse import SparseTensor
from tests.notes import Notes

PER_VOXEL = 3_000 + 20 * 96


@pytest.fixture(scope="module")
def network() -> MinkUNet:
    torch.manual_seed(3)
    return MinkUNet("14A", num_classes=7).eval()


@pytest.fixture(scope="module")
def corridor() -> ScanVoxels:
    """A passage of 60 m, 3 voxels wide, with a random colour everywhere."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(600), np.arange(3), [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    return ScanVoxels(pack(cells), rng.integers(0, 256, size=cells.shape).astype(np.uint8), 0.1, 0)


def predictor_of(network: MinkUNet, *, voxels: int, overlap: float | None = None) -> Predictor:
    """Return a predictor whose memory holds just so many voxels."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    memory = weights + FIXED_BYTES + voxels * PER_VOXEL
    return Predictor(network=network, voxel_size=0.1, backend="torch", memory=memory, overlap=overlap)


def label(predictor: Predictor, voxels: ScanVoxels, progress: Progress | None = None) -> VoxelLabels:
    return predictor.label_voxels(voxels.cells, voxels.rgb, name="a", progress=progress)


def test_a_change_is_not_seen_beyond_the_reach(network: MinkUNet) -> None:
    # 1 (stem) + 2 per block and stride * (2 + 4 + 8 + 16 + 8 + 4 + 2 + 1) + 15 (down and up)
    assert reach_of("14A") == 1 + 2 * 45 + 15
    cells = torch.zeros((300, 4), dtype=torch.int32)
    cells[:, 1] = torch.arange(300)
    colors = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    network = copy.deepcopy(network)
    for name, weight in network.named_parameters():
        if name.endswith("kernel"):
            weight.data *= 3  # initial weights are so small that a change far away is lost in the rounding
    with torch.inference_mode():
        before = network(SparseTensor(colors, cells))
        seen = 0
        for place in (143, 144, 159, 160):
            changed = colors.clone()
            changed[place] += 3
            differs = (network(SparseTensor(changed, cells)) != before).any(dim=1).nonzero()[:, 0]
            seen = max(seen, int((differs - place).abs().max()))
    assert reach_of("14A") - 15 <= seen <= reach_of("14A")


def test_every_voxel_is_named_by_one_tile_and_has_its_rim(corridor: ScanVoxels) -> None:
    cells = corridor.cells
    tiling = tile_voxels(cells, max_voxels=900, reach=30)
    assert len(tiling.tiles) > 3
    assert tiling.rim == 30
    assert np.sort(np.concatenate([tile.own for tile in tiling.tiles])).tolist() == list(range(len(cells)))
    for tile in tiling.tiles:
        assert len(tile.rows) <= 900
        low, high = cells[tile.own].min(axis=0) - 30, cells[tile.own].max(axis=0) + 30
        inside = ((cells >= low) & (cells <= high)).all(axis=1)
        assert tile.rows.tolist() == np.flatnonzero(inside).tolist()


def test_with_rims_of_the_whole_reach_tiles_change_nothing(network: MinkUNet, corridor: ScanVoxels) -> None:
    notes = Notes()
    whole = label(predictor_of(network, voxels=4000), corridor, Progress())
    tiled = label(predictor_of(network, voxels=2000), corridor, notes)
    assert "labels are the same as without tiles" in notes.notes[0]
    np.testing.assert_array_equal(tiled.label, whole.label)
    np.testing.assert_allclose(tiled.confidence, whole.confidence, atol=1e-5)  # sums of other blockings: 1e-7 seen


def test_tiles_that_adapt_are_not_said_to_change_nothing(network: MinkUNet, corridor: ScanVoxels) -> None:
    notes = Notes()
    label(replace(predictor_of(network, voxels=2000), adapt=0.3), corridor, notes)
    assert notes.notes[0].endswith("the network adapts to each tile by itself")


def test_tiles_have_the_offsets_of_the_whole_scan(corridor: ScanVoxels) -> None:
    torch.manual_seed(3)
    network = MinkUNet("14A", num_classes=7, offset_head=True).eval()
    whole = label(predictor_of(network, voxels=4000), corridor).offsets
    tiled = label(predictor_of(network, voxels=2000), corridor).offsets
    assert whole is not None
    assert whole.shape == (len(corridor.cells), 3)
    assert np.unique(whole, axis=0).shape[0] > 1000
    np.testing.assert_allclose(tiled, whole, atol=1e-5)  # sums of other blockings


def test_with_narrow_rims_labels_differ_near_seams_alone(network: MinkUNet, corridor: ScanVoxels) -> None:
    notes = Notes()
    whole = label(predictor_of(network, voxels=4000), corridor, Progress()).label
    predictor = predictor_of(network, voxels=2200, overlap=2.0)
    tiled = label(predictor, corridor, notes).label
    reach = reach_of("14A")
    assert f"labels may differ within {(reach - 20) * 0.1:.2f} m of a tile's border" in notes.warnings[0]
    cells = corridor.cells
    tiles = tile_voxels(cells, max_voxels=predictor.max_voxels(), reach=reach, rim=20).tiles
    seams = sorted(int(cells[tile.own][:, 0].min()) for tile in tiles)[1:]
    near = (np.abs(cells[:, :1] - np.array(seams)) <= reach - 20 + 1).any(axis=1)
    assert not near.all()
    np.testing.assert_array_equal(tiled[~near], whole[~near])


def test_a_rim_that_would_be_most_of_the_tile_is_narrowed(corridor: ScanVoxels) -> None:
    # 6 voxels a step: rims of 200 and 100 steps do not fit, those of 50 leave 200 of 800 for the tile itself
    assert tile_voxels(corridor.cells, max_voxels=800, reach=200).rim == 25


def test_too_little_memory_names_the_flag(network: MinkUNet, corridor: ScanVoxels) -> None:
    with pytest.raises(SettingsError, match=r"--memory .* is too small"):
        predictor_of(network, voxels=10).max_voxels()
    with pytest.raises(SettingsError, match=r"too few for a tile with a rim of 30\.00 m; .*--overlap"):
        tile_voxels(corridor.cells, max_voxels=500, reach=106, rim=300, voxel_size=0.1)


def test_cells_survive_packing_in_their_order() -> None:
    cells = np.random.default_rng(0).integers(-130_000, 130_000, size=(1000, 3))
    keys = pack(cells)
    np.testing.assert_array_equal(unpack(keys), cells)
    np.testing.assert_array_equal(np.argsort(keys), np.lexsort(cells.T[::-1]))


def test_voxels_read_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-2, 2, size=(5000, 3)).astype(np.float32)
    rgb = rng.integers(0, 256, size=(5000, 3)).astype(np.uint8)
    surface = surface_in_memory(Path("a"), xyz, rgb, None)
    monkeypatch.setattr(Surface, "chunks", lambda _: ((k, k + 500) for k in range(0, 5000, 500)))
    voxels = voxelize_scan(surface, plain_frame(), 0.2)
    expected = voxelize(xyz, 0.2)
    np.testing.assert_array_equal(voxels.cells, expected.cells)
    mean = mean_colors(rgb, expected.point_to_voxel, len(expected.cells))
    np.testing.assert_array_equal(voxels.rgb, mean)
