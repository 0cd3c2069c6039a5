"""`lg3d anchors`: a file of text anchors from class names. Torch is imported only when a text encoder runs."""

import json
from collections.abc import Sequence
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
    load_anchors,
    project_anchors,
    save_anchors,
)
from lg3d_core.language.bundled import BUNDLED_FILE, load_bundled_anchors, load_bundled_file
from lg3d_core.language.class_texts import TEXTS_KEY, choose_texts, groups_from_json
from lg3d_core.language.encoder_names import EncoderKind, EncoderSpec, find_bundled_encoder, parse_encoder
from lg3d_core.language.prompts import fill_prompts
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    import torch

    from lg3d_core.language.encoders import OpenClipEncoder
    from lg3d_core.language.hugging_face import HuggingFaceEncoder


def anchors(settings: AnchorsSettings, progress: Progress) -> Path:
    """Encode the texts of a vocabulary's classes, project the features to the requested width, and write the anchors.

    The features of several texts are averaged as unit vectors, and the average is normalised again.

    Returns:
        Path of the written file.

    Raises:
        UsageError: The encoder does not exist, or options cannot be combined.
        CheckpointError: The checkpoint of a text encoder cannot be used.
        MissingDependencyError: Weights or packages are not available.
        DataError: The vocabulary cannot be read, names lack a bundled anchor, or the file cannot be written.
    """
    vocabulary = load_vocabulary(settings.vocabulary)
    if settings.like is not None:
        return _finish(settings, _encoded_like(settings, settings.like, vocabulary, progress), progress)
    spec = parse_encoder(settings.encoder)
    if settings.pooling is not None and spec.kind is not EncoderKind.HUGGING_FACE:
        raise UsageError("--pooling requires --encoder hf:NAME: other encoders have a fixed pooling")
    source = (
        _bundled(settings, vocabulary)
        if spec.kind is EncoderKind.BUNDLED and settings.prompt_file is None
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
    return _finish(settings, made, progress)


def _finish(settings: AnchorsSettings, made: Anchors, progress: Progress) -> Path:
    """Write anchors, with a warning if two are equal."""
    equal = find_equal(made)
    if equal is not None:
        progress.warn(
            f"the anchors of {equal[0]!r} and {equal[1]!r} have the same direction, and training rejects them: pass "
            "another --encoder or --prompt, or a larger --dim"
        )
    save_anchors(settings.anchors, made)
    progress.note(
        f"{len(made.names)} anchors of width {made.dim} by {made.metadata['encoder']} "
        f"(projection: {made.metadata['projection']})"
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


def encode_texts(
    encoder: "OpenClipEncoder | HuggingFaceEncoder", groups: Sequence[Sequence[Sequence[str]]], progress: Progress
) -> npt.NDArray[np.float32]:
    """Return one unit vector per class, shape `(classes, D)`, float32.

    A class's vector is the mean over groups of the unit-length mean over the texts of a group, normalised.

    Args:
        encoder: Text encoder.
        groups: Texts by group and class, at least one each.
        progress: Reports the encoded texts.
    """
    distinct = list(dict.fromkeys(text for group in groups for texts in group for text in texts))
    with progress.task("encoding texts", total=len(distinct), unit="text") as task:
        features = encoder.encode(distinct).astype(np.float64)
        task.advance(len(distinct))
    row_of = {text: row for row, text in enumerate(distinct)}
    total = np.zeros((len(groups[0]), features.shape[1]))
    for group in groups:
        means = np.stack([features[[row_of[text] for text in texts]].mean(axis=0) for texts in group])
        total += means / np.linalg.norm(means, axis=1, keepdims=True)
    vectors: npt.NDArray[np.float32] = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def _bundled(settings: AnchorsSettings, vocabulary: Vocabulary) -> Anchors:
    if settings.checkpoint is not None:
        raise UsageError("--checkpoint requires --encoder open_clip:ARCHITECTURE/WEIGHTS, not bundled")
    anchors = load_bundled_anchors(vocabulary, settings.texts)
    if settings.prompt != (anchors.metadata["prompt"],):
        raise UsageError(
            f"--encoder bundled was made with the prompt {anchors.metadata['prompt']!r}: omit --prompt, "
            "or pass an encoder that uses it (--encoder open_clip:ARCHITECTURE/WEIGHTS)"
        )
    return anchors


def _encoded_like(settings: AnchorsSettings, path: Path, vocabulary: Vocabulary, progress: Progress) -> Anchors:
    """Return the anchors of a vocabulary in the space of others: with their encoder, templates and projection.

    If the others have all names, their rows are copied, and no encoder is needed.
    """
    like = load_anchors(path)
    own_texts = settings.texts != "names" or settings.prompt_file is not None
    rows = {name: row for row, name in enumerate(like.names)}
    if set(vocabulary.names) <= rows.keys() and not own_texts and settings.prompt == type(settings).prompt:
        metadata = {**like.metadata, "vocabulary_digest": vocabulary.digest}
        chosen = [rows[name] for name in vocabulary.names]
        if TEXTS_KEY in metadata:
            groups = groups_from_json(metadata[TEXTS_KEY])
            metadata[TEXTS_KEY] = json.dumps([[group[row] for row in chosen] for group in groups], ensure_ascii=False)
        return Anchors(like.vectors[chosen], vocabulary.names, metadata, like.projection)
    from lg3d_core.devices import resolve_device  # torch, which takes seconds to load
    from lg3d_core.language.questions import open_reader

    changed = settings.encoder != type(settings).encoder
    reader = open_reader(
        like,
        encoder=settings.encoder if changed else None,
        checkpoint=settings.checkpoint,
        device=resolve_device(settings.device),
        progress=progress,
        checkpoint_option="--checkpoint",
    )
    is_default = settings.prompt == type(settings).prompt
    prompts = tuple(like.metadata["prompt"].split(" | ")) if is_default else settings.prompt
    texts, alone = choose_texts(vocabulary, texts=settings.texts, prompts=prompts, file=settings.prompt_file)
    _warn_of_names(alone, vocabulary, progress)
    metadata = {key: value for key, value in like.metadata.items() if key != TEXTS_KEY}
    metadata |= {"vocabulary_digest": vocabulary.digest, "prompt": " | ".join(texts.templates)}
    if own_texts:
        metadata[TEXTS_KEY] = texts.to_json()
    return Anchors(reader.read_classes(texts.groups), vocabulary.names, metadata, like.projection)


def _warn_of_names(alone: Sequence[str], vocabulary: Vocabulary, progress: Progress) -> None:
    if alone:
        shown = ", ".join(repr(name) for name in alone[:10]) + (", ..." if len(alone) > 10 else "")
        progress.warn(f"{len(alone)} of the {len(vocabulary)} classes have no text but their name: {shown}")


def _encoded(settings: AnchorsSettings, spec: EncoderSpec, vocabulary: Vocabulary, progress: Progress) -> Anchors:
    from lg3d_core.devices import resolve_device  # torch, which takes seconds to load

    device = resolve_device(settings.device)
    encoder = _load_encoder(settings, spec, device, progress)
    metadata = {"encoder": encoder.encoder, "weights": encoder.weights}
    if spec.kind is EncoderKind.BUNDLED:
        metadata = {name: load_bundled_file(BUNDLED_FILE).metadata[name] for name in metadata}
    metadata |= {"vocabulary_digest": vocabulary.digest, "projection": "none"}
    if settings.texts == "names" and settings.prompt_file is None:
        vectors = encode_names(encoder, vocabulary.names, settings.prompt, progress)
        return Anchors(vectors, vocabulary.names, metadata | {"prompt": " | ".join(settings.prompt)})
    texts, alone = choose_texts(vocabulary, texts=settings.texts, prompts=settings.prompt, file=settings.prompt_file)
    _warn_of_names(alone, vocabulary, progress)
    metadata |= {"prompt": " | ".join(texts.templates), TEXTS_KEY: texts.to_json()}
    return Anchors(encode_texts(encoder, texts.groups, progress), vocabulary.names, metadata)


def _load_encoder(
    settings: AnchorsSettings, spec: EncoderSpec, device: "torch.device", progress: Progress
) -> "OpenClipEncoder | HuggingFaceEncoder":
    if spec.kind is EncoderKind.BUNDLED:
        spec = EncoderSpec(EncoderKind.HUGGING_FACE, str(find_bundled_encoder()), "")
    if spec.kind is EncoderKind.HUGGING_FACE:
        if settings.checkpoint is not None:
            raise UsageError("--checkpoint requires open_clip: pass the model's folder as --encoder hf:FOLDER")
        from lg3d_core.language.hugging_face import load_hugging_face

        return load_hugging_face(
            spec.architecture, pooling=settings.pooling or "mean", device=device, progress=progress
        )
    from lg3d_core.language.encoders import load_open_clip

    return load_open_clip(spec, checkpoint=settings.checkpoint, device=device, progress=progress)
