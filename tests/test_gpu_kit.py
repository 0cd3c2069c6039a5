"""The kit for a GPU machine without a network: wheels with all that they need, and commands that exist."""

import re
import shlex

import pytest
import typer

from benchmarks.gpu import kit, step
from lg3d_cli.__main__ import app


def test_wheels_come_with_what_they_need_but_not_with_numpy():
    needed = kit.with_needs(["typer", "h5py"])
    assert {"typer", "pydantic", "pydantic-core", "shellingham", "h5py"} <= set(needed)
    assert "numpy" not in needed
    assert len(needed) == len(set(needed))


def test_all_wheels_have_a_locked_version():
    versions = kit.locked_versions()
    assert [name for name in kit.with_needs(kit.PACKAGES) if name not in versions] == []


def commands() -> list[list[str]]:
    """Return the words of the lg3d commands of the plan."""
    text = kit.PLAN.replace("\\\n", " ")
    return [shlex.split(words) for words in re.findall(r"(?:\$L|-m lg3d_cli) ([a-z][^;\n]*)", text)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_of_the_plan_exists(words: list[str]):
    group = typer.main.get_command(app)
    name, *options = words
    assert isinstance(group, typer.core.TyperGroup)
    group.commands[name].make_context(name, options)


def test_every_part_of_the_first_figures_exists():
    parts = re.findall(r"gpu\.step \S+ ([^\n]*)", kit.PLAN)
    assert len(parts) == 5
    for part in " ".join(parts).split():
        assert part in ("fold", "layers") or re.fullmatch(r"(check|step)(14A|18A|34C|34D)", part)
        assert part.rstrip("0123456789ACD") in (step.__doc__ or "")
