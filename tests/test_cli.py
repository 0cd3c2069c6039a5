"""The command line as a user meets it: what goes to stdout and stderr, exit codes, one line per error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lg3d_core.settings import COMMANDS

ROOT = Path(__file__).parents[1]
TRAIN = ["--recipe", "demo", "--voxel-size", "0.15", "--epochs", "1", "--batch-size", "3", "--jobs", "0", "--quiet"]


def lg3d(*words: object, cwd: Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lg3d_cli", *map(str, words)],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def workplace(raw_rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the pipeline has run, each command with the defaults that chain."""
    folder = tmp_path_factory.mktemp("work place [train]")  # spaces and brackets are fine
    assert lg3d("prepare", raw_rooms, "--jobs", "1", cwd=folder).stdout == "data\n"
    assert lg3d("anchors", "--recipe", "demo", cwd=folder).stdout == "anchors.safetensors\n"
    pretrained = lg3d("pretrain", *TRAIN, "--name", "p", cwd=folder)
    assert pretrained.stdout == "runs/p/checkpoint.safetensors\n"
    assert pretrained.stderr == ""
    tuned = lg3d("finetune", *TRAIN, "--name", "f", "--limited", "0.5", "--allow-leak", cwd=folder)
    assert tuned.stdout == "runs/f/checkpoint.safetensors\n"
    return folder


def test_every_command_has_help_with_an_example_or_a_reason() -> None:
    listed = lg3d("--help", cwd=ROOT).stdout
    assert "..." not in listed.partition("Commands:")[2]  # no summary is cut off
    for command in COMMANDS:
        assert f"  {command} " in listed
        assert lg3d(command, "--help", cwd=ROOT).stdout.startswith("Usage:")
    assert lg3d("--version", cwd=ROOT).stdout.startswith("lg3d ")


def test_a_command_that_does_not_support_torchrun_reports_it_once(tmp_path: Path) -> None:
    first = lg3d("compare", "x.toml", cwd=tmp_path, code=1, WORLD_SIZE="2", LOCAL_RANK="0", RANK="0")
    assert first.stderr == (
        "lg3d: error: torchrun started 2 processes, but lg3d compare does not support it: only pretrain and finetune "
        "do; run lg3d compare without torchrun\n"
    )
    assert lg3d("compare", "x.toml", cwd=tmp_path, code=1, WORLD_SIZE="2", LOCAL_RANK="1", RANK="1").stderr == ""


def test_a_word_that_is_neither_a_file_nor_a_scene_is_called_both(workplace: Path) -> None:
    found = lg3d("predict", "kitchen", cwd=workplace, code=1).stderr
    assert "no such file, and no scene 'kitchen' in data" in found
    assert found.count("error") == 1


def test_scores_are_one_json_object_on_stdout(workplace: Path) -> None:
    done = lg3d("eval", "--json", cwd=workplace)
    scores = json.loads(done.stdout)
    assert scores["num_scenes"] == 2
    assert 0 <= scores["vertex"]["miou_200"] <= scores["vertex"]["miou_present"] <= 1
    assert "using the newest fine-tuned run: runs/f/checkpoint.safetensors" in done.stderr


def test_a_table_in_a_pipe_is_complete_and_tab_separated(workplace: Path) -> None:
    lines = lg3d("eval", "--quiet", "--per-class", cwd=workplace).stdout.splitlines()
    assert lines[0].split("\t")[1:5] == ["mIoU Head", "mIoU Common", "mIoU Tail", "mIoU All"]
    assert any(line.startswith("wall\t") for line in lines)


