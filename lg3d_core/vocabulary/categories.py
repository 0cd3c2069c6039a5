"""Evaluated classes: contiguous index, raw id, name, frequency group and display colour."""

import csv
import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ChoiceError, DataError

MAX_CATEGORIES = 32_767
"""Maximum of an int16 label."""
GROUPS = ("head", "common", "tail")

# Column of scannetv2-labels.combined.tsv with the ids of each shipped vocabulary.
SHIPPED = {"scannet200": "id", "scannet20": "nyu40id", "s3dis": "id", "arkitscenes": "id"}


@dataclass(frozen=True)
class Category:
    """One evaluated class.

    Attributes:
        index: Contiguous training index from 0, the rank of `id`.
        id: Raw id in the benchmark's label table and in submissions.
        name: Name of the class, which is also the encoded text.
        group: "head", "common" or "tail" by frequency of labelled surface points; "" if the vocabulary has no groups.
        in_validation: Whether the benchmark's validation scenes have annotated surface of the class.
        color: Display colour (red, green, blue), 0..255.
    """

    index: int
    id: int
    name: str
    group: str
    in_validation: bool
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of classes. The position of a class is its training index."""

    name: str
    id_column: str
    """Column of the raw label table with the ids of these classes."""
    categories: tuple[Category, ...]

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Raw ids in index order, shape `(classes,)`."""
        return np.array([category.id for category in self.categories], dtype=np.int64)

    @cached_property
    def colors(self) -> npt.NDArray[np.uint8]:
        """Display colours in index order, shape `(classes, 3)`."""
        return np.array([category.color for category in self.categories], dtype=np.uint8).reshape(-1, 3)

    @cached_property
    def index_by_id(self) -> dict[int, int]:
        """Training index of each raw id."""
        return {category.id: category.index for category in self.categories}

    @cached_property
    def index_by_name(self) -> dict[str, int]:
        """Training index of each name."""
        return {category.name: category.index for category in self.categories}

    @cached_property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """Indices of the head, common and tail classes; empty if the vocabulary has no groups."""
        found = {group: [c.index for c in self.categories if c.group == group] for group in GROUPS}
        return {group: np.array(rows, dtype=np.int64) for group, rows in found.items() if rows}

    @cached_property
    def digest(self) -> str:
        """Hash of ids and names in order, equal exactly if two vocabularies are interchangeable."""
        text = "\n".join(f"{category.id}\t{category.name}" for category in self.categories)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_vocabulary(name: str = "scannet200") -> Vocabulary:
    """Load a shipped vocabulary by name, or a user's vocabulary from a TSV file.

    A vocabulary file has a header and the columns `id` and `name`; `split` (head, common, tail), `in_val` (0 or 1) and
    `red`, `green`, `blue` are optional. Rows may be in any order: the training index is the rank of the id. Labels are
    looked up in column `id` of the raw label table.

    Raises:
        ChoiceError: The vocabulary does not exist.
        DataError: The file has another format.
    """
    if name in SHIPPED:
        text = (resources.files("lg3d_core.vocabulary") / "data" / f"{name}.tsv").read_text(encoding="utf-8")
        return _parse_vocabulary(text, name=name, id_column=SHIPPED[name], source=name)
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
    return _parse_vocabulary(text, name=path.stem, id_column="id", source=str(path))


def _parse_vocabulary(text: str, *, name: str, id_column: str, source: str) -> Vocabulary:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=None), delimiter="\t", quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        raise DataError(f"vocabulary {source} is not a table of tab-separated text: {error}") from None
    if not rows or not {"id", "name"} <= set(rows[0]):
        raise DataError(f"vocabulary {source} has no rows with the columns id and name (tab-separated, with a header)")
    try:
        rows.sort(key=lambda row: int(row["id"]))
        categories = tuple(_parse_category(index, row) for index, row in enumerate(rows))
    except (TypeError, ValueError) as error:
        raise DataError(f"vocabulary {source} has an invalid row: {error}") from None
    if len(categories) > MAX_CATEGORIES:
        raise DataError(f"vocabulary {source} has {len(categories)} classes, expected at most {MAX_CATEGORIES}")
    for what, values in (("id", [c.id for c in categories]), ("name", [c.name for c in categories])):
        if len(set(values)) != len(values):
            raise DataError(f"vocabulary {source} has the same {what} twice")
    return Vocabulary(name=name, id_column=id_column, categories=categories)


def _parse_category(index: int, row: dict[str, str]) -> Category:
    group = (row.get("split") or "").strip()
    if group not in ("", *GROUPS):
        raise ValueError(f"split must be head, common or tail, got {group!r}")
    name = (row["name"] or "").strip()
    if not name:
        raise ValueError(f"class {row['id']} has no name")
    fallback = fallback_color(index)
    red, green, blue = (int(row.get(channel) or fallback[k]) for k, channel in enumerate(RGB))
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"class {row['id']} has a colour outside 0 to 255: {red} {green} {blue}")
    return Category(index, int(row["id"]), name, group, (row.get("in_val") or "1") != "0", (red, green, blue))


RGB = ("red", "green", "blue")


def fallback_color(index: int) -> tuple[int, int, int]:
    """Return a generated mid-bright colour of a class, for vocabularies without colours."""
    red, green, blue = (64 + (index * (67, 101, 149)[channel] + 80 * channel) % 176 for channel in range(3))
    return red, green, blue
