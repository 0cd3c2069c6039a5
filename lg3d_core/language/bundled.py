"""Bundled anchors: features of all-MiniLM-L6-v2 for the 200 class names, for use without a network connection."""

from importlib import resources
from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.language.anchors_file import Anchors, load_anchors
from lg3d_core.vocabulary import Vocabulary

BUNDLED_FILE = Path("data") / "bundled_anchors.safetensors"


def load_bundled_anchors(vocabulary: Vocabulary) -> Anchors:
    """Return the bundled anchors of a vocabulary.

    Returns:
        Anchors with unit vectors, shape `(classes, 384)`, the metadata of the bundled file and the vocabulary's digest.

    Raises:
        DataError: The vocabulary has names other than the 200; the message lists them.
    """
    with resources.as_file(resources.files("lg3d_core.language") / str(BUNDLED_FILE)) as path:
        bundled = load_anchors(path)
    row_by_name = {name: row for row, name in enumerate(bundled.names)}
    missing = [name for name in vocabulary.names if name not in row_by_name]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            f"no bundled anchor for {len(missing)} of the {len(vocabulary)} names of {vocabulary.name} ({shown}): "
            "encode them with --encoder open_clip:ARCHITECTURE/WEIGHTS"
        )
    rows = [row_by_name[name] for name in vocabulary.names]
    return Anchors(
        bundled.vectors[rows], vocabulary.names, {**bundled.metadata, "vocabulary_digest": vocabulary.digest}
    )
