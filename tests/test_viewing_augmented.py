"""A training sample in view: it is the one that training sees, and what was done to it is marked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lg3d_cli.__main__ import app
from lg3d_core.errors import SettingsError
from lg3d_core.inference.heat_colors import ramp_colors
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.placement import open_pasting
from lg3d_core.settings import ViewSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing import view as show
from lg3d_core.viewing.augmented import build_augmented_view, split_motion
from lg3d_core.viewing.layers import FULL_SHIFT, PASTED, SHIFT_STOPS
from lg3d_core.viewing.page import build_page, page_arrays
from lg3d_core.viewing.picture import compose
from tests.notes import Notes

VOXEL = 0.05


@pytest.fixture(scope="module")
def store(furnished_store_path: Path) -> SceneStore:
    return SceneStore(furnished_store_path)


def test_a_view_shows_the_sample_that_the_first_epoch_trains_on(store: SceneStore) -> None:
    notes = Notes()
    scene_id = store.scene_ids("train")[1]
    view = build_augmented_view(store, scene_id, voxel_size=VOXEL, instances=5, seed=3, progress=notes)
    dataset = SceneDataset(
        store,
        store.scene_ids("train"),
        voxel_size=VOXEL,
        augmentation=Augmentation(),
        pasting=open_pasting(store, budget=None, count=5, progress=Progress()),
        seed=3,
    )
    sample = dataset[1]
    np.testing.assert_array_equal(view.xyz, sample.positions)
    np.testing.assert_array_equal(view.label, sample.labels)
    np.testing.assert_array_equal(view.instance, sample.instances)
    np.testing.assert_allclose(view.layers["colours"] / 255 - 0.5, sample.features, atol=0.51 / 255)
    assert sample.placed >= 3
    put_in = next(line for line in notes.notes if line.startswith("put in: "))
    assert len(re.split(", |; ", put_in)) == sample.placed + (sample.skipped > 0)


def test_what_was_put_in_has_a_colour_of_its_own(store: SceneStore) -> None:
    scene_id = store.scene_ids("train")[0]
    view = build_augmented_view(store, scene_id, voxel_size=VOXEL, instances=5, seed=0, progress=Progress())
    own = store.read(scene_id).instance.max()
    marked = (view.layers["augmentation"] == PASTED).all(axis=1)
    np.testing.assert_array_equal(marked, view.instance > own)
    assert 0.001 < marked.mean() < 0.5
    without = build_augmented_view(store, scene_id, voxel_size=VOXEL, instances=0, seed=0, progress=Progress())
    assert not (without.layers["augmentation"] == PASTED).all(axis=1).any()
    assert without.instance.max() <= own


def test_a_validation_scene_can_be_shown_too(store: SceneStore) -> None:
    view = build_augmented_view(
        store, store.scene_ids("val")[0], voxel_size=VOXEL, instances=2, seed=0, progress=Progress()
    )
    assert len(view.xyz) > 1000
    assert np.isfinite(view.outward).all()


@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_motion_is_split_into_a_turn_and_what_is_left(mirrored: int) -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(-2, 2, size=(500, 3)).astype(np.float32)
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ np.diag([mirrored, 1, 1])
    after = (1.07 * before @ turn.T + (3, 4, 5)).astype(np.float32)
    motion = split_motion(before, after)
    np.testing.assert_allclose(motion.turn, turn, atol=1e-5)
    np.testing.assert_allclose(motion.shifted, 0, atol=1e-5)
    after[17] += (0, 0.3, 0)
    assert split_motion(before, after).shifted[17] == pytest.approx(0.3, abs=0.003)  # one point of 500 pulls a little
    single = split_motion(before[:1], after[:1])
    assert single.shifted[0] == 0


def test_the_ramp_runs_from_in_place_to_the_full_shift() -> None:
    colors = ramp_colors(np.array([0, FULL_SHIFT, 10]) / FULL_SHIFT, SHIFT_STOPS)
    assert [tuple(color) for color in colors.tolist()] == [SHIFT_STOPS[0], SHIFT_STOPS[-1], SHIFT_STOPS[-1]]


def test_page_and_picture_have_the_layer_and_its_legend(store: SceneStore) -> None:
    view = build_augmented_view(
        store, store.scene_ids("train")[0], voxel_size=VOXEL, instances=5, seed=0, progress=Progress()
    )
    np.testing.assert_array_equal(page_arrays(view)["augmentation"], view.layers["augmentation"])
    page = build_page(view)
    assert '"title": "Augmentation"' in page
    panels = {name: np.full((300, 400, 3), 255, dtype=np.uint8) for name in view.layers}
    assert compose(view, panels).width > 800


def test_the_command_writes_a_page_of_the_sample(store: SceneStore, tmp_path: Path) -> None:
    html = tmp_path / "sample.html"
    scene_id = store.scene_ids("train")[0]
    arguments = ["view", scene_id, "--store", str(store.path), "--augmented", "--voxel-size", "0.1", "--instances", "3"]
    result = CliRunner().invoke(app, [*arguments, "--seed", "1", "--html", str(html)])
    assert result.exit_code == 0
    assert result.stdout == f"{html}\n"
    assert "put in: " in result.stderr
    description = json.loads(re.search(r">(\{.*?\"arrays\".*?\})</script>", html.read_text(), re.S)[1])  # type: ignore[index]
    assert [layer["name"] for layer in description["layers"]][-1] == "augmentation"


def test_a_checkpoint_beside_a_sample_is_reported_as_ignored(store: SceneStore, tmp_path: Path) -> None:
    notes = Notes()
    settings = ViewSettings(
        scene=store.scene_ids("train")[0],
        store=store.path,
        augmented=True,
        voxel_size=0.1,
        instances=0,
        checkpoint=tmp_path / "none",
        html=tmp_path / "a.html",
    )
    show.view(settings, notes)
    assert any("--checkpoint is ignored" in line for line in notes.notes)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="--instances must be 0 or more"):
        ViewSettings(scene="x", instances=-1)
    with pytest.raises(SettingsError, match="--voxel-size must be above 0"):
        ViewSettings(scene="x", voxel_size=0)
