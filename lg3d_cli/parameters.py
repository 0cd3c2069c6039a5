"""Typer parameters that are generated from the fields of a settings class.

Each field defines one option or argument: its name, metavar, help, choices, range, default and completion. Typer passes
the text unchanged; the settings class converts and checks it, as for variables and files.
"""

import dataclasses
import functools
import inspect
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from lg3d_cli import console
from lg3d_cli.completion import COMPLETERS, words
from lg3d_core.errors import EndedElsewhere, SettingsError, UsageError
from lg3d_core.settings import CONFIG_NAME, Settings
from lg3d_core.settings.fields import Field, Panel, fields_of

S = TypeVar("S", bound=Settings)

FOLLOWER_SECONDS = 2.0
"""Time in seconds in which the first process of torchrun can report invalid settings before the others exit."""
MANY_OPTIONS = 18
"""Number of options above which help groups them under headings."""


def settings_command(cls: type[S]) -> Callable[[Callable[[S], None]], Callable[..., None]]:
    """Convert a function of settings to a function for Typer, with one parameter per field."""

    def decorate(function: Callable[[S], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**typed: Any) -> None:
            given = {name: value for name, value in typed.items() if value is not None}
            settings = read_settings(cls, given)
            try:
                function(settings)
            except SettingsError as error:
                if set(given) & set(error.fields):
                    raise UsageError(str(error), fields=error.fields) from None
                raise

        fields = [field for field in fields_of(cls).values() if not field.option.recipe_only]
        shown = default_values(cls)
        parameters = [parameter(field, shown.get(field.name)) for field in fields]
        run.settings = cls  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {entry.name: entry.annotation for entry in parameters}
        return run

    return decorate


def read_settings(cls: type[S], typed: Mapping[str, Any]) -> S:
    """Resolve settings from the command line, the environment, `lg3d.toml` in the working directory, and the recipe.

    Under torchrun, only the first process reports an error.
    """
    try:
        return cls.resolve(
            environ=os.environ, config=Path(CONFIG_NAME), default_recipe=cls.default_recipe, **dict(typed)
        )
    except SettingsError:
        if not console.follows():
            raise
        time.sleep(FOLLOWER_SECONDS)
        raise EndedElsewhere from None


def default_values(cls: type[Settings]) -> dict[str, Any]:
    """Return the default values: those of the default recipe, or else those of the fields."""
    if cls.default_recipe is not None:
        return dict(vars(cls.resolve(default_recipe=cls.default_recipe)))
    return {field.name: field.default for field in fields_of(cls).values() if field.default is not dataclasses.MISSING}


def parameter(field: Field, default: Any) -> inspect.Parameter:
    """Return the Typer parameter of a field: an option, or an argument."""
    kind: Any = bool if field.kind is bool else list[str] if field.is_tuple else str
    text = help_text(field, default)
    completer = COMPLETERS.get(field.option.completes) or (words(field.choices) if field.choices else None)
    info: Any
    if field.is_argument:
        info = typer.Argument(metavar=metavar(field), help=text, autocompletion=completer, show_default=False)
    else:
        info = typer.Option(
            *declarations(field),
            metavar=None if field.kind is bool else metavar(field),
            help=text,
            autocompletion=completer,
            show_default=False,
            rich_help_panel=field.option.panel,
        )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def declarations(field: Field) -> list[str]:
    """Return the spellings of an option; a switch can also be turned off."""
    name = field.option_name
    if field.kind is bool:
        name = f"{name}/--no-{name.removeprefix('--')}"
    return [name, *([field.option.short] if field.option.short else [])]


def metavar(field: Field) -> str:
    """Return the placeholder of the value in help: `SCENE`, `<float>`, `<auto|fp32|bf16>`, `<int,...>`."""
    if field.is_argument:
        name = field.option_name + ("..." if field.is_tuple else "")
        return name if field.is_required else f"[{name}]"
    return f"<{field.type_name}{',...' if field.splits_on_commas else ''}>"


def help_text(field: Field, default: Any) -> str:
    """Return the documentation of a field, with its default, its range, and whether it may be repeated."""
    notes = []
    shown = default_text(field, default)
    if shown:
        notes.append(f"default: {shown}")
    if field.range:
        notes.append(field.range)
    if field.is_tuple and not field.splits_on_commas and not field.is_argument:
        notes.append("repeatable")
    if field.is_required and not field.is_argument:
        notes.append("required")
    return f"{field.doc}  [{'; '.join(notes)}]" if notes else field.doc


def default_text(field: Field, default: Any) -> str:
    """Return a default as help shows it; "" for none."""
    if default is None or default == ():
        return field.option.default
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple):
        return ",".join(default_text(field, item) for item in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


class SettingsCommand(TyperCommand):
    """Command whose help groups many options under headings, and whose usage line shows arguments by name."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the command's name."""
        arguments = [param.metavar for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [self.options_metavar or "", *(text for text in arguments if text)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options under one heading or under those of their fields."""
        cls: type[Settings] = self.callback.settings  # type: ignore[union-attr]  # set by settings_command
        fields, defaults, params = fields_of(cls), default_values(cls), self.get_params(ctx)
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", "Options", *Panel)}
        for param in params:
            field, record = fields.get(param.name or ""), param.get_help_record(ctx)
            assert record is not None  # no parameter is hidden
            if field is None:  # --help
                panel: str = Panel.OUTPUT
            elif field.is_argument:
                panel, record = "Arguments", (metavar(field), record[1])
            else:
                panel = field.option.panel or "Options"
                if defaults.get(field.name) is False:  # the form that turns it off is not listed
                    record = (record[0].partition(" / --no-")[0], record[1])
            if panel != "Arguments" and len(params) <= MANY_OPTIONS:
                panel = "Options"
            sections[panel].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
