"""User texts in the space of the anchors, encoded with the encoder that made the anchors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import CheckpointError, MissingDependencyError, ShapeError, UsageError
from lg3d_core.language.anchors import encode_names, encode_texts
from lg3d_core.language.anchors_file import Anchors, Projection, fit_projection, removes_mean
from lg3d_core.language.class_texts import TEXTS_KEY, groups_from_json
from lg3d_core.language.encoder_names import EncoderKind, EncoderSpec, find_bundled_encoder, parse_encoder
from lg3d_core.progress import Progress

if TYPE_CHECKING:
    import torch

    from lg3d_core.language.encoders import OpenClipEncoder
    from lg3d_core.language.hugging_face import HuggingFaceEncoder

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

    def read_classes(self, groups: Sequence[Sequence[Sequence[str]]]) -> npt.NDArray[np.float32]:
        """Return one unit vector per class in the space of the anchors, from its texts as in `encode_texts`.

        Raises:
            ShapeError: The projection of a class is zero.
        """
        vectors = encode_texts(self._encoder, groups, Progress())
        return vectors if self._projection is None else self._projection.apply(vectors)

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
    checkpoint_option: str = "--encoder-checkpoint",
) -> QuestionReader:
    """Load the text encoder that made the anchors, and check that it reproduces them.

    Args:
        anchors: Anchors, whose metadata names the encoder.
        encoder: Current location of the encoder, `hf:FOLDER`; None takes it from the metadata.
        checkpoint: Local weights of an open_clip encoder.
        device: Device of the encoder.
        progress: Reports a download.
        checkpoint_option: Option of `checkpoint`, for messages.

    Raises:
        MissingDependencyError: The encoder is not available; the message describes how to install it.
        CheckpointError: The encoder is not that of the anchors, or cannot be read.
        UsageError: `encoder` is not a valid encoder.
    """
    loaded = _load(anchors, encoder, checkpoint, device, progress, checkpoint_option)
    prompts = tuple(anchors.metadata["prompt"].split(" | "))
    projection = anchors.projection
    is_projected = anchors.metadata["projection"] != "none"
    # If the projection is missing (files of older versions), it is computed again from all names.
    num_names = len(anchors.names) if is_projected and projection is None else min(CHECKED_NAMES, len(anchors.names))
    if TEXTS_KEY in anchors.metadata:
        groups = [group[:num_names] for group in groups_from_json(anchors.metadata[TEXTS_KEY])]
        vectors = encode_texts(loaded, groups, Progress())
    else:
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
    anchors: Anchors,
    encoder: str | None,
    checkpoint: Path | None,
    device: "torch.device",
    progress: Progress,
    checkpoint_option: str,
) -> "OpenClipEncoder | HuggingFaceEncoder":
    """Load the encoder in the metadata, or the one that the user passed."""
    spec = _find_recorded(anchors, checkpoint, checkpoint_option) if encoder is None else parse_encoder(encoder)
    if spec.kind is EncoderKind.BUNDLED:
        spec = EncoderSpec(EncoderKind.HUGGING_FACE, str(find_bundled_encoder()), "")
    if spec.kind is EncoderKind.HUGGING_FACE:
        from lg3d_core.language.hugging_face import load_hugging_face

        pooling = anchors.encoder.pooling
        return load_hugging_face(spec.architecture, pooling=pooling, device=device, progress=progress, fallback="")
    from lg3d_core.language.encoders import load_open_clip

    return load_open_clip(
        spec, checkpoint=checkpoint, device=device, progress=progress, option=checkpoint_option, fallback=""
    )


def _find_recorded(anchors: Anchors, checkpoint: Path | None, checkpoint_option: str) -> EncoderSpec:
    """Return the encoder in the metadata.

    Raises:
        MissingDependencyError: It was read from a file or folder that is not known here.
        CheckpointError: It is not one of this version.
    """
    record, made_by = anchors.encoder, anchors.metadata["encoder"]
    if record.kind is None:
        raise CheckpointError(f"the anchors were made by {made_by!r}, which this version cannot run: pass --encoder")
    if record.file and checkpoint is None:
        raise MissingDependencyError(
            f"the anchors were made by {made_by} with weights from {record.file}: pass {checkpoint_option} FILE"
        )
    if record.is_folder and not Path(record.name).is_dir():
        raise MissingDependencyError(
            f"the anchors were made by {made_by} from a folder: pass its path with --encoder hf:FOLDER"
        )
    return EncoderSpec(record.kind, record.name, record.weights)
