"""Grouping of true classes and offsets, and its speed."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lg3d_core.store.scene_store import SceneStore
from tests.random_checkpoint import save_random

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def grouping() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grouping", ROOT / "benchmarks" / "grouping.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("voxel_size", [0.02, 0.05])
def test_true_classes_and_offsets_are_grouped_into_the_true_objects(
    grouping: ModuleType, furnished_store_path: Path, voxel_size: float
) -> None:
    store = SceneStore(furnished_store_path)
    ceiling = grouping.find_ceiling(store, voxel_size, with_offsets=True)
    assert ceiling["objects"] > 20
    assert ceiling["ap50"] > 0.95
    assert grouping.find_ceiling(store, voxel_size, with_offsets=False)["ap50"] < ceiling["ap50"]


def test_a_checkpoint_is_scored_by_rule_and_group(
    grouping: ModuleType, furnished_store_path: Path, tmp_path: Path
) -> None:
    scores = grouping.score_offsets(
        SceneStore(furnished_store_path), save_random(tmp_path / "c.safetensors", offset_head=True)
    )
    rules = ("offsets", "offsets, dual set", "connected components")
    assert set(scores) == {f"{rule}, {kind}" for rule in rules for kind in ("probable classes", "most probable class")}
    for groups in scores.values():
        assert set(groups) == {"head", "common", "tail", "all"}
        assert set(groups["all"]) == {"ap", "ap50", "ap25"}
        assert 0 <= groups["all"]["ap"] <= groups["all"]["ap25"] <= 1


def test_100_000_voxels_are_grouped_in_half_a_second_of_cpu_time(grouping: ModuleType) -> None:
    speed = grouping.time_grouping(100_000)
    assert speed["objects"] > 200
    assert speed["cpu_seconds"] < 1.0  # measured 0.26 on a loaded machine
