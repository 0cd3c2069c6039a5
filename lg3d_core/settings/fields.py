"""Fields of settings: a dataclass field's type, documentation, limits and command-line form, read from its annotation.

    epochs: Annotated[int, Doc("Passes over the training scenes."), Ge(1), Option(panel=Panel.OPTIMISATION)] = 1

Limits hold for the value, for the value of `T | None` where it is not None, and for every element where they annotate
the element type of a tuple.
"""

import dataclasses
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_doc import Doc


@dataclass(frozen=True)
class Ge:
    """The value is at least `bound`."""

    bound: float


@dataclass(frozen=True)
class Gt:
    """The value is above `bound`."""

    bound: float


@dataclass(frozen=True)
class Le:
    """The value is at most `bound`."""

    bound: float


@dataclass(frozen=True)
class Lt:
    """The value is below `bound`."""

    bound: float


@dataclass(frozen=True)
class NonEmpty:
    """A tuple has at least one element."""


@dataclass(frozen=True)
class Matches:
    """The value fulfils a predicate; `expected` completes "must be ..."."""

    accepts: Callable[[Any], bool]
    expected: str


def ends_in(*suffixes: str) -> Matches:
    """Accept paths of files with one of a few suffixes, such as `.png`, in upper or lower case."""
    listed = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
    return Matches(lambda path: path.suffix.lower() in suffixes, f"a file name that ends in {listed}")


@dataclass(frozen=True)
class Words:
    """The value is one of a few words, or matches a pattern, for which `shown` stands in help: `cuda:N`."""

    choices: tuple[str, ...]
    pattern: str
    shown: str


@dataclass(frozen=True)
class Hint:
    """A remark that is appended to what is expected."""

    text: str


class Panel(StrEnum):
    """Headings of options in help, in this order."""

    RUN = "Run"
    ENCODING = "Encoding"
    INSPECTION = "Inspection of an existing file"
    SCAN = "Scan"
    DATA = "Data"
    SAMPLE = "Training sample"
    NETWORK = "Network"
    LOSS = "Loss"
    OPTIMISATION = "Optimisation"
    OVERRIDES = "Overrides of the recipes"
    TABLE = "Table"
    COMPUTATION = "Computation"
    ADVANCED = "Advanced"
    OUTPUT = "Output"


@dataclass(frozen=True)
class Option:
    """The command-line form of a field, where its name and type do not determine it.

    Attributes:
        name: Option name; empty for `--field-name`.
        short: One-letter option, such as `-q`.
        panel: Heading of the option in the help of a command with many options.
        default: What help shows as the default, where the default is None or empty.
        completes: What the shell completes: `scenes`, `runs`, `starts` or `recipes`.
        commas: Several values are separated by commas. Tuples of numbers and of choices always are.
        recipe_only: The field is set by recipes alone and has no option.
    """

    name: str = ""
    short: str = ""
    panel: Panel | None = None
    default: str = ""
    completes: str = ""
    commas: bool = False
    recipe_only: bool = False


@dataclass(frozen=True)
class Argument(Option):
    """A field that is a positional argument, shown as `name`."""


LIMITS: dict[type, tuple[Callable[[Any, Any], bool], str, str]] = {
    Ge: (lambda value, bound: value >= bound, "at least {:g}", "{:g}<=x"),
    Gt: (lambda value, bound: value > bound, "above {:g}", "{:g}<x"),
    Le: (lambda value, bound: value <= bound, "at most {:g}", "x<={:g}"),
    Lt: (lambda value, bound: value < bound, "below {:g}", "x<{:g}"),
}
"""Of each kind of bound: the check, the words of a message, and the form in help."""


