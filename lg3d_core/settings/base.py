"""Resolution of settings: one frozen dataclass per command, and the source of each value.

A value is taken from the first of: the command's option, the environment variable `LG3D_<KEY>`, `lg3d.toml` in the
working directory, the recipe, the default in the dataclass. Recipes and `lg3d.toml` have the same form: top-level keys
apply to every command with such a field, keys in a table `[pretrain]`, `[finetune]`, ... to that command alone. The
choices of a few fields (`task`, `format`) differ between commands: commands whose field does not have the value of a
top-level key or a variable ignore it.
"""

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from annotated_doc import Doc

from lg3d_core.errors import SettingsError, UsageError
from lg3d_core.settings.fields import Field, Option, Panel, fields_of

S = TypeVar("S", bound="Settings")

CONFIG_NAME = "lg3d.toml"
NOT_SAVED = ("json", "quiet", "overrides")
"""Fields that concern one call: how it reports, and what it overrides; saved settings leave them out."""


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]  # as it was typed
    return repr(str(value) if isinstance(value, Path) else value)


class _Source(NamedTuple):
    """Where a value comes from: `name` is what messages call it; empty for an option that was typed."""

    name: str
    is_variable: bool = False

    def fail(self, field: Field, expected: str, value: Any) -> SettingsError:
        """Return the error for a value that does not fit a field."""
        subject = self.name if self.is_variable else field.option_name
        message = f"{subject} must be {expected}, got {_shown(value)}"
        if self.name == "":
            return UsageError(message, fields=(field.name,))
        return SettingsError(message if self.is_variable else f"{self.name}: {message}", fields=(field.name,))


TYPED = _Source("")


