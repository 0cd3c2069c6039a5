"""Every command that README and the how-to pages show is one that runs.

Blocks fenced as `sh`, and indented lines that begin with `lg3d`, hold a command a line. They run here in order, page
after page, on tiny rooms, in this process; what cannot is listed below with the reason, and its command line is checked
against the real options all the same. Blocks fenced as `bash` are whole scripts.
"""

import glob
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from lg3d_cli.__main__ import app
from lg3d_core.settings import COMMANDS, recipe_names
from tests import box_rooms
from tests.labelled_scans import labelled_room, write_names, write_room_ply

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
TABLE = re.compile(r"^```text\n(id\tname\t.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "lg3d demo": "takes minutes: tests/test_demo.py runs it on two rooms",
    "lg3d compare": "trains for hours: tests/test_comparing_runs.py runs it on two rows",
    "lg3d convert released.ckpt": "needs released weights: tests/test_networks_convert.py writes some",
    "lg3d convert runs/finetune-20260101-120000": "its run: tests/test_networks_convert.py has one",
    "lg3d eval --checkpoint released.ckpt --backend minkowski": "needs MinkowskiEngine and released weights",
    "lg3d eval --submission final.zip": "needs test scenes: tests/test_evaluation_command.py has one",
    "lg3d score final.zip": "needs test scenes: tests/test_evaluation_command.py has one",
    "lg3d score mine.zip theirs.zip": "needs other predictions: tests/test_comparing_score.py has some",
    "lg3d view scene0011_00 --heat": "needs the weights of a text encoder: tests/test_viewing_show.py has a stand-in",
    "lg3d view scene0011_00 --serve": "serves until Ctrl-C: tests/test_viewing_server.py",
    "lg3d report runs/finetune-20260101-120000": "its run: tests/test_reporting_runs.py has one",
    "lg3d report runs/scratch": "its runs: tests/test_reporting_runs.py has two",
    "lg3d predict '*.ply' hall.glb": "needs a GLB file: tests/test_scans_other_formats.py writes some",
    "lg3d predict kitchen.ply --checkpoint hf:OWNER/NAME": "needs a network: tests/test_networks_hub.py",
    "lg3d predict kitchen.ply --checkpoint hf:OWNER/NAME@v2": "as above",
    "lg3d push": "needs a network: tests/test_networks_hub.py has a fake client",
    "lg3d export runs/finetune-20260101-120000": "its run: tests/test_networks_export.py has a checkpoint",
    "lg3d predict kitchen.ply --checkpoint model.onnx": "its model: tests/test_networks_export.py has one",
    "lg3d ask": "needs the weights of a text encoder: tests/test_inference_ask.py has a stand-in",
    "lg3d prepare /data/scannet --store data --shard 1/4": "a quarter of four rooms: tests/test_store_shards.py",
    "lg3d prepare --merge --store data": "its shards: tests/test_store_shards.py",
    "lg3d anchors --vocabulary grouped.tsv": "needs a text encoder: tests/test_language_class_texts.py",
    "lg3d anchors --anchors a.safetensors": "as above",
    "lg3d anchors --anchors b.safetensors": "as above",
    "lg3d pretrain --store A": "needs two stores: tests/test_training_joint.py",
    "lg3d finetune --store A": "as above",
    "lg3d eval --store A": "as above",
    "lg3d eval --store B": "as above",
}
"""Beginnings of command lines that are only parsed, each with the reason."""

TINY = {
    "LG3D_RECIPE": "demo",
    "LG3D_NETWORK": "14A",
    "LG3D_VOXEL_SIZE": "0.15",
    "LG3D_EPOCHS": "1",
    "LG3D_BATCH_SIZE": "2",
    "LG3D_ENCODER": "bundled",
    "LG3D_DIM": "96",
    "LG3D_JOBS": "0",
    "LG3D_HTML": "room.html",
    "LG3D_DEVICE": "cpu",
}
"""What makes a command quick where it does not say otherwise: the same commands, on less."""


NEEDS = {"lg3d report": ("matplotlib", "sklearn"), "lg3d anchors --plot": ("matplotlib", "sklearn")}
"""Beginnings of command lines that are only parsed where an optional package is not installed."""