@dataclass(frozen=True)
class Field:
    """One field of a settings class.

    Attributes:
        name: Name in the dataclass.
        kind: Type of the value, or of a tuple's elements: `int`, `float`, `bool`, `str`, `Path`, or a `Literal`.
        is_tuple: The value is a tuple of any length.
        is_optional: None is allowed.
        doc: Documentation.
        limits: Of the value, or of a tuple's elements.
        whole: Of the tuple as a whole.
        option: Command-line form.
        default: Default, or `dataclasses.MISSING`.
        words: Words that a text may be, if it is not free.
    """

    name: str
    kind: Any
    is_tuple: bool
    is_optional: bool
    doc: str
    limits: tuple[Any, ...]
    whole: tuple[Any, ...]
    option: Option
    default: Any
    words: Words | None = None

    @property
    def option_name(self) -> str:
        """What the user types: `--from`, `--batch-size`, or `SCENE` for an argument."""
        if self.option.name:
            return self.option.name
        return self.name.upper() if self.is_argument else "--" + self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """Key in a recipe or in `lg3d.toml`, and upper-case part of the variable's name."""
        return self.name if self.is_argument else self.option_name.removeprefix("--").replace("-", "_")

    @property
    def is_argument(self) -> bool:
        """Whether it is a positional argument."""
        return isinstance(self.option, Argument)

    @property
    def is_required(self) -> bool:
        """Whether a value must come from somewhere: no default, or a tuple that may not keep its empty one."""
        return self.default is dataclasses.MISSING or (self.default == () and NonEmpty() in self.whole)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a `Literal`, or the words that a text may be; empty for other types."""
        if self.words is not None:
            return self.words.choices
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def is_default(self, value: Any) -> bool:
        """Return whether a text is the word that help shows for the default of an optional number: `--jobs auto`."""
        return self.kind in (int, float) and bool(self.option.default) and value == self.option.default

    @property
    def expected(self) -> tuple[str, ...]:
        """The choices as help and messages list them, with the form of those that follow a pattern."""
        return self.choices if self.words is None else (*self.choices, self.words.shown)

    def is_choice(self, value: Any) -> bool:
        """Return whether a value is one of the choices."""
        if value in self.choices:
            return True
        return self.words is not None and re.fullmatch(self.words.pattern, str(value), re.ASCII) is not None

    @property
    def type_name(self) -> str:
        """The type as help shows it: `int`, `path`, `auto|cpu|cuda|cuda:N`."""
        names = {int: "int", float: "float", str: "text", Path: "path"}
        return "|".join(self.expected) or names[self.kind]

    @property
    def splits_on_commas(self) -> bool:
        """Whether one text holds several values."""
        return self.is_tuple and (self.option.commas or bool(self.choices) or self.kind in (int, float))

    @property
    def range(self) -> str:
        """Bounds in the form `0<x<=1`; empty where there are none."""
        texts = [LIMITS[type(limit)][2].format(limit.bound) for limit in self.limits if type(limit) in LIMITS]
        if len(texts) == 2:
            return texts[0] + texts[1].removeprefix("x")
        return _turned(texts[0]) if texts else ""

    def problem(self, value: Any) -> str:
        """What a value of the right type should be instead; empty where its limits hold."""
        if value is None:
            return ""
        if NonEmpty() in self.whole and not value:
            return f"at least one of {', '.join(self.choices)}" if self.choices else "at least one value"
        return next((text for item in (value if self.is_tuple else (value,)) if (text := self._problem(item))), "")

    def _problem(self, value: Any) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        holds = all(LIMITS[type(limit)][0](value, limit.bound) for limit in self.limits if type(limit) in LIMITS)
        if not holds:
            return self._expected()
        return next((m.expected for m in self.limits if isinstance(m, Matches) and not m.accepts(value)), "")

    def _expected(self) -> str:
        bounds = [limit for limit in self.limits if type(limit) in LIMITS]
        hints = "".join(f" ({limit.text})" for limit in self.limits if isinstance(limit, Hint))
        if bounds == [Gt(0)]:
            return "positive" + hints
        if bounds == [Ge(0)]:
            return "0 or more" + hints
        if [type(limit) for limit in bounds] == [Ge, Le]:
            return f"between {bounds[0].bound:g} and {bounds[1].bound:g}" + hints
        return " and ".join(LIMITS[type(limit)][1].format(limit.bound) for limit in bounds) + hints


def _turned(text: str) -> str:
    """`x>=1` for `1<=x`: a single bound is read from the value."""
    for sign, turned in (("<=x", ">="), ("<x", ">")):
        if text.endswith(sign):
            return f"x{turned}{text.removesuffix(sign)}"
    return text


def fields_of(cls: type[Any]) -> dict[str, Field]:
    """Return the fields of a settings class by name, its own first, then those of its bases."""
    if cls not in _known_fields:
        _known_fields[cls] = _read_fields(cls)
    return _known_fields[cls]


_known_fields: dict[Any, dict[str, Field]] = {}


def _read_fields(cls: type[Any]) -> dict[str, Field]:
    hints = get_type_hints(cls, include_extras=True)
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}
    ordered: dict[str, Field] = {}
    for base in cls.__mro__:
        for name in inspect.get_annotations(base):
            if name in entries and name not in ordered:
                ordered[name] = _read_field(name, hints[name], entries[name].default)
    return ordered


def _read_field(name: str, hint: Any, default: Any) -> Field:
    kind, marks = _unwrap(hint)
    is_optional = is_tuple = False
    whole: tuple[Any, ...] = ()
    if get_origin(kind) in (Union, types.UnionType):
        is_optional = True
        (kind,) = (arm for arm in get_args(kind) if arm is not types.NoneType)
        kind, inner = _unwrap(kind)
        marks += inner
    if get_origin(kind) is tuple:
        is_tuple, whole = True, marks
        kind, inner = _unwrap(get_args(kind)[0])
        limits = inner
    else:
        limits = marks
    option = next((mark for mark in marks if isinstance(mark, Option)), Option())
    doc = next((mark.documentation for mark in marks if isinstance(mark, Doc)), "")
    words = next((mark for mark in marks if isinstance(mark, Words)), None)
    return Field(name, kind, is_tuple, is_optional, doc, tuple(_limits(limits)), whole, option, default, words)


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return kind, tuple(marks)
    return hint, ()


def _limits(marks: tuple[Any, ...]) -> Iterator[Any]:
    return (mark for mark in marks if isinstance(mark, Ge | Gt | Le | Lt | Matches | Hint))