def test_exported_labels_are_raw_ids_one_per_vertex(workplace: Path) -> None:
    lg3d("eval", "--quiet", "--export", "labels", cwd=workplace)
    from lg3d_core.store.scene_store import SceneStore
    from lg3d_core.vocabulary import load_vocabulary

    store = SceneStore(workplace / "data")
    assert sorted(path.stem for path in (workplace / "labels").iterdir()) == store.scene_ids("val")
    for path in (workplace / "labels").iterdir():
        ids = [int(line) for line in path.read_text().splitlines()]
        assert len(ids) == len(store.read(path.stem).xyz)
        assert set(ids) <= set(load_vocabulary().ids.tolist())


def test_a_page_is_written_and_named(workplace: Path) -> None:
    done = lg3d("view", "scene9003_00", "--html", "room.html", cwd=workplace)
    assert done.stdout == "room.html\n"
    assert (workplace / "room.html").read_text().startswith("<!DOCTYPE html>")


def test_preparing_again_skips_what_is_done(workplace: Path, raw_rooms: Path) -> None:
    report = json.loads(lg3d("prepare", raw_rooms, "--json", cwd=workplace).stdout)
    assert report["prepared"] == []
    assert len(report["skipped"]) == 6


def test_check_writes_nothing_and_finds_nothing_wrong(raw_rooms: Path, tmp_path: Path) -> None:
    report = json.loads(lg3d("prepare", raw_rooms, "--check", "--json", cwd=tmp_path).stdout)
    assert report["problems"] == []
    assert list(tmp_path.iterdir()) == []


def test_rooms_come_in_the_raw_format(tmp_path: Path) -> None:
    done = lg3d("rooms", "rooms", "--scenes", "2", "--vertices", "5000", "--validation", "0.5", cwd=tmp_path)
    assert done.stdout == "rooms\n"
    assert lg3d("prepare", "rooms", "--check", "--quiet", cwd=tmp_path).returncode == 0


