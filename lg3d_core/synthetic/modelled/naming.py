"""Table of names: the thing that each model represents."""

import posixpath
from importlib import resources
from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.synthetic.furniture.catalog import BUILDERS, VARIANTS
from lg3d_core.synthetic.modelled.library import CatalogEntry
from lg3d_core.vocabulary import load_vocabulary

COLUMNS = ["model", "section", "thing"]
MODEL_ONLY = {"base unit": "kitchen cabinet"}
"""Class of things that exist only as models."""


class Names:
    """Names of models.

    Attributes:
        by_model: Thing by (folder or lower-case name, lower-case section or "").
    """

    def __init__(self, by_model: dict[tuple[str, str], str]) -> None:
        self.by_model = by_model

    def thing_of(self, entry: CatalogEntry) -> str | None:
        """Return the thing of a model by folder, by name and section, or by name; None skips the model."""
        name, section = entry.name.lower(), entry.section.lower()
        for key in ((posixpath.dirname(entry.member), ""), (name, section), (name, "")):
            if key in self.by_model:
                return self.by_model[key]
        return None


def category_of(thing: str) -> str:
    """Return the class label of a thing; "" for unannotated things."""
    return VARIANTS[thing][0] if thing in VARIANTS else MODEL_ONLY.get(thing, thing)


def read_names(path: Path | None) -> Names:
    """Read a user's table, or the shipped one.

    Args:
        path: Tab-separated file with the columns `model`, `section` and `thing`; lines that start with # are comments.

    Raises:
        DataError: The table cannot be read, has other columns, or contains an unknown thing.
    """
    where = str(path) if path else "things.tsv"
    try:
        if path is None:
            text = (resources.files("lg3d_core.synthetic.modelled") / "data" / "things.tsv").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--furniture-names {where}: cannot be read ({error})") from None
    rows = [
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not rows or rows[0][1] != COLUMNS:
        raise DataError(f"--furniture-names {where}: expected a header with the columns {', '.join(COLUMNS)}")
    known = {*BUILDERS, *VARIANTS, *MODEL_ONLY, *load_vocabulary().names}
    table: dict[tuple[str, str], str] = {}
    for number, row in rows[1:]:
        if len(row) != len(COLUMNS) or not row[0]:
            raise DataError(
                f"--furniture-names {where}, line {number}: expected {len(COLUMNS)} columns, got {len(row)}"
            )
        model, section, thing = row
        if thing not in known:
            raise DataError(
                f"--furniture-names {where}, line {number}: {thing!r} is neither a class nor a thing of the rooms"
            )
        folder = "/" in model
        table[(model if folder else model.lower(), "" if folder else section.lower())] = thing
    return Names(table)
