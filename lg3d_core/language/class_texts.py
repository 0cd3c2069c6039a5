"""Texts of classes: names in templates, sentences of a prompt file, or the shipped descriptions of the 200 classes."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError, UsageError
from lg3d_core.language.prompts import fill_prompts
from lg3d_core.settings import ClassTexts
from lg3d_core.vocabulary import Vocabulary

DESCRIPTIONS_FILE = Path("data") / "descriptions.tsv"
EVERY_CLASS = "*"
"""Name of the rows whose text is a template for every class."""
TEXTS_KEY = "texts"
"""Metadata key of the texts of anchors that are not names in templates."""
NAME_ALONE = "{}"


class PromptFile(NamedTuple):
    """Content of a prompt file.

    Attributes:
        templates: Templates for every class, with `{}` for the name.
        sentences: Sentences of single classes by name; `{}` stands for the name.
    """

    templates: tuple[str, ...]
    sentences: Mapping[str, tuple[str, ...]]


class TextGroups(NamedTuple):
    """Texts of every class. A class's anchor is the mean over groups of the mean over the texts of a group.

    Attributes:
        groups: Texts by group and class; every class has at least one text in every group.
        templates: Templates that a user's text is inserted into; they belong to the names.
    """

    groups: tuple[tuple[tuple[str, ...], ...], ...]
    templates: tuple[str, ...]

    def to_json(self) -> str:
        """Return the groups as JSON for the metadata of anchors."""
        return json.dumps(self.groups, ensure_ascii=False)


def groups_from_json(text: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Read back the groups of `TextGroups.to_json`.

    Raises:
        DataError: The text is not a list of lists of lists of texts.
    """
    try:
        groups = tuple(tuple(tuple(str(own) for own in texts) for texts in group) for group in json.loads(text))
    except (ValueError, TypeError, RecursionError):
        groups = ()
    if not groups or not all(all(texts for texts in group) for group in groups):
        raise DataError("the texts in the metadata of the anchors are damaged: run `lg3d anchors` again")
    return groups


def parse_prompt_file(text: str, *, source: str) -> PromptFile:
    """Parse a prompt file: a tab-separated table with the columns `name` and `text`, one sentence per row.

    A class may have several rows. Rows with the name `*` have a template for every class. In both, `{}` stands for the
    class name; a template must contain it once.

    Raises:
        DataError: The text has another format; the message has the line.
    """
    try:
        reader = csv.DictReader(io.StringIO(text, newline=None), delimiter="\t", quoting=csv.QUOTE_NONE)
        header = [(column or "").strip() for column in reader.fieldnames or ()]
        reader.fieldnames = header
        rows = [(reader.line_num, (row.get("name") or "").strip(), (row.get("text") or "").strip()) for row in reader]
    except csv.Error as error:
        raise DataError(f"prompt file {source} is not a table of tab-separated text: {error}") from None
    if not rows or not {"name", "text"} <= set(header):
        raise DataError(
            f"prompt file {source} has no rows with the columns name and text (tab-separated, with a header)"
        )
    templates: list[str] = []
    sentences: dict[str, tuple[str, ...]] = {}
    for line, name, sentence in rows:
        if not name or not sentence:
            raise DataError(f"prompt file {source}, line {line}: expected a name, a tab and a text")
        if name != EVERY_CLASS:
            sentences[name] = (*sentences.get(name, ()), sentence)
            continue
        if sentence.count(NAME_ALONE) != 1:
            raise DataError(
                f"prompt file {source}, line {line}: a template for every class must contain exactly one {{}} for the "
                f"class name, got {sentence[:80]!r}"
            )
        templates.append(sentence)
    return PromptFile(tuple(templates), sentences)


def read_prompt_file(path: Path) -> PromptFile:
    """Read a prompt file; see `parse_prompt_file`.

    Raises:
        DataError: The file is missing, is not UTF-8 text, or has another format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the prompt file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"prompt file {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    return parse_prompt_file(text, source=str(path))


def load_descriptions() -> PromptFile:
    """Return the shipped descriptions: appearance, and place and use, of each of the 200 classes."""
    text = (resources.files("lg3d_core.language") / str(DESCRIPTIONS_FILE)).read_text(encoding="utf-8")
    return parse_prompt_file(text, source=str(DESCRIPTIONS_FILE))


def texts_of_file(file: PromptFile, vocabulary: Vocabulary) -> tuple[TextGroups, list[str]]:
    """Return the texts of a prompt file as one group, and the names of the classes that only have their name.

    Raises:
        UsageError: The file has no template and no sentence of any class.
    """
    if not file.templates and not set(file.sentences) & set(vocabulary.names):
        raise UsageError(
            f"no class of {vocabulary.name} has a text: expected rows with the names of classes, or with the name * "
            "for every class",
            fields=("prompt_file",),
        )
    texts, alone = [], []
    for name in vocabulary.names:
        own = [text.replace(NAME_ALONE, name) for text in (*file.templates, *file.sentences.get(name, ()))]
        if not own:
            alone.append(name)
        texts.append(tuple(own) or (name,))
    return TextGroups((tuple(texts),), file.templates or (NAME_ALONE,)), alone


def texts_of_names(names: Sequence[str], prompts: Sequence[str]) -> TextGroups:
    """Return the texts of class names in templates as one group.

    Raises:
        UsageError: There is no template, or one without exactly one `{}`.
    """
    return TextGroups((tuple(zip(*fill_prompts(names, prompts), strict=True)),), tuple(prompts))


def choose_texts(
    vocabulary: Vocabulary, *, texts: ClassTexts, prompts: Sequence[str], file: Path | None
) -> tuple[TextGroups, list[str]]:
    """Return the texts of every class, and the names of the classes that were expected to have more than their name.

    Args:
        vocabulary: The classes.
        texts: Names, shipped descriptions, or both with equal weight.
        prompts: Templates for the names.
        file: Prompt file, which replaces names and descriptions.

    Raises:
        DataError: The file cannot be read.
        UsageError: No class has a text, or a template is invalid.
    """
    if file is not None:
        return texts_of_file(read_prompt_file(file), vocabulary)
    names = texts_of_names(vocabulary.names, prompts)
    if texts == "names":
        return names, []
    described, alone = texts_of_file(load_descriptions(), vocabulary)
    if texts == "descriptions":
        return described, alone
    return TextGroups((*names.groups, *described.groups), names.templates), alone
