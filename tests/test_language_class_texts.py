"""Texts of classes: prompt files, the shipped descriptions, and anchors averaged over several texts."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError, UsageError
from lg3d_core.language import anchors as anchors_module
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.language.anchors import encode_texts
from lg3d_core.language.anchors_file import load_anchors, require_vocabulary
from lg3d_core.language.bundled import load_bundled_anchors
from lg3d_core.language.class_texts import (
    TEXTS_KEY,
    choose_texts,
    groups_from_json,
    load_descriptions,
    parse_prompt_file,
    texts_of_file,
)
from lg3d_core.language.questions import QuestionReader, open_reader
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from lg3d_core.vocabulary import load_vocabulary
from tests.notes import Notes

PROMPTS = "name\ttext\n*\ta {} in a room\nchair\ta seat; the {} has legs\nchair\tfor sitting\nlamp\tgives light\n"
KINDS = Path(__file__).parents[1] / "benchmarks" / "data" / "scannet200_kinds.tsv"


class LetterEncoder:
    """A text's feature is the direction of its counts of letters."""

    encoder = "hf:letters, mean pooling"
    weights = "none"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(chr(ord("a") + k)) for k in range(26)] for text in texts], dtype=np.float32)
        unit: np.ndarray = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return unit


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every encoder is that of letters."""
    monkeypatch.setattr(anchors_module, "_load_encoder", lambda *_: LetterEncoder())
    monkeypatch.setattr("lg3d_core.language.questions._load", lambda *_: LetterEncoder())


def write_vocabulary(path: Path, *names: str) -> str:
    path.write_text("id\tname\n" + "".join(f"{k}\t{name}\n" for k, name in enumerate(names, start=1)))
    return str(path)


def test_templates_hold_for_every_class_and_sentences_for_their_own(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(write_vocabulary(tmp_path / "v.tsv", "chair", "lamp", "door"))
    texts, alone = texts_of_file(parse_prompt_file(PROMPTS, source="p"), vocabulary)
    assert texts.groups == (
        (
            ("a chair in a room", "a seat; the chair has legs", "for sitting"),
            ("a lamp in a room", "gives light"),
            ("a door in a room",),
        ),
    )
    assert texts.templates == ("a {} in a room",)
    assert alone == []


def test_a_class_without_any_text_keeps_its_name(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(write_vocabulary(tmp_path / "v.tsv", "lamp", "door"))
    file = parse_prompt_file("name\ttext\nlamp\tgives light\n", source="p")
    texts, alone = texts_of_file(file, vocabulary)
    assert texts.groups == ((("gives light",), ("door",)),)
    assert alone == ["door"]
    assert texts.templates == ("{}",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows with the columns name and text"),
        ("name\tsentence\nchair\tx\n", "no rows with the columns name and text"),
        ("name\ttext\nchair\tx\nlamp\t\n", "line 3: expected a name, a tab and a text"),
        ("name\ttext\n*\tno place\n", "line 2: a template for every class must contain exactly one {}"),
    ],
)
def test_a_malformed_prompt_file_is_rejected_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_prompt_file(text, source="p")


def test_a_prompt_file_of_other_classes_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("name\ttext\nboat\tswims\n")
    vocabulary = load_vocabulary(write_vocabulary(tmp_path / "v.tsv", "lamp"))
    with pytest.raises(UsageError, match="no class of v has a text"):
        choose_texts(vocabulary, texts="names", prompts=("{}",), file=path)


def test_every_class_has_a_description_of_two_sentences_and_a_kind() -> None:
    names = load_vocabulary().names
    sentences = load_descriptions().sentences
    assert tuple(sentences) == names
    assert {len(own) for own in sentences.values()} == {2}
    assert len({text for own in sentences.values() for text in own}) >= 390  # hardly any sentence twice
    with KINDS.open() as stream:
        kinds = {row["name"]: row["kind"] for row in csv.DictReader(stream, delimiter="\t")}
    assert tuple(kinds) == names
    assert min(list(kinds.values()).count(kind) for kind in kinds.values()) >= 4


def test_texts_are_averaged_as_unit_vectors_within_and_then_over_groups() -> None:
    encoder: Any = LetterEncoder()
    found = encode_texts(encoder, [[("a", "b")], [("c",)]], Progress())
    # The mean of a and b has the direction (1, 1, 0) / sqrt 2; with (0, 0, 1) the sum is (0.707, 0.707, 1).
    assert found[0, :3] == pytest.approx(np.array([0.5, 0.5, np.sqrt(0.5)]), abs=1e-6)


@pytest.mark.usefixtures("letters")
def test_a_prompt_file_makes_anchors_that_questions_are_compared_with(tmp_path: Path) -> None:
    path, notes = tmp_path / "p.tsv", Notes()
    path.write_text(PROMPTS)
    vocabulary = write_vocabulary(tmp_path / "v.tsv", "chair", "lamp", "door")
    settings = AnchorsSettings(
        anchors=tmp_path / "a.safetensors", encoder="hf:letters", prompt_file=path, vocabulary=vocabulary, dim=3
    )
    anchors = load_anchors(make_anchors(settings, notes))
    assert groups_from_json(anchors.metadata[TEXTS_KEY])[0][1] == ("a lamp in a room", "gives light")
    assert anchors.metadata["prompt"] == "a {} in a room"
    reader = open_reader(anchors, encoder=None, checkpoint=None, device=None, progress=notes)  # type: ignore[arg-type]
    assert isinstance(reader, QuestionReader)
    assert reader.read(["door"])[0] == pytest.approx(anchors.vectors[2], abs=1e-5)  # its only text is the template


@pytest.mark.usefixtures("letters")
def test_anchors_like_others_use_their_encoder_templates_and_projection(tmp_path: Path) -> None:
    first = AnchorsSettings(
        anchors=tmp_path / "a.safetensors",
        encoder="hf:letters",
        prompt=("a {} in a room",),
        vocabulary=write_vocabulary(tmp_path / "v.tsv", "chair", "lamp", "door", "bed"),
        dim=3,
    )
    base = load_anchors(make_anchors(first, Progress()))
    second = AnchorsSettings(
        anchors=tmp_path / "b.safetensors",
        like=first.anchors,
        vocabulary=write_vocabulary(tmp_path / "w.tsv", "lamp", "sofa"),
    )
    found = load_anchors(make_anchors(second, Progress()))
    assert found.names == ("lamp", "sofa")
    assert found.vectors[0] == pytest.approx(base.vectors[1], abs=1e-5)
    assert found.projection is not None
    assert base.projection is not None
    assert np.array_equal(found.projection.matrix, base.projection.matrix)
    require_vocabulary(found, load_vocabulary(second.vocabulary))


def test_bundled_descriptions_agree_with_the_shipped_texts(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(write_vocabulary(tmp_path / "v.tsv", "toilet", "chair"))
    names = load_bundled_anchors(vocabulary)
    described, both = (load_bundled_anchors(vocabulary, texts) for texts in ("descriptions", "both"))
    sentences = load_descriptions().sentences
    assert groups_from_json(described.metadata[TEXTS_KEY]) == ((sentences["toilet"], sentences["chair"]),)
    assert groups_from_json(both.metadata[TEXTS_KEY])[0] == (("toilet",), ("chair",))
    total = names.vectors + described.vectors
    assert both.vectors == pytest.approx(total / np.linalg.norm(total, axis=1, keepdims=True), abs=1e-6)
    assert TEXTS_KEY not in names.metadata


def test_descriptions_have_the_features_of_similar_classes() -> None:
    vocabulary = load_vocabulary()
    vectors, row = load_bundled_anchors(vocabulary, "descriptions").vectors, vocabulary.index_by_name
    cosines = vectors @ vectors.T
    assert cosines[row["couch"], row["armchair"]] > 0.6 > cosines[row["couch"], row["sink"]] + 0.2


def test_a_prompt_file_replaces_prompts_and_descriptions(tmp_path: Path) -> None:
    for other in ({"texts": "both"}, {"prompt": ("a {}",)}):
        with pytest.raises(SettingsError, match="--prompt-file must be passed without --texts and --prompt"):
            AnchorsSettings(prompt_file=tmp_path / "p.tsv", **other)  # type: ignore[arg-type]