def test_doctor_reports_versions() -> None:
    facts = json.loads(lg3d("doctor", "--json", cwd=ROOT).stdout)
    assert facts["torch"]
    assert "numpy\t" in lg3d("doctor", cwd=ROOT).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prepare", "nowhere"], "nowhere"),
        (["prepare", "data"], "data"),
        (["pretrain", "--store", "nowhere"], "nowhere"),
        (["pretrain", "--recipe", "demo", "--anchors", "nowhere.safetensors"], "nowhere.safetensors"),
        (["pretrain", "--recipe", "paper-34d"], "run lg3d anchors --dim 512"),
        (["finetune", "--recipe", "demo", "--from", "nowhere"], "no checkpoint at nowhere"),
        (["finetune", "--recipe", "demo", "--runs", "elsewhere"], "no pre-training run in elsewhere"),
        (["finetune", "--resume", "data"], "it is not the folder of a run"),
        (["pretrain", "--resume", "runs/f"], "saved settings do not fit PretrainSettings"),
        (["eval", "--runs", "elsewhere"], "no fine-tuned run in elsewhere: run lg3d finetune"),
        (["eval", "--checkpoint", "runs/p"], "without a classifier: run lg3d finetune --from"),
        (["eval", "--device", "cuda"], "--device cuda"),
        (["view", "scene9999_99"], "scene9999_99"),
        (["view", "../../etc/passwd"], "passwd"),
        (["view", "room.ply"], "lg3d predict room.ply --format html writes a page of it"),
        (["anchors"], "--encoder bundled"),
        (["rooms", "data"], "data"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_1(workplace: Path, words: list[str], expected: str) -> None:
    require_one_line(workplace, words, expected, code=1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prepare", ".", "--shard", "5/4"], "--shard must be of the form i/n"),
        (["pretrain", "--recipe", "nope"], "expected one of any-scan, demo, paper-18c, paper-34c, paper-34d"),
        (["finetune", "--recipe", "demo", "--limited", "5"], "--limited must be above 0 and at most 1"),
        (["finetune", "--recipe", "demo", "--network", "99Z"], "--network must be one of"),
        (["finetune", "--resume", "runs/f", "--epochs", "9"], "leave out --epochs"),
        (["eval", "--split", "nope"], "nope"),
        (["eval", "--backend", "nope"], "--backend must be one of"),
        (["anchors", "--encoder", "nope"], "nope"),
        (["pretrain", "--epochs", "many"], "--epochs must be a whole number, got 'many'"),
        (
            ["pretrain", "--contrast", "softmax", "--distance", "l1"],
            "--distance must be cosine with --contrast",
        ),
        (["pretrain", "--milestones", "0.5,2"], "--milestones must be shares from 0 to 1"),
        (["anchors", "--order", "groups"], "--order requires --plot"),
        (["anchors", "--show", "--dim", "4"], "leave out --dim"),
        (["prepare", "data", "--check", "--verify"], "--check and --verify cannot be combined"),
        (["prepare", "--merge", "--shard", "1/2"], "--merge and --shard cannot be combined"),
        (["prepare"], "RAW is missing"),
        (["convert", "x.ckpt"], "--out is missing"),
        (["predict"], "SCAN is missing"),
        (
            ["ask", "scene9003_00", "a chair", "--scale", "big"],
            "--scale must be auto, m, cm, mm, in, ft, or a positive",
        ),
        (["compare", "demo", "--set", "nonsense"], "--set 'nonsense': expected key=value"),
        (["view", "scene9003_00", "--layer", "nope", "--png", "x.png"], "no layer nope"),
        (["bench", "--peers", "nope"], "--peers must be one of all, none, minkowski"),
        (["prepare", ".", "--vocabulary", "nope"], "no vocabulary 'nope'"),
        (["pretrain", "--epocs", "1"], "--epocs"),
        (["pretrain", "--epochs", "9" * 20], "--epochs must be at most 2147483647"),
        (["pretrain", "--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["finetune", "--limited-seed", "4294967296"], "--limited-seed must be at most 4294967295"),
        (["rooms", "out", "--seed", "-1"], "--seed must be"),
        (["view", "scene9003_00", "--augmented", "--seed", "-1"], "--seed must be"),
        (["pretrain", "--voxel-size", "1e300"], "--voxel-size must be above 0 and at most 100"),
        (["predict", "x.ply", "--scale", "1e300"], "--scale must be auto, m, cm, mm, in, ft, or a positive number"),
        (["predict", "x.ply", "--scale", "1e-300"], "--scale must be"),
        (["predict", "x.ply", "--memory", "1e300G"], "--memory must be a size"),
        (["predict", "scene9003_00", "--memory", "1M"], "--memory 1M is too small"),
        (["predict", "scene9003_00", "--memory", "10"], "--memory 10 bytes is too small"),
        (["nonsense"], "No such command 'nonsense' ("),
        (["nonsense"], "--help lists the commands and options)"),
        (["predict", "--nonsense"], "predict --help lists the options)"),
        (["non\x1b[31msense"], "non\\x1b[31msense"),
        (["doctor", "--js\x1b[31mon"], "--js\\x1b[31mon"),
        (["doctor", "\x1b[31m"], "\\x1b[31m"),
    ],
)
def test_a_wrong_option_value_is_one_clear_line_and_exit_code_2(
    workplace: Path, words: list[str], expected: str
) -> None:
    require_one_line(workplace, words, expected, code=2)


@pytest.mark.parametrize(
    ("variables", "config", "expected"),
    [
        ({"LG3D_EPOCHS": "0"}, "", "LG3D_EPOCHS must be at least 1, got 0"),
        ({"LG3D_QUIET": "maybe"}, "", "LG3D_QUIET must be true or false, got 'maybe'"),
        ({"LG3D_RECIPE": "nope"}, "", "LG3D_RECIPE: --recipe nope: expected one of any-scan, demo"),
        ({}, "epochs = 0\n", "lg3d.toml: --epochs must be at least 1, got 0"),
        ({}, "[finetune]\nloss = 'mse'\n", "lg3d.toml: --loss must be one of cross-entropy"),
        ({}, "recipe = 'mine.toml'\n", "recipe mine.toml: --seed must be a whole number, got 'x'"),
    ],
)
def test_a_wrong_value_from_elsewhere_names_its_source_and_exits_with_1(
    tmp_path: Path, variables: dict[str, str], config: str, expected: str
) -> None:
    (tmp_path / "lg3d.toml").write_text(config)
    (tmp_path / "mine.toml").write_text("seed = 'x'\n")
    done = lg3d("finetune", cwd=tmp_path, code=1, **variables)
    assert done.stderr.startswith(f"lg3d: error: {expected}")
    assert done.stderr.count("\n") == 1


def test_quiet_and_json_come_from_variables_and_the_settings_file(workplace: Path) -> None:
    done = lg3d("eval", cwd=workplace, LG3D_QUIET="1", LG3D_JSON="true")
    assert done.stderr == ""
    assert json.loads(done.stdout)["num_scenes"] == 2
    assert lg3d("eval", "--no-json", cwd=workplace, LG3D_QUIET="1", LG3D_JSON="true").stdout.startswith("\t")


def test_a_misspelt_variable_is_named_with_what_was_probably_meant(workplace: Path) -> None:
    done = lg3d("doctor", cwd=workplace, LG3D_EPOCS="3", LG3D_EPOCHS="3", LG3D_FROM="x", LG3D_REQUIRE_BROWSER="1")
    assert done.stderr == (
        "lg3d: warning: the variable LG3D_EPOCS has no effect: there is no such setting; did you mean LG3D_EPOCHS?\n"
    )


def require_one_line(workplace: Path, words: list[str], expected: str, *, code: int) -> None:
    """Run a command that must fail with one line that holds a text, and write nothing."""
    before = sorted(workplace.rglob("*"))
    done = lg3d(*words, cwd=workplace, code=code)
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("lg3d: ") or "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("lg3d: error: ")
    assert expected in errors[0]
    assert sorted(workplace.rglob("*")) == before


def test_a_bad_scene_is_named_and_the_others_are_prepared(raw_rooms: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(raw_rooms, tmp_path / "raw")
    mesh = tmp_path / "raw" / "scans" / "scene9001_00" / "scene9001_00_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes()[:-1000])
    done = lg3d("prepare", "raw", "--jobs", "2", cwd=tmp_path, code=1)
    assert "lg3d: error: scene9001_00: " in done.stderr
    assert "scene9001_00_vh_clean_2.ply" in done.stderr
    assert len(list((tmp_path / "data" / "scenes").glob("*.h5"))) == 5
    problems = json.loads(lg3d("prepare", "raw", "--check", "--json", cwd=tmp_path, code=1).stdout)["problems"]
    assert [problem["scene"] for problem in problems] == ["scene9001_00"]


def test_variables_and_the_settings_file_are_read(workplace: Path, tmp_path: Path) -> None:
    (tmp_path / "lg3d.toml").write_text(f"store = '{workplace / 'data'}'\nruns = '{workplace / 'runs'}'\n")
    lg3d("eval", "--quiet", cwd=tmp_path)
    done = lg3d("eval", cwd=tmp_path, code=1, LG3D_STORE="nowhere")
    assert "nowhere" in done.stderr
    (tmp_path / "lg3d.toml").write_text("stroe = 'x'\n")
    assert "did you mean 'store'?" in lg3d("eval", cwd=tmp_path, code=1).stderr


SPOILT = """
import os, signal, sys, time
import lg3d_cli.__main__ as entry

@entry.app.command("spoil")
def spoil():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape of an object") from None

sys.argv = ["lg3d", "spoil"]
entry.main()
"""


def test_a_stop_that_a_library_turns_into_an_error_of_its_own_is_a_stop() -> None:
    done = subprocess.run([sys.executable, "-c", SPOILT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "lg3d: stopped; rerun the command to start over\n"
