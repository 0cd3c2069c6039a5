"""The options of every command are those of its settings class, with its defaults, choices and ranges."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from lg3d_cli.__main__ import app
from lg3d_cli.parameters import default_values
from lg3d_core.networks.minkunet import NETWORK_PLANS
from lg3d_core.objectives.language import DISTANCES
from lg3d_core.settings import COMMANDS, BackendName, Distance, NetworkName, PeerName, Settings, recipe_names
from lg3d_core.settings.fields import Field, fields_of
from lg3d_core.sparse.backends import BACKENDS
from lg3d_core.sparse_benchmark.peers import PEERS

ROOT = Path(__file__).parents[1]
GROUP: Any = typer.main.get_command(app)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def command_help(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The help of a command, each record on one line."""
    monkeypatch.setenv("COLUMNS", "80")
    command = GROUP.commands[name]
    text: str = command.get_help(command.make_context(name, [], resilient_parsing=True))
    return re.sub(r"\n {3,}", " ", text)


def record_of(field: Field, text: str) -> str:
    """The line of help that describes a field."""
    start = rf"^  (?:-\w, )?\[?{re.escape(field.option_name)}(?=[ .\]]|$).*$"
    lines = re.findall(start, text[re.search(r"^\w+:$", text, re.MULTILINE).start() :], re.MULTILINE)  # type: ignore[union-attr]
    assert len(lines) == 1, f"{field.option_name} is described {len(lines)} times"
    return str(lines[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_field_with_its_documentation_default_choices_and_range(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = COMMANDS[name]
    text, defaults = command_help(name, monkeypatch), default_values(cls)
    for field in fields_of(cls).values():
        if field.option.recipe_only:
            assert field.option_name not in text
            continue
        line = record_of(field, text)
        plain = line.replace("- ", "-").replace(" ", "")  # help breaks lines at hyphens, too
        assert field.doc
        assert field.doc.replace("- ", "-").replace(" ", "") in plain
        assert all(choice in line for choice in field.choices)
        assert field.range in line
        default = defaults.get(field.name)
        if default not in (None, False, True, ()):
            shown = default if isinstance(default, tuple) else (default,)
            texts = [f"{item:g}" if isinstance(item, float) else str(item) for item in shown]
            assert f"[default:{','.join(texts)}".replace(" ", "").replace("- ", "-") in plain
        assert (" / --no-" in line) == (default is True or (field.kind is bool and field.is_optional))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_settings_and_no_others(name: str) -> None:
    options = {param.name: param for param in GROUP.commands[name].params}
    fields = {name: field for name, field in fields_of(COMMANDS[name]).items() if not field.option.recipe_only}
    assert set(options) == set(fields)
    for field in fields.values():
        param = options[field.name]
        assert (param.param_type_name == "argument") == field.is_argument
        assert field.is_argument or field.option_name in param.opts
        assert param.default is None, "defaults live in the settings class"


def test_there_is_a_command_for_every_settings_class_in_the_order_of_help() -> None:
    assert list(COMMANDS) == list(GROUP.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_is_documented_and_its_default_is_within_its_limits(name: str) -> None:
    for field in fields_of(COMMANDS[name]).values():
        assert field.doc.endswith("."), field.name
        if field.default is not dataclasses.MISSING and not field.is_required:
            assert field.problem(field.default) == "", field.name


def test_the_default_recipes_values_are_shown_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = fields_of(COMMANDS["pretrain"])["epochs"]
    assert "[default: 400; x>=1]" in record_of(epochs, command_help("pretrain", monkeypatch))  # the paper's schedule
    assert "[default: 170; x>=1]" in record_of(epochs, command_help("finetune", monkeypatch))


def test_many_options_are_grouped_in_the_order_of_the_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = re.findall(r"^(\w+):$", command_help("finetune", monkeypatch), re.MULTILINE)
    assert titles == ["Run", "Data", "Network", "Loss", "Optimisation", "Computation", "Advanced", "Output"]
    assert re.findall(r"^(\w+):$", command_help("rooms", monkeypatch), re.MULTILINE) == ["Arguments", "Options"]


@pytest.mark.parametrize(
    ("choices", "implemented"),
    [(NetworkName, NETWORK_PLANS), (BackendName, BACKENDS), (PeerName, PEERS), (Distance, DISTANCES)],
)
def test_every_choice_is_implemented_and_nothing_else(choices: Any, implemented: dict[str, object]) -> None:
    assert set(get_args(choices)) == set(implemented)


FOREIGN = {
    *("--help", "--version", "--install-completion"),
    *("--porcelain", "--untracked-files"),  # git
    *("--rdzv-id", "--nproc-per-node", "--max-restarts"),  # torchrun
    *("--no-deps", "--upgrade", "--cpu"),  # pip
    "--shm-size",  # docker
}


def test_every_option_that_the_code_names_exists() -> None:
    known = {opt for command in GROUP.commands.values() for param in command.params for opt in param.opts}
    known |= {opt for command in GROUP.commands.values() for param in command.params for opt in param.secondary_opts}
    for folder in ("lg3d_core", "lg3d_cli"):
        for path in (ROOT / folder).rglob("*.py"):
            named = set(OPTION.findall(path.read_text(encoding="utf-8")))
            assert named <= known | FOREIGN | {"--no", "--no-", "--field-name"}, path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_boolean_that_a_file_turns_on_can_be_turned_off(name: str) -> None:
    command = GROUP.commands[name]
    for field in fields_of(COMMANDS[name]).values():
        if field.kind is bool:
            words = [f"--no-{field.option_name.removeprefix('--')}"]
            context = command.make_context(name, words, resilient_parsing=True)
            assert context.params[field.name] is False


def test_recipes_are_listed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ", ".join(recipe_names()) in command_help("pretrain", monkeypatch)


def test_saved_settings_name_their_command() -> None:
    for cls in COMMANDS.values():
        assert issubclass(cls, Settings)
        required = {
            field.name: field.choices[0] if field.choices else "x"
            for field in fields_of(cls).values()
            if field.is_required
        }
        settings = cls.resolve(**required, **({"raw": "x"} if cls.command == "prepare" else {}))
        assert f'"command": "{cls.command}"' in settings.to_json()
        assert cls.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_several_values_can_be_repeated(name: str) -> None:
    command = GROUP.commands[name]
    for field in fields_of(COMMANDS[name]).values():
        if field.is_tuple and not field.is_argument and not field.option.recipe_only:
            words = [field.option_name, "a", field.option_name, "b"]
            assert command.make_context(name, words, resilient_parsing=True).params[field.name] == ["a", "b"]


def test_a_command_decides_nothing() -> None:
    for path in (ROOT / "lg3d_cli" / "commands").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                lines = node.body[-1].end_lineno - node.body[1].lineno + 1  # type: ignore[operator]  # no docstring
                assert lines < 20, f"{path.name}: {lines} lines"
