"""Rooms furnished with models: which models a split sees, attribution, going on, and malformed models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import RoomsSettings
from lg3d_core.synthetic import write_rooms
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.modelled.catalog import Catalog, Furniture, load_sampled, read_catalog
from lg3d_core.synthetic.modelled.naming import read_names
from lg3d_core.synthetic.modelling import Kit
from tests.notes import Notes
from tests.sh3f_files import write_library

SPACING = 0.1
NAMES = "model\tsection\tthing\nBed\t\tbed\nTable\t\ttable\nChair\t\tchair\nPrivy\t\tdivider\nPane\t\tpurse\n"
BEDS = [{"name": "Bed", "width": "140", "depth": "200", "height": str(40 + 5 * k)} for k in range(5)]
MODELS = [*BEDS, {"name": "Table", "width": "100", "depth": "60", "height": "70"}, {"name": "Chair"}, {"name": "Chair"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library `few.sh3f` of the models above, a malformed divider, and the table of names."""
    models = [
        *MODELS,
        {"name": "Privy", "width": "120", "height": "150"},
        {"name": "Spoon", "width": "1"},
        {"name": "Bad", "width": "-"},
    ]
    furniture = tmp_path / "furniture"
    furniture.mkdir()
    write_library(furniture / "few.sh3f", models, members={"lib/9/box.obj": "v 0 0 0\nf 1 2 3\n"})
    (tmp_path / "names.tsv").write_text(NAMES)
    return furniture


def read(folder: Path) -> Catalog:
    return read_catalog(folder, read_names(folder.parent / "names.tsv"))


def test_a_third_of_a_things_models_is_for_validation_alone(folder: Path) -> None:
    catalog = read(folder)
    split = catalog.split(0)
    by_thing: dict[str, list[str]] = {}
    for model in catalog.models:
        by_thing.setdefault(model.thing, []).append(model.entry.key)
    assert {thing: len(keys) for thing, keys in by_thing.items()} == {"bed": 5, "table": 1, "chair": 2, "divider": 1}
    both = split["train"] & split["val"]
    assert both == {*by_thing["table"], *by_thing["divider"]}  # a thing with one model has to be in both
    assert len(split["val"] & set(by_thing["bed"])) == 2  # round(0.3 * 5)
    assert len(split["val"] & set(by_thing["chair"])) == 1
    assert split["train"] | split["val"] == {model.entry.key for model in catalog.models}
    assert catalog.split(0) == split
    assert any(catalog.split(seed)["val"] != split["val"] for seed in range(1, 6))
    assert (catalog.unnamed, len(catalog.problems)) == (1, 1)


def test_a_model_is_built_with_a_size_of_its_own_and_stands_in_a_room(folder: Path, tmp_path: Path) -> None:
    catalog = read(folder)
    plan = catalog.plan(frozenset({"few-006"}), spacing=SPACING, cache=tmp_path / "cache")
    furniture, kit = Furniture(plan), Kit(np.random.default_rng(0))
    table = furniture.build("table", kit, raised=False)
    assert table is not None
    assert furniture.build("chair", kit, raised=False) is None  # none in this plan
    low, high = table.extent()
    size = (high - low) / (1.0, 0.6, 0.7)
    assert (size > 0.88).all()
    assert (size < 1.08).all()
    assert furniture.used == ["few-006"]
    assert low[2] == pytest.approx(0, abs=0.04)
    assert table.tops[0][4] == pytest.approx(high[2], abs=0.04)
    room = Room((3.0, 3.0, 2.5), np.random.default_rng(1))
    first = room.put(table, np.array([1.5, 1.5, 0.0]), 0.3)
    assert first is not None
    assert room.put(table, np.array([1.6, 1.5, 0.0]), 0.0) is None  # it would enter the other one
    cup = furniture.build("table", kit, raised=False)
    assert cup is not None


def test_a_sampled_model_is_kept_and_a_damaged_one_is_sampled_again(folder: Path, tmp_path: Path) -> None:
    from lg3d_core.synthetic.modelled import catalog as module

    model = read(folder).models[0]
    cache = tmp_path / "cache"
    first = load_sampled(model, SPACING, cache)
    (kept,) = cache.glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    module._load.cache_clear()
    again = load_sampled(model, SPACING, cache)
    for before, after in zip(first.mesh, again.mesh, strict=True):
        assert (before == after).all()


