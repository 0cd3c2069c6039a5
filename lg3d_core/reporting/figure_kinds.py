"""Kinds of figures of a report: their files, titles, captions, and places on the page."""

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FigureKind(StrEnum):
    """Kind of a figure. Its value is the base name of the figure's files, followed by `-N` for one of several runs."""

    CURVES = "curves"
    DIFFERENCES = "differences"
    FREQUENCY = "frequency"
    CATEGORIES = "categories"
    CONFUSION = "confusion"
    FEATURES = "features"
    ROOMS = "rooms"
    PRECISION = "precision"
    RECALL = "recall"
    OBJECTS = "objects"
    TAIL = "tail"


class Plot(NamedTuple):
    """Figure of a report.

    Attributes:
        kind: Kind of the figure.
        figure: Drawn figure; None if there is nothing to draw.
        run: Name of the run that the figure shows; empty if it is the only one, or if the figure shows all runs.
        number: Number of this run from 1; 0 if `run` is empty.
    """

    kind: FigureKind
    figure: "Figure | None"
    run: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """Base name of the figure's files."""
        return f"{self.kind}-{self.number}" if self.number else str(self.kind)

    @property
    def title(self) -> str:
        """Heading of the figure."""
        return TITLES[self.kind] + (f": {self.run}" if self.number else "")


TITLES = {
    FigureKind.CURVES: "Learning curves",
    FigureKind.DIFFERENCES: "Differences by class",
    FigureKind.FREQUENCY: "IoU and frequency",
    FigureKind.CATEGORIES: "Classes by frequency",
    FigureKind.CONFUSION: "Confusion",
    FigureKind.FEATURES: "Features",
    FigureKind.ROOMS: "Rooms",
    FigureKind.PRECISION: "AP and frequency",
    FigureKind.RECALL: "Precision and recall of objects",
    FigureKind.OBJECTS: "Objects",
    FigureKind.TAIL: "Best and worst objects of rare classes",
}

CAPTIONS = {
    FigureKind.CURVES: "Faint lines: every optimizer step; bold lines: mean over a twentieth of the run. Validation "
    "covers the classes that occur in the validation scenes.",
    FigureKind.DIFFERENCES: "Difference in vertex IoU from the first run: the classes that improved and "
    "got worse most.",
    FigureKind.FREQUENCY: "Vertex IoU of every class over its annotated vertices in the training scenes. Lines: means "
    "of the groups.",
    FigureKind.CATEGORIES: "Annotated objects and vertices of every class in the training scenes, most objects first "
    "(the paper's Figure 4); below, its vertex IoU.",
    FigureKind.CONFUSION: "Predictions for the annotated vertices of the most confused classes, in percent of each "
    "row. Framed: correct.",
    FigureKind.FEATURES: "t-SNE of the directions of voxel features, sampled evenly from the classes, and of the text "
    "anchors of the training (the paper's Figure 7). Distances between clusters are not meaningful.",
    FigureKind.ROOMS: "The rooms with the most classes, with near walls and ceiling cut away (the paper's Figure 6).",
    FigureKind.PRECISION: "AP50 of every class over its annotated objects in the training scenes. Lines: means of "
    "the groups.",
    FigureKind.RECALL: "Mean over the classes of each group that have objects. The precision at a recall is the "
    "highest one at this or a higher recall.",
    FigureKind.OBJECTS: "Annotated and predicted objects (the paper's Figure 8). A predicted object has the colour of "
    "the annotated one with which it shares most vertices.",
    FigureKind.TAIL: "Annotated objects of the rarest group of classes with the highest IoU (left) and the lowest "
    "(right), with the prediction of the same class that fits best, or else of any class, and its confidence.",
}

PLACES = {
    "first": (FigureKind.CURVES, FigureKind.DIFFERENCES, FigureKind.FREQUENCY),
    "categories": (FigureKind.CATEGORIES,),
    "confusions": (FigureKind.CONFUSION,),
    "last": (FigureKind.FEATURES, FigureKind.ROOMS),
    "objects": (FigureKind.PRECISION, FigureKind.RECALL, FigureKind.OBJECTS, FigureKind.TAIL),
}
"""Figures of each place on the page, between its tables."""
