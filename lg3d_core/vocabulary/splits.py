"""Which scene belongs to train, val or test."""

import csv
from functools import cache
from importlib import resources
from pathlib import Path
from typing import get_args

from lg3d_core.errors import DataError
from lg3d_core.settings import Split

SPLITS = get_args(Split)


@cache
def load_scene_splits() -> dict[str, str]:
    """The benchmark's own assignment of 1613 scenes: 1201 train, 312 val, 100 test."""
    text = (resources.files("lg3d_core.vocabulary") / "data" / "scannet_splits.tsv").read_text(encoding="utf-8")
    return {row["scene"]: row["split"] for row in csv.DictReader(text.splitlines(), delimiter="\t")}


def read_split_files(folder: Path) -> dict[str, str]:
    """Read `scannetv2_train.txt`, `scannetv2_val.txt`, `scannetv2_test.txt` where a raw folder has them.

    Returns:
        Split of each scene named there; empty where there is no such file.

    Raises:
        DataError: A file is not text, or two of them name the same scene: it would be trained and tested on.
    """
    found: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"scannetv2_{split}.txt"
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"split file {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
        except OSError as error:
            raise DataError(f"cannot read the split file {path}: {error.strerror}") from None
        for scene_id in filter(None, map(str.strip, lines)):
            if found.setdefault(scene_id, split) != split:
                raise DataError(f"split file {path} names {scene_id}, which scannetv2_{found[scene_id]}.txt has too")
    return found
