"""Assignment of scenes to train, val and test."""

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
                raise DataError(f"split file {path} lists {scene_id}, which scannetv2_{found[scene_id]}.txt lists too")
    return found
