"""What TAB gives: right, quick, and silent whatever lies around."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lg3d_cli.completion import complete_recipes, complete_runs, complete_scenes, complete_starts, words
from lg3d_core.settings import recipe_names
from lg3d_core.settings.choices import DEVICES

ROOT = Path(__file__).parents[1]
SHIM = f"#!{sys.executable}\nfrom lg3d_cli.__main__ import main\nmain()\n"


def line(**typed: object) -> Any:
    """A command line of which these options are typed so far."""
    return SimpleNamespace(params=typed)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store of three scenes and two runs, the fine-tuned one newer."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LG3D_")]:
        monkeypatch.delenv(name)
    (tmp_path / "data").mkdir()
    scenes = {"scene0011_00": {"split": "val"}, "scene0000_01": {"split": "train"}, "room": {"split": "test"}}
    (tmp_path / "data" / "store.json").write_text(json.dumps({"scenes": scenes}))
    for age, (name, settings) in enumerate({"f": {"command": "finetune"}, "p": {"command": "pretrain"}}.items()):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "settings.json").write_text(json.dumps(settings))
        os.utime(tmp_path / "runs" / name, (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "no run").mkdir()
    return tmp_path


def test_scenes_come_from_the_store_with_their_split(workplace: Path) -> None:
    assert complete_scenes(line(), "scene") == [("scene0000_01", "train"), ("scene0011_00", "val")]
    assert complete_scenes(line(), "x") == []
    assert complete_scenes(line(store=Path("nowhere")), "") == []
    (workplace / "data").rename(workplace / "elsewhere")
    assert complete_scenes(line(), "") == []
    (workplace / "lg3d.toml").write_text("store = 'elsewhere'\n")
    assert len(complete_scenes(line(), "")) == 3


def test_runs_come_newest_first_with_their_command(workplace: Path) -> None:
    del workplace
    assert complete_runs(line(), "") == [("runs/f", "finetune"), ("runs/p", "pretrain")]
    assert complete_runs(line(), "runs/p") == [("runs/p", "pretrain")]
    assert complete_starts(line(), "") == [("runs/p", "pretrain"), ("scratch", "no pre-training")]
    assert complete_runs(line(runs="nowhere"), "") == []


def test_recipes_are_names_and_files(workplace: Path) -> None:
    assert [name for name, _ in complete_recipes("")] == recipe_names()
    (workplace / "mine.toml").write_text("")
    (workplace / "lg3d.toml").write_text("")
    (workplace / "tables").mkdir()
    (workplace / "tables" / "one.toml").write_text("")
    assert complete_recipes("m") == [("mine.toml", "file")]
    assert complete_recipes("tables/") == [("tables/one.toml", "file")]
    assert complete_recipes("nowhere/") == []


def test_words_of_an_option() -> None:
    assert words(DEVICES.choices)("") == ["auto", "cpu", "cuda"]
    assert words(DEVICES.choices)("c") == ["cpu", "cuda"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"scenes": 3}', b'{"scenes": {"a": 1}}', b"[" * 100_000, None]
)
def test_damage_completes_to_nothing(workplace: Path, content: bytes | None) -> None:
    index = workplace / "data" / "store.json"
    index.unlink()
    if content is None:
        index.mkdir()
    else:
        index.write_bytes(content)
        (workplace / "runs" / "f" / "settings.json").write_bytes(content)
        (workplace / "lg3d.toml").write_bytes(content)
    assert complete_scenes(line(), "") == []
    assert len(complete_runs(line(), "")) == 2


def test_bash_completes_scenes_runs_and_recipes(workplace: Path) -> None:
    (workplace / "bin").mkdir()
    shim = workplace / "bin" / "lg3d"
    shim.write_text(SHIM)
    shim.chmod(0o755)
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = """
    source <(_LG3D_COMPLETE=source_bash lg3d)
    press_tab() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _lg3d_completion lg3d
        echo "${COMPREPLY[*]}" | tr '\\n' ' '; echo
    }
    press_tab lg3d view sc
    press_tab lg3d finetune --from ''
    press_tab lg3d pretrain --recipe paper-3
    press_tab lg3d --install
    """
    path = f"{workplace / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        capture_output=True,
        text=True,
        cwd=workplace,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(workplace)},
    )
    assert done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["scene0000_01", "scene0011_00"],
        ["runs/p", "scratch"],
        ["paper-34c", "paper-34d", "paper-34d-instance"],
        ["--install-completion"],
    ]


def test_a_tab_is_answered_at_once_and_without_torch(workplace: Path) -> None:
    code = (
        "import sys; sys.argv[:] = ['lg3d']\n"
        "from lg3d_cli.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'numpy', 'h5py', 'open3d', 'rich'} & set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "COMP_WORDS": "lg3d view sc", "COMP_CWORD": "2"}
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=workplace,
            env=environment | {"_LG3D_COMPLETE": "complete_bash"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.stdout.split(), done.stderr) == (["scene0000_01", "scene0011_00"], "")
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4, f"{min(seconds):.2f} s of CPU"  # measured 0.25 s on a busy machine
