"""What `--encoder` may say. Apart from the encoders themselves, which load torch."""

from typing import NamedTuple

from lg3d_core.errors import SettingsError

ENCODERS = ("bundled", "open_clip:ARCHITECTURE/WEIGHTS")


class EncoderSpec(NamedTuple):
    """What `--encoder` names.

    Attributes:
        kind: "bundled" or "open_clip".
        architecture: Name of the model, "" for bundled.
        weights: Tag of its pre-trained weights; "" where none is given.
    """

    kind: str
    architecture: str
    weights: str


def parse_encoder(text: str) -> EncoderSpec:
    """Take `bundled`, `open_clip:ARCHITECTURE/WEIGHTS` or `open_clip:ARCHITECTURE` apart.

    Raises:
        SettingsError: Anything else; the message lists what exists.
    """
    if text == "bundled":
        return EncoderSpec("bundled", "", "")
    kind, colon, rest = text.partition(":")
    if kind != "open_clip" or not colon or not rest.strip("/"):
        raise SettingsError(f"--encoder {text!r}: expected {' or '.join(ENCODERS)}, such as open_clip:ViT-B-32/openai")
    architecture, slash, weights = rest.rpartition("/")
    if not slash:
        return EncoderSpec("open_clip", rest, "")
    return EncoderSpec("open_clip", architecture.replace("/", "-"), weights)
