"""The install page and the Dockerfile name what is there."""

import itertools
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.dockerfile_steps import ROOT, arguments, read_steps, script

PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STEPS = read_steps()


def extras_in(text: str) -> set[str]:
    return {name for found in re.findall(r"\[([a-z0-9,-]+)\](?!\()", text) for name in found.split(",")}


def test_the_page_is_linked_and_in_the_navigation() -> None:
    assert "](docs/install.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "install.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_the_page_are_valid_shell_and_name_files_that_exist(block: str) -> None:
    assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=True).stderr == ""
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] in ("python3", ".", "pip", "lg3d", "sudo", "docker")
        for option, value in itertools.pairwise(words):
            if option == "-r":
                assert (ROOT / value).is_file()


def test_extras_exist_and_the_table_lists_all_but_that_of_the_tests() -> None:
    extras = set(PROJECT["optional-dependencies"])
    assert extras_in("".join(BLOCKS)) <= extras
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([\w-]+)`", "".join(rows))) == extras - {"dev"}


def test_the_image_installs_the_torch_that_the_project_needs_and_existing_extras() -> None:
    torch = next(entry for entry in PROJECT["dependencies"] if entry.startswith("torch"))
    assert any(f"'{torch}'" in step.text for step in STEPS if step.instruction == "RUN")
    assert set(arguments(STEPS)["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    assert arguments(STEPS)["TORCH_INDEX"] in PAGE


def test_the_image_has_the_system_libraries_that_make_checks_for() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pairs = re.search(r"for pair in (.*?);", makefile)
    assert pairs is not None
    needed = {pair.split(":")[1] for pair in pairs[1].split()}
    installed = next(step.text for step in STEPS if "apt-get install" in step.text)
    assert needed <= set(installed.split())
    assert needed <= set(PAGE.split("apt-get install")[1].split())


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    kept = [line[1:] for line in ignored if line.startswith("!")]
    copied = [word for step in STEPS if step.instruction == "COPY" for word in step.text.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert sorted(kept) == sorted(copied)
    assert ignored[0] == "*"
    assert any(fnmatch("lg3d_core/__pycache__", pattern.replace("**", "*")) for pattern in ignored[1:])


def test_the_steps_as_a_script_stay_in_their_folder(tmp_path: Path) -> None:
    commands = script(tmp_path)
    assert len(commands) == 9  # venv, torch, five copies, lg3d, doctor
    for command in commands:
        assert subprocess.run(["sh", "-n"], input=command, text=True, capture_output=True, check=True).stderr == ""
        assert "${" not in command
        outside = command.replace(str(tmp_path), "FOLDER").replace(str(ROOT), "ROOT")
        assert not re.search(r"(?<!\w)/(opt|src|work|cache)\b", outside)


def test_the_copied_sources_are_enough_for_a_wheel(tmp_path: Path) -> None:
    for command in script(tmp_path):
        if command.startswith("mkdir"):
            subprocess.run(["sh", "-ec", command], check=True)
    found = {path.name for path in (tmp_path / "src").iterdir()}
    assert found == {"pyproject.toml", "README.md", "LICENSE", "lg3d_cli", "lg3d_core"}
    assert PROJECT["readme"] in found
    assert set(PROJECT["license-files"]) <= found
