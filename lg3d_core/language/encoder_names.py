"""Values of `--encoder`; separate from the encoders, which import torch."""

from typing import NamedTuple

from lg3d_core.errors import SettingsError

ENCODERS = ("bundled", "open_clip:ARCHITECTURE/WEIGHTS", "hf:NAME", "hf:FOLDER")


class EncoderSpec(NamedTuple):
    """Parsed value of `--encoder`.

    Attributes:
        kind: "bundled", "open_clip" or "hf".
        architecture: Name or folder of the model; "" for bundled.
        weights: Tag of open_clip's pre-trained weights; "" if not specified.
    """

    kind: str
    architecture: str
    weights: str


def parse_encoder(text: str) -> EncoderSpec:
    """Parse `bundled`, `open_clip:ARCHITECTURE/WEIGHTS`, `open_clip:ARCHITECTURE` or `hf:NAME`.

    Raises:
        SettingsError: The value is invalid; the message lists the valid forms.
    """
    if text == "bundled":
        return EncoderSpec("bundled", "", "")
    kind, colon, rest = text.partition(":")
    if kind == "hf" and rest:
        return EncoderSpec("hf", rest, "")
    if kind != "open_clip" or not colon or not rest.strip("/"):
        known = f"{', '.join(ENCODERS[:-1])} or {ENCODERS[-1]}"
        raise SettingsError(
            f"--encoder {text!r}: expected {known}, such as open_clip:ViT-B-32/openai", fields=("encoder",)
        )
    architecture, slash, weights = rest.rpartition("/")
    if not slash:
        return EncoderSpec("open_clip", rest, "")
    return EncoderSpec("open_clip", architecture.replace("/", "-"), weights)
