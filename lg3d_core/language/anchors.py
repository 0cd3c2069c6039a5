"""`lg3d anchors`: a file of text anchors from class names. Torch is imported only when a text encoder runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import UsageError
from lg3d_core.language.anchors_file import (
    Anchors,
    describe_projection,
    find_equal,
    fit_projection,
    project_anchors,
    save_anchors,
)
from lg3d_core.language.bundled import load_bundled_anchors
from lg3d_core.language.encoder_names import EncoderKind, EncoderSpec, parse_encoder
from lg3d_core.language.prompts import fill_prompts
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    import torch

    from lg3d_core.language.encoders import OpenClipEncoder
    from lg3d_core.language.hugging_face import HuggingFaceEncoder


def anchors(settings: AnchorsSettings, progress: Progress) -> Path:
    """Encode the class names of a vocabulary, project the features to the requested width, and write the anchors.

    The features of several prompts are averaged as unit vectors, and the average is normalised again.

    Returns:
        Path of the written file.

    Raises:
        UsageError: The encoder does not exist, or options cannot be combined.
        CheckpointError: The checkpoint of a text encoder cannot be used.
        MissingDependencyError: Weights or packages are not available.
        DataError: The vocabulary cannot be read, names lack a bundled anchor, or the file cannot be written.
    """
    vocabulary = load_vocabulary(settings.vocabulary)
    spec = parse_encoder(settings.encoder)
    if settings.pooling is not None and spec.kind is not EncoderKind.HUGGING_FACE:
        raise UsageError("--pooling requires --encoder hf:NAME: other encoders have a fixed pooling")
    source = (
        _bundled(settings, vocabulary)
        if spec.kind is EncoderKind.BUNDLED
        else _encoded(settings, spec, vocabulary, progress)
    )
    dim = settings.dim or source.dim
    projection = describe_projection(len(vocabulary), source.dim, dim, centred=settings.centred)
    vectors = project_anchors(source.vectors, dim, centred=settings.centred)
    way = None if projection == "none" else fit_projection(source.vectors, dim, centred=settings.centred)
    metadata = {**source.metadata, "projection": projection}
    if settings.shuffled is not None:
        vectors = shuffle_anchors(vectors, seed=settings.shuffled)
        metadata["shuffled"] = str(settings.shuffled)
    made = Anchors(vectors, source.names, metadata, way)
    equal = find_equal(made)
    if equal is not None:
        progress.warn(
            f"the anchors of {equal[0]!r} and {equal[1]!r} have the same direction, and training rejects them: pass "
            "another --encoder or --prompt, or a larger --dim"
        )
    save_anchors(settings.anchors, made)
    progress.note(
        f"{len(vocabulary)} anchors of width {dim} by {source.metadata['encoder']} (projection: {projection})"
    )
    return settings.anchors


def shuffle_anchors(vectors: npt.NDArray[np.float32], *, seed: int) -> npt.NDArray[np.float32]:
    """Return the same anchors in another order, in which no class keeps its own (for two or more classes)."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = np.empty_like(vectors)
    shuffled[order] = vectors[np.roll(order, 1)]
    return shuffled


def encode_names(
    encoder: "OpenClipEncoder | HuggingFaceEncoder",
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Return one unit vector per name, averaged over the prompts, shape `(names, D)`, float32."""
    texts = fill_prompts(names, prompts)
    with progress.task("encoding class names", total=len(texts), unit="prompt") as task:
        total = np.zeros(0)
        for prompt, filled in zip(prompts, texts, strict=True):
            features = encoder.encode(filled).astype(np.float64)
            total = features if total.size == 0 else total + features
            task.advance(status=prompt)
    vectors: npt.NDArray[np.float32] = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def _bundled(settings: AnchorsSettings, vocabulary: Vocabulary) -> Anchors:
    if settings.checkpoint is not None:
        raise UsageError("--checkpoint requires --encoder open_clip:ARCHITECTURE/WEIGHTS, not bundled")
    anchors = load_bundled_anchors(vocabulary)
    if settings.prompt != (anchors.metadata["prompt"],):
        raise UsageError(
            f"--encoder bundled was made with the prompt {anchors.metadata['prompt']!r}: omit --prompt, "
            "or pass an encoder that uses it (--encoder open_clip:ARCHITECTURE/WEIGHTS)"
        )
    return anchors


def _encoded(settings: AnchorsSettings, spec: EncoderSpec, vocabulary: Vocabulary, progress: Progress) -> Anchors:
    from lg3d_core.devices import resolve_device  # torch, which takes seconds to load

    device = resolve_device(settings.device)
    encoder = _load_encoder(settings, spec, device, progress)
    vectors = encode_names(encoder, vocabulary.names, settings.prompt, progress)
    metadata = {
        "encoder": encoder.encoder,
        "weights": encoder.weights,
        "prompt": " | ".join(settings.prompt),
        "vocabulary_digest": vocabulary.digest,
        "projection": "none",
    }
    return Anchors(vectors, vocabulary.names, metadata)


def _load_encoder(
    settings: AnchorsSettings, spec: EncoderSpec, device: "torch.device", progress: Progress
) -> "OpenClipEncoder | HuggingFaceEncoder":
    if spec.kind is EncoderKind.HUGGING_FACE:
        if settings.checkpoint is not None:
            raise UsageError("--checkpoint requires open_clip: pass the model's folder as --encoder hf:FOLDER")
        from lg3d_core.language.hugging_face import load_hugging_face

        return load_hugging_face(
            spec.architecture, pooling=settings.pooling or "mean", device=device, progress=progress
        )
    from lg3d_core.language.encoders import load_open_clip

    return load_open_clip(spec, checkpoint=settings.checkpoint, device=device, progress=progress)
