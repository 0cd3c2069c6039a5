"""Which scene belongs to train, val or test."""

import csv
from functools import cache
from importlib import resources
from pathlib import Path

SPLITS = ("train", "val", "test")


@cache
def load_scene_splits() -> dict[str, str]:
    """The benchmark's own assignment of 1613 scenes: 1201 train, 312 val, 100 test."""
    text = (resources.files("lg3d_core.vocabulary") / "data" / "scannet_splits.tsv").read_text(encoding="utf-8")
    return {row["scene"]: row["split"] for row in csv.DictReader(text.splitlines(), delimiter="\t")}


def read_split_files(folder: Path) -> dict[str, str]:
    """Read `scannetv2_train.txt`, `scannetv2_val.txt`, `scannetv2_test.txt` where a raw folder has them.

    Returns:
        Split of each scene named there; empty where there is no such file.
    """
    found: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"scannetv2_{split}.txt"
        if path.is_file():
            found.update(
                (line.strip(), split) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            )
    return found