class _Found:
    """Values of fields and their sources; a value that is taken later replaces an earlier one."""

    def __init__(self, known: Mapping[str, Field]) -> None:
        self.known = known
        self.values: dict[str, Any] = {}
        self.sources: dict[str, _Source] = {}

    def take(self, values: Mapping[str, Any], source: _Source) -> None:
        """Convert the values of one source, and check their limits."""
        for name, value in values.items():
            self.values[name] = _convert(value, self.known[name], source)
            self.sources[name] = source

    def build(self, cls: "type[S]") -> "S":
        """Return the settings; an error on several fields names the source of a value that was taken."""
        for field in self.known.values():
            if field.is_required and field.name not in self.values:
                raise _missing(field)
        self._drop_unused(cls)
        try:
            return cls(**self.values)
        except SettingsError as error:
            found = [self.sources[name] for name in error.fields if name in self.sources]
            if TYPED in found or not found:
                raise UsageError(str(error), fields=error.fields) from None
            raise SettingsError(f"{found[0].name}: {error}", fields=error.fields) from None

    def _drop_unused(self, cls: "type[S]") -> None:
        """Drop values of `only_with` that were not typed: variables and files hold them for other calls as well."""
        for name, other in cls.only_with.items():
            typed = self.sources.get(name) is TYPED
            if not typed and not self.values.get(other, self.known[other].default):
                self.values.pop(name, None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of every command: resolved from their sources, saved as JSON, read back."""

    command: ClassVar[str] = ""
    default_recipe: ClassVar[str | None] = None
    """The recipe that the command applies where no other one is chosen."""
    follows_recipe: ClassVar[bool] = False
    """Whether the command takes values from the recipe that `LG3D_RECIPE` or the settings file names."""
    reads_config: ClassVar[bool] = True
    """Whether the command takes values from the settings file."""

    own_names: ClassVar[Set[str]] = frozenset()
    """Fields with another meaning than those of this name of other commands: a variable or a top-level key of the
    settings file does not set them."""

    only_with: ClassVar[Mapping[str, str]] = {}
    """Fields that require another one. Where it has no value, only a typed value of such a field is an error."""

    json: Annotated[bool, Doc("Result as one JSON object on stdout."), Option(panel=Panel.OUTPUT)] = False
    quiet: Annotated[bool, Doc("Only warnings and errors on stderr."), Option(short="-q", panel=Panel.OUTPUT)] = False

    def __post_init__(self) -> None:
        for field in fields_of(type(self)).values():
            value = getattr(self, field.name)
            if field.is_required and value == ():
                raise _missing(field)
            problem = field.problem(value)
            if problem:
                raise SettingsError(f"{field.option_name} must be {problem}, got {_shown(value)}", fields=(field.name,))
        for name, other in self.only_with.items():
            if getattr(self, name) != fields_of(type(self))[name].default and not getattr(self, other):
                first, second = option_name(type(self), name), option_name(type(self), other)
                raise SettingsError(f"{first} requires {second}: pass it, or leave out {first}", fields=(name,))

    @classmethod
    def resolve(
        cls,
        *,
        recipe: str | None = None,
        default_recipe: str | None = None,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        **options: Any,
    ) -> Self:
        """Gather each field's value from option, variable, file, recipe or default, in that order.

        Args:
            recipe: Name of a shipped recipe, or path of a TOML file, that the user typed.
            default_recipe: The recipe where neither the user, `LG3D_RECIPE` nor the file's key `recipe` names one. The
                latter two apply to encoding and training alone.
            environ: Environment variables; those named `LG3D_<KEY>` are read.
            config: Path of the settings file; ignored if it does not exist.
            options: What the user typed, as text or as values; None where an option was not typed.

        Raises:
            UsageError: A typed value of the wrong type or range, or a required value that is missing.
            SettingsError: An unknown key, or a wrong value from another source; the message names the source.
        """
        known, environ = fields_of(cls), environ or {}
        table = _read_toml(config) if config is not None and config.is_file() and cls.reads_config else {}
        found = _Found(known)
        chosen = _choose_recipe(cls, recipe, default_recipe, environ, table, str(config))
        table.pop("recipe", None)
        if chosen is not None:
            source = _Source(f"recipe {chosen.name}")
            found.take(_table_values(cls, chosen.content, source=source.name), source)
            if "recipe" in known:
                found.values["recipe"] = chosen.name
        found.take(_table_values(cls, table, source=str(config)), _Source(str(config)))
        for field in (own for own in known.values() if own.name not in cls.own_names):
            for variable in (f"LG3D_{key.upper()}" for key in (field.name, field.key)):
                source = _Source(variable, is_variable=True)
                if variable in environ and not _belongs_to_others(field, environ[variable], source):
                    found.take({field.name: environ[variable]}, source)
        typed = {"recipe": recipe if "recipe" in known else None, **options}
        found.take({name: value for name, value in typed.items() if value is not None}, TYPED)
        return found.build(cls)

    @classmethod
    def from_table(cls, table: dict[str, Any], *, source: str, **options: Any) -> Self:
        """Take the values of one recipe alone, and options that override them.

        Args:
            table: A recipe, as `read_recipe` returns it.
            source: What messages call it.
            options: Values of fields; None keeps the recipe's.

        Raises:
            SettingsError: An unknown key, or a value of the wrong type or range.
        """
        known = fields_of(cls)
        found = _table_values(cls, table, source=source)
        values = {name: _convert(value, known[name], _Source(source)) for name, value in found.items()}
        typed = {name: value for name, value in options.items() if value is not None}
        return cls(**values | {name: _convert(value, known[name], TYPED) for name, value in typed.items()})

    @classmethod
    def saved_fields(cls) -> list[str]:
        """Return the names of the fields that `to_json` writes."""
        return [entry.name for entry in dataclasses.fields(cls) if entry.name not in NOT_SAVED]

    def to_json(self) -> str:
        """Serialise with the name of the command; paths become text."""
        values = {name: getattr(self, name) for name in self.saved_fields()}
        return json.dumps({"command": self.command, **values}, default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote.

        Raises:
            SettingsError: The text does not hold these settings.
        """
        known = fields_of(cls)
        try:
            values = json.loads(text)
            command = values.pop("command", cls.command)  # earlier versions did not save it
            if command != cls.command:
                raise ValueError(f"they are of lg3d {command}")
            return cls(**{key: _convert(value, known[key], _Source("saved")) for key, value in values.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"saved settings do not fit {cls.__name__} of this version: {error}") from None

    def _require(self, condition: bool, name: str, expected: str, *others: str) -> None:
        """Raise an error on a field where a condition over it and others does not hold."""
        if not condition:
            field = fields_of(type(self))[name]
            value = _shown(getattr(self, name))
            raise SettingsError(f"{field.option_name} must be {expected}, got {value}", fields=(name, *others))


def option_name(cls: type[Settings], name: str) -> str:
    """Return what the user types for a field: `--batch-size`, or `SCENE` for an argument."""
    return fields_of(cls)[name].option_name


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    folder = resources.files("lg3d_core") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_summary(name: str) -> str:
    """Return the first line of a shipped recipe: its purpose."""
    text = (resources.files("lg3d_core") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def read_recipe(name: str) -> dict[str, Any]:
    """Read a shipped recipe by name, or a TOML file by path.

    Raises:
        SettingsError: No such recipe, or not TOML.
    """
    if name in recipe_names():
        text = (resources.files("lg3d_core") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    path = Path(name)
    if not path.is_file():
        raise SettingsError(f"--recipe {name}: expected one of {', '.join(recipe_names())}, or a TOML file's path")
    return _read_toml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise SettingsError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path} is not TOML that can be read: it is nested too deeply") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None


def _table_values(cls: type[Settings], table: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Return the values of a recipe or settings file for one command; a key that no command knows is an error."""
    from lg3d_core.settings import COMMANDS  # the table of commands is built from the modules that import this one

    every_field = {key: name for command in COMMANDS.values() for key, name in _names(command).items()}
    own = _names(cls)
    values: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            if key not in COMMANDS:
                raise SettingsError(f"{source}: [{key}] is not a command{_did_you_mean(key, COMMANDS)}")
            names = _names(COMMANDS[key])
            unknown = [name for name in value if _plain(name) not in names]
            if unknown:
                raise SettingsError(
                    f"{source}: [{key}] has no setting {unknown[0]!r}{_did_you_mean(unknown[0], names)}"
                )
        elif _plain(key) not in every_field:
            raise SettingsError(f"{source}: no setting {key!r}{_did_you_mean(key, every_field)}")
        elif _plain(key) in own:
            name = _take_once(key, own, taken, source)
            is_own = name in cls.own_names
            if not is_own and not _belongs_to_others(fields_of(cls)[name], value, _Source(source)):
                values[name] = value
    of_command, taken = table.get(cls.command), {}
    for key, value in of_command.items() if isinstance(of_command, dict) else ():
        values[_take_once(key, own, taken, f"{source}: [{cls.command}]")] = value
    return values


def _take_once(key: str, names: Mapping[str, str], taken: dict[str, str], source: str) -> str:
    """Return the field that a key names, and record the key in `taken`, by field.

    Raises:
        SettingsError: The table names the field with another key as well.
    """
    name = names[_plain(key)]
    if name in taken:
        raise SettingsError(f"{source}: {taken[name]!r} and {key!r} are the same setting: remove one of them")
    taken[name] = key
    return name


def are_one_setting(cls: type[Settings], first: str, second: str) -> bool:
    """Return whether two keys name the same field of a command: `voxel-size` and `voxel_size`, `from` and `start`."""
    names = _names(cls)
    return _plain(first) in names and names[_plain(first)] == names.get(_plain(second))


def _belongs_to_others(field: Field, value: Any, source: _Source) -> bool:
    """Return whether a choice for every command is one of other commands' settings of this name, but not this one's."""
    from lg3d_core.settings import COMMANDS

    def fits(other: Field) -> bool:
        try:
            _convert(value, other, source)
        except SettingsError:
            return False
        return True

    if not field.choices or fits(field):
        return False
    others = (other for command in COMMANDS.values() for other in fields_of(command).values())
    return any({other.name, other.key} & {field.name, field.key} and fits(other) for other in others)


def _names(cls: type[Settings]) -> dict[str, str]:
    """Return the field behind each key: its name, and the name of its option."""
    return {key: field.name for field in fields_of(cls).values() for key in (field.name, field.key)}


def _plain(key: str) -> str:
    """Return a key as its field is spelled: `voxel-size` and `voxel_size` are one key."""
    return key.replace("-", "_")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Recipe(NamedTuple):
    name: str
    content: dict[str, Any]


def _choose_recipe(
    cls: type[Settings],
    typed: str | None,
    default: str | None,
    environ: Mapping[str, str],
    table: Mapping[str, Any],
    config: str,
) -> _Recipe | None:
    """Read the recipe that a command applies: the typed one, else that of variable or settings file, else a default."""
    if typed is not None and (cls.follows_recipe or "recipe" not in fields_of(cls)):
        try:
            return _Recipe(typed, read_recipe(typed))
        except SettingsError as error:
            raise UsageError(str(error), fields=("recipe",)) from None
    own = table.get(cls.command)
    named = {
        "LG3D_RECIPE": environ.get("LG3D_RECIPE"),
        f"{config}: [{cls.command}]": own.get("recipe") if isinstance(own, dict) else None,
        config: table.get("recipe"),
    }
    for source, name in named.items() if cls.follows_recipe else ():
        if name is not None and name != "":
            try:
                return _Recipe(str(name), read_recipe(str(name)))
            except SettingsError as error:
                raise SettingsError(f"{source}: {error}", fields=("recipe",)) from None
    return None if default is None else _Recipe(default, read_recipe(default))


def _missing(field: Field) -> UsageError:
    return UsageError(
        f"{field.option_name} is missing: pass it, or set {field.key} in {CONFIG_NAME}", fields=(field.name,)
    )


def _convert(value: Any, field: Field, source: _Source) -> Any:
    """Bring a value from text, TOML, JSON or Python to a field's type, and check its limits."""
    if field.is_optional and (value is None or (value == "" and source.is_variable) or field.is_default(value)):
        return None
    if not field.is_tuple:
        converted = _convert_item(value, field, source)
    else:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if field.splits_on_commas or source.is_variable:
            items = [part for item in items for part in (_split(item) if isinstance(item, str) else [item])]
        converted = tuple(_convert_item(item, field, source) for item in items)
        converted = tuple(dict.fromkeys(converted)) if field.choices else converted  # a choice applies once
    problem = field.problem(converted)
    if problem:
        raise source.fail(field, problem, converted)
    return converted


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _convert_item(value: Any, field: Field, source: _Source) -> Any:
    kind = field.kind
    if field.choices:
        if not field.is_choice(value):
            raise source.fail(field, f"one of {', '.join(field.expected)}", value)
        return value
    if kind is bool:
        words = {"0": False, "1": True, "false": False, "true": True}
        if isinstance(value, str) and source.is_variable and value.lower() in words:
            return words[value.lower()]
        if not isinstance(value, bool):
            raise source.fail(field, "true or false", value)
        return value
    if kind in (int, float):
        return _convert_number(value, field, source)
    if not isinstance(value, str | Path) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise source.fail(field, "a path" if kind is Path else "text", value)
    if kind is Path and value == "":  # such as an empty variable of the shell; `Path("")` is the working directory
        raise source.fail(field, "a path", value)
    return kind(str(value))


def _convert_number(value: Any, field: Field, source: _Source) -> int | float:
    if isinstance(value, bool):
        raise source.fail(field, "a number", value)
    try:
        if field.kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        converted: int | float = field.kind(value)
        if not math.isfinite(converted):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = "a whole number" if field.kind is int else "a finite number"
        raise source.fail(field, expected, value) from None
    return converted