def test_a_malformed_model_is_named_and_another_one_taken(folder: Path, tmp_path: Path) -> None:
    furniture = Furniture(read(folder).plan(frozenset({"few-009"}), spacing=SPACING, cache=tmp_path / "cache"))
    assert furniture.has("divider")
    assert furniture.build("divider", Kit(np.random.default_rng(0)), raised=False) is None
    assert furniture.problems == {
        "few-009": "few: 'Privy' (lib/9/box.obj): a face refers to a vertex that does not exist"
    }


def rooms_of(folder: Path, out: Path, **values: Any) -> RoomsSettings:
    names = folder.parent / "names.tsv"
    options = {"scenes": 4, "validation": 0.5, "jobs": 1, "spacing": SPACING} | values
    return RoomsSettings(out=out, furniture=folder, furniture_names=names, **options)


def used_models(out: Path) -> dict[str, set[str]]:
    used: dict[str, set[str]] = {}
    for split in ("train", "val"):
        scenes = (out / f"scannetv2_{split}.txt").read_text().split()
        lists = [json.loads((out / ".unfinished" / f"{scene}.models.json").read_text())["models"] for scene in scenes]
        used[split] = {key for own in lists for key in own}
    return used


def test_no_validation_object_was_seen_in_training_and_every_model_is_credited(folder: Path, tmp_path: Path) -> None:
    out, progress = tmp_path / "rooms", Notes()
    assert write_rooms(rooms_of(folder, out), progress) == out
    used = used_models(out)
    assert used["train"]
    assert used["val"]
    shared = {"few-006", "few-009"}
    assert used["train"] & used["val"] <= shared
    listed = json.loads((out / "furniture.json").read_text())["models"]
    assert {model["key"] for model in listed} == used["train"] | used["val"]
    for model in listed:
        for split in ("train", "val"):
            assert (model["key"] in used[split]) <= (split in model["splits"])
    credits = (out / "ATTRIBUTION.md").read_text()
    assert "by Somebody; Public domain" in credits
    assert "They were changed" in credits
    assert (out / "licences" / "few.txt").read_text() == "Do as you like.\n"
    assert any("Bad" in line for line in progress.warnings)
    assert (sum("Privy" in line for line in progress.warnings)) <= 1

    before = {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*.ply")}
    write_rooms(rooms_of(folder, out), Progress())  # again: nothing to do
    assert {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*.ply")} == before
    with pytest.raises(SettingsError, match="spacing"):
        write_rooms(rooms_of(folder, out, spacing=0.12), Progress())
    (folder.parent / "names.tsv").write_text(NAMES.replace("Chair\t\tchair\n", ""))
    with pytest.raises(SettingsError, match="furniture"):
        write_rooms(rooms_of(folder, out), Progress())


def test_equal_settings_give_equal_rooms_for_any_number_of_jobs(folder: Path, tmp_path: Path) -> None:
    one = write_rooms(rooms_of(folder, tmp_path / "one", scenes=2), Progress())
    two = write_rooms(rooms_of(folder, tmp_path / "two", scenes=2, jobs=2), Progress())
    files = sorted(path.relative_to(one) for path in one.glob("scans/*/*"))
    assert files
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_names_that_know_no_model_and_names_without_furniture_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.tsv").write_text("model\tsection\tthing\nThrone\t\tchair\n")
    with pytest.raises(DataError, match="contains none of its models"):
        read(folder)
    with pytest.raises(SettingsError, match="--furniture-names requires --furniture"):
        RoomsSettings(out=tmp_path, furniture_names=tmp_path / "names.tsv")
    with pytest.raises(SettingsError, match="--spacing"):
        RoomsSettings(out=tmp_path, spacing=1.0)


def test_models_alone_fix_the_spacing(tmp_path: Path) -> None:
    assert RoomsSettings(out=tmp_path, furniture=tmp_path).mesh_spacing == 0.022
    assert RoomsSettings(out=tmp_path, furniture=tmp_path, spacing=0.05).mesh_spacing == 0.05
    assert RoomsSettings(out=tmp_path).mesh_spacing is None
