"""Shell completion of scenes, runs, recipes and choices.

Completers must be fast: each reads one small file or one folder and imports nothing heavy. Errors are ignored: a broken
store has no completions.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from lg3d_core.errors import Lg3dError
from lg3d_core.settings import CONFIG_NAME, EvalSettings, recipe_names, recipe_summary

INDEX_NAME = "store.json"
RUN_MARK = "settings.json"


def complete_scenes(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the ids of the scenes in the store that the command line, the environment or `lg3d.toml` specifies."""
    try:
        index = json.loads((_folder(ctx, "store") / INDEX_NAME).read_text(encoding="utf-8"))
        scenes = [(str(scene), str(entry.get("split", ""))) for scene, entry in index["scenes"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted(pair for pair in scenes if pair[0].startswith(incomplete))


def complete_runs(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the folders of training runs, newest first, each with its command."""
    try:
        runs = _folder(ctx, "runs")
        folders = [path for path in runs.iterdir() if (path / RUN_MARK).is_file()]
        dated = sorted(((path.stat().st_mtime, str(path), _command_of(path)) for path in folders), reverse=True)
    except (OSError, ValueError):
        return []
    return [(path, command) for _, path, command in dated if path.startswith(incomplete)]


def complete_starts(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the values of `finetune --from`: pre-training runs, and `scratch`."""
    runs = [(path, command) for path, command in complete_runs(ctx, incomplete) if command != "finetune"]
    return runs + [pair for pair in [("scratch", "no pre-training")] if pair[0].startswith(incomplete)]


def complete_recipes(incomplete: str) -> list[tuple[str, str]]:
    """Return the shipped recipes with their summaries, and the TOML files in the typed folder."""
    shipped = [(name, recipe_summary(name)) for name in recipe_names() if name.startswith(incomplete)]
    folder, prefix = os.path.split(incomplete)
    try:
        names = sorted(os.listdir(folder or "."))
    except (OSError, ValueError):
        names = []
    files = [name for name in names if name.endswith(".toml") and name.startswith(prefix) and name != CONFIG_NAME]
    return shipped + [(os.path.join(folder, name), "file") for name in files]


def words(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a completer of the choices of an option, also after a comma."""

    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [before + comma + choice for choice in choices if choice.startswith(word)]

    return complete


COMPLETERS: dict[str, Callable[..., list[tuple[str, str]]]] = {
    "scenes": complete_scenes,
    "runs": complete_runs,
    "starts": complete_starts,
    "recipes": complete_recipes,
}
"""Completers by the name in a field's `Option(completes=...)`."""


def _folder(ctx: typer.Context, field: str) -> Path:
    """Return a folder as the command would resolve it: option, environment, `lg3d.toml`, default."""
    typed = ctx.params.get(field)
    if typed is not None:
        return Path(str(typed))
    try:
        settings = EvalSettings.resolve(environ=os.environ, config=Path(CONFIG_NAME))
    except Lg3dError:
        settings = EvalSettings()
    return settings.store if field == "store" else settings.runs


def _command_of(run: Path) -> str:
    """Return the command of a run, as its settings record it."""
    try:
        saved = json.loads((run / RUN_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(saved.get("command", "")) if isinstance(saved, dict) else ""
