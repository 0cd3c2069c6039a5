"""`lg3d vocabulary`: show or check a vocabulary, or write that of a store with groups by frequency."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import SettingsError
from lg3d_core.files import write_text
from lg3d_core.settings import VocabularySettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from lg3d_core.vocabulary.vocabulary_file import Problem, describe_group, format_vocabulary, read_vocabulary


class VocabularyReport(NamedTuple):
    """Result of `lg3d vocabulary`.

    Attributes:
        vocabulary: The vocabulary; None if its file has errors.
        problems: Errors and warnings of a checked file.
        written: Path of the file that `from-store` wrote.
    """

    vocabulary: Vocabulary | None
    problems: tuple[Problem, ...] = ()
    written: Path | None = None


def vocabulary(settings: VocabularySettings) -> VocabularyReport:
    """Read, check or write a vocabulary.

    Raises:
        ChoiceError: The vocabulary does not exist.
        DataError: A file cannot be read or written, or a shown file has errors.
        SettingsError: The groups do not fit the classes, or the file to write exists.
    """
    if settings.action == "check":
        found = read_vocabulary(settings.source)
        return VocabularyReport(found.vocabulary, found.problems)
    if settings.action == "show":
        return VocabularyReport(load_vocabulary(settings.source))
    grouped = group_by_frequency(SceneStore(Path(settings.source)), settings.groups)
    if settings.out.exists():
        raise SettingsError(f"{settings.out} exists: pass another --out", fields=("out",))
    write_text(settings.out, format_vocabulary(grouped))
    return VocabularyReport(grouped, written=settings.out)


def group_by_frequency(store: SceneStore, names: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of a store with groups by the number of labelled training points.

    The classes are ranked by that number and divided into groups of equal size, the first ones larger by one class if
    the number of classes is not a multiple. `in_validation` is set by the store's validation scenes, if it has any.

    Args:
        store: Scene store.
        names: Names of the groups, most frequent first; none removes the groups.

    Raises:
        SettingsError: A name occurs twice or is reserved, or there are more groups than classes.
    """
    vocabulary = store.vocabulary
    if len(set(names)) < len(names):
        raise SettingsError(f"--groups {','.join(names)}: expected different names", fields=("groups",))
    if problem := next(filter(None, map(describe_group, names)), ""):
        raise SettingsError(f"--groups: {problem}", fields=("groups",))
    if len(names) > len(vocabulary):
        raise SettingsError(
            f"--groups {','.join(names)}: {len(names)} groups for {len(vocabulary)} classes, expected at most one per "
            "class",
            fields=("groups",),
        )
    group_of = _divide(store.class_counts("train"), names)
    in_validation = store.class_counts("val") > 0
    has_validation = bool(in_validation.any())
    categories = tuple(
        dataclasses.replace(
            category,
            group=group_of[category.index],
            in_validation=bool(in_validation[category.index]) if has_validation else category.in_validation,
        )
        for category in vocabulary.categories
    )
    return dataclasses.replace(vocabulary, categories=categories, group_order=tuple(names))


def _divide(counts: npt.NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return the group of each class; equal counts are ranked by index."""
    groups = [""] * len(counts)
    order = np.argsort(-counts, kind="stable")
    for name, rows in zip(names, np.array_split(order, max(len(names), 1)), strict=False):
        for row in rows.tolist():
            groups[row] = name
    return groups
