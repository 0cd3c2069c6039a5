"""`lg3d init`: what it asks, what it refuses, and that every command reads what it writes."""

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path

import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.init import (
    Project,
    check_device,
    check_raw,
    check_recipe,
    describe_device,
    describe_recipes,
    next_commands,
    propose_raw,
    propose_recipe,
    require_free,
    settings_text,
)
from lg3d_core.init import (
    init as write_project,
)
from lg3d_core.progress import Progress
from lg3d_core.settings import COMMANDS, recipe_names
from tests.labelled_scans import NAMES, labelled_room, write_json, write_names, write_room_ply
from tests.terminal import COLUMNS, lg3d_on_terminal
from tests.test_cli import lg3d

ARGUMENTS = {"scene", "scans", "texts", "recipes", "run", "predictions"}
"""What is typed as an argument, and may be needed though its field has a default."""
CHOICES = {"action": "show", "texts": "names"}
"""Values of fields that have choices in some command."""


def a_project(raw: str = "/data/scannet", recipe: str = "demo") -> Project:
    return Project(raw=Path(raw), store=Path("data"), device="cpu", recipe=recipe)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_command_resolves_with_the_written_file(recipe: str, tmp_path: Path) -> None:
    path = write_project(a_project(recipe=recipe), None, path=tmp_path / "lg3d.toml", force=False)
    for name, command in COMMANDS.items():
        if not command.reads_config:
            continue
        required = {entry.name for entry in dataclasses.fields(command) if entry.default is dataclasses.MISSING}
        typed = required - {"raw"} | {entry.name for entry in dataclasses.fields(command) if entry.name in ARGUMENTS}
        settings = command.resolve(config=path, **{field: CHOICES.get(field, "x") for field in typed})
        assert getattr(settings, "device", "cpu") == "cpu", name
        assert getattr(settings, "store", Path("data")) == Path("data"), name
    assert COMMANDS["prepare"].resolve(config=path) == COMMANDS["prepare"](raw=Path("/data/scannet"))  # type: ignore[call-arg]


def test_the_recipe_in_the_file_holds_for_anchors_and_training_alone(tmp_path: Path) -> None:
    path = write_project(a_project(recipe="demo"), None, path=tmp_path / "lg3d.toml", force=False)
    assert vars(COMMANDS["pretrain"].resolve(config=path))["voxel_size"] == 0.14
    assert vars(COMMANDS["anchors"].resolve(config=path))["encoder"] == "bundled"
    assert vars(COMMANDS["compare"].resolve(config=path, recipes="x"))["network"] is None
    assert vars(COMMANDS["convert"].resolve(config=path, checkpoint="x", out="y"))["voxel_size"] is None
    assert vars(COMMANDS["bench"].resolve(config=path))["voxel_size"] == (0.05,)


@pytest.mark.parametrize("name", ["with space", "äöü 画", 'quote " and \\ and \x7f', "tab\tand\nline"])
def test_any_folder_name_survives(name: str) -> None:
    assert tomllib.loads(settings_text(a_project(raw=name), None))["raw"] == name


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="rename the folder"):
        settings_text(a_project(raw="\udcff"), None)


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "lg3d.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(SettingsError, match="--force"):
        write_project(a_project(), None, path=path, force=False)
    assert path.read_text() == "seed = 1\n"
    write_project(a_project(), None, path=path, force=True)
    assert tomllib.loads(path.read_text())["recipe"] == "demo"
    with pytest.raises(SettingsError, match="is a folder"):
        require_free(tmp_path, force=True)


def test_scans_are_found_nearby(raw_rooms: Path, tmp_path: Path) -> None:
    assert propose_raw(tmp_path / "empty") is None or propose_raw(tmp_path / "empty") == Path("/data/scannet")
    write_room_ply(tmp_path / "labelled" / "train" / "hall.ply", labelled_room())
    assert propose_raw(tmp_path) in (None, Path("/data/scannet"))  # any folder may have PLY files
    write_names(tmp_path / "labelled")
    assert propose_raw(tmp_path) == Path("labelled")
    (tmp_path / "s3dis" / "Area_1" / "office_1" / "Annotations").mkdir(parents=True)
    assert propose_raw(tmp_path) == Path("s3dis")
    assert propose_raw(raw_rooms) == Path()


