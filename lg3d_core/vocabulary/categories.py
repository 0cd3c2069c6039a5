"""Evaluated classes: contiguous index, raw id, name, frequency group, synonyms and display colour."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

GROUPS = ("head", "common", "tail")
"""Groups of the benchmark, most frequent first; a vocabulary may have others."""


def order_groups(groups: Iterable[str]) -> list[str]:
    """Return each group once: head, common, tail, and then others in the order of their first occurrence."""
    names = [name for name in dict.fromkeys(groups) if name]
    return sorted(names, key=lambda name: GROUPS.index(name) if name in GROUPS else len(GROUPS))


@dataclass(frozen=True)
class Category:
    """One evaluated class.

    Attributes:
        index: Contiguous training index from 0, the rank of `id`.
        id: Raw id in the benchmark's label table and in submissions.
        name: Name of the class, which is also the encoded text.
        group: Name of the class's group, such as "head", "common" or "tail" by frequency of labelled surface points; ""
            for none.
        in_validation: Whether the benchmark's validation scenes have annotated surface of the class.
        color: Display colour (red, green, blue), 0..255.
        synonyms: Other names of the class. Raw labels that equal one get this class if the label table lacks them.
    """

    index: int
    id: int
    name: str
    group: str
    in_validation: bool
    color: tuple[int, int, int]
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of classes. The position of a class is its training index."""

    name: str
    id_column: str
    """Column of the raw label table with the ids of these classes."""
    categories: tuple[Category, ...]
    ignored_ids: tuple[int, ...] = ()
    """Raw ids that are known and not evaluated: their points are unlabelled."""
    group_order: tuple[str, ...] = ()
    """Names of the groups, most frequent first, where it is not the order of the groups' first classes."""

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Raw ids in index order, shape `(classes,)`."""
        return np.array([category.id for category in self.categories], dtype=np.int64)

    @cached_property
    def colors(self) -> npt.NDArray[np.uint8]:
        """Display colours in index order, shape `(classes, 3)`."""
        return np.array([category.color for category in self.categories], dtype=np.uint8).reshape(-1, 3)

    @cached_property
    def index_by_id(self) -> dict[int, int]:
        """Training index of each raw id."""
        return {category.id: category.index for category in self.categories}

    @cached_property
    def index_by_name(self) -> dict[str, int]:
        """Training index of each name."""
        return {category.name: category.index for category in self.categories}

    @cached_property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """Class indices of each group, most frequent group first; empty if the vocabulary has no groups.

        The order is head, common, tail, then `group_order`, and then that of the groups' first classes.
        """
        own = {category.group for category in self.categories}
        names = order_groups([*filter(own.__contains__, self.group_order), *(c.group for c in self.categories)])
        found = {name: [c.index for c in self.categories if c.group == name] for name in names}
        return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}

    def rarest_group(self, counts: npt.NDArray[np.int64]) -> str:
        """Return the group that instance sampling draws from: "tail", or else the one with the smallest mean count.

        Args:
            counts: Number of labelled training points of each class, shape `(classes,)`.

        Returns:
            Name of the group; "" if the vocabulary has no groups.
        """
        if "tail" in self.groups:
            return "tail"
        return min(self.groups, key=lambda group: float(counts[self.groups[group]].mean()), default="")

    @cached_property
    def digest(self) -> str:
        """Hash of ids and names in order, equal exactly if two vocabularies are interchangeable."""
        text = "\n".join(f"{category.id}\t{category.name}" for category in self.categories)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def fallback_color(index: int) -> tuple[int, int, int]:
    """Return a generated mid-bright colour of a class, for vocabularies without colours."""
    red, green, blue = (64 + (index * (67, 101, 149)[channel] + 80 * channel) % 176 for channel in range(3))
    return red, green, blue
