"""The kit for a GPU machine without a network: wheels with all that they need, and commands that exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer

from benchmarks.gpu import kit, step
from lg3d_cli.__main__ import app

ROOT = Path(__file__).parents[1]
RUN = ROOT / "benchmarks/gpu/run.sh"
PARTS = ["right", "fast", "train", "layers", "peer", "counters", "tune"]


def test_wheels_come_with_what_they_need_but_not_with_numpy():
    needed = kit.with_needs(["typer", "h5py"])
    assert {"typer", "pydantic", "pydantic-core", "shellingham", "h5py"} <= set(needed)
    assert "numpy" not in needed
    assert len(needed) == len(set(needed))


def test_all_wheels_have_a_locked_version():
    versions = kit.locked_versions()
    assert [name for name in kit.with_needs(kit.PACKAGES) if name not in versions] == []


def test_a_wheel_of_another_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheels = tmp_path / ".whl"
    wheels.mkdir()
    monkeypatch.setattr(kit, "WHEELS", wheels)
    monkeypatch.setattr(kit, "PACKAGES", ("typing-extensions", "h5py"))
    monkeypatch.setattr(kit, "OPTIONAL", ())
    versions = kit.locked_versions()
    kept = f"h5py-{versions['h5py']}-cp312-cp312-manylinux_2_28_x86_64.whl"
    for name in (kept, "typing_extensions-1.0-py3-none-any.whl"):
        (wheels / name).touch()
    asked = tmp_path / "asked"
    python = make_program(tmp_path / "python", f'echo "${{@: -1}}" >> {asked}')
    assert kit.build_wheels(python) == []
    assert asked.read_text().split() == [f"typing-extensions=={versions['typing-extensions']}"]
    assert [path.name for path in wheels.iterdir()] == [kept]


def test_wheels_that_do_not_fit_the_other_python_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kit, "WHEELS", tmp_path)
    (tmp_path / "h5py-3.0-cp27-cp27mu-win32.whl").touch()
    with pytest.raises(SystemExit, match=r"h5py-3\.0-cp27-cp27mu-win32\.whl is not a supported wheel.*rerun"):
        kit.check_wheels(sys.executable)


def make_program(path: Path, script: str) -> str:
    """Write a bash script and return its path."""
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return str(path)


class Machine:
    """A checkout with a kit on a machine whose programs only write down what they are asked to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.asked = folder / "out", folder / "asked"
        (folder / "benchmarks/gpu").mkdir(parents=True)
        shutil.copy(RUN, folder / "benchmarks/gpu")
        for name in (".whl", ".gpu", "bin"):
            (folder / name).mkdir()
        (folder / ".whl/typer-1.0-py3-none-any.whl").touch()
        with tarfile.open(folder / ".gpu/triton.tar.gz", "w:gz") as packed:
            packed.add(folder / ".whl", arcname="kernels")
        self.set_programs("")

    def set_programs(self, script: str) -> None:
        """Make Python and the tools of a GPU machine note their arguments and run a script."""
        for name in ("python", "nvidia-smi", "compute-sanitizer", "ncu"):
            make_program(self.folder / "bin" / name, f'echo "$(basename "$0") ${{*@Q}}" >> {self.asked}\n{script}')
        make_program(self.folder / "bin/timeout", f'echo "$2" >> {self.folder}/limits\nshift 2\nexec "$@"')

    def run(self, *parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run parts of the plan."""
        folders = {"OUT": self.out, "SITE": self.folder / "site", "WORK": self.folder / "work"}
        environment = {
            **{name: str(path) for name, path in folders.items()},
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": "python",
            "HOME": str(self.folder),
            "TRITON_CACHE_DIR": str(self.folder / "cache"),
            **variables,
        }
        command = ["bash", str(self.folder / "benchmarks/gpu/run.sh"), *parts]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def commands(self, words: str = "") -> list[list[str]]:
        """Return the arguments of Python that follow some words, command by command."""
        lines = [shlex.split(line) for line in self.asked.read_text().splitlines()]
        given = shlex.split(words)
        starts = [line.index("-m") if "-m" in line else 0 for line in lines]
        found = [line[start:] for start, line in zip(starts, lines, strict=True)]
        return [line[len(given) :] for line in found if line[: len(given)] == given]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which the whole plan was run."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    for part in PARTS:
        machine.run(part, VOXELS="300")
        limits = machine.folder / "limits"
        limits.rename(limits.with_suffix(f".{part}"))
    return machine


def test_every_lg3d_command_of_the_plan_exists_with_its_options(rehearsed: Machine):
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    commands = rehearsed.commands("-m lg3d_cli")
    names = [name for name, *_ in commands]
    assert names == ["doctor", "rooms", "prepare", "anchors", "pretrain", "finetune", "eval", "bench"]
    for name, *options in commands:
        group.commands[name].make_context(name, options)


def test_every_part_of_the_first_figures_exists(rehearsed: Machine):
    asked = rehearsed.commands("-m benchmarks.gpu.step")
    assert len(asked) == 5
    assert len({out for out, *_ in asked}) == 5, "a later part would replace the figures of an earlier one"
    for out, *parts in asked:
        assert out.startswith(str(rehearsed.out))
        assert parts[-2:] == ["--voxels", "300"]
        for part in parts[:-2]:
            assert part in ("fold", "layers", "counters") or re.fullmatch(r"(check|step)(14A|18A|34C|34D)", part)
            assert part.rstrip("0123456789ACD") in (step.__doc__ or "")


def test_test_files_of_the_plan_exist_and_make_test_gpu_runs_them_too(rehearsed: Machine):
    recipe = (ROOT / "Makefile").read_text()
    files = {word for words in rehearsed.commands("-m pytest") for word in words if word.startswith("tests/")}
    assert len(files) == 3
    for file in files:
        assert (ROOT / file).is_file()
        assert file in recipe


def test_the_plan_names_every_part(machine: Machine):
    assert re.findall(r"run\.sh (\w+)", kit.PLAN) == PARTS
    done = machine.run("walk")
    assert done.returncode == 2
    assert done.stderr == f"expected {', '.join(PARTS[:-1])} or {PARTS[-1]}, got 'walk'\n"


@pytest.mark.parametrize("part", PARTS)
def test_the_time_limits_of_a_part_add_up_to_ten_minutes_at_most(part: str, rehearsed: Machine):
    limits = [int(line) for line in (rehearsed.folder / f"limits.{part}").read_text().split()]
    assert 0 < sum(limits) <= 590


def test_wheels_and_kernels_are_installed_once_for_each_kit(machine: Machine):
    machine.run("layers")
    machine.run("layers")
    assert len(machine.commands("-m pip")) == 1
    assert (machine.folder / "cache/kernels/typer-1.0-py3-none-any.whl").exists()
    (machine.folder / ".whl/typer-1.0-py3-none-any.whl").write_text("another")
    machine.run("layers")
    assert len(machine.commands("-m pip")) == 2


def test_a_part_goes_on_after_a_failed_step_and_lists_it_last(machine: Machine):
    machine.set_programs('case "$*" in *prepare*) exit 3 ;; esac')
    done = machine.run("train")
    assert done.returncode == 1
    assert [words[0] for words in machine.commands("-m lg3d_cli")][-1] == "eval"
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"FAILED: python -m lg3d_cli prepare .* \(exit code 3 after \d+ s\)", last)


def test_metrics_of_both_runs_reach_the_results(machine: Machine):
    machine.set_programs(
        'case "$*" in *lg3d_cli\\ pretrain*|*lg3d_cli\\ finetune*) while [ "$1" != --name ]; do shift; done; '
        f"mkdir -p {machine.folder}/work/runs/$2; echo $2 > {machine.folder}/work/runs/$2/metrics.jsonl ;; esac"
    )
    done = machine.run("train")
    assert done.returncode == 0, done.stderr
    assert (machine.out / "pretrain.jsonl").read_text() == "p\n"
    assert (machine.out / "finetune.jsonl").read_text() == "f\n"


@pytest.mark.parametrize(("megabytes", "jobs"), [(64, "0"), (24_000, "unset")])
def test_without_shared_memory_scenes_are_loaded_in_the_training_process(machine: Machine, megabytes: int, jobs: str):
    seen = machine.folder / "jobs"
    machine.set_programs(f'echo "${{LG3D_JOBS-unset}}" >> {seen}')
    make_program(machine.folder / "bin/df", f'[ "${{@: -1}}" = /dev/shm ] && echo Avail && echo {megabytes}')
    machine.run("train")
    assert set(seen.read_text().split()[1:]) == {jobs}  # the first is pip


def test_a_part_without_wheels_or_results_folder_says_what_to_do(machine: Machine):
    assert "OUT: is not set: expected a folder for results" in machine.run("fast", OUT="").stderr
    for path in (machine.folder / ".whl").iterdir():
        path.unlink()
    done = machine.run("fast")
    assert done.returncode == 1
    assert done.stderr.startswith("no wheels in .whl: run `make gpu-kit`")
    assert not machine.asked.exists()