class Line(NamedTuple):
    """One command of a page."""

    page: str
    text: str
    words: list[str]
    variable: str
    """Set to what the command writes to stdout, for `x=$(lg3d ...)`; else empty."""

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def read_lines(page: Path) -> Iterator[Line]:
    """Every command line of a page, comments and assignments taken apart."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in FENCE.findall(text) if language == "sh"]
    blocks += re.findall(r"^    (lg3d .*\n)", FENCE.sub("", text), re.MULTILINE)
    for block in blocks:
        for raw in block.replace("\\\n", " ").splitlines():
            variable, text = "", raw.strip()
            captured = re.fullmatch(r"(\w+)=\$\((.*?)\)\s*(#.*)?", text)
            if captured:
                variable, text = captured[1], captured[2]
            words = shlex.split(text, comments=True)
            if words:
                yield Line(page.name, shlex.join(words), words, variable)


LINES = [line for page in PAGES for line in read_lines(page)]
OWN = [line for line in LINES if line.words[0] == "lg3d"]


def reason_not_to_run(line: Line) -> str | None:
    lacks = {
        start: f"needs {package}"
        for start, packages in NEEDS.items()
        for package in packages
        if importlib.util.find_spec(package) is None
    }
    return next((why for start, why in (NOT_RUN | lacks).items() if f"{line.text} ".startswith(f"{start} ")), None)


def parse(words: list[str]) -> None:
    """Hold a command line against the options that there are, without running it."""
    group = typer.main.get_command(app)
    group.make_context("lg3d", words)
    name, *options = words
    group.commands[name].make_context(name, options)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", [line for line in OWN if not line.words[1].startswith("-")], ids=str)
def test_every_command_and_option_exists(line: Line) -> None:
    parse(line.words[1:])


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="--epoch"):
        parse(["pretrain", "--epoch", "3"])


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_not_run_is_still_shown_somewhere(start: str) -> None:
    assert any(f"{line.text} ".startswith(f"{start} ") for line in OWN), "take it off the list"


@pytest.mark.parametrize("line", [line for line in LINES if line not in OWN], ids=str)
def test_other_commands_name_what_is_there(line: Line) -> None:
    words = [word for word in line.words if "=" not in word]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for word in words[2:] for part in re.findall(r"\[(.*?)\]", word) for name in part.split(",")]
        assert set(named) <= set(extras)
    elif words[0] == "torchrun":
        parse(words[words.index("lg3d_cli") + 1 :])
    elif words[0] == "sbatch":
        assert [word for word in words if word.endswith(".sbatch") and (ROOT / word).is_file()]
    elif words[0].endswith((".sh", ".py")):
        assert (ROOT / words[0]).is_file()
    else:
        assert words[0] in ("apt-get", "tensorboard"), "a command of nobody known"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_recipes_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for recipe in re.findall(r"--recipe ([\w-]+)(?![\w.-])", text):
        assert recipe in recipe_names() or recipe == "mine", recipe


def test_readme_leads_to_every_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](docs/howto/{page.name})" not in text] == []


@pytest.fixture(scope="module")
def raw_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms of boxes under names that the pages use."""
    raw = tmp_path_factory.mktemp("docs") / "scannet"
    raw.mkdir()
    box_rooms.write_label_table(raw)
    splits = {"train": ["scene0000_00", "scene0001_00"], "val": ["scene0011_00"], "test": []}
    for split, scenes in splits.items():
        (raw / f"scannetv2_{split}.txt").write_text("".join(f"{scene}\n" for scene in scenes))
        for seed, scene in enumerate(scenes):
            box_rooms.write_room(raw, scene, seed=seed, spacing=0.1, objects=box_rooms.DEFAULT_OBJECTS, annotated=True)
    return raw


