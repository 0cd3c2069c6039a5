"""Style of figures: column widths of a paper, legible text, and colours for all kinds of colour vision."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lg3d_core.errors import MissingDependencyError
from lg3d_core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

PAGE = 7.0
"""Width in inches of both columns of a two-column paper."""
DPI = 200
INSTALL = "figures need matplotlib and scikit-learn, which are missing or broken: pip install matplotlib scikit-learn"

# Okabe and Ito's colours, which are distinguishable with any kind of colour vision.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
INK, QUIET, FAINT = "#1d2430", "#5d6778", "#c9ced6"


class Mark(NamedTuple):
    """Colour, marker and line style of one of several runs."""

    color: str
    marker: str
    line: Any


RUN_MARKS = (
    Mark(BLUE, "o", "-"),
    Mark(VERMILION, "s", (0, (5, 1.5))),
    Mark(GREEN, "^", (0, (1.2, 1.2))),
    Mark(PURPLE, "D", (0, (5, 1.5, 1, 1.5))),
    Mark(ORANGE, "v", (0, (8, 2))),
    Mark(SKY, "P", (0, (3, 1, 1, 1, 1, 1))),
    Mark(BLACK, "X", "-"),
    Mark("#7A4B2A", "*", (0, (2, 1))),
)
GROUP_MARKS = (
    Mark(BLUE, "o", "-"),
    Mark(ORANGE, "s", (0, (5, 1.5))),
    Mark(PURPLE, "^", (0, (1.2, 1.2))),
    Mark(GREEN, "D", (0, (5, 1.5, 1, 1.5))),
    Mark(VERMILION, "v", (0, (8, 2))),
    Mark(SKY, "P", (0, (3, 1, 1, 1, 1, 1))),
)
"""Marks of the groups of a vocabulary, in their order; they repeat after the last one."""
NO_GROUP = Mark(BLACK, "o", "-")
"""Mark of classes without a group, and of all classes together."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # fonts are embedded as text, as publishers require
    "svg.fonttype": "path",
    "svg.hashsalt": "lg3d",
    "text.parse_math": False,  # class names may contain "$"
}


def group_marks(groups: Iterable[str]) -> dict[str, Mark]:
    """Return the mark of each group and, last, of classes without a group (`""`)."""
    names = [group for group in dict.fromkeys(groups) if group]
    return {group: GROUP_MARKS[k % len(GROUP_MARKS)] for k, group in enumerate(names)} | {"": NO_GROUP}


def run_mark(index: int) -> Mark:
    """Return the mark of the run with a number; colours repeat after the last one, with other markers and lines."""
    turn, place = divmod(index, len(RUN_MARKS))
    form = RUN_MARKS[(place + 3 * turn) % len(RUN_MARKS)]
    return form._replace(color=RUN_MARKS[place].color)


@contextmanager
def drawing() -> Iterator[None]:
    """Set the style of the report, without a display, independent of matplotlib's configuration.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingDependencyError(INSTALL) from None
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # A name in a script that the font lacks is drawn as boxes; the page contains the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, with a layout that avoids overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode_figure(figure: "Figure", kind: str, *, dpi: int = DPI) -> bytes:
    """Return the bytes of a `png`, `pdf` or `svg` file; the same figure gives the same bytes."""
    stamps = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=dpi, metadata=stamps[kind])
    return stream.getvalue()


def write_figure(figure: "Figure", stem: Path, kinds: Sequence[str], *, dpi: int = DPI) -> bytes:
    """Write a figure as `stem.png`, `stem.pdf`, ..., each atomically, and return the bytes of the first kind.

    Raises:
        DataError: A file cannot be written.
    """
    encoded = [encode_figure(figure, kind, dpi=dpi) for kind in kinds]
    for kind, data in zip(kinds, encoded, strict=True):
        write_bytes(stem.with_name(f"{stem.name}.{kind}"), data)
    return encoded[0]


def write_figure_as(figure: "Figure", path: Path) -> Path:
    """Write a figure atomically, in the format of its file's suffix: `.png`, `.pdf` or `.svg`.

    Raises:
        DataError: The file cannot be written.
    """
    write_bytes(path, encode_figure(figure, path.suffix.lower().removeprefix(".")))
    return path


def shorten(name: str, most: int = 22) -> str:
    """Return a name for a figure, shortened with an ellipsis if it is too long.

    A zero-width space precedes an underscore at the start: matplotlib omits such labels from legends.
    """
    short = name if len(name) <= most else name[: most - 1].rstrip() + "…"
    return f"\N{ZERO WIDTH SPACE}{short}" if short.startswith("_") else short


def signed(value: float) -> str:
    """Format a difference with one decimal and its sign, with a real minus."""
    return f"{value:+.1f}".replace("-", "\u2212")


def count_axis(axis: "Axis") -> None:
    """Label powers of ten in short form: 100, 1k, 10k, 1M."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def label(value: float, _position: int) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:g}{letter}"
        return f"{value:g}"

    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(NullFormatter())


def halo(text: "Text") -> None:
    """Give text a white outline, which separates it from the points below it."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=1.6, foreground="white")])


def grid(axes: "Axes", axis: str = "both") -> None:
    """Draw faint grid lines behind the data."""
    axes.grid(visible=True, axis=axis)
