"""The benchmark's splits, and a raw folder's own."""

from collections import Counter
from pathlib import Path

import pytest

from lg3d_core.errors import DataError
from lg3d_core.vocabulary import load_scene_splits, read_split_files


def test_the_benchmark_has_1613_scenes() -> None:
    assert Counter(load_scene_splits().values()) == {"train": 1201, "val": 312, "test": 100}
    assert load_scene_splits()["scene0011_00"] == "val"


def test_split_files_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert read_split_files(tmp_path) == {}
    (tmp_path / "scannetv2_train.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n b \r\n")
    (tmp_path / "scannetv2_val.txt").write_text("c")
    assert read_split_files(tmp_path) == {"a": "train", "b": "train", "c": "val"}


def test_a_scene_in_two_splits_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "scannetv2_train.txt").write_text("a\nb\n")
    (tmp_path / "scannetv2_val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"scannetv2_val\.txt lists b, which scannetv2_train\.txt lists too"):
        read_split_files(tmp_path)


def test_a_split_file_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "scannetv2_val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_split_files(tmp_path)
