"""Text encoders of Hugging Face, such as BERT, GPT-2 and MiniLM, by name or from a folder."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
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
from lg3d_core.language.encoder_names import FALLBACK, UNNAMED
from lg3d_core.language.torchvision_compatibility import import_torchvision
from lg3d_core.progress import Progress
from lg3d_core.settings import Pooling

BATCH_SIZE = 64
# A site that has not answered by then counts as unreachable; without this check, a download retries for a minute.
PROBE_SECONDS = 3.0
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
ADVICE = "pass its folder as --encoder hf:FOLDER"


class HuggingFaceEncoder:
    """Text model with its tokenizer, frozen, in float32, whose last hidden states are pooled to one feature."""

    def __init__(
        self, name: str, weights: str, model: nn.Module, tokenizer: Any, *, pooling: Pooling, device: torch.device
    ) -> None:
        self.encoder = f"hf:{name}, {pooling} pooling"
        self.weights = weights
        self._model = model.float().to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._device = device

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts, shape `(texts, D)`, float32.

        Raises:
            UsageError: A text has no tokens, or a feature is not finite.
        """
        features = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_SIZE):
                batch = list(texts[start : start + BATCH_SIZE])
                tokens = self._tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(self._device)
                mask = tokens["attention_mask"]
                if not mask.any(dim=1).all():
                    empty = batch[int((~mask.any(dim=1)).nonzero()[0])]
                    raise UsageError(f"--encoder {self.encoder}: the text {empty!r} has no tokens")
                hidden = self._model(**tokens).last_hidden_state.float()
                pooled = pool_hidden_states(hidden, mask, pooling=self._pooling)
                features.append(nn.functional.normalize(pooled, dim=-1).cpu())
        return torch.cat(features).numpy().astype(np.float32, copy=False)


def pool_hidden_states(hidden: Tensor, mask: Tensor, *, pooling: Pooling) -> Tensor:
    """Return one feature per text, shape `(texts, D)`.

    Args:
        hidden: Last hidden states, shape `(texts, tokens, D)`.
        mask: 1 for the tokens of a text, 0 for padding, shape `(texts, tokens)`.
        pooling: `mean` averages over all tokens of a text, including special ones, as sentence encoders are trained;
            `end-of-text` takes the last token, the only one in a causal model (GPT-2) that depends on the whole text.
    """
    if pooling == "mean":
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    places = torch.arange(mask.shape[1], device=mask.device) * (mask > 0)
    return hidden[torch.arange(len(hidden), device=hidden.device), places.argmax(dim=1)]


def load_hugging_face(
    name: str, *, pooling: Pooling, device: torch.device, progress: Progress, fallback: str = FALLBACK
) -> HuggingFaceEncoder:
    """Load a text model and its tokenizer from a folder, from the local cache, or from the hub.

    Code that comes with a model is never executed.

    Args:
        name: Folder with a model, or name on the hub.
        pooling: See `pool_hidden_states`.
        device: Device of the encoder.
        progress: Reports a download.
        fallback: End of messages about a missing encoder.

    Raises:
        CheckpointError: The folder or model does not exist, cannot be read, or is not a text model.
        MissingDependencyError: `transformers` is missing, or the model is neither cached nor downloadable.
    """
    transformers = import_transformers(fallback=fallback)
    folder = Path(name).expanduser()
    if folder.is_dir():
        source, local = str(folder.resolve()), True
        named = folder.resolve().name
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"--encoder hf:{name}: no such folder")
    else:
        source, local, named = name, _is_cached(name), name
        if not local:
            _require_hub(name, fallback)
            progress.note(f"downloading {name}")
    model, tokenizer = _read(transformers, name, source, local=local, advice=ADVICE + fallback)
    if folder.is_dir():
        weights = _describe_weights(folder)
    else:
        weights = f"{name} at {getattr(model.config, '_commit_hash', None) or 'an unknown revision'}"
    if tokenizer.pad_token is None:  # GPT-2 has none; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return HuggingFaceEncoder(named, weights, model, tokenizer, pooling=pooling, device=device)


def import_transformers(*, fallback: str = FALLBACK) -> ModuleType:
    """Import `transformers`.

    Args:
        fallback: End of the message about a missing package.

    Raises:
        MissingDependencyError: `transformers` is not installed, or cannot be imported.
    """
    with suppress(ImportError):  # transformers works without torchvision, but not with one that fails to import
        import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"text models of Hugging Face need transformers ({error}): pip install 'lg3d[text]' or pip install "
            f"transformers{fallback}"
        ) from None
    module: ModuleType = transformers
    return module


def _read(transformers: ModuleType, name: str, source: str, *, local: bool, advice: str) -> tuple[nn.Module, Any]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            if getattr(config, "is_encoder_decoder", False) or hasattr(config, "vision_config"):
                raise CheckpointError(
                    f"--encoder hf:{name} is a {config.model_type} model: expected a plain text model, such as BERT, "
                    "GPT-2 or MiniLM; for CLIP pass open_clip:ARCHITECTURE/WEIGHTS"
                )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
            model = transformers.AutoModel.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"--encoder hf:{name} cannot be read ({first_line(error)}): {advice}") from None
    finally:
        transformers.logging.set_verbosity(level)
    return model, tokenizer


def _describe_weights(folder: Path) -> str:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                return f"{name} sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    return UNNAMED


def _is_cached(name: str) -> bool:
    """Return whether the local cache holds the configuration and weights of a model."""
    try:
        found = [huggingface_hub.try_to_load_from_cache(name, file) for file in ("config.json", *WEIGHT_FILES)]
    except huggingface_hub.errors.HFValidationError as error:
        raise CheckpointError(f"--encoder hf:{name} is neither a folder nor a name on the hub: {error}") from None
    return isinstance(found[0], str) and any(isinstance(path, str) for path in found[1:])


def _require_hub(name: str, fallback: str) -> None:
    if is_offline():
        raise MissingDependencyError(f"{name} is not on this machine and HF_HUB_OFFLINE is set: {ADVICE}{fallback}")
    site = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not answers(site, seconds=PROBE_SECONDS):
        raise MissingDependencyError(f"{name} is not on this machine and {site} does not answer: {ADVICE}{fallback}")
