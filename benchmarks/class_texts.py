"""Does the neighbourhood of text anchors agree with a human grouping of the 200 classes?

    python -m benchmarks.class_texts --encoder hf:FOLDER

`data/scannet200_kinds.tsv` assigns each class to one of 18 kinds, such as seating, or to `other`, which is left out.
For each set of texts the script prints the mean precision of the k nearest neighbours (the share of a class's k nearest
classes that are of its kind), the mean silhouette of the kinds with cosine distance, and the margin (mean cosine within
kinds minus mean cosine between them). Intervals are 95 % bootstrap intervals over classes of the difference from names.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from lg3d_core.language.anchors import encode_texts
from lg3d_core.language.class_texts import load_descriptions, texts_of_file, texts_of_names
from lg3d_core.language.encoder_names import find_bundled_encoder
from lg3d_core.language.hugging_face import load_hugging_face
from lg3d_core.progress import Progress
from lg3d_core.vocabulary import load_vocabulary

KINDS = Path(__file__).parent / "data" / "scannet200_kinds.tsv"
TEMPLATE = "a {} in a room"
NEIGHBOURS = (1, 3, 5)


def precision_of_nearest(cosines: np.ndarray, kinds: np.ndarray, *, count: int) -> np.ndarray:
    """Return the share of each class's nearest classes that are of its kind, shape `(classes,)`.

    A kind of n classes has n - 1 neighbours to find, so the share is of `min(count, n - 1)` places at most 1.
    """
    others = cosines.copy()
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, :count]
    same = (kinds[nearest] == kinds[:, None]).sum(axis=1)
    sizes = (kinds[:, None] == kinds[None, :]).sum(axis=1) - 1
    return same / np.minimum(count, sizes)


def silhouettes(cosines: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return (b - a) / max(a, b) of each class: a: mean distance to its kind, b: to the nearest other kind."""
    distances = 1 - cosines
    names = np.unique(kinds)
    sums = np.stack([distances[:, kinds == name].sum(axis=1) for name in names], axis=1)
    sizes = np.array([(kinds == name).sum() for name in names])
    own = np.searchsorted(names, kinds)
    rows = np.arange(len(kinds))
    within = sums[rows, own] / (sizes[own] - 1)
    means = sums / sizes
    means[rows, own] = np.inf
    between = means.min(axis=1)
    return (between - within) / np.maximum(within, between)


def margins(cosines: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return each class's mean cosine with its kind minus that with all other classes, shape `(classes,)`."""
    same = kinds[:, None] == kinds[None, :]
    own = same & ~np.eye(len(kinds), dtype=bool)
    return (cosines * own).sum(axis=1) / own.sum(axis=1) - (cosines * ~same).sum(axis=1) / (~same).sum(axis=1)


def measure(vectors: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Return every measure of each class that has a kind."""
    kept = kinds != "other"
    unit = vectors[kept] / np.linalg.norm(vectors[kept], axis=1, keepdims=True)
    cosines, kinds = (unit @ unit.T).astype(np.float64), kinds[kept]
    found = {f"precision@{count}": precision_of_nearest(cosines, kinds, count=count) for count in NEIGHBOURS}
    return found | {"silhouette": silhouettes(cosines, kinds), "margin": margins(cosines, kinds)}


def centre(vectors: np.ndarray) -> np.ndarray:
    """Return the unit vectors minus their mean."""
    return vectors - vectors.mean(axis=0)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="hf:FOLDER; default: the encoder of the bundled anchors")
    folder = parser.parse_args().encoder or f"hf:{find_bundled_encoder()}"
    encoder = load_hugging_face(
        folder.removeprefix("hf:"), pooling="mean", device=torch.device("cpu"), progress=Progress()
    )
    vocabulary = load_vocabulary("scannet200")
    with KINDS.open(encoding="utf-8") as stream:
        kind_of = {row["name"]: row["kind"] for row in csv.DictReader(stream, delimiter="\t")}
    kinds = np.array([kind_of[name] for name in vocabulary.names])
    (names,) = texts_of_names(vocabulary.names, ["{}"]).groups
    (templates,) = texts_of_names(vocabulary.names, [TEMPLATE]).groups
    (described,) = texts_of_file(load_descriptions(), vocabulary)[0].groups
    looks, use = (tuple((texts[k],) for texts in described) for k in (0, 1))
    joined = tuple(
        (f"{name}: {look}; {place}",) for name, (look, place) in zip(vocabulary.names, described, strict=True)
    )
    sets = {
        "names": [names],
        "template": [templates],
        "looks": [looks],
        "use": [use],
        "descriptions": [described],
        "both": [names, described],
        "names and looks": [names, looks],
        "one sentence": [joined],
    }
    found = {name: encode_texts(encoder, groups, Progress()) for name, groups in sets.items()}
    rng = np.random.default_rng(0)
    draws = rng.integers(0, int((kinds != "other").sum()), size=(2000, int((kinds != "other").sum())))
    table = {}
    for way, change in (("cosines", lambda vectors: vectors), ("cosines, mean removed", centre)):
        base = measure(change(found["names"]), kinds)
        for name, vectors in found.items():
            own = measure(change(vectors), kinds)
            table[f"{name} ({way})"] = {
                measure_name: {
                    "mean": round(float(values.mean()), 4),
                    "difference": round(float((values - base[measure_name]).mean()), 4),
                    "interval": np.quantile((values - base[measure_name])[draws].mean(axis=1), [0.025, 0.975])
                    .round(4)
                    .tolist(),
                }
                for measure_name, values in own.items()
            }
    print(json.dumps({"encoder": encoder.encoder, "classes": int((kinds != "other").sum()), "texts": table}, indent=1))


if __name__ == "__main__":
    main()