def test_a_folder_is_audited_or_only_looked_at(raw_rooms: Path, tmp_path: Path) -> None:
    raw, vocabulary, report = check_raw(str(raw_rooms), audit=True, jobs=1, progress=Progress())
    assert report is not None
    assert vocabulary == "scannet200"
    assert (raw, report.num_scenes, report.problems) == (raw_rooms, 6, [])
    assert f"# 6 scans, {report.num_vertices:,} vertices" in settings_text(a_project(), report)
    assert check_raw(str(raw_rooms), audit=False, jobs=1, progress=Progress()) == (raw_rooms, "scannet200", None)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("file", "file is a file: expected a folder of scans$"),
        (
            "empty",
            r"contains no scans: expected folders .*; for another format pass --format to lg3d prepare: pointcept",
        ),
    ):
        with pytest.raises(DataError, match=reason):
            check_raw(str(tmp_path / name), audit=False, jobs=1, progress=Progress())
    with pytest.raises(DataError, match="no such folder"):
        check_raw(str(tmp_path / "nowhere"), audit=False, jobs=1, progress=Progress())


def test_a_folder_of_nothing_but_damage_is_refused(raw_rooms: Path, tmp_path: Path) -> None:
    scan = tmp_path / "raw" / "scans" / "scene9000_00"
    shutil.copytree(raw_rooms / "scans" / "scene9000_00", scan)
    with pytest.raises(DataError, match=r"label table|scannetv2-labels"):  # concerns all
        check_raw(str(tmp_path / "raw"), audit=True, jobs=1, progress=Progress())
    shutil.copy(raw_rooms / "scannetv2-labels.combined.tsv", tmp_path / "raw")
    (scan / "scene9000_00_vh_clean_2.ply").write_bytes(b"ply")
    with pytest.raises(DataError, match="none of the 1 scans can be prepared"):
        check_raw(str(tmp_path / "raw"), audit=True, jobs=1, progress=Progress())


def test_devices_and_recipes_are_checked(tmp_path: Path) -> None:
    assert check_device("auto") == "auto"
    with pytest.raises(SettingsError, match="must be one of auto, cpu, cuda"):
        check_device("gpu")
    assert check_recipe("paper-34d") == "paper-34d"
    (tmp_path / "mine.toml").write_text("epochs = 'many'\n")
    with pytest.raises(SettingsError, match="--epochs must be a whole number"):
        check_recipe(str(tmp_path / "mine.toml"))
    assert propose_recipe("cpu") == "demo"
    assert dict(describe_recipes())["paper-34d"].startswith("The paper's setting")
    assert describe_device()


def test_the_next_commands_say_what_needs_a_download() -> None:
    assert "download" in dict(next_commands(a_project(recipe="paper-34d")))["lg3d anchors"]
    assert "download" not in dict(next_commands(a_project(recipe="demo")))["lg3d anchors"]


def test_a_store_with_spaces_is_quoted_in_the_next_commands() -> None:
    own = a_project()._replace(vocabulary="vocabulary.tsv", store=Path("my data"))
    assert "lg3d vocabulary from-store 'my data'" in dict(next_commands(own))


def test_labelled_scans_are_recognised_and_their_class_names_are_those_of_the_anchors(tmp_path: Path) -> None:
    room = labelled_room()
    for split in ("train", "val", "other"):
        write_room_ply(tmp_path / "my scans" / split / f"{split}_hall.ply", room, label=room.label)
    words = ["init", "--raw", "my scans", "--device", "cpu", "--recipe", "demo", "--jobs", "1"]
    refused = lg3d(*words, cwd=tmp_path, code=1)
    assert "my scans has no class names: put them there as classes.tsv" in refused.stderr
    write_names(tmp_path / "my scans")
    done = lg3d(*words, cwd=tmp_path)
    assert "my scans is read as labelled: it has other/other_hall.ply" in done.stderr
    assert "lg3d: warning: scenes without a split, used for training: 1 (other_other_hall)" in done.stderr
    assert "from-store" not in done.stderr
    assert tomllib.loads((tmp_path / "lg3d.toml").read_text())["anchors"] == {"vocabulary": "my scans/classes.tsv"}
    assert COMMANDS["anchors"].resolve(config=tmp_path / "lg3d.toml").vocabulary == "my scans/classes.tsv"  # type: ignore[attr-defined]
    assert lg3d("prepare", "--jobs", "1", "-q", cwd=tmp_path).stdout == "data\n"


