"""The table that says which thing of the rooms a model stands for."""

import posixpath
from importlib import resources
from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.synthetic.furniture.catalog import BUILDERS, VARIANTS
from lg3d_core.synthetic.modelled.library import CatalogEntry
from lg3d_core.vocabulary import load_vocabulary

COLUMNS = ["model", "section", "thing"]
MODEL_ONLY = {"base unit": "kitchen cabinet"}
"""Things that exist as models alone -> their category."""


class Names:
    """Which thing each model is.

    Attributes:
        by_model: (folder or lower-case name, lower-case section or "") -> thing.
    """

    def __init__(self, by_model: dict[tuple[str, str], str]) -> None:
        self.by_model = by_model

    def thing_of(self, entry: CatalogEntry) -> str | None:
        """The thing that a model stands for, by folder, by name and section, or by name; None leaves it out."""
        name, section = entry.name.lower(), entry.section.lower()
        for key in ((posixpath.dirname(entry.member), ""), (name, section), (name, "")):
            if key in self.by_model:
                return self.by_model[key]
        return None


def category_of(thing: str) -> str:
    """Category that a thing is labelled with; "" for what nobody annotates."""
    return VARIANTS[thing][0] if thing in VARIANTS else MODEL_ONLY.get(thing, thing)


def read_names(path: Path | None) -> Names:
    """Read a table of the user's, or the shipped one.

    Args:
        path: Tab-separated with the columns `model`, `section` and `thing`; lines that start with # are comments.

    Raises:
        DataError: It cannot be read, has other columns, or names a thing that does not exist.
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
        raise DataError(f"--furniture-names {where}: expected a first row of the columns {', '.join(COLUMNS)}")
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
                f"--furniture-names {where}, line {number}: {thing!r} is neither a category nor a thing of the rooms"
            )
        folder = "/" in model
        table[(model if folder else model.lower(), "" if folder else section.lower())] = thing
    return Names(table)
