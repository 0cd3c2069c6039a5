"""Split of each scene of a data set: from its folder, from split files, or from the convention of S3DIS."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.scans.formats.raw_folder import Problem
from lg3d_core.vocabulary import read_split_lists
from lg3d_core.vocabulary.splits import describe_missing

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Split of the folders of that name, in lower case."""
AREA = re.compile(r"Area_([1-6])(?![0-9])")
VALIDATION_AREA = "5"


class Place(NamedTuple):
    """Where a scene was found.

    Attributes:
        scene_id: Names of the folders and of the file below the split's folder, joined with "_".
        path: File or folder of the scene.
        split: Split by its folder, or None.
    """

    scene_id: str
    path: Path
    split: str | None


class Assignment(NamedTuple):
    """Splits of scenes, in their order.

    Attributes:
        splits: "train", "val" or "test".
        problems: Problems of the split files.
        warnings: Warnings about scenes in no split.
    """

    splits: list[str]
    problems: list[Problem]
    warnings: list[str]


def place_of(raw: Path, path: Path) -> Place:
    """Return the id and the split of a scene by its path."""
    parts = list(path.relative_to(raw).parts)
    split = SPLIT_FOLDERS.get(parts[0].lower()) if len(parts) > 1 else None
    names = parts if split is None else parts[1:]
    if path.is_file():
        names[-1] = Path(names[-1]).stem
    return Place("_".join(names), path, split)


def assign_splits(raw: Path, places: Collection[Place], split_files: Mapping[str, str] | None = None) -> Assignment:
    """Assign scenes to splits.

    The files `train.txt`, `val.txt` and `test.txt` win over folders; rooms of S3DIS in neither go to "val" in Area 5;
    all others go to "train", with a warning.
    """
    problems: list[Problem] = []
    listed: dict[str, str] = {}
    try:
        listed = read_split_lists(raw, split_files)
    except DataError as error:
        problems.append(Problem("", str(raw), str(error), True))
    splits, unknown = [], []
    for place in places:
        area = AREA.match(place.scene_id)
        split = listed.get(place.scene_id, place.split)
        if split is None and area is not None:
            split = "val" if area[1] == VALIDATION_AREA else "train"
        if split is None:
            unknown.append(place.scene_id)
        splits.append(split or "train")
    some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    warning = (
        f"scenes without a split, used for training: {len(unknown)} ({some}): put them into the folders {raw}/train "
        f"and {raw}/val, or list them in {raw}/train.txt and {raw}/val.txt"
    )
    missing = describe_missing(listed, [place.scene_id for place in places], raw)
    return Assignment(splits, problems, [*([warning] if unknown else []), *missing])