def test_the_classes_of_other_data_sets_are_shipped_or_written_from_the_store(tmp_path: Path) -> None:
    """S3DIS has a shipped vocabulary; that of Replica is made from the annotation of its scenes."""
    (tmp_path / "s3dis" / "Area_1" / "office_1" / "Annotations").mkdir(parents=True)
    room = labelled_room()
    habitat = tmp_path / "replica" / "room_0" / "habitat"
    write_room_ply(habitat / "mesh_semantic.ply", room)
    classes = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    write_json(habitat / "info_semantic.json", {"classes": classes, "objects": []})
    found = {
        name: check_raw(str(tmp_path / name), audit=False, jobs=1, progress=Progress()).vocabulary
        for name in ("s3dis", "replica")
    }
    assert found == {"s3dis": "s3dis", "replica": "vocabulary.tsv"}
    assert [command for command, _ in next_commands(a_project()._replace(vocabulary="vocabulary.tsv"))] == [
        "lg3d prepare",
        "lg3d vocabulary from-store data",
        "lg3d anchors",
        "lg3d pretrain",
        "lg3d finetune",
        "lg3d eval",
    ]


def test_flags_alone_suffice_in_a_script(raw_rooms: Path, tmp_path: Path) -> None:
    words = ["--raw", raw_rooms, "--device", "cpu", "--recipe", "demo", "--jobs", "1"]
    done = lg3d("init", *words, "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert (answer["config"], answer["recipe"], answer["audit"]["problems"]) == ("lg3d.toml", "demo", [])
    assert "next: lg3d prepare" in done.stderr
    assert "--force" in lg3d("init", *words, cwd=tmp_path, code=1).stderr
    assert lg3d("prepare", "--jobs", "1", "-q", cwd=tmp_path).stdout == "data\n"  # RAW comes from the file


def test_without_a_terminal_one_line_lists_the_missing_options(tmp_path: Path) -> None:
    done = lg3d("init", "--device", "cpu", cwd=tmp_path, code=2)
    assert done.stderr == ("lg3d: error: no terminal to ask on: pass --raw, --recipe, or --yes for the defaults\n")
    assert "RAW is missing" in lg3d("prepare", cwd=tmp_path, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks_until_answers_make_sense(raw_rooms: Path, tmp_path: Path) -> None:
    shutil.copytree(raw_rooms, tmp_path / "my scans")
    mesh = tmp_path / "my scans" / "scans" / "scene9001_00" / "scene9001_00_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes()[:-1000])
    replies = [
        ("Folder of the raw scans", "nowhere\n"),
        ("no such folder: nowhere", "my scans\n"),
        ("Skip them and continue? [Y/n]", "y\n"),
        ("Device (auto, cpu, cuda, cuda:N) [auto]", "gpu\n"),
        ("must be one of auto, cpu, cuda", "\n"),
        ("Recipe [demo]", "\n"),
    ]
    done = lg3d_on_terminal("init", "--jobs", "1", cwd=tmp_path, replies=replies)
    assert (done.code, done.stdout) == (0, "lg3d.toml\n"), done.screen
    assert "scene9001_00" in done.screen
    assert "  paper-34d  The paper's setting: an 80 M parameter U-Net" in done.screen
    assert max(len(line) for line in done.screen.split("\n") if line.startswith("  ")) <= COLUMNS
    assert tomllib.loads((tmp_path / "lg3d.toml").read_text()) == {
        "raw": "my scans",
        "store": "data",
        "device": "auto",
        "recipe": "demo",
    }


def test_damaged_scans_stop_a_script_that_did_not_accept_them(raw_rooms: Path, tmp_path: Path) -> None:
    shutil.copytree(raw_rooms, tmp_path / "raw")
    (tmp_path / "raw" / "scans" / "scene9001_00" / "scene9001_00_vh_clean_2.ply").unlink()
    words = ["init", "--raw", "raw", "--device", "cpu", "--recipe", "demo", "--jobs", "1", "-q"]
    done = lg3d(*words, cwd=tmp_path, code=1)
    assert "lg3d prepare --check raw lists them" in done.stderr
    assert not (tmp_path / "lg3d.toml").exists()
    lg3d(*words, "--yes", cwd=tmp_path)
