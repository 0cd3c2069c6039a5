"""Which runs a table needs: shared ones once, changed ones anew; and the shipped recipes fit the settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from lg3d_core.comparing.grid import cell_label, grid_cells
from lg3d_core.comparing.plan import Plan, parse_changes, plan_table
from lg3d_core.errors import CheckpointError, DataError, SettingsError
from lg3d_core.settings import (
    AnchorsSettings,
    CompareSettings,
    FinetuneSettings,
    PretrainSettings,
    read_recipe,
    recipe_names,
)

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "examples" / "tables").glob("*.toml"))
TABLES = [path for path in RECIPES if path.stem.startswith(("table", "figure"))]
CONVERGENCE = [path for path in RECIPES if path not in TABLES]
BY_NAME = {path.stem: str(path) for path in RECIPES}


def plan(*names: str, **values: Any) -> Plan:
    recipes = tuple(BY_NAME.get(name, name) for name in names)
    return plan_table(CompareSettings(recipes=recipes, **values), store_digest="store")


def kinds(found: Plan) -> list[str]:
    return [step.kind for step in found.steps]


def test_there_is_a_recipe_for_every_row_of_the_papers_tables() -> None:
    count = {table: sum(name.startswith(f"{table}-") for name in BY_NAME) for table in ("table1", "table2", "table4")}
    assert count == {"table1": 7 + 3, "table2": 7, "table4": 7}  # and three beside the first: its rows 8, 9 and a
    assert not [name for name in BY_NAME if name.startswith("figure5-")]  # a grid over rows of Table 1
    assert "figure7-positives-only" in BY_NAME  # its other three are rows 4, 5 and 6 of Table 1


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_recipe_of_a_table_fits_the_real_settings(path: Path) -> None:
    table = read_recipe(str(path))
    assert table["compare"]["label"]
    finetune = FinetuneSettings.resolve(recipe=str(path))
    pretrain = PretrainSettings.resolve(recipe=str(path))
    is_instance = path.stem.startswith("table3")
    assert (finetune.task, finetune.epochs) == (("instance", 300) if is_instance else ("semantic", 170))
    assert (finetune.start == "scratch") != ("pretrain" in table)
    assert finetune.network == pretrain.network == ("18C" if path.stem.startswith("table2") else "34D")
    if "pretrain" in table:
        assert pretrain.epochs == (300 if pretrain.method == "supcon" else 400)
        assert (pretrain.method == "language") == ("anchors" in table)
    if "anchors" in table:
        assert AnchorsSettings.resolve(recipe=str(path)).dim == (96 if path.stem.startswith("table2") else 512)
    found = plan(path.stem, seeds=1)
    assert kinds(found)[-1] == "finetune"


@pytest.mark.parametrize("path", CONVERGENCE, ids=lambda path: path.stem)
def test_recipes_of_the_convergence_tables_differ_only_in_method_and_epochs(path: Path) -> None:
    table = read_recipe(str(path))
    finetune = FinetuneSettings.resolve(recipe=str(path))
    pretrain = PretrainSettings.resolve(recipe=str(path))
    is_continued = finetune.start.endswith(".toml")
    is_longer = path.stem.startswith("equal-compute") and not is_continued
    assert (finetune.epochs, pretrain.epochs) == (60 if is_longer else 30, 30 if "pretrain" in table else 1)
    assert (finetune.start == "scratch" or is_continued) != ("pretrain" in table)
    needs_anchors = finetune.classifier == "anchors" or ("pretrain" in table and pretrain.method == "language")
    assert needs_anchors == ("anchors" in table)
    assert ("shuffled" in table.get("anchors", {})) == ("shuffled" in path.stem)
    common = read_recipe(BY_NAME["convergence-1-scratch"])
    phases = {"compare", "anchors", "pretrain", "finetune"}
    assert {k: v for k, v in table.items() if k not in phases} == {k: v for k, v in common.items() if k not in phases}


def test_convergence_tables_share_runs_and_both_protocols_have_the_total_of_epochs() -> None:
    free = plan(*(path.stem for path in CONVERGENCE if path.stem.startswith("convergence")), seeds=1)
    assert sorted(kinds(free)) == [*["anchors"] * 2, *["finetune"] * 7, *["pretrain"] * 3]
    equal = plan(
        *(path.stem for path in CONVERGENCE if path.stem.startswith("equal-compute")),
        *(path.stem for path in CONVERGENCE if path.stem[:13] in {f"convergence-{k}" for k in (3, 4, 5)}),
        seeds=1,
    )
    assert {row.runs for row in free.rows[2:5]} == {row.runs for row in equal.rows[5:]}
    assert free.rows[1].runs[0] in {step.folder for step in equal.steps}  # the run that is continued
    epochs = {step.folder: json.loads(step.settings)["epochs"] for step in equal.steps if step.kind != "anchors"}
    needs = {step.folder: step.needs for step in equal.steps}
    total = [epochs[run] + sum(epochs.get(need, 0) for need in needs[run]) for row in equal.rows for run in row.runs]
    assert total == [60] * 8


@pytest.mark.parametrize(
    ("name", "network", "dim"), [("paper-34d", "34D", 512), ("paper-34c", "34C", 96), ("paper-18c", "18C", 96)]
)
def test_each_backbone_has_a_recipe_with_anchors_as_wide_as_its_features(name: str, network: str, dim: int) -> None:
    assert name in recipe_names()
    assert PretrainSettings.resolve(recipe=name).network == network
    assert AnchorsSettings.resolve(recipe=name).dim == dim


def write_recipe(path: Path, start: str, *lines: str) -> str:
    path.write_text("\n".join([f'[compare]\nlabel = "{path.stem}"', "[finetune]", f'from = "{start}"', *lines]))
    return str(path)


def test_a_recipe_starts_from_the_run_of_another_one_with_the_same_seed(tmp_path: Path) -> None:
    first = write_recipe(tmp_path / "first.toml", "scratch", "epochs = 3")
    write_recipe(tmp_path / "second.toml", "first.toml", 'classifier = "anchors"', "epochs = 2")
    third = write_recipe(tmp_path / "third.toml", "second.toml")
    found = plan(third, first, seeds=2)
    assert sorted(kinds(found)) == ["anchors", *["finetune"] * 6]
    steps = {step.folder: step for step in found.steps}
    for seed in range(2):
        last = steps[found.rows[0].runs[seed]]
        (middle,) = (steps[need] for need in last.needs)
        start = next(steps[need] for need in middle.needs if steps[need].kind == "finetune")
        assert start.folder == found.rows[1].runs[seed]  # shared with the row of its own
        assert json.loads(middle.settings)["start"] == str(start.folder)
        assert json.loads(middle.settings)["seed"] == json.loads(start.settings)["seed"] == seed
        assert {steps[need].kind for need in middle.needs} == {"anchors", "finetune"}
    shorter = write_recipe(tmp_path / "first.toml", "scratch", "epochs = 4")
    assert not set(plan(third, shorter, seeds=2).rows[0].runs) & set(found.rows[0].runs)
    longer = [step for step in plan(third, seeds=1, epochs=5).steps if step.kind == "finetune"]
    assert [json.loads(step.settings)["epochs"] for step in longer] == [5, 5, 5]


def test_a_recipe_that_starts_from_itself_or_sees_hidden_labels_is_rejected(tmp_path: Path) -> None:
    first = write_recipe(tmp_path / "first.toml", "second.toml")
    write_recipe(tmp_path / "second.toml", "first.toml")
    with pytest.raises(SettingsError, match=r"recipe .*second\.toml: from = 'first\.toml' starts from itself"):
        plan(first)
    write_recipe(tmp_path / "second.toml", "scratch")
    few = write_recipe(tmp_path / "few.toml", "second.toml", "limited = 0.05")
    with pytest.raises(SettingsError, match=r"the run of second\.toml has all labels and fine-tuning limited = 0\.05"):
        plan(few)
    assert plan(few, allow_leak=True).rows
    assert plan(few, changes=("limited=0.1",)).rows  # for both
    with pytest.raises(SettingsError, match=r"none\.toml: expected one of .* or a TOML file's path"):
        plan(write_recipe(tmp_path / "lost.toml", "none.toml"))


def test_rows_share_a_pretraining_and_seeds_do_not() -> None:
    found = plan("table1-1-scratch", "table1-6-clip-only", "table1-7-ours", seeds=2)
    assert sorted(kinds(found)) == ["anchors", *["finetune"] * 6, *["pretrain"] * 2]
    assert [row.label for row in found.rows] == ["Scratch", "Ours (CLIP only)", "Ours"]
    assert len({folder for row in found.rows for folder in row.runs}) == 6
    done: set[Path] = set()
    for step in found.steps:
        assert set(step.needs) <= done
        done.add(step.folder)
    finetune = next(step for step in found.steps if step.folder == found.rows[2].runs[1])
    settings = FinetuneSettings.from_json(finetune.settings)
    assert (settings.seed, settings.name) == (1, finetune.folder.name)
    assert Path(settings.start) == finetune.needs[0]
    pretrain = next(step for step in found.steps if step.folder == finetune.needs[0])
    assert PretrainSettings.from_json(pretrain.settings).anchors.parent == pretrain.needs[0]


def test_equal_rows_of_two_tables_are_one_run_and_a_pretraining_without_labels_serves_every_share() -> None:
    scratch = plan("table1-1-scratch", seeds=1).rows[0].runs
    assert plan("table4-1-scratch", seeds=1).rows[0].runs == scratch
    shares = {"seeds": 1, "grid": ("limited=0.05,0.10,0.50,1.0",)}
    from_scratch = plan("table1-1-scratch", **shares)
    assert from_scratch.rows[-1].runs == scratch  # all labels: no budget
    assert len({row.runs for row in from_scratch.rows}) == 4
    control = plan("table1-8-ours-without-language", seeds=1).rows[0]
    assert plan("table1-8-ours-without-language", **shares).rows[-1].runs == control.runs
    assert kinds(plan("table1-5-csc", **shares)).count("pretrain") == 1
    assert kinds(plan("table1-7-ours", **shares)).count("pretrain") == 4


def test_rows_of_a_grid_are_named_after_recipe_and_values_and_know_their_share() -> None:
    found = plan("table1-1-scratch", "table1-7-ours", seeds=1, grid=("limited=0.05,1.0",))
    assert [(row.label, row.method, row.share) for row in found.rows] == [
        ("Scratch, limited=0.05", "Scratch", 0.05),
        ("Ours, limited=0.05", "Ours", 0.05),
        ("Scratch, limited=1.0", "Scratch", 1.0),
        ("Ours, limited=1.0", "Ours", 1.0),
    ]
    grounded = [json.loads(step.settings)["limited"] for step in found.steps if step.kind == "pretrain"]
    assert grounded == [0.05, None]


def test_several_grids_give_the_product_of_their_values() -> None:
    grid = ("finetune.loss=focal,cross-entropy", "batch-size=2,4")
    found = plan("table1-7-ours", seeds=1, grid=grid)
    assert [row.label for row in found.rows] == [
        f"Ours, finetune.loss={loss}, batch-size={size}" for loss in ("focal", "cross-entropy") for size in (2, 4)
    ]
    settings = {step.folder: json.loads(step.settings) for step in found.steps}
    assert [(settings[row.runs[0]]["loss"], settings[row.runs[0]]["batch_size"]) for row in found.rows] == [
        ("focal", 2),
        ("focal", 4),
        ("cross-entropy", 2),
        ("cross-entropy", 4),
    ]
    assert kinds(found).count("pretrain") == 2  # the loss of fine-tuning does not change it


def test_values_of_a_grid_may_be_texts_lists_and_anchors() -> None:
    first, second = plan("table1-7-ours", seeds=1, grid=("anchors.encoder=bundled,open_clip:ViT-B-32/openai",)).rows
    assert (first.label, first.method) == ("Ours, anchors.encoder=bundled", "Ours, anchors.encoder=bundled")
    assert second.runs == plan("table1-7-ours", seeds=1).rows[0].runs
    lists = plan("table1-1-scratch", seeds=1, grid=("milestones=[0.5,0.75],[0.9]",))
    assert [row.label for row in lists.rows] == ["Scratch, milestones=[0.5,0.75]", "Scratch, milestones=[0.9]"]
    milestones = [tuple(json.loads(step.settings)["milestones"]) for step in lists.steps]
    assert milestones == [(0.5, 0.75), (0.9,)]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ("scratch,/d/runs/a,/d/runs/b", ["scratch", "a", "b"]),
        ("/d/runs/a/last.safetensors,/d/runs/b/last.safetensors", ["a/last.safetensors", "b/last.safetensors"]),
        ("runs/a,/d/runs/b", ["runs/a", "/d/runs/b"]),
        ("a,/d/a", ["a", "/d/a"]),
    ],
)
def test_paths_of_a_grid_are_shown_without_their_common_folder(values: str, shown: list[str]) -> None:
    cells = grid_cells([f"finetune.from={values}"])
    assert [cell_label("Row", cell) for cell in cells] == [f"Row, finetune.from={text}" for text in shown]
    assert [cell[0].value for cell in cells] == values.split(",")


def test_slashes_in_other_texts_of_a_grid_are_shown() -> None:
    cells = grid_cells(['anchors.prompt="a {} in a room/hall","a {} in a room/street"'])
    assert [cell_label("Row", cell) for cell in cells] == [
        "Row, anchors.prompt=a {} in a room/hall",
        "Row, anchors.prompt=a {} in a room/street",
    ]


def test_the_command_of_a_key_precedes_all_commands() -> None:
    for values in ({"grid": ("finetune.epochs=3", "epochs=2")}, {"changes": ("finetune.epochs=3", "epochs=2")}):
        found = plan("table1-7-ours", seeds=1, **values)
        epochs = {step.kind: json.loads(step.settings).get("epochs") for step in found.steps}
        assert (epochs["pretrain"], epochs["finetune"]) == (2, 3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (("limited",), "expected key=value"),
        (("limited=",), "expected key=value,value"),
        (("limited=0.1,",), "expected key=value,value"),
        (("limited=0.1,,0.2",), "expected key=value,value"),
        (("limited=0.1,0.10",), "a value is repeated"),
        (("limited=0.1,2",), r"--grid: --limited must be above 0 and at most 1 \(0.05 is 5 %\), got 2"),
        (("limited=0.1,some",), "--grid: --limited must be a finite number, got 'some'"),
        (("limited=0.1", "limited=0.2"), "names limited twice"),
        (("batch-size=1,2", "batch_size=2,4"), "names batch_size twice"),
        (("finetune.from=scratch,latest", "finetune.start=a,b"), "names finetune.start twice"),
        (("limitd=0.1,0.2",), "limitd is not a setting of anchors, pretrain, finetune"),
        (("predict.device=cpu,cuda",), "is not a setting of anchors, pretrain, finetune"),
        (("compare.label=a,b",), "is not a setting of anchors, pretrain, finetune"),
        (("seed=1,2",), "--grid seed: all values give the same runs"),
        (("device=cpu,auto",), "--grid device: all values give the same runs"),
        (("pretrain.epochs=1,2",), "--grid pretrain.epochs: all values give the same runs"),
    ],
)
def test_a_grid_that_cannot_be_planned_is_rejected(grid: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan("table1-1-scratch", seeds=1, grid=grid)


def test_a_grid_cannot_be_combined_with_another_option_for_the_same_key() -> None:
    with pytest.raises(SettingsError, match="--grid and --set both set limited"):
        plan("table1-1-scratch", seeds=1, grid=("limited=0.1,0.2",), changes=("limited=1",))
    with pytest.raises(SettingsError, match="--grid and --set both set batch-size"):
        plan("table1-1-scratch", seeds=1, grid=("batch-size=1,2",), changes=("batch_size=4",))
    with pytest.raises(SettingsError, match="--grid epochs: all values give the same runs"):
        plan("table1-1-scratch", seeds=1, grid=("epochs=1,2",), epochs=3)


def test_a_classifier_from_anchors_needs_anchors_from_scratch_too_and_other_anchors_give_another_run() -> None:
    found = plan("table1-a-anchored-classifier", seeds=2)
    assert kinds(found) == ["anchors", "finetune", "finetune"]
    anchors, finetune, _ = found.steps
    assert finetune.needs == (anchors.folder,)
    settings = FinetuneSettings.from_json(finetune.settings)
    assert (settings.start, settings.anchors.parent) == ("scratch", anchors.folder)
    others = plan("table1-a-anchored-classifier", seeds=2, changes=("anchors.encoder=bundled",))
    assert not set(others.rows[0].runs) & set(found.rows[0].runs)
    contexts = plan("table1-5-csc", seeds=1, changes=("finetune.classifier=anchors",))
    assert kinds(contexts) == ["anchors", "pretrain", "finetune"]
    assert contexts.steps[1].folder == plan("table1-5-csc", seeds=1).steps[0].folder


def test_the_folder_name_depends_on_exactly_the_settings_that_affect_the_result() -> None:
    def folder(**values: Any) -> Path:
        return plan("table1-7-ours", seeds=1, **values).rows[0].runs[0]

    base = folder()
    assert folder(device="cpu") == folder(jobs=2) == base
    assert all(folder(changes=(change,)) == base for change in ("jobs=4", "rank_timeout=9", "wandb=true"))
    others = [
        folder(network="14A"),
        folder(epochs=3),
        folder(pretrain_epochs=3),
        folder(voxel_size=0.05),
        folder(split="train"),
        folder(changes=("anchors.encoder=bundled",)),
        folder(changes=("finetune.instances=1",)),
        plan_table(CompareSettings(recipes=(BY_NAME["table1-7-ours"],), seeds=1), store_digest="other").rows[0].runs[0],
    ]
    assert len({base, *others}) == len(others) + 1


def test_changes_reach_the_command_that_they_name_or_all() -> None:
    found = plan(
        "table1-7-ours", seeds=1, changes=("batch_size=2", "finetune.loss=focal", "validate_every=0"), network="14A"
    )
    settings = {step.kind: json.loads(step.settings) for step in found.steps}
    assert settings["pretrain"]["batch_size"] == settings["finetune"]["batch_size"] == 2
    assert settings["pretrain"]["validate_every"] == settings["finetune"]["validate_every"] == 0
    assert (settings["finetune"]["loss"], settings["finetune"]["network"]) == ("focal", "14A")
    assert next(step.network for step in found.steps if step.kind == "anchors") == "14A"
    assert parse_changes(("a=1", "b.c = [1, 2]", "b.d=text of mine")) == {
        "a": 1,
        "b": {"c": [1, 2], "d": "text of mine"},
    }


@pytest.mark.parametrize("key", ["voxel_size", "voxel-size"])
@pytest.mark.parametrize("change", ["voxel_size=0.3", "voxel-size=0.3", "finetune.voxel-size=0.3"])
def test_a_change_replaces_the_value_of_a_recipe_in_either_spelling(tmp_path: Path, key: str, change: str) -> None:
    recipe = tmp_path / "recipe.toml"
    for text in (f"{key} = 0.05\n[finetune]\n", f"[finetune]\n{key} = 0.05\n"):
        recipe.write_text(f"{text}from = 'scratch'\n")
        (step,) = plan(str(recipe), seeds=1, changes=(change,)).steps
        assert json.loads(step.settings)["voxel_size"] == 0.3


def test_a_change_replaces_the_start_of_a_recipe_under_the_name_of_the_field_and_of_the_option(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[finetune]\nfrom = 'scratch'\n[pretrain]\nmethod = 'csc'\n")
    assert kinds(plan(str(recipe), seeds=1, changes=("start=latest",))) == ["pretrain", "finetune"]


@pytest.mark.parametrize(
    ("changes", "values", "message"),
    [
        (("seed=5",), {}, "--set seed: lg3d compare sets it for all runs: pass --seeds instead"),
        (("finetune.store=other",), {}, "pass --store instead"),
        (("device=cpu",), {}, "pass --device instead"),
        (("anchors=mine.safetensors",), {}, "pass --anchors instead"),
        (("pretrain.anchors=mine.safetensors",), {}, "pass --anchors instead"),
        (("name=mine",), {}, "pass --out instead"),
        (("finetune.epochs=3",), {"epochs": 2}, "pass --epochs instead"),
        (("pretrain.epochs=3",), {"pretrain_epochs": 2}, "pass --pretrain-epochs instead"),
        (("network=14A",), {"network": "34C"}, "pass --network instead"),
        (("anchors.dim=64",), {}, "pass --network instead"),
        (("encoder=bundled",), {"anchors": Path("mine.safetensors")}, "pass --anchors instead"),
        (("votes=4",), {}, "votes: not a setting of anchors, pretrain, finetune"),
        (("eval.votes=4",), {}, "eval.votes: not a setting of anchors, pretrain, finetune"),
        (("compare.resamples=100",), {}, "resamples applies to whole tables"),
    ],
)
def test_a_change_without_an_effect_is_rejected(changes: tuple[str, ...], values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan("table1-7-ours", seeds=1, changes=changes, **values)


def test_a_change_that_one_phase_uses_is_accepted() -> None:
    found = plan("table1-7-ours", seeds=1, changes=("epochs=3",), epochs=2)
    epochs = {step.kind: json.loads(step.settings).get("epochs") for step in found.steps}
    assert (epochs["pretrain"], epochs["finetune"]) == (3, 2)


def test_a_recipe_with_an_anchors_file_is_rejected_because_its_anchors_would_be_others(tmp_path: Path) -> None:
    file, recipe = tmp_path / "mine.safetensors", tmp_path / "recipe.toml"
    file.write_bytes(b"")
    recipe.write_text("[pretrain]\nanchors = 'mine.safetensors'\n")
    with pytest.raises(SettingsError, match=r"anchors = 'mine.safetensors' is not used.*pass --anchors mine"):
        plan(str(recipe), seeds=1)
    assert kinds(plan(str(recipe), seeds=1, anchors=file)) == ["pretrain", "finetune"]
    recipe.write_text("[pretrain]\nanchors = 'mine.safetensors'\n[finetune]\nfrom = 'scratch'\n")
    assert kinds(plan(str(recipe), seeds=1)) == ["finetune"]  # without anchors


@pytest.mark.parametrize("key", ["anchors.prompt_file", "anchors.like", "pretrain.also_anchors"])
def test_another_content_of_a_file_that_a_step_reads_gives_another_run(
    tmp_path: Path, key: str, store_path: Path
) -> None:
    file, recipe, folders = tmp_path / "file", tmp_path / "recipe.toml", []
    recipe.write_text("")
    changes = [f"{key}={file}", *([f"pretrain.also_store={store_path}"] if "also" in key else [])]
    for content in ("one", "two", "one"):
        file.write_text(content)
        folders.append(plan(str(recipe), seeds=1, changes=tuple(changes)).rows[0].runs[0])
    assert folders[0] == folders[2] != folders[1]
    file.unlink()
    with pytest.raises(SettingsError, match=rf"{key.partition('.')[2]} = .*file cannot be read"):
        plan(str(recipe), seeds=1, changes=tuple(changes))


def test_another_content_of_a_vocabulary_file_gives_other_anchors(tmp_path: Path) -> None:
    file, recipe, steps = tmp_path / "classes.tsv", tmp_path / "recipe.toml", []
    recipe.write_text("")
    for content in ("one", "two"):
        file.write_text(content)
        steps.append(plan(str(recipe), seeds=1, changes=(f"anchors.vocabulary={file}",)).steps)
    first, second = ({step.folder for step in own if step.kind == "anchors"} for own in steps)
    assert first != second


def test_other_scenes_in_a_further_store_give_another_run(
    tmp_path: Path, store_path: Path, furnished_store_path: Path
) -> None:
    recipe, folders = tmp_path / "recipe.toml", []
    recipe.write_text("")
    (tmp_path / "anchors").write_text("")
    changes = (f"pretrain.also_store={tmp_path / 'other'}", f"pretrain.also_anchors={tmp_path / 'anchors'}")
    for target in (store_path, furnished_store_path):
        (tmp_path / "other").unlink(missing_ok=True)
        (tmp_path / "other").symlink_to(target)
        folders.append(plan(str(recipe), seeds=1, changes=changes).rows[0].runs[0])
    assert folders[0] != folders[1]
    (tmp_path / "other").unlink()
    with pytest.raises(DataError, match="other"):
        plan(str(recipe), seeds=1, changes=changes)


@pytest.mark.parametrize("change", ["a", "=1", ".a=1", "a.=1"])
def test_a_malformed_change_is_rejected(change: str) -> None:
    with pytest.raises(SettingsError, match="expected key=value"):
        parse_changes((change,))


@pytest.mark.parametrize("again", ["finetune.batch_size=3", "finetune.batch-size=2"])
def test_a_key_that_is_changed_twice_is_refused(again: str) -> None:
    with pytest.raises(SettingsError, match=r"--set names finetune.batch.size twice"):
        parse_changes(("finetune.batch_size=2", again))


def test_given_anchors_replace_those_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--anchors"):
        plan("table1-7-ours", seeds=1, anchors=tmp_path / "none")
    (tmp_path / "mine").write_bytes(b"1")
    first = plan("table1-7-ours", seeds=1, anchors=tmp_path / "mine")
    assert kinds(first) == ["pretrain", "finetune"]
    assert PretrainSettings.from_json(first.steps[0].settings).anchors == tmp_path / "mine"
    (tmp_path / "mine").write_bytes(b"2")
    assert plan("table1-7-ours", seeds=1, anchors=tmp_path / "mine").rows[0].runs != first.rows[0].runs


def test_a_row_that_starts_from_a_checkpoint_has_no_pre_training_and_depends_on_the_file(tmp_path: Path) -> None:
    start, recipe = tmp_path / "start.safetensors", tmp_path / "mine.toml"
    recipe.write_text(f"[finetune]\nfrom = '{start}'\nepochs = 2\n")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*start\.safetensors"):
        plan(str(recipe), seeds=2)
    start.write_bytes(b"1")
    first = plan(str(recipe), seeds=2)
    assert kinds(first) == ["finetune", "finetune"]
    assert [FinetuneSettings.from_json(step.settings).start for step in first.steps] == [str(start)] * 2
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(b"1")
    assert plan(str(recipe), seeds=2, changes=(f"finetune.from={moved}",)).rows[0].runs == first.rows[0].runs
    start.write_bytes(b"2")
    assert plan(str(recipe), seeds=2).rows[0].runs != first.rows[0].runs
    # A label budget is checked when the run starts, against the labels that the checkpoint records.
    assert kinds(plan(str(recipe), seeds=1, changes=("finetune.limited=0.1",))) == ["finetune"]


def test_rows_that_cannot_be_planned_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RECIPES is missing"):
        plan()
    with pytest.raises(SettingsError, match="two recipes have the label Scratch"):
        plan("table1-1-scratch", "table2-1-scratch")
    (tmp_path / "mine.toml").write_text("[finetune]\nepochs = 2\nfrom = 'scratch'\nlosss = 'focal'\n")
    with pytest.raises(SettingsError, match="no setting 'losss'; did you mean 'loss'"):
        plan(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("[finetune]\nfrom = 'scratch'\n")
    assert plan(str(tmp_path / "mine.toml")).rows[0].label == "mine"
    for values in ({"seeds": 0}, {"jobs": 0}, {"epochs": 0}, {"pretrain_epochs": 0}, {"resamples": 1}):
        with pytest.raises(SettingsError, match="must be at least"):
            CompareSettings(recipes=("demo",), **values)  # type: ignore[arg-type]
