"""Text encoders of open_clip: locating their weights and encoding texts."""

import difflib
import importlib.util
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import safetensors
import torch
from torch import Tensor, nn

from lg3d_core.download import answers, is_offline
from lg3d_core.errors import CheckpointError, MissingDependencyError, UsageError, first_line
from lg3d_core.language.encoder_names import FALLBACK, UNNAMED, EncoderSpec
from lg3d_core.language.torchvision_compatibility import import_open_clip
from lg3d_core.progress import Progress

BATCH_SIZE = 64
# A site that has not answered by then counts as unreachable; without this check, a download retries for 46 seconds.
PROBE_SECONDS = 3.0
# Only the text side of a model is used, so the image side is built as small as possible.
_NO_IMAGE_SIDE = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 32, "head_width": 32}
# Exceptions of reading a file that is not a checkpoint.
_UNREADABLE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
)


class OpenClipEncoder:
    """Text side of an open_clip model, frozen, in float32."""

    def __init__(self, architecture: str, weights: str, text: nn.Module, tokenizer: Any, device: torch.device) -> None:
        self.encoder = f"open_clip:{architecture}"
        self.weights = weights
        self._text = text.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts, shape `(texts, D)`, float32."""
        features = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_SIZE):
                tokens = self._tokenizer(list(texts[start : start + BATCH_SIZE])).to(self._device)
                features.append(nn.functional.normalize(self._text(tokens).float(), dim=-1).cpu())
        return torch.cat(features).numpy().astype(np.float32, copy=False)


def load_open_clip(
    spec: EncoderSpec,
    *,
    checkpoint: Path | None,
    device: torch.device,
    progress: Progress,
    option: str = "--checkpoint",
    fallback: str = FALLBACK,
) -> OpenClipEncoder:
    """Build the text side of an open_clip model with pre-trained weights.

    The activation follows the tag of the weights: OpenAI's weights need QuickGELU, and give wrong features without it.
    With a checkpoint, the tag only selects the activation: `open_clip:ViT-B-32/openai` with `--checkpoint` reads
    OpenAI's weights from the file.

    Args:
        spec: Architecture and the tag of its weights.
        checkpoint: Local weights (.safetensors, or a state dict saved by `torch.save`) to use instead of a download.
        device: Device of the encoder.
        progress: Reports a download.
        option: Option of `checkpoint`, for messages.
        fallback: End of messages about a missing encoder.

    Raises:
        UsageError: The architecture or its weights do not exist.
        CheckpointError: The file cannot be read, or is of another architecture.
        MissingDependencyError: A package that the architecture needs is missing, or its weights are neither cached nor
            downloadable.
    """
    open_clip = import_open_clip(fallback=fallback)
    config = _read_config(open_clip, spec)
    tag = open_clip.get_pretrained_cfg(spec.architecture, spec.weights) if spec.weights else {}
    if checkpoint is None:
        if not tag:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(spec.architecture)) or "none"
            wanted = f"has no weights {spec.weights!r}" if spec.weights else "needs the name of its weights"
            raise UsageError(f"--encoder: {spec.architecture} {wanted}: expected one of {known}, or {option} FILE")
        path = _find_weights(open_clip, spec, tag, progress, advice=f"pass the weights with {option} FILE{fallback}")
        weights = spec.weights
    else:
        if not checkpoint.is_file():
            raise CheckpointError(f"{option} {checkpoint}: no such file")
        path = checkpoint
        weights = f"{spec.weights or UNNAMED} from {checkpoint.name}"

    text_config = {**config["text_cfg"], "output_tokens": False}
    if "hf_model_name" in text_config:
        text_config["hf_model_pretrained"] = False
    try:
        tokenizer = open_clip.get_tokenizer(spec.architecture)
        model = open_clip.CustomTextCLIP(
            embed_dim=config["embed_dim"],
            vision_cfg=_NO_IMAGE_SIDE,
            text_cfg=text_config,
            quick_gelu=bool(config.get("quick_gelu", False) or tag.get("quick_gelu", False)),
        )
    except ImportError as error:
        raise MissingDependencyError(f"--encoder: {spec.architecture} needs another package ({error})") from None
    _load_text_weights(model.text, path, spec.architecture)
    return OpenClipEncoder(spec.architecture, weights, model.text, tokenizer, device)


def _read_config(open_clip: ModuleType, spec: EncoderSpec) -> dict[str, Any]:
    known: list[str] = open_clip.list_models()
    if spec.architecture not in known:
        by_fold = {name.casefold(): name for name in known}
        close = [by_fold[name] for name in difflib.get_close_matches(spec.architecture.casefold(), by_fold, n=5)]
        hint = f"nearest in spelling: {', '.join(close)}" if close else "such as ViT-B-32, ViT-L-14, RN50"
        raise UsageError(f"--encoder: open_clip has no architecture {spec.architecture!r} ({hint})")
    config: dict[str, Any] = open_clip.get_model_config(spec.architecture)
    text_config = config["text_cfg"]
    needs_transformers = "siglip" in spec.architecture.lower() or "hf_tokenizer_name" in text_config
    if needs_transformers and importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError(
            f"--encoder: {spec.architecture} needs the package transformers: pip install transformers"
        )
    return config


def _find_weights(
    open_clip: ModuleType, spec: EncoderSpec, tag: dict[str, Any], progress: Progress, *, advice: str
) -> Path:
    """Return the path of the weights in the local cache; download them if necessary."""
    cached = _cached_weights(tag)
    if cached is not None:
        return cached
    name = f"{spec.architecture}/{spec.weights}"
    if is_offline():
        raise MissingDependencyError(f"the weights {name} are not on this machine and HF_HUB_OFFLINE is set: {advice}")
    site = os.environ.get("HF_ENDPOINT", "https://huggingface.co") if tag.get("hf_hub") else tag["url"]
    if not answers(site, seconds=PROBE_SECONDS):
        raise MissingDependencyError(f"the weights {name} are not on this machine and {site} does not answer: {advice}")
    progress.note(f"downloading the weights {name}")
    try:
        return Path(open_clip.download_pretrained(tag))
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains Python objects other than tensors, which are never loaded"
        else:
            reason = first_line(error)
        raise MissingDependencyError(f"the weights {name} could not be downloaded ({reason}): {advice}") from None


def _cached_weights(tag: dict[str, Any]) -> Path | None:
    if tag.get("hf_hub"):
        repository, _, file_name = tag["hf_hub"].rpartition("/")
        file_name = file_name or "open_clip_pytorch_model.bin"
        stem = file_name.rpartition(".")[0]
        # In some repositories, the safetensors counterpart of the default file is named `open_clip_model.safetensors`.
        for candidate in ("open_clip_model.safetensors", f"{stem}.safetensors", file_name):
            found = huggingface_hub.try_to_load_from_cache(repository, candidate)
            if isinstance(found, str):
                return Path(found)
        return None
    path = Path("~/.cache/clip").expanduser() / Path(tag["url"]).name
    return path if path.is_file() else None


def _load_text_weights(text: nn.Module, path: Path, architecture: str) -> None:
    weights = _read_text_weights(path)
    own = text.state_dict()
    # Some encoders of older transformers versions stored this; it is not a weight.
    weights.pop("transformer.embeddings.position_ids", None)
    missing = [key for key in own if key not in weights]
    misfits = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if missing or misfits:
        if misfits:
            key = misfits[0]
            detail = f"{key} is {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        else:
            detail = f"{len(missing)} of {len(own)} text weights are missing, first {missing[0]}"
        raise CheckpointError(f"{path} does not fit the text side of {architecture}: {detail}")
    broken = [key for key in own if not torch.isfinite(weights[key]).all()]
    if broken:
        raise CheckpointError(f"{path} contains values that are not finite, first in {broken[0]}")
    text.load_state_dict({key: weights[key] for key in own})


def _read_text_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of the text side by their names within it; other weights are not read if possible."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                names = {_text_name(key): key for key in file.keys()}  # noqa: SIM118 (not a mapping)
                return {name: file.get_tensor(key) for name, key in names.items() if name is not None}
        stored = _read_torch_file(path)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains Python objects other than tensors, which are never loaded"
        else:
            reason = first_line(error)
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from None
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not stored:
        raise CheckpointError(f"{path} contains no weights: expected a state dict, got {type(stored).__name__}")
    named = {_text_name(str(key)): value for key, value in stored.items() if isinstance(value, Tensor)}
    return {name: value for name, value in named.items() if name is not None}


def _read_torch_file(path: Path) -> Any:
    # Files from before PyTorch 1.6 are not zip archives, and cannot be memory-mapped.
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript archive, which contains code and is not loaded: if you trust it, convert "
                    "it once with torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), NEW)"
                )
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


# Prefixes of the text side's weights in the older of open_clip's two layouts.
_TOP_LEVEL = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def _text_name(key: str) -> str | None:
    """Return a stored weight's name within the text side; None for the image side and other weights."""
    key = key.removeprefix("module.")
    if key.startswith("text."):
        return key.removeprefix("text.")
    return key if key.startswith(_TOP_LEVEL) else None
