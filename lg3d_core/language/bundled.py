"""Bundled anchors: features of all-MiniLM-L6-v2 for the names and descriptions of the 200 classes, for use offline."""

from importlib import resources
from pathlib import Path

import numpy as np

from lg3d_core.errors import DataError
from lg3d_core.language.anchors_file import Anchors, load_anchors
from lg3d_core.language.class_texts import TEXTS_KEY, TextGroups, groups_from_json, texts_of_names
from lg3d_core.settings import ClassTexts
from lg3d_core.vocabulary import Vocabulary

BUNDLED_FILE = Path("data") / "bundled_anchors.safetensors"
DESCRIPTIONS_FILE = Path("data") / "bundled_descriptions.safetensors"


def load_bundled_anchors(vocabulary: Vocabulary, texts: ClassTexts = "names") -> Anchors:
    """Return the bundled anchors of a vocabulary.

    Args:
        vocabulary: Vocabulary with names among the 200.
        texts: Names, descriptions, or the normalised sum of both.

    Returns:
        Anchors with unit vectors, shape `(classes, 384)`, the metadata of the bundled file and the vocabulary's digest.

    Raises:
        DataError: The vocabulary has names other than the 200; the message lists them.
    """
    bundled = load_bundled_file(BUNDLED_FILE)
    row_by_name = {name: row for row, name in enumerate(bundled.names)}
    missing = [name for name in vocabulary.names if name not in row_by_name]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            f"no bundled anchor for {len(missing)} of the {len(vocabulary)} names of {vocabulary.name} ({shown}): "
            "encode them with --encoder open_clip:ARCHITECTURE/WEIGHTS"
        )
    rows = [row_by_name[name] for name in vocabulary.names]
    vectors, metadata = bundled.vectors[rows], {**bundled.metadata, "vocabulary_digest": vocabulary.digest}
    if texts != "names":
        described = load_bundled_file(DESCRIPTIONS_FILE)
        groups = tuple(tuple(group[row] for row in rows) for group in groups_from_json(described.metadata[TEXTS_KEY]))
        total = described.vectors[rows].astype(np.float64)
        if texts == "both":
            total += vectors
            groups = (*texts_of_names(vocabulary.names, (metadata["prompt"],)).groups, *groups)
        vectors = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
        metadata[TEXTS_KEY] = TextGroups(groups, (metadata["prompt"],)).to_json()
    return Anchors(vectors, vocabulary.names, metadata)


def load_bundled_file(file: Path) -> Anchors:
    """Return the anchors of a bundled file, for the 200 classes."""
    with resources.as_file(resources.files("lg3d_core.language") / str(file)) as path:
        return load_anchors(path)
