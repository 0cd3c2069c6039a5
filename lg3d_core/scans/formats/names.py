"""Class names of a data set, from a vocabulary file in TSV or from JSON."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lg3d_core.errors import DataError, UsageError
from lg3d_core.scans.files import read_file
from lg3d_core.scans.scannet import SCENE_ID
from lg3d_core.vocabulary import Category, Vocabulary, load_vocabulary
from lg3d_core.vocabulary.categories import fallback_color
from lg3d_core.vocabulary.vocabulary_file import MAX_CATEGORIES, MAX_ID, RESERVED_GROUP

NAME_FILES = ("classes.tsv", "classes.json")
"""Files of a raw folder that hold its class names."""


def load_names(name: str) -> Vocabulary:
    """Load a vocabulary by name or from a TSV file, as `load_vocabulary` does, or from a JSON file.

    JSON is a list of names (their ids are 0, 1, ...), an object of ids and names in either order, or a list of objects
    with `id` and `name`, and optionally `color` as three numbers of 0..255 and `group` (any name but `all`;
    `split` is an older name of it). The
    vocabulary of a file `classes.tsv` or `classes.json` is named after its folder.

    Raises:
        ChoiceError: The vocabulary does not exist.
        DataError: The file has another format.
    """
    path = Path(name)
    if path.name in NAME_FILES:
        return replace(_load_names(path), name=path.resolve().parent.name)
    return _load_names(path)


def _load_names(path: Path) -> Vocabulary:
    if path.suffix.lower() != ".json" or not path.is_file():
        return load_vocabulary(str(path))
    try:
        rows = _rows(_parse(path))
        return make_vocabulary(path.stem, rows)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"class names {path}: expected a list of names, an object of ids and names, or a list of objects with id "
            f"and name ({error})"
        ) from None


def load_vocabularies(names: tuple[str, ...]) -> tuple[Vocabulary, ...]:
    """Load vocabularies, whose names must differ.

    Raises:
        ChoiceError: A vocabulary does not exist.
        DataError: A file has another format, or a name cannot be used in a store.
    """
    vocabularies = tuple(map(load_names, names))
    seen = [vocabulary.name for vocabulary in vocabularies]
    if len(set(seen)) != len(seen):
        raise DataError(f"two vocabularies have the same name ({', '.join(seen)}): rename one of the files")
    odd = [name for name in seen[1:] if SCENE_ID.fullmatch(name) is None]
    if odd:
        raise DataError(f"the vocabulary {odd[0]!r} has an unusable name: rename its file to letters, digits, '_', '-'")
    return vocabularies


def require_labels(labels: tuple[str, ...], vocabularies: tuple[Vocabulary, ...]) -> None:
    """Check that `--labels` was passed once per vocabulary, or not at all.

    Raises:
        UsageError: The numbers differ.
    """
    if labels and len(labels) != len(vocabularies):
        counts = f"{len(labels)} --labels for {len(vocabularies)} vocabularies"
        raise UsageError(f"{counts}: pass --labels once per --vocabulary", fields=("labels",))


def find_names(raw: Path) -> str | None:
    """Return the path of a raw folder's own class names, or None."""
    return next((str(raw / name) for name in NAME_FILES if (raw / name).is_file()), None)


def missing_names(raw: Path) -> DataError:
    """Return the error of a raw folder without class names."""
    return DataError(
        f"{raw} has no class names: put them there as classes.tsv (columns id and name) or classes.json (a list), or "
        "pass --vocabulary FILE to lg3d prepare"
    )


def make_vocabulary(name: str, rows: list[dict[str, Any]]) -> Vocabulary:
    """Return the vocabulary of rows with `id`, `name` and optionally `color` and `group`.

    Raises:
        ValueError: A row is invalid, an id or name occurs twice, or there are no rows.
    """
    if not 0 < len(rows) <= MAX_CATEGORIES:
        raise ValueError(f"{len(rows)} classes, expected 1 to {MAX_CATEGORIES}")
    ids = [row["id"] for row in rows]
    wrong = [n for n in ids if (isinstance(n, float) and not n.is_integer()) or abs(int(n)) >= MAX_ID]
    if wrong:
        raise ValueError(f"the id {wrong[0]} is not a 64-bit integer")
    rows = sorted(rows, key=lambda row: int(row["id"]))
    for key in ("id", "name"):
        if len({str(row[key]) for row in rows}) != len(rows):
            raise ValueError(f"the same {key} twice")
    return Vocabulary(
        name=name, id_column="id", categories=tuple(_category(index, row) for index, row in enumerate(rows))
    )


def _category(index: int, row: dict[str, Any]) -> Category:
    name, group = str(row["name"]).strip(), str(row.get("group") or row.get("split") or "")
    red, green, blue = map(int, row.get("color") or fallback_color(index))
    if not name or group.casefold() == RESERVED_GROUP or not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"class {row['id']} has no name, the group {RESERVED_GROUP}, or a colour outside 0 to 255")
    return Category(index, int(row["id"]), name, group, True, (red, green, blue))


def _parse(path: Path) -> Any:
    data = read_file(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"class names {path}: not JSON ({error})") from None


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        pairs = [(key, name) if isinstance(name, str) else (name, key) for key, name in value.items()]
        return [{"id": int(number), "name": name} for number, name in pairs]
    if not isinstance(value, list):
        raise TypeError(f"found a {type(value).__name__}")
    return [{"id": index, "name": row} if isinstance(row, str) else dict(row) for index, row in enumerate(value)]
