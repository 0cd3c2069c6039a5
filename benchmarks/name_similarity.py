"""Does the gain of one row of a comparison over another depend on the similarity of class names?

    python -m benchmarks.name_similarity language "Ours, softmax" "C-Focal + ins." --anchors anchors.safetensors

The first argument is the `--out` folder of a finished `lg3d compare`, the next two are labels of its rows. The gain of
a class is the difference in IoU at vertices, averaged over the seeds. The script prints the rank correlation (Spearman)
of the gain with the cosine between the anchors of the class and of its most similar class, and with the number of
training points; and the mean gain for each third of the classes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from lg3d_core.comparing.record import read_record
from lg3d_core.language.anchors_file import load_anchors
from lg3d_core.language.neighbours import nearest_names
from lg3d_core.store.scene_store import SceneStore

FloatArray = npt.NDArray[np.float64]


def class_iou(run: Path) -> FloatArray:
    """Return the IoU of each class over all scenes, shape `(classes,)`; nan for classes without ground truth."""
    counts = read_record(run).counts
    correct, support, predicted = (
        part.sum(axis=0).astype(np.float64) for part in (counts.correct, counts.support, counts.predicted)
    )
    union = support + predicted - correct
    iou: FloatArray = np.divide(correct, union, out=np.full(len(union), np.nan), where=support > 0)
    return iou


def print_gain(title: str, gain: FloatArray, value: FloatArray) -> None:
    """Print the rank correlation of the gain with a value per class, and the mean gain of each third of the classes."""
    found = spearmanr(value, gain)
    print(f"{title}: Spearman {found.statistic:+.2f} (p = {found.pvalue:.2g})")
    for rows in np.array_split(np.argsort(value, kind="stable"), 3):
        low, high = value[rows].min(), value[rows].max()
        print(f"  {low:.3g} to {high:.3g}: {len(rows)} classes, {100 * gain[rows].mean():+.2f} points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="--out folder of lg3d compare")
    parser.add_argument("row", help="label of a row")
    parser.add_argument("base", help="label of the row that it is compared with")
    parser.add_argument("--store", type=Path, default=Path("data"))
    parser.add_argument("--anchors", type=Path, default=Path("anchors.safetensors"))
    choices = parser.parse_args()
    rows = {row["label"]: row["runs"] for row in json.loads((choices.comparison / "table.json").read_text())["rows"]}
    if missing := {choices.row, choices.base} - set(rows):
        parser.error(f"no row {missing.pop()!r}: expected one of {', '.join(map(repr, rows))}")
    runs = choices.comparison / "runs"
    pairs = zip(rows[choices.row], rows[choices.base], strict=True)
    gain = np.mean([class_iou(runs / own) - class_iou(runs / other) for own, other in pairs], axis=0)
    anchors = load_anchors(choices.anchors)
    similarity = np.array([near[0].cosine for near in nearest_names(anchors, count=1).values()])
    present = np.isfinite(gain)
    print(f"{present.sum()} classes, {100 * gain[present].mean():+.2f} points")
    print_gain("cosine with the most similar name", gain[present], similarity[present])
    points = SceneStore(choices.store).class_counts("train").astype(np.float64)
    print_gain("training points", gain[present], points[present])


if __name__ == "__main__":
    main()