@pytest.fixture(scope="module")
def finished(raw_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which README's chain has run."""
    folder = tmp_path_factory.mktemp("docs") / "work"
    folder.mkdir()
    copy_scans(raw_scans, folder)
    with pytest.MonkeyPatch.context() as patch:
        run_lines([line for line in OWN if line.page == "README.md"], folder, raw_scans, patch)
    return folder


def copy_scans(raw: Path, folder: Path) -> None:
    """Copy a mesh under the names of the scans that somebody made."""
    for scan in ("kitchen.ply", "hall.ply"):
        shutil.copy(raw / "scans" / "scene0011_00" / "scene0011_00_vh_clean_2.ply", folder / scan)


def run_lines(lines: list[Line], folder: Path, raw: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Run lines one after the other, as a shell would; returns those that ran."""
    for name in [name for name in os.environ if name.startswith("LG3D_")]:
        patch.delenv(name)
    for name, value in TINY.items():
        patch.setenv(name, value)
    patch.delenv("DISPLAY", raising=False)
    patch.chdir(folder)
    command = typer.main.get_command(app)
    variables: dict[str, str] = {}
    ran = []
    for line in lines:
        if line.words[1].startswith("-") or reason_not_to_run(line):
            continue
        words = [word.replace("/data/scannet", str(raw)) for word in line.words[1:]]
        words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
        words = [re.sub(r"\$(\w+)", lambda found: variables[found[1]], word) for word in words]
        with pytest.MonkeyPatch.context() as stdout:
            results: list[str] = []
            stdout.setattr("lg3d_cli.console.result", lambda value, results=results: results.append(str(value)))
            try:
                assert not command.main(words, prog_name="lg3d", standalone_mode=False), "the exit code is not 0"
            except BaseException as error:
                error.add_note(str(line))
                raise
        if line.variable:
            variables[line.variable] = "\n".join(results)
        ran.append(line.text)
    return ran


def test_readmes_chain_runs_from_scans_to_a_page(finished: Path) -> None:
    assert (finished / "data" / "store.json").is_file()
    assert (finished / "room.html").is_file()
    kinds = sorted(path.name.split("-")[0] for path in (finished / "runs").iterdir())
    assert kinds == ["finetune", "pretrain"]


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(
    page: Path, finished: Path, raw_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "work")
    (table,) = TABLE.findall((ROOT / "docs" / "howto" / "vocabularies.md").read_text())
    (tmp_path / "work" / "classes.tsv").write_text(table)
    write_names(tmp_path / "work" / "scans")
    for split, name in (("train", "room1"), ("train", "room2"), ("val", "room3")):
        room = labelled_room()
        write_room_ply(tmp_path / "work" / "scans" / split / f"{name}.ply", room, label=room.label)
    lines = [line for line in OWN if line.page == page.name]
    expected = [line.text for line in lines if not reason_not_to_run(line)]
    if (
        page.name == "cluster.md"
    ):  # its script is run below, with stand-ins: give the last command the run that it names
        newest = sorted((tmp_path / "work" / "runs").glob("finetune-*"))[-1]
        newest.rename(newest.with_name("finetune-34d"))
    assert run_lines(lines, tmp_path / "work", raw_scans, monkeypatch) == expected


SCRIPTS = [
    (page.name, block) for page in PAGES for language, block in FENCE.findall(page.read_text()) if language == "bash"
]


@pytest.mark.parametrize(("page", "script"), SCRIPTS, ids=[page for page, _ in SCRIPTS])
def test_a_script_is_bash_and_its_commands_exist(page: str, script: str) -> None:
    del page
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    for text in re.findall(r"lg3d (\w+ [^\n>|]*)", script):
        parse(shlex.split(text))
    for command, options in re.findall(r"^train (\w+) [\w-]+(.*)$", script, re.MULTILINE):
        parse([command, "--name", "x", *shlex.split(options)])


FAKE_LG3D = """#!/bin/sh
echo "lg3d $*" >> calls
case "$*" in
    *"--resume runs/pretrain-34d"*) exit 0;;
    pretrain*) mkdir -p runs/pretrain-34d; echo '{}' > runs/pretrain-34d/settings.json; exit 130;;
    finetune*) mkdir -p runs/finetune-34d; exit 0;;
esac
"""


def test_the_cluster_script_queues_itself_again_and_goes_on(tmp_path: Path) -> None:
    script = next(block for page, block in SCRIPTS if page == "cluster.md")
    stand_ins = {"lg3d": FAKE_LG3D, "srun": '#!/bin/sh\n"$@"\n', "scontrol": '#!/bin/sh\necho "$@" >> calls\n'}
    (tmp_path / "bin").mkdir()
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    for _ in range(2):  # stopped in pre-training, then queued again
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "lg3d pretrain --name pretrain-34d --jobs 8 --recipe paper-34d",
        "requeue 7",
        "lg3d pretrain --resume runs/pretrain-34d",
        "lg3d finetune --name finetune-34d --jobs 8 --recipe paper-34d --from runs/pretrain-34d",
        "lg3d eval --checkpoint runs/finetune-34d --json",
    ]


@pytest.mark.parametrize("name", sorted({"doctor", *COMMANDS}))
def test_help_fits_80_columns_and_its_examples_are_real(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    text = command.get_help(command.make_context(name, [], resilient_parsing=True))
    assert max(len(line) for line in text.splitlines()) <= 80
    examples = re.findall(r"lg3d ([a-z]+\b[^\n)]*)", command.callback.__doc__)
    examples = [example.partition(", ")[0] for example in examples]  # a remark may follow
    assert [example for example in examples if example.split()[0] == name]
    for example in examples:
        parse(shlex.split(example))
