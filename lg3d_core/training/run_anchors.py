"""Text anchors that fit a training run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.language.anchors_file import Anchors, find_equal, load_anchors, require_vocabulary
from lg3d_core.language.class_texts import TEXTS_KEY
from lg3d_core.networks.checkpoint import TrainedVocabulary
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.vocabulary import Vocabulary


def describe_anchors(anchors: Anchors) -> dict[str, str]:
    """Return the metadata of anchors for the card of a run, without the texts of every class."""
    return {key: value for key, value in anchors.metadata.items() if key != TEXTS_KEY}


def load_all_anchors(
    settings: PretrainSettings | FinetuneSettings, network: MinkUNet, vocabularies: Sequence[Vocabulary]
) -> list[Anchors]:
    """Load the anchors of every store of a run.

    Raises:
        DataError: Anchors are missing, damaged, of another vocabulary, have two equal rows, or are not in the space of
            the first ones: made by another encoder, or projected differently.
        SettingsError: Anchors have another width than the network's features.
    """
    paths = (settings.anchors, *settings.also_anchors)
    found = [
        _load_fitting_anchors(path, settings, network, vocabulary)
        for vocabulary, path in zip(vocabularies, paths, strict=True)
    ]
    for anchors, path in zip(found[1:], paths[1:], strict=True):
        difference = find_difference(found[0], anchors)
        if difference:
            raise DataError(
                f"{path} and {paths[0]} are not in one space ({difference}): run lg3d anchors --like {paths[0]} "
                f"--anchors {path} with the vocabulary of its store"
            )
    return found


def find_difference(first: Anchors, other: Anchors) -> str:
    """Return why vectors of two sets of anchors cannot be compared; empty if they can."""
    for key in ("encoder", "weights"):
        if first.metadata[key] != other.metadata[key]:
            return f"{key} {other.metadata[key]!r} instead of {first.metadata[key]!r}"
    one, two = first.projection, other.projection
    unknown = any(own.projection is None and own.metadata["projection"] != "none" for own in (first, other))
    if unknown or (one is None) != (two is None) or first.dim != other.dim:
        return f"projection {other.metadata['projection']!r} instead of {first.metadata['projection']!r}"
    if one is not None and two is not None:
        same = one.matrix.shape == two.matrix.shape and np.array_equal(one.matrix, two.matrix)
        if not (same and np.array_equal(one.mean, two.mean)):
            return "their projections were fitted to different classes"
    return ""


def trained_vocabularies(
    vocabularies: Sequence[Vocabulary], anchors: Sequence[Anchors]
) -> tuple[TrainedVocabulary, ...]:
    """Return the vocabularies of joint training for a checkpoint; none for a single vocabulary."""
    if len(anchors) < 2:
        return ()
    return tuple(
        TrainedVocabulary(
            name=vocabulary.name,
            digest=vocabulary.digest,
            num_classes=len(vocabulary),
            anchors_digest=own.digest,
        )
        for vocabulary, own in zip(vocabularies, anchors, strict=True)
    )


def _load_fitting_anchors(
    path: Path, settings: PretrainSettings | FinetuneSettings, network: MinkUNet, vocabulary: Vocabulary
) -> Anchors:
    """Load anchors; narrower ones are padded with zeros to the width of the network's features.

    Raises:
        DataError: The anchors are missing, damaged, of another vocabulary, or have two equal rows.
        SettingsError: The anchors are wider than the network's features, or were projected to fewer dimensions.
    """
    anchors = load_anchors(path)
    require_vocabulary(anchors, vocabulary)
    equal = find_equal(anchors)
    if equal is not None:
        raise DataError(
            f"anchors {path}: {equal[0]!r} and {equal[1]!r} have anchors of the same direction, so these "
            "classes cannot be distinguished: run lg3d anchors with another --encoder or --prompt"
        )
    anchors = anchors.padded(network.num_features)
    if anchors.dim != network.num_features:
        raise SettingsError(
            f"the anchors {path} have {anchors.dim} dimensions, but features of network {settings.network} "
            f"have {network.num_features}: run lg3d anchors --dim {network.num_features}{anchors.encoder_option}"
        )
    return anchors
