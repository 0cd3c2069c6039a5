"""Vocabulary files: tab-separated tables with one class per row."""

import csv
import io
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import ChoiceError, DataError
from lg3d_core.vocabulary.categories import Category, Vocabulary, fallback_color, order_groups

MAX_CATEGORIES = 32_767
"""Maximum of an int16 label."""
SHIPPED = {"scannet200": "id", "scannet20": "nyu40id", "s3dis": "id", "arkitscenes": "id"}
"""Column of scannetv2-labels.combined.tsv with the ids of each shipped vocabulary."""
RGB = ("red", "green", "blue")
COLUMNS = ("id", "name", "group", "in_val", *RGB, "synonyms", "ignored")
OTHER_COLUMNS = ("split", "index")
"""Columns of the shipped files: `split` is an older name of `group`, and `index` is the rank of the id."""
SEPARATOR = "|"
"""Character between the synonyms of a class."""
RESERVED_GROUP = "all"
"""Name of the mean over all classes in every table of scores."""
MAX_ID = 1 << 63


class Problem(NamedTuple):
    """One problem of a vocabulary file.

    Attributes:
        line: Line of the file, from 1.
        text: Description, and the expected value.
        is_error: Whether the file cannot be used; otherwise it is a warning.
    """

    line: int
    text: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class VocabularyFile(NamedTuple):
    """Content of a vocabulary file.

    Attributes:
        vocabulary: The vocabulary; None if there are errors.
        problems: Errors and warnings, by line.
    """

    vocabulary: Vocabulary | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that make the file unusable."""
        return [problem for problem in self.problems if problem.is_error]


class _Row(NamedTuple):
    line: int
    fields: dict[str, str]


def load_vocabulary(name: str = "scannet200") -> Vocabulary:
    """Load a shipped vocabulary by name, or a user's vocabulary from a TSV file.

    `parse_vocabulary` has the columns of the file. Labels are looked up in column `id` of the raw label table.

    Raises:
        ChoiceError: The vocabulary does not exist.
        DataError: The file has another format; the message has the first error and its line.
    """
    found = read_vocabulary(name)
    if found.vocabulary is None:
        first, *others = found.errors
        source = name if name in SHIPPED else Path(name)
        more = f" (and {len(others)} more: `lg3d vocabulary check {source}` lists them)" if others else ""
        raise DataError(f"vocabulary {source}, {first}{more}")
    return found.vocabulary


def read_vocabulary(name: str) -> VocabularyFile:
    """Read a shipped vocabulary or a file with all its problems.

    Raises:
        ChoiceError: The vocabulary does not exist.
        DataError: The file cannot be read, or is not text.
    """
    if name in SHIPPED:
        text = (resources.files("lg3d_core.vocabulary") / "data" / f"{name}.tsv").read_text(encoding="utf-8")
        return parse_vocabulary(text, name=name, id_column=SHIPPED[name])
    path = Path(name)
    if not path.is_file():
        known = ", ".join(SHIPPED)
        raise ChoiceError(
            f"no vocabulary {name!r}: expected one of {known}, or the path of a TSV file with id and name"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"vocabulary {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"cannot read the vocabulary {path}: {error.strerror}") from None
    return parse_vocabulary(text, name=path.stem, id_column="id")


def parse_vocabulary(text: str, *, name: str, id_column: str) -> VocabularyFile:
    """Parse the text of a vocabulary file.

    The file has a header and the columns `id` and `name`. Optional columns: `group` (name of the class's group, such as
    head, common or tail; older files call it `split`), `in_val` (0 or 1), `red`, `green`, `blue` (0 to 255), `synonyms`
    (separated by `|`), and `ignored` (0 or 1; an ignored id is not a class, and its points are unlabelled). Rows may be
    in any order: the training index is the rank of the id. Groups are listed in the order of their first rows, which
    should be from frequent to rare. Columns of other names are ignored with a warning.

    Args:
        text: Text of the file.
        name: Name of the vocabulary.
        id_column: Column of the raw label table with the ids.
    """
    try:
        reader = csv.DictReader(io.StringIO(text, newline=None), delimiter="\t", quoting=csv.QUOTE_NONE)
        header = [(column or "").strip() for column in reader.fieldnames or ()]
        reader.fieldnames = header
        rows = [
            _Row(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k is not None}) for row in reader
        ]
    except csv.Error as error:
        return VocabularyFile(None, (Problem(1, f"the file is not a table of tab-separated text: {error}"),))
    if not rows or not {"id", "name"} <= set(header):
        found = ", ".join(header)[:200] or "nothing"
        wanted = "no rows with the columns id and name (tab-separated, with a header)"
        return VocabularyFile(None, (Problem(1, f"{wanted}; found {found}"),))
    problems = [
        Problem(1, f"the column {column!r} is ignored: expected {', '.join(COLUMNS)}", is_error=False)
        for column in header
        if column not in (*COLUMNS, *OTHER_COLUMNS)
    ]
    if {"group", "split"} <= set(header):
        problems.append(Problem(1, "the columns group and split are the same: remove one of them"))
    ids, before = [_parse_id(row, problems) for row in rows], len(problems)
    classes = sorted(
        ((number, row) for number, row in zip(ids, rows, strict=True) if not _flag(row, "ignored", "0", problems)),
        key=lambda pair: MAX_ID if pair[0] is None else pair[0],
    )
    ignored = sorted({number for number in ids if number is not None} - {number for number, _ in classes})
    _find_repeated(rows, classes, problems)
    categories = tuple(_parse_category(index, number, row, problems) for index, (number, row) in enumerate(classes))
    if len(categories) > MAX_CATEGORIES:
        problems.append(Problem(rows[MAX_CATEGORIES].line, f"{len(categories)} classes, expected at most 32767"))
    if not categories and len(problems) == before:
        problems.append(Problem(1, "all ids are ignored, expected at least one class"))
    _find_doubtful(classes, categories, problems)
    problems.sort(key=lambda problem: problem.line)
    order = dict.fromkeys(filter(None, (row.fields.get("group") or row.fields.get("split") for row in rows)))
    vocabulary = Vocabulary(name, id_column, categories, tuple(ignored), _unless_usual(order, categories))
    is_usable = not any(problem.is_error for problem in problems)
    return VocabularyFile(vocabulary if is_usable else None, tuple(problems))


def format_vocabulary(vocabulary: Vocabulary) -> str:
    """Return the text of a vocabulary file that `parse_vocabulary` reads back unchanged."""
    lines = ["\t".join(COLUMNS)]
    ranks = {group: rank for rank, group in enumerate([*vocabulary.groups, ""])}
    for category in sorted(vocabulary.categories, key=lambda category: ranks[category.group]):
        values = (category.id, category.name, category.group, int(category.in_validation), *category.color)
        lines.append("\t".join([*map(str, values), SEPARATOR.join(category.synonyms), "0"]))
    lines += ["\t".join([str(number), "ignored", "", "0", "", "", "", "", "1"]) for number in vocabulary.ignored_ids]
    return "\n".join(lines) + "\n"


def _unless_usual(order: Iterable[str], categories: tuple[Category, ...]) -> tuple[str, ...]:
    """Return an order of groups; empty if it is that of their first classes."""
    usual = order_groups(category.group for category in categories)
    ordered = [group for group in order_groups(order) if group in usual]
    return () if ordered == usual else tuple(ordered)


def _parse_id(row: _Row, problems: list[Problem]) -> int | None:
    """Return the id of a row, or None with a problem."""
    text = row.fields["id"]
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) < 20 and abs(int(text)) < MAX_ID:
        return int(text)
    problems.append(Problem(row.line, f"id must be an integer, got {text[:40]!r}"))
    return None


def _flag(row: _Row, column: str, default: str, problems: list[Problem]) -> bool:
    text = row.fields.get(column) or default
    if text not in ("0", "1"):
        problems.append(Problem(row.line, f"{column} must be 0 or 1, got {text[:40]!r}"))
    return text == "1"


def _find_repeated(rows: list[_Row], classes: list[tuple[int | None, _Row]], problems: list[Problem]) -> None:
    """Add the ids and names that occur twice; the names of ignored ids are free."""
    kept = {row.line for _, row in classes}
    for what in ("id", "name"):
        first: dict[str, int] = {}
        for row in rows:
            text = row.fields[what]
            if not text or (what == "name" and row.line not in kept):
                continue
            if first.setdefault(text, row.line) != row.line:
                problems.append(
                    Problem(row.line, f"the same {what} twice: {text[:40]!r} is also in line {first[text]}")
                )


def describe_group(name: str) -> str:
    """Return why a group cannot have this name; empty if it can."""
    if name.casefold() == RESERVED_GROUP:
        return f"the group {name[:40]!r} is not allowed: {RESERVED_GROUP} is the mean over all classes"
    return "" if name.isprintable() else f"the group {name[:40]!r} is not allowed: it cannot be printed"


def _parse_category(index: int, number: int | None, row: _Row, problems: list[Problem]) -> Category:
    fields = row.fields

    def wrong(text: str) -> None:
        problems.append(Problem(row.line, text))

    if not fields["name"]:
        wrong("the class has no name")
    elif not fields["name"].isprintable():
        wrong("the name has characters that cannot be printed")
    group = fields.get("group") or fields.get("split") or ""
    if problem := describe_group(group):
        wrong(problem)
    fallback = fallback_color(index)
    channels = [fields.get(channel) or str(fallback[k]) for k, channel in enumerate(RGB)]
    if not all(text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= 255 for text in channels):
        wrong(f"a colour outside 0 to 255: {' '.join(channels)[:40]}")
        channels = ["0", "0", "0"]
    red, green, blue = map(int, channels)
    synonyms = tuple(dict.fromkeys(filter(None, map(str.strip, fields.get("synonyms", "").split(SEPARATOR)))))
    in_validation = _flag(row, "in_val", "1", problems)
    return Category(index, number or 0, fields["name"], group, in_validation, (red, green, blue), synonyms)


def _find_doubtful(
    classes: list[tuple[int | None, _Row]], categories: tuple[Category, ...], problems: list[Problem]
) -> None:
    """Add synonyms of two classes as errors, and warnings on likely mistakes."""

    def warn(line: int, text: str) -> None:
        problems.append(Problem(line, text, is_error=False))

    is_grouped = any(category.group for category in categories)
    names: dict[str, Category] = {}
    colors: dict[tuple[int, int, int], Category] = {}
    for category in categories:
        names.setdefault(category.name, category)
    folded: dict[str, Category] = {}
    owners = dict(names)
    for (_, row), category in zip(classes, categories, strict=True):
        if is_grouped and not category.group:
            warn(row.line, f"{category.name!r} has no group, as opposed to other classes: it is in no group's mean")
        other = folded.setdefault(category.name.casefold(), category)
        if other is not category and other.name != category.name:
            warn(row.line, f"{category.name!r} and {other.name!r} differ only in case")
        for synonym in category.synonyms:
            owner = owners.setdefault(synonym, category)
            if owner is not category:
                problems.append(Problem(row.line, f"the synonym {synonym!r} is also a name of {owner.name!r}"))
        if any(row.fields.get(channel) for channel in RGB):
            twin = colors.setdefault(category.color, category)
            if twin is not category:
                warn(row.line, f"{category.name!r} has the colour of {twin.name!r}")
