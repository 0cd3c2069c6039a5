"""Raw labels to training indices, with the variants of the table that are in circulation."""

from pathlib import Path

import pytest

from lg3d_core.errors import DataError
from lg3d_core.vocabulary import load_vocabulary, read_label_table

ROWS = [
    ("id", "raw_category", "category", "count", "nyu40id"),
    ("1", "wall", "wall", "9", "1"),
    ("2", "chair", "chair", "9", "5"),
    ("4", "chair", "table", "9", "7"),  # a second row of the same label
    ("1200", "rubber duck", "toy", "1", "40"),  # outside the 200
    ("", "thing", "thing", "1", ""),  # no id at all
    ("2", ' "odd" chair', "chair", "1", "5"),
]


def write_table(path: Path, *, ends: str = "\n", mark: str = "") -> Path:
    path.write_text(mark + "".join("\t".join(row) + ends for row in ROWS), encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(("ends", "mark"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff")])
def test_labels_are_mapped_by_id_and_the_first_row_is_used(tmp_path: Path, ends: str, mark: str) -> None:
    vocabulary = load_vocabulary()
    table = read_label_table(write_table(tmp_path / "t.tsv", ends=ends, mark=mark), vocabulary)
    assert table.index_by_label == {
        "wall": vocabulary.index_by_name["wall"],
        "chair": vocabulary.index_by_name["chair"],
        "rubber duck": -1,
        "thing": -1,
        ' "odd" chair': vocabulary.index_by_name["chair"],
    }


def test_the_classic_20_map_through_nyu40id(tmp_path: Path) -> None:
    vocabulary = load_vocabulary("scannet20")
    table = read_label_table(write_table(tmp_path / "t.tsv"), vocabulary)
    assert table.index_by_label["chair"] == vocabulary.index_by_name["chair"]
    assert table.index_by_label["rubber duck"] == -1  # nyu40id 40 is none of the 20


def test_equal_tables_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    vocabulary = load_vocabulary()
    digests = [
        read_label_table(write_table(tmp_path / name, ends=ends), vocabulary).digest
        for name, ends in (("a", "\n"), ("b", "\n"), ("c", "\r\n"))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "lacks the columns"),
        (b"id\tname\n1\twall\n", "lacks the columns"),
        ("id\traw_category\n1\tcaf\xe9\n".encode("latin-1"), "not UTF-8"),
        (b"id\traw_category\n1\t" + b"x" * 200_000, "not a table"),
    ],
)
def test_a_file_that_is_not_a_label_table_is_rejected(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_label_table(path, load_vocabulary())


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the label table .*none\.tsv"):
        read_label_table(tmp_path / "none.tsv", load_vocabulary())
