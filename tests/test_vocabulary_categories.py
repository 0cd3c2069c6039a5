"""The shipped vocabularies against the benchmark's published sizes, and vocabularies of the user's."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.vocabulary import load_vocabulary


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_200_classes_have_the_benchmarks_groups_and_absent_classes() -> None:
    vocabulary = load_vocabulary()
    assert len(vocabulary) == 200
    assert {group: len(rows) for group, rows in vocabulary.groups.items()} == {"head": 66, "common": 68, "tail": 66}
    assert sum(category.in_validation for category in vocabulary.categories) == 189
    assert vocabulary.id_column == "id"


def test_the_training_index_is_the_rank_of_the_raw_id() -> None:
    vocabulary = load_vocabulary()
    assert (np.diff(vocabulary.ids) > 0).all()
    assert [category.index for category in vocabulary.categories] == list(range(200))
    # The ids 1, 2, 3 are wall, chair and floor: the table's first rows.
    assert vocabulary.names[:3] == ("wall", "chair", "floor")
    assert vocabulary.index_by_id[2] == vocabulary.index_by_name["chair"] == 1


def test_the_classic_20_use_nyu40_ids_and_have_no_groups() -> None:
    vocabulary = load_vocabulary("scannet20")
    assert len(vocabulary) == 20
    assert vocabulary.id_column == "nyu40id"
    assert vocabulary.groups == {}
    assert vocabulary.ids.max() == 39  # "otherfurniture"


def test_colors_are_one_row_of_bytes_per_class() -> None:
    colors = load_vocabulary().colors
    assert colors.shape == (200, 3)
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [174, 199, 232]  # the benchmark's wall


def test_digests_differ_between_vocabularies_and_survive_pickling() -> None:
    first, second = load_vocabulary(), load_vocabulary("scannet20")
    assert first.digest != second.digest
    assert pickle.loads(pickle.dumps(first)).digest == first.digest


def test_a_user_file_is_sorted_by_id_and_gets_colors(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.tsv", "\ufeffid\tname\tsplit\r\n7\ttable\ttail\r\n2\tchair \thead\r\n")
    vocabulary = load_vocabulary(name)
    assert vocabulary.name == "mine"
    assert vocabulary.names == ("chair", "table")
    assert vocabulary.groups["tail"].tolist() == [1]
    assert vocabulary.colors.shape == (2, 3)
    assert vocabulary.categories[0].in_validation


def test_a_quote_in_a_name_is_an_ordinary_character(tmp_path: Path) -> None:
    name = write(tmp_path / "quotes.tsv", 'id\tname\n1\t"L" desk\n2\tchair\n')
    assert load_vocabulary(name).names == ('"L" desk', "chair")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("id\tname\n", "no rows"),
        ("number\tname\n1\tchair\n", "no rows with the columns id and name"),
        ("id\tname\nx\tchair\n", "line 2: id must be an integer, got 'x'"),
        ("id\tname\n1\n", "has no name"),
        ("id\tname\n1\t \n", "has no name"),
        ("id\tname\tsplit\n1\tchair\tall\n", "line 2: the group 'all' is not allowed"),
        ("id\tname\n1\tchair\n1\ttable\n", "same id twice"),
        ("id\tname\n1\tchair\n2\tchair\n", "same name twice"),
        ("id\tname\tred\tgreen\tblue\n1\tchair\t300\t0\t0\n", "colour outside 0 to 255"),
        ("id\tname\n" + "".join(f"{k}\tn{k}\n" for k in range(32_768)), "expected at most 32767"),
        ("id\tname\n1\t" + "x" * 200_000 + "\n", "not a table"),
    ],
)
def test_a_malformed_vocabulary_is_rejected_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load_vocabulary(write(tmp_path / "bad.tsv", text))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="scannet200, scannet20"):
        load_vocabulary("scannet300")


def test_a_vocabulary_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "latin.tsv"
    path.write_bytes("id\tname\n1\tcaf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_vocabulary(str(path))
