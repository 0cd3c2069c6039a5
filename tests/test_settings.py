"""Where a setting's value comes from, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from lg3d_core.errors import SettingsError, UsageError
from lg3d_core.settings import (
    COMMANDS,
    AnchorsSettings,
    AskSettings,
    CompareSettings,
    EvalSettings,
    FinetuneSettings,
    PredictSettings,
    PrepareSettings,
    PretrainSettings,
    RoomsSettings,
    ScoreSettings,
    Settings,
    ViewSettings,
    recipe_names,
)
from lg3d_core.settings.fields import fields_of


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_option_beats_variable_beats_file_beats_recipe_beats_default(tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.toml", "epochs = 2\nbatch_size = 2\nseed = 2\nlearning_rate = 0.2\n")
    config = write(tmp_path / "lg3d.toml", "epochs = 3\nbatch_size = 3\nseed = 3\n")
    settings = PretrainSettings.resolve(
        recipe=str(recipe), config=config, environ={"LG3D_EPOCHS": "4", "LG3D_BATCH_SIZE": "4"}, epochs=5
    )
    assert (settings.epochs, settings.batch_size, settings.seed, settings.learning_rate) == (5, 4, 3, 0.2)
    assert settings.momentum == 0.9


def test_a_table_holds_for_its_command_alone(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "epochs = 1\n[finetune]\nepochs = 7\nfrom = 'scratch'\n")
    assert PretrainSettings.resolve(config=config).epochs == 1
    assert FinetuneSettings.resolve(config=config).epochs == 7
    assert FinetuneSettings.resolve(config=config).start == "scratch"


def test_a_key_with_the_name_of_a_command_is_a_setting(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "anchors = 'mine.safetensors'\nvocabulary = 'scannet20'\nrooms = 4\n")
    anchors = AnchorsSettings.resolve(config=config)
    assert (anchors.anchors, anchors.vocabulary) == (Path("mine.safetensors"), "scannet20")
    assert PretrainSettings.resolve(config=config).anchors == Path("mine.safetensors")
    assert RoomsSettings.resolve(config=config, out="raw").scenes == RoomsSettings.scenes
    assert COMMANDS["report"].resolve(config=config, run=("a",)).rooms == 4
    for name in {name for command in COMMANDS.values() for name in fields_of(command)} & COMMANDS.keys():
        assert name in ("anchors", "vocabulary", "rooms", "export"), f"{name} needs a case above"


def test_a_map_of_anchors_takes_a_vocabulary_for_its_groups_but_a_list_does_not() -> None:
    options = {"plot": Path("map.png"), "vocabulary": "scannet20", "order": "groups"}
    assert AnchorsSettings.resolve(**options).vocabulary == "scannet20"
    with pytest.raises(UsageError, match="--show reads the anchors file as it is: leave out --vocabulary"):
        AnchorsSettings.resolve(**options, show=True)


def test_scene_contexts_reject_a_temperature_that_overflows_before_a_run_is_made() -> None:
    with pytest.raises(SettingsError, match=r"--temperature must be at least 0\.05 with --method csc, got 0\.02"):
        PretrainSettings(method="csc", temperature=0.02)
    assert PretrainSettings(method="csc", temperature=0.05).temperature == 0.05
    assert PretrainSettings(method="supcon", temperature=0.02).temperature == 0.02


def test_the_recipe_itself_can_come_from_variable_or_file(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "recipe = 'demo'\n")
    assert PretrainSettings.resolve(config=config, default_recipe="paper-34d").network == "14A"
    environ = {"LG3D_RECIPE": "paper-18c"}
    assert PretrainSettings.resolve(config=config, environ=environ).network == "18C"
    assert PretrainSettings.resolve(default_recipe="paper-34d").network == "34D"
    assert EvalSettings.resolve(config=config).split == "val"


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("command", ["anchors", "pretrain", "finetune"])
def test_every_shipped_recipe_resolves_for_every_command(name: str, command: str) -> None:
    settings = COMMANDS[command].resolve(recipe=name)
    assert settings == type(settings).from_json(settings.to_json())


def test_the_paper_recipe_holds_the_papers_numbers() -> None:
    pretraining = PretrainSettings.resolve(recipe="paper-34d")
    assert (pretraining.epochs, pretraining.batch_size, pretraining.learning_rate) == (400, 8, 0.05)
    assert [m * pretraining.epochs for m in pretraining.milestones] == [150, 250]
    assert (pretraining.negatives, pretraining.positive_margin, pretraining.negative_margin) == (3, 0.0, 0.6)


@pytest.mark.parametrize("name", ["paper-34d", "paper-34c", "paper-18c"])
def test_finetuning_decays_at_the_references_epochs_120_and_150_of_170(name: str) -> None:
    settings = FinetuneSettings.resolve(recipe=name)
    assert settings.epochs == 170
    assert [share * settings.epochs for share in settings.milestones] == pytest.approx([120, 150], abs=1e-12)
    assert FinetuneSettings().milestones == settings.milestones
    assert FinetuneSettings.from_json(settings.to_json()).milestones == settings.milestones


@pytest.mark.parametrize("row", ["1-scratch", "2-csc", "3-clip-only", "4-ours", None])
def test_instance_segmentation_trains_as_the_paper_does(row: str | None) -> None:
    tables = Path(__file__).parents[1] / "examples" / "tables"
    recipe = "paper-34d-instance" if row is None else str(tables / f"table3-{row}.toml")
    settings = FinetuneSettings.resolve(recipe=recipe)
    values = (settings.task, settings.network, settings.learning_rate, settings.epochs, settings.batch_size)
    assert values == ("instance", "34D", 0.02, 300, 8)
    pretraining = PretrainSettings.resolve(recipe=recipe)
    if row != "1-scratch":
        assert (pretraining.learning_rate, pretraining.epochs) == (0.05, 400)


def test_supcon_decays_at_epochs_150_and_250_of_300() -> None:
    recipe = Path(__file__).parents[1] / "examples" / "tables" / "table1-4-supcon.toml"
    settings = PretrainSettings.resolve(recipe=str(recipe))
    assert settings.method == "supcon"
    assert [share * settings.epochs for share in settings.milestones] == pytest.approx([150, 250], abs=1e-12)


def test_the_recipe_of_figure_7_trains_with_positives_only() -> None:
    recipe = Path(__file__).parents[1] / "examples" / "tables" / "figure7-positives-only.toml"
    settings = PretrainSettings.resolve(recipe=str(recipe))
    assert (settings.method, settings.epochs, settings.negative_weight) == ("language", 400, 0.0)
    with pytest.raises(SettingsError, match="--negative-weight must be 0 or more, got -1"):
        PretrainSettings(negative_weight=-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 3", "did you mean 'epochs'?"),
        ("[pretrian]\nepochs = 3", "did you mean 'pretrain'?"),
        ("[pretrain]\nnegativs = 3", "did you mean 'negatives'?"),
        ("epochs = 'many'", "--epochs must be a whole number, got 'many'"),
        ("epochs = 2.5", "--epochs must be a whole number, got 2.5"),
        ("epochs = true", "--epochs must be a number, got True"),
        ("augment = 1", "--augment must be true or false, got 1"),
        ("network = '34X'", "--network must be one of 34D, 34C, 18C, 18A, 14A, got '34X'"),
        ("epochs = 0", "--epochs must be at least 1, got 0"),
        ("limited = 5", "--limited must be above 0 and at most 1 (0.05 is 5 %), got 5.0"),
        ("name = '../x'", "--name must be a plain folder name"),
        ("momentum = 1", "--momentum must be at least 0 and below 1, got 1.0"),
        ("milestones = [0.375, nan]", "--milestones must be a finite number, got nan"),
        ("milestones = [0.375, 2]", "--milestones must be shares from 0 to 1"),
        (f"learning_rate = 1{'0' * 400}", "--learning-rate must be a finite number"),
        ("epochs = ", "is not TOML"),
        (f"epochs = 1{'0' * 5000}", "is not TOML: Exceeds the limit (4300 digits)"),
        ("batch_size = 2\nbatch-size = 4", "'batch_size' and 'batch-size' are the same setting"),
        ("[pretrain]\nbatch-size = 2\nbatch_size = 4", "[pretrain]: 'batch-size' and 'batch_size' are the same"),
        ("name = '..'", "--name must be a plain folder name"),
        ("name = ''", "--name must be a plain folder name"),
        (f"milestones = {'[' * 5000}", "is not TOML that can be read: it is nested too deeply"),
    ],
)
def test_a_bad_file_is_refused_with_the_key_and_a_way_out(tmp_path: Path, text: str, expected: str) -> None:
    config = write(tmp_path / "lg3d.toml", text)
    with pytest.raises(SettingsError) as caught:
        PretrainSettings.resolve(config=config)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("LG3D_AUGMENT", "false", "augment", False),
        ("LG3D_MILESTONES", "0.5, 0.75", "milestones", (0.5, 0.75)),
        ("LG3D_STORE", "/data/x", "store", Path("/data/x")),
        ("LG3D_MICRO_BATCH", "", "micro_batch", None),
        ("LG3D_VOXEL_SIZE", "0.05", "voxel_size", 0.05),
    ],
)
def test_variables_are_text_of_any_type(variable: str, value: str, field: str, expected: object) -> None:
    assert getattr(PretrainSettings.resolve(environ={variable: value}), field) == expected


def test_a_variable_that_is_no_boolean_is_refused() -> None:
    with pytest.raises(SettingsError, match="LG3D_AUGMENT must be true or false, got 'maybe'"):
        PretrainSettings.resolve(environ={"LG3D_AUGMENT": "maybe"})


@pytest.mark.parametrize("shard", ["", "1", "0/4", "5/4", "a/b", "1/4/2", "-1/4", "١/٤"])
def test_a_malformed_shard_is_refused(shard: str) -> None:
    with pytest.raises(SettingsError, match="--shard must be of the form i/n"):
        PrepareSettings(raw=Path("x"), shard=shard)


def test_a_shard_is_read_as_numbers() -> None:
    assert PrepareSettings(raw=Path("x"), shard="2/4").shard_numbers == (2, 4)


@pytest.mark.parametrize(
    ("settings", "needed", "option", "file", "expected"),
    [
        (ViewSettings, {"scene": "a"}, "html", "room.png", ".html or .htm"),
        (ViewSettings, {"scene": "a"}, "png", "room.html", ".png"),
        (AskSettings, {"scan": "a.ply", "texts": ("chair",)}, "html", "room.txt", ".html or .htm"),
        (CompareSettings, {"recipes": ("a",)}, "plot", "x.gif", ".png, .pdf or .svg"),
        (AnchorsSettings, {}, "plot", "map", ".png, .pdf or .svg"),
        (EvalSettings, {}, "submission", "room.7z", ".zip"),
    ],
)
def test_an_output_file_has_the_suffix_of_its_format(
    settings: type[Settings], needed: dict[str, Any], option: str, file: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=f"^--{option} must be a file name that ends in {expected}, got '?{file}"):
        settings.resolve(**needed, **{option: Path(file)})
    right = Path(file).with_suffix(expected.split()[-1].upper())
    assert getattr(settings.resolve(**needed, **{option: right}), option) == right


def test_a_prompt_needs_exactly_one_place_for_the_name() -> None:
    with pytest.raises(SettingsError, match=r"--prompt must be templates with exactly one \{\}"):
        AnchorsSettings(prompt=("a chair",))


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="expected one of any-scan, demo, paper-18c, paper-34c, paper-34d"):
        RoomsSettings.resolve(recipe="papr", out="x")


@pytest.mark.parametrize(
    ("command", "field", "expected"),
    [
        (FinetuneSettings, "start", "--from must be a checkpoint, latest or scratch, got ''"),
        (FinetuneSettings, "store", "--store must be a path, got ''"),
        (EvalSettings, "checkpoint", "--checkpoint must be a path, got ''"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(command: type[Settings], field: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        command.resolve(**{field: ""})  # `--from "$ckpt"` after a command that failed
    assert str(caught.value) == expected


def test_saved_settings_of_another_kind_are_refused() -> None:
    text = json.dumps({"epochs": 3, "warp": 9})
    with pytest.raises(SettingsError, match="saved settings do not fit PretrainSettings"):
        PretrainSettings.from_json(text)


def test_a_key_and_a_variable_may_be_spelled_as_the_option(tmp_path: Path) -> None:
    assert FinetuneSettings.resolve(environ={"LG3D_FROM": "scratch"}).start == "scratch"
    assert FinetuneSettings.resolve(environ={"LG3D_START": "scratch"}).start == "scratch"
    config = write(tmp_path / "lg3d.toml", "[predict]\nformat = ['npz', 'txt']\n")
    assert PredictSettings.resolve(config=config, scans="x").formats == ("npz", "txt")


def test_a_recipe_may_be_named_for_one_command(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "recipe = 'paper-34c'\n[finetune]\nrecipe = 'demo'\n")
    assert (FinetuneSettings.resolve(config=config).network, FinetuneSettings.resolve(config=config).recipe) == (
        "14A",
        "demo",
    )
    assert PretrainSettings.resolve(config=config).network == "34C"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"voxel_size": float("nan")}, "--voxel-size must be a finite number"),
        ({"rank_timeout": float("inf")}, "--rank-timeout must be a finite number"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive, got 0.0"),
        ({"seed": -1}, "--seed must be 0 or more, got -1"),
        ({"norm_momentum": 1.5}, "--norm-momentum must be above 0 and at most 1, got 1.5"),
        ({"partition_radii": (0.5, 0.05)}, "--partition-radii must be two rising lengths"),
        ({"contrast": "softmax", "distance": "l1"}, "--distance must be cosine with --contrast softmax"),
    ],
)
def test_limits_hold_however_settings_are_built(values: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PretrainSettings(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(expected)
    with pytest.raises(UsageError) as typed:
        PretrainSettings.resolve(**values)
    assert str(typed.value).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("milestones = 2020-01-01", "--milestones must be a finite number"),
        ("name = ['a']", "--name must be text, got ['a']"),
        ("store = true", "--store must be a path, got True"),
        ("[pretrain]\ncontrast = 'softmax'\ndistance = 'l1'", "lg3d.toml: --distance must be cosine"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_source(tmp_path: Path, text: str, expected: str) -> None:
    config = write(tmp_path / "lg3d.toml", text)
    with pytest.raises(SettingsError) as caught:
        PretrainSettings.resolve(config=config)
    assert not isinstance(caught.value, UsageError)
    assert expected in str(caught.value)
    assert str(config) in str(caught.value)


def test_a_typed_option_takes_the_blame_for_a_combination(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "distance = 'l1'\n")
    with pytest.raises(UsageError, match="--distance must be cosine"):
        PretrainSettings.resolve(config=config, contrast="softmax")


def test_saved_settings_keep_their_command_and_recipe_but_not_how_it_reports() -> None:
    saved = json.loads(FinetuneSettings.resolve(recipe="demo", quiet=True, json=True).to_json())
    assert (saved["command"], saved["recipe"]) == ("finetune", "demo")
    assert not {"quiet", "json"} & set(saved)
    with pytest.raises(SettingsError, match=r"saved settings do not fit PretrainSettings.*they are of lg3d finetune"):
        PretrainSettings.from_json(json.dumps(saved))
    del saved["command"], saved["recipe"]  # as earlier versions wrote them
    assert FinetuneSettings.from_json(json.dumps(saved)).network == "14A"


@pytest.mark.parametrize(
    ("cls", "field", "option", "other", "typed"),
    [
        (ScoreSettings, "scene_list", "--scene-list requires --check", {"check": True}, {"predictions": ("a.zip",)}),
        (AskSettings, "html", "--html requires TEXT", {"texts": ("chair",)}, {"scan": "a.ply"}),
        (RoomsSettings, "furniture_names", "--furniture-names requires --furniture", {"furniture": "f"}, {"out": "o"}),
    ],
)
def test_a_value_that_requires_another_option_is_ignored_without_it_unless_typed(
    cls: type[Settings], field: str, option: str, other: dict[str, Any], typed: dict[str, Any], tmp_path: Path
) -> None:
    config = write(tmp_path / "lg3d.toml", f"{field} = 'x.html'\n")
    environ = {f"LG3D_{field.upper()}": "x.html"}
    assert getattr(cls.resolve(config=config, **typed), field) is None
    assert getattr(cls.resolve(environ=environ, **typed), field) is None
    assert getattr(cls.resolve(config=config, **typed, **other), field) == Path("x.html")
    with pytest.raises(UsageError, match=f"{option}: pass it, or leave out"):
        cls.resolve(**typed, **{field: "x.html"})
    with pytest.raises(SettingsError, match=option):
        cls(**typed, **{field: Path("x.html")})


def test_the_number_of_rooms_of_a_shared_file_does_not_concern_score(tmp_path: Path) -> None:
    config = write(tmp_path / "lg3d.toml", "scenes = 12\n")
    assert RoomsSettings.resolve(config=config, out="raw").scenes == 12
    assert ScoreSettings.resolve(config=config, predictions=("a.zip",)).scene_list is None


def test_a_repeated_choice_applies_once() -> None:
    assert PredictSettings.resolve(scans=["a.ply"], formats=["ply", "npz,ply"]).formats == ("ply", "npz")


@pytest.mark.parametrize("as_variable", [False, True])
def test_a_shared_value_that_only_other_commands_have_is_ignored(tmp_path: Path, as_variable: bool) -> None:
    config = write(tmp_path / "lg3d.toml", "" if as_variable else 'task = "auto"\nformat = "html"\n')
    environ = {"LG3D_TASK": "auto", "LG3D_FORMAT": "html"} if as_variable else {}
    assert FinetuneSettings.resolve(config=config, environ=environ).task == "semantic"
    assert EvalSettings.resolve(config=config, environ=environ).task == "auto"
    assert PredictSettings.resolve(config=config, environ=environ, scans="a.ply").formats == ("html",)
    default = AskSettings(scan="a.ply").formats
    assert AskSettings.resolve(config=config, environ=environ, scan="a.ply").formats == default
    config.write_text('task = "instance"\n')
    assert FinetuneSettings.resolve(config=config).task == "instance"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('task = "panoptic"\n', "--task must be one of semantic, instance, got 'panoptic'"),
        ('[finetune]\ntask = "auto"\n', "--task must be one of semantic, instance, got 'auto'"),
        ("epochs = 0\n", "--epochs must be at least 1, got 0"),
        ("voxel_size = [0.05]\n", "--voxel-size must be a finite number, got [0.05]"),  # lg3d bench accepts a list
    ],
)
def test_a_shared_value_that_no_command_has_or_a_commands_own_one_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    config = write(tmp_path / "lg3d.toml", text)
    with pytest.raises(SettingsError) as caught:
        FinetuneSettings.resolve(config=config)
    assert str(caught.value) == f"{config}: {message}"


def test_only_options_and_its_own_table_change_the_recipes_of_compare(tmp_path: Path) -> None:
    config = tmp_path / "lg3d.toml"
    config.write_text("voxel_size = 0.07\njobs = 8\n[compare]\nepochs = 4\n")
    settings = CompareSettings.resolve(config=config, environ={"LG3D_NETWORK": "14A"}, recipes=("a",))
    assert (settings.voxel_size, settings.jobs, settings.network, settings.epochs) == (None, 1, None, 4)
    assert CompareSettings.resolve(config=config, environ={}, recipes=("a",), epochs=2).epochs == 2


def test_anchors_like_others_ignore_the_projection_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[anchors]\ndim = 96\ncentred = true\n")
    recipe = str(tmp_path / "mine.toml")
    settings = AnchorsSettings.resolve(recipe=recipe, environ={}, like=Path("a.safetensors"))
    assert (settings.dim, settings.centred, settings.shuffled) == (None, False, None)
    with pytest.raises(SettingsError, match="--like must be passed without --dim"):
        AnchorsSettings.resolve(recipe=recipe, environ={}, like=Path("a.safetensors"), dim=3)


def test_a_resumed_joint_run_may_have_its_other_stores_in_another_place() -> None:
    settings = FinetuneSettings.resolve(environ={}, resume=Path("run"), also_store=(Path("moved"),))
    assert settings.also_store == (Path("moved"),)
