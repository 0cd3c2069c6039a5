"""Vocabulary files: groups of any name, synonyms, ignored ids, and problems by line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lg3d_cli.__main__ import app
from lg3d_core.errors import SettingsError
from lg3d_core.settings import VocabularySettings
from lg3d_core.store.scene_store import SceneStore, vocabulary_from_json, vocabulary_to_json
from lg3d_core.store.vocabulary import group_by_frequency
from lg3d_core.store.vocabulary import vocabulary as run_vocabulary
from lg3d_core.vocabulary import Vocabulary, load_vocabulary, read_label_table
from lg3d_core.vocabulary.vocabulary_file import format_vocabulary, parse_vocabulary

FULL = (
    "id\tname\tgroup\tin_val\tred\tgreen\tblue\tsynonyms\tignored\n"
    "40\tchair\tfrequent\t1\t10\t20\t30\tseat | armchair|seat\t0\n"
    "7\tlamp\trare\t0\t40\t50\t60\t\t0\n"
    "99\tremove\t\t\t\t\t\t\t1\n"
)


def parsed(text: str) -> Vocabulary:
    found = parse_vocabulary(text, name="mine", id_column="id")
    assert found.vocabulary is not None, found.problems
    return found.vocabulary


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_vocabulary(text, name="mine", id_column="id").problems]


def test_the_example_of_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[1] / "docs" / "howto" / "vocabularies.md").read_text(encoding="utf-8")
    example = text.partition("```text\n")[2].partition("```")[0]
    assert problems(example) == []
    assert list(parsed(example).groups) == ["frequent", "rare"]


def test_groups_have_any_names_in_the_order_of_the_rows() -> None:
    vocabulary = parsed(FULL)
    assert vocabulary.names == ("lamp", "chair")  # by id
    assert {name: rows.tolist() for name, rows in vocabulary.groups.items()} == {"frequent": [1], "rare": [0]}
    assert list(vocabulary.groups) == ["frequent", "rare"]
    assert list(parsed("id\tname\tsplit\n1\ta\ttail\n2\tb\thead\n").groups) == ["head", "tail"]


def test_synonyms_are_separated_and_ignored_ids_are_no_classes() -> None:
    vocabulary = parsed(FULL)
    assert vocabulary.categories[1].synonyms == ("seat", "armchair")
    assert vocabulary.ignored_ids == (99,)
    assert 99 not in vocabulary.index_by_id


def test_a_written_vocabulary_is_read_back_unchanged() -> None:
    assert parsed(format_vocabulary(parsed(FULL))) == parsed(FULL)
    assert parsed(format_vocabulary(load_vocabulary())).categories == load_vocabulary().categories


def test_a_store_keeps_synonyms_ignored_ids_and_the_order_of_groups() -> None:
    vocabulary = parsed(FULL)
    assert vocabulary_from_json(json.loads(json.dumps(vocabulary_to_json(vocabulary)))) == vocabulary
    plain = vocabulary_to_json(load_vocabulary())
    assert set(plain) == {"name", "id_column", "digest", "categories"}  # as in stores of earlier versions
    assert "synonyms" not in plain["categories"][0]


def test_a_raw_label_that_the_table_lacks_is_found_by_its_synonym(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("raw_category\tid\nchair\t40\nlamp\t7\n")
    plain = dataclasses.replace(
        parsed(FULL), categories=tuple(dataclasses.replace(c, synonyms=()) for c in parsed(FULL).categories)
    )
    table = read_label_table(path, parsed(FULL))
    assert table.index_by_label == {"chair": 1, "lamp": 0, "seat": 1, "armchair": 1}
    assert read_label_table(path, plain).digest != table.digest  # scenes are prepared again


def test_every_problem_is_reported_with_its_line() -> None:
    text = (
        "id\tname\tgroup\tcolour\tin_val\tsynonyms\n"
        "1\tchair\thead\t\t1\tsofa\n"
        "x\tlamp\thead\t\t1\t\n"
        "1\tdesk\tALL\t\t2\t\n"
        "\n"
        "4\tsofa\t\t\t1\t\n"
        "5\tchair\thead\t\t1\t\n"
    )
    found = problems(text)
    assert [line.split(":")[0].removeprefix("line ") for line in found] == list("12344467")
    assert "the column 'colour' is ignored" in found[0]
    assert found[1] == "line 2: the synonym 'sofa' is also a name of 'sofa'"
    assert found[2] == "line 3: id must be an integer, got 'x'"
    assert {"line 4: in_val must be 0 or 1, got '2'", "line 4: the same id twice: '1' is also in line 2"} <= set(found)
    assert "'sofa' has no group" in found[6]
    assert found[7] == "line 7: the same name twice: 'chair' is also in line 2"


def test_a_file_with_nothing_but_ignored_ids_is_rejected() -> None:
    assert problems("id\tname\tignored\n1\ta\t1\n") == ["line 1: all ids are ignored, expected at least one class"]


def test_the_first_error_of_a_file_names_the_command_that_lists_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("id\tname\nx\ta\ny\tb\n")
    with pytest.raises(Exception, match=r"line 2: id must be.*\(and 1 more: `lg3d vocabulary check .*bad.tsv` lists"):
        load_vocabulary(str(path))
    done = CliRunner().invoke(app, ["vocabulary", "check", str(path)])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1:] == [
        "2\terror\tid must be an integer, got 'x'",
        "3\terror\tid must be an integer, got 'y'",
    ]


def test_the_rarest_group_is_tail_or_has_the_smallest_mean_count() -> None:
    assert parsed(FULL).rarest_group(np.array([5, 90])) == "rare"
    assert parsed(FULL).rarest_group(np.array([90, 5])) == "frequent"
    assert load_vocabulary().rarest_group(np.arange(200)) == "tail"
    assert load_vocabulary("scannet20").rarest_group(np.arange(20)) == ""


def test_from_store_groups_the_classes_by_their_labelled_training_points(store_path: Path, tmp_path: Path) -> None:
    store = SceneStore(store_path)
    counts = store.class_counts("train")
    out = tmp_path / "grouped.tsv"
    settings = VocabularySettings(action="from-store", source=str(store_path), groups=("much", "some", "none"), out=out)
    assert run_vocabulary(settings).written == out
    found = load_vocabulary(str(out))
    assert found.digest == store.vocabulary.digest
    assert list(found.groups) == ["much", "some", "none"]
    assert [len(rows) for rows in found.groups.values()] == [67, 67, 66]  # 200 in three parts
    assert counts[found.groups["much"]].min() >= counts[found.groups["some"]].max()
    validated = store.class_counts("val") > 0
    assert [category.in_validation for category in found.categories] == validated.tolist()
    with pytest.raises(SettingsError, match="exists: pass another --out"):
        run_vocabulary(settings)
    other = tmp_path / "all.tsv"
    for names in (("head", "All"), ("a\tb", "c")):
        with pytest.raises(SettingsError, match=r"--groups: the group .* is not allowed"):
            run_vocabulary(dataclasses.replace(settings, groups=names, out=other))
        assert not other.exists()
    assert group_by_frequency(store, ()).groups == {}
    with pytest.raises(SettingsError, match="expected different names"):
        group_by_frequency(store, ("a", "a"))


def test_show_lists_the_classes_as_a_table_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(FULL)
    lines = CliRunner().invoke(app, ["vocabulary", "show", str(path)]).stdout.splitlines()
    assert lines[1:] == ["0\t7\tlamp\trare\t-\t#28323c\t", "1\t40\tchair\tfrequent\tyes\t#0a141e\tseat, armchair"]
    found = json.loads(CliRunner().invoke(app, ["vocabulary", "show", str(path), "--json"]).stdout)
    assert found["groups"] == {"frequent": 1, "rare": 1}
    assert found["ignored_ids"] == [99]
