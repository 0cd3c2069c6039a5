"""Grid of a comparison: combinations of values of settings keys, each of them a row per recipe."""

import itertools
import os
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from lg3d_core.errors import SettingsError
from lg3d_core.settings import AnchorsSettings, FinetuneSettings, PretrainSettings, Settings
from lg3d_core.settings.base import are_one_setting
from lg3d_core.settings.fields import Field, fields_of

PHASES: dict[str, type[Settings]] = {
    phase.command: phase for phase in (AnchorsSettings, PretrainSettings, FinetuneSettings)
}
LABEL_SHARE = "limited"
"""Field of the share of the labels that training uses."""


def find_field(key: str, phase: type[Settings]) -> Field | None:
    """Return the field of a phase that a key, `name` or `command.name`, names, if any."""
    command, _, name = key.rpartition(".")
    if command not in ("", phase.command):
        return None
    name = name.replace("-", "_")
    return next((field for field in fields_of(phase).values() if name in (field.name, field.key)), None)


class GridValue(NamedTuple):
    """One value of a key.

    Attributes:
        key: Key as typed: a field of every phase, or `command.key`.
        value: Value as TOML has it; a list is a tuple.
        shown: The value in the name of a row.
    """

    key: str
    value: Any
    shown: str

    @property
    def sets_label_share(self) -> bool:
        """Whether the key is the share of the labels."""
        fields = [find_field(self.key, phase) for phase in PHASES.values()]
        return any(field is not None and field.name == LABEL_SHARE for field in fields)


Cell = tuple[GridValue, ...]
"""One value of each key."""


def parse_assignment(text: str, *, option: str, field: str) -> tuple[str, str]:
    """Split `key=value` and `command.key=value` into the key and the text of the value.

    Raises:
        SettingsError: The text has another form.
    """
    key, equals, value = text.partition("=")
    command, dot, name = key.strip().rpartition(".")
    if not equals or not name or (dot and not command):
        raise SettingsError(
            f"{option} {text!r}: expected key=value or command.key=value, such as finetune.epochs=20", fields=(field,)
        )
    return key.strip(), value.strip()


def is_same_key(first: str, second: str) -> bool:
    """Return whether two keys name the same setting: `voxel-size` and `voxel_size`, `finetune.from` and `.start`."""
    (command, _, one), (other, _, two) = first.rpartition("."), second.rpartition(".")
    phases = [phase for name, phase in PHASES.items() if command in ("", name)]
    is_equal = one.replace("-", "_") == two.replace("-", "_")
    return command == other and (is_equal or any(are_one_setting(phase, one, two) for phase in phases))


def parse_value(text: str) -> Any:
    """Return the TOML value of a text; a text that is not TOML is returned unchanged."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def grid_cells(grid: Sequence[str], changes: Sequence[str] = ()) -> list[Cell]:
    """Return every combination of the values of a grid, the last key varying fastest; one empty cell without a grid.

    Args:
        grid: Entries `key=value,value,...`.
        changes: Entries `key=value` that apply to all rows.

    Raises:
        SettingsError: An entry has another form, a key is unknown, or a key or value is repeated.
    """
    keys: dict[str, list[GridValue]] = {}
    for entry in grid:
        key, text = parse_assignment(entry, option="--grid", field="grid")
        parsed = _parse_values(entry, text)
        if not any(find_field(key, phase) for phase in PHASES.values()):
            raise SettingsError(
                f"--grid {entry}: {key} is not a setting of {', '.join(PHASES)}: see lg3d finetune --help",
                fields=("grid",),
            )
        if any(is_same_key(key, other) for other in keys):
            raise SettingsError(f"--grid names {key} twice: pass all of its values in one option", fields=("grid",))
        shown = [_show(value) for value in parsed]
        if is_same_key(key, "finetune.from") or is_same_key(key, "from"):
            shown = _without_common_folder(shown)
        keys[key] = [GridValue(key, value, text) for value, text in zip(parsed, shown, strict=True)]
    fixed = {parse_assignment(change, option="--set", field="changes")[0] for change in changes}
    if both := sorted(key for key in keys if any(is_same_key(key, other) for other in fixed)):
        raise SettingsError(f"--grid and --set both set {both[0]}: pass one of them", fields=("grid", "changes"))
    return list(itertools.product(*keys.values()))


def _parse_values(entry: str, text: str) -> list[Any]:
    """Split a text at its commas, except at those within TOML's strings and arrays."""
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [parse_value(part.strip()) for part in text.split(",")]
    values = [tuple(value) if isinstance(value, list) else value for value in values]
    if not values or "" in values or text.endswith(","):
        raise SettingsError(f"--grid {entry}: expected key=value,value,..., such as limited=0.05,1.0", fields=("grid",))
    if len({repr(value) for value in values}) < len(values):
        raise SettingsError(f"--grid {entry}: a value is repeated", fields=("grid",))
    return values


def cell_fields(cell: Cell, phase: type[Settings]) -> dict[str, Any]:
    """Return the values of a cell for one phase, by field name; a key with the phase's name precedes a general one."""
    ordered = sorted(cell, key=lambda own: "." in own.key)
    return {field.name: own.value for own in ordered if (field := find_field(own.key, phase)) is not None}


def cell_label(label: str, cell: Cell, *, label_share: bool = True) -> str:
    """Return the name of a row from the recipe's label and a cell, optionally without the share of the labels."""
    shown = [f"{own.key}={own.shown}" for own in cell if label_share or not own.sets_label_share]
    return ", ".join([label, *shown])


def _without_common_folder(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of those with a folder have in common, if they stay distinct."""
    folders = [os.path.dirname(path) for path in paths if os.path.dirname(path)]
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # none has a folder, or some are absolute and some are not
        return list(paths)
    short = [path.removeprefix(common + os.sep) for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(_show, value))}]" if isinstance(value, tuple) else str(value)
