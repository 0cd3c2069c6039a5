"""Attribution of the models in a folder of rooms: authors and licences."""

import json
from collections.abc import Iterable
from pathlib import Path

from lg3d_core.files import write_text
from lg3d_core.synthetic.modelled.catalog import Catalog

TEXT_NAME = "ATTRIBUTION.md"
LIST_NAME = "furniture.json"
LICENCES = "licences"


def write_attribution(out: Path, catalog: Catalog, split: dict[str, frozenset[str]], used: Iterable[str]) -> None:
    """Write author, licence and source of every used model, and the libraries' licence texts.

    Args:
        out: Folder of the rooms.
        catalog: All models.
        split: Keys of each split's models.
        used: Keys of the models in at least one room.

    Raises:
        DataError: A file cannot be written.
    """
    shown = set(used)
    models = [model for model in catalog.models if model.entry.key in shown]
    lines = [
        "# Attribution",
        "",
        "The furniture in these rooms was made from the models below, which are other people's work under the licences",
        "named with them. They were changed: resampled to an even mesh with colours at its vertices, scaled, tinted,",
        "cut by what a simulated scanner sees, and merged with walls and floors into rooms.",
        "",
    ]
    for library in catalog.libraries:
        own = [model for model in models if model.library == library.path]
        if not own:
            continue
        lines += [f"## {library.path.name}", ""]
        if library.licence_text:
            write_text(out / LICENCES / f"{library.name}.txt", library.licence_text)
            lines += [f"Licence text: [{LICENCES}/{library.name}.txt]({LICENCES}/{library.name}.txt)", ""]
        lines += [
            f"- {model.entry.name} (`{model.entry.id}`) by {model.entry.creator}; {model.entry.licence}"
            for model in own
        ]
        lines.append("")
    write_text(out / TEXT_NAME, "\n".join(lines))
    rows = [
        {
            "key": model.entry.key,
            "library": model.library.name,
            "id": model.entry.id,
            "name": model.entry.name,
            "thing": model.thing,
            "creator": model.entry.creator,
            "licence": model.entry.licence,
            "splits": [name for name in ("train", "val") if model.entry.key in split[name]],
        }
        for model in models
    ]
    write_text(out / LIST_NAME, json.dumps({"models": rows}, indent=1, ensure_ascii=False) + "\n")
