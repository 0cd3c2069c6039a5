"""Assignment of scenes to train, val and test."""

import csv
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import get_args

from lg3d_core.errors import DataError
from lg3d_core.settings import Split

SPLITS = get_args(Split)


@cache
def load_scene_splits() -> dict[str, str]:
    """Return the benchmark's split of 1613 scenes: 1201 train, 312 val, 100 test."""
    text = (resources.files("lg3d_core.vocabulary") / "data" / "scannet_splits.tsv").read_text(encoding="utf-8")
    return {row["scene"]: row["split"] for row in csv.DictReader(text.splitlines(), delimiter="\t")}


def read_split_files(folder: Path) -> dict[str, str]:
    """Read `scannetv2_train.txt`, `scannetv2_val.txt` and `scannetv2_test.txt` if a raw folder has them.

    Returns:
        Split of each listed scene; empty without such files.

    Raises:
        DataError: A file is not text, or two files list the same scene, which would be used for training and testing.
    """
    return read_split_lists(folder, {f"scannetv2_{split}.txt": split for split in SPLITS})


def describe_missing(listed: Mapping[str, str], found: Collection[str], folder: Path) -> list[str]:
    """Return a warning if the split files of a folder list scenes that the folder does not have, else nothing."""
    present = set(found)
    missing = [scene for scene in listed if scene not in present]
    if not missing:
        return []
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return [f"{len(missing)} of {len(listed)} scenes in the split files have no scan in {folder}: left out ({some})"]


def read_split_lists(folder: Path, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read the files `train.txt`, `val.txt` and `test.txt` of a folder, with one scene id per line, where they exist.

    Args:
        folder: Folder of the files.
        names: Split of each file name, instead of these three.

    Returns:
        Split of each listed scene.

    Raises:
        DataError: A file is not text, or two files list the same scene, which would be used for training and testing.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, split in (names or {f"{split}.txt": split for split in SPLITS}).items():
        path = folder / name
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"split file {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
        except OSError as error:
            raise DataError(f"cannot read the split file {path}: {error.strerror}") from None
        for scene_id in filter(None, map(str.strip, lines)):
            if found.setdefault(scene_id, (split, name))[0] != split:
                raise DataError(f"split file {path} lists {scene_id}, which {found[scene_id][1]} lists too")
    return {scene_id: split for scene_id, (split, _) in found.items()}
