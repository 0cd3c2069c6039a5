"""Text models of Hugging Face: pooling by hand, a fake at the package's border, and real models, tiny and random."""

import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, MissingDependencyError, SettingsError
from lg3d_core.language import hugging_face, load_anchors
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.language.hugging_face import HuggingFaceEncoder, load_hugging_face, pool_hidden_states
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from tests.notes import Notes

CPU = torch.device("cpu")
TEXTS = ["chair", "office chair", "a folded chair by the wall"]


# Pooling

HIDDEN = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 0.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_the_mean_is_over_a_texts_own_tokens():
    assert pool_hidden_states(HIDDEN, MASK, pooling="mean").tolist() == [[2.0, 1.0], [3.0, 1.0]]


def test_end_of_text_is_the_last_own_token():
    assert pool_hidden_states(HIDDEN, MASK, pooling="end-of-text").tolist() == [[3.0, 2.0], [6.0, 0.0]]


def test_padding_on_either_side_is_left_out():
    left = pool_hidden_states(HIDDEN.flip(1), MASK.flip(1), pooling="mean")
    assert left.tolist() == [[2.0, 1.0], [3.0, 1.0]]
    assert pool_hidden_states(HIDDEN, MASK.flip(1), pooling="end-of-text").tolist() == [[9.0, 9.0], [6.0, 0.0]]


# The package's border, faked


class Tokens(dict):
    def to(self, device):
        del device
        return self


class FakeTokenizer:
    """A token per word: its length. Without a padding token, as GPT-2's."""

    pad_token = None
    eos_token = "<end>"
    padding_side = "left"

    def __call__(self, texts, *, padding, truncation, return_tensors):
        assert (padding, truncation, return_tensors) == (True, True, "pt")
        assert (self.pad_token, self.padding_side) == ("<end>", "right")
        words = [[len(word) for word in text.split()] for text in texts]
        longest = max(map(len, words))
        ids = torch.tensor([row + [99] * (longest - len(row)) for row in words]).reshape(len(words), longest)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in words]).reshape(ids.shape)
        return Tokens(input_ids=ids, attention_mask=mask)


class FakeModel(torch.nn.Module):
    """A token's features are its number and 1."""

    config = types.SimpleNamespace(model_type="fake", _commit_hash="abc123")

    def forward(self, input_ids, attention_mask):
        del attention_mask
        hidden = torch.stack([input_ids.float(), torch.ones(input_ids.shape)], dim=2)
        return types.SimpleNamespace(last_hidden_state=hidden)


@pytest.fixture
def package(monkeypatch):
    """`transformers` with one model of any name; `asked` tells what was loaded, and whether the network was allowed."""
    module = types.ModuleType("transformers")
    module.asked = []
    module.config = FakeModel.config
    module.error = None

    def loader(make):
        def from_pretrained(source, *, local_files_only):
            module.asked.append((source, local_files_only))
            if module.error is not None:
                raise module.error
            return make()

        return types.SimpleNamespace(from_pretrained=from_pretrained)

    module.AutoConfig = loader(lambda: module.config)
    module.AutoTokenizer = loader(FakeTokenizer)
    module.AutoModel = loader(FakeModel)
    module.logging = types.SimpleNamespace(
        get_verbosity=lambda: 30,
        set_verbosity=lambda _: None,
        set_verbosity_error=lambda: None,
        disable_progress_bar=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "cache"


def load(name, *, pooling="mean", progress=None):
    return load_hugging_face(name, pooling=pooling, device=CPU, progress=progress or Progress())


def unit(*rows):
    values = np.array(rows, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_folder_is_read_without_the_network_and_pooled(package, tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "BATCH_SIZE", 2)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    encoder = load(str(tmp_path))
    assert package.asked == [(str(tmp_path), True)] * 3
    assert np.abs(encoder.encode(["a bcd", "efghi", "kl"]) - unit([2, 1], [5, 1], [2, 1])).max() < 1e-6
    assert encoder.encoder == f"hf:{tmp_path.name}, mean pooling"
    assert encoder.weights.startswith("model.safetensors sha256 ")
    last = load(str(tmp_path), pooling="end-of-text")
    assert np.abs(last.encode(["a bcd", "efghi"]) - unit([3, 1], [5, 1])).max() < 1e-6
    with pytest.raises(SettingsError, match="the text '' has no tokens"):
        encoder.encode(["chair", ""])


def test_a_cached_model_needs_no_network(package, empty_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = empty_cache / "models--someone--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / "snapshots" / "abc" / name).touch()
    assert load("someone/small").weights == "someone/small at abc123"
    assert package.asked == [("someone/small", True)] * 3


@pytest.mark.usefixtures("empty_cache")
def test_a_model_is_downloaded_where_there_is_a_network(package, monkeypatch):
    monkeypatch.setattr(hugging_face, "answers", lambda *_, **__: True)
    progress = Notes()
    load("bert-base-uncased", progress=progress)
    assert package.asked == [("bert-base-uncased", False)] * 3
    assert progress.notes == ["downloading bert-base-uncased"]


@pytest.mark.usefixtures("empty_cache", "package")
def test_no_network_fails_within_seconds_with_advice(monkeypatch):
    start = time.monotonic()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingDependencyError, match=r"does not answer: pass its folder as --encoder hf:FOLDER"):
        load("bert-base-uncased")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingDependencyError, match=r"HF_HUB_OFFLINE is set: .*--encoder bundled"):
        load("bert-base-uncased")
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("empty_cache", "package")
@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(CheckpointError, match=f"hf:{name}: no such folder"):
        load(name)


@pytest.mark.usefixtures("empty_cache", "package")
def test_a_name_that_no_hub_knows_is_refused():
    with pytest.raises(CheckpointError, match="neither a folder nor a name on the hub"):
        load("a name with spaces")


def test_an_unreadable_model_gives_a_one_line_error(package, tmp_path):
    package.error = OSError("no file named config.json\nand a long story")
    with pytest.raises(CheckpointError, match=r"cannot be read \(no file named config.json\): pass its folder"):
        load(str(tmp_path))


@pytest.mark.parametrize("extra", [{"is_encoder_decoder": True}, {"vision_config": {}}])
def test_models_of_another_kind_are_refused(package, tmp_path, extra):
    package.config = types.SimpleNamespace(model_type="other", **extra)
    with pytest.raises(CheckpointError, match="is a other model: expected a plain text model"):
        load(str(tmp_path))


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lg3d\[text\]'.*--encoder bundled"):
        load("bert-base-uncased")


@pytest.mark.usefixtures("package")
def test_anchors_are_made_and_projected(tmp_path):
    (tmp_path / "model").mkdir()
    out = tmp_path / "a.safetensors"
    options = {"anchors": out, "vocabulary": "scannet20", "device": "cpu"}
    make_anchors(
        AnchorsSettings(encoder=f"hf:{tmp_path / 'model'}", pooling="end-of-text", dim=3, **options), Progress()
    )
    anchors = load_anchors(out)
    assert anchors.vectors.shape == (20, 3)
    assert anchors.metadata["encoder"] == "hf:model, end-of-text pooling"
    assert anchors.metadata["weights"] == "unnamed"
    row = anchors.names.index("chair")
    assert np.abs(anchors.vectors[row] - np.array([5, 1, 0]) / np.sqrt(26)).max() < 1e-6
    with pytest.raises(SettingsError, match="--checkpoint requires open_clip"):
        make_anchors(AnchorsSettings(encoder="hf:x", checkpoint=tmp_path / "w.pt", **options), Progress())
    with pytest.raises(SettingsError, match="--pooling requires --encoder hf:NAME"):
        make_anchors(AnchorsSettings(encoder="bundled", pooling="mean", **options), Progress())


# Real models, tiny and random

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "by", "chair", "fold", "##ed", "office", "the", "wall"]


def write_bert(folder: Path):
    from transformers import BertConfig, BertModel, BertTokenizer

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)


def write_gpt2(folder: Path):
    from transformers import GPT2Config, GPT2Model, GPT2Tokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({letter: k for k, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    end = len(letters) - 1
    config = GPT2Config(
        vocab_size=len(letters), n_embd=12, n_layer=2, n_head=3, n_positions=64, bos_token_id=end, eos_token_id=end
    )
    GPT2Model(config).save_pretrained(folder)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("write", [write_bert, write_gpt2])
@pytest.mark.parametrize("pooling", ["mean", "end-of-text"])
def test_features_equal_those_of_each_text_alone(write, pooling, tmp_path):
    """One text at a time needs no padding and no mask: a plain mean, or the last token."""
    hugging_face.import_transformers()
    from transformers import AutoModel, AutoTokenizer

    write(tmp_path)
    encoder = load(str(tmp_path), pooling=pooling)
    assert isinstance(encoder, HuggingFaceEncoder)
    features = encoder.encode(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    for text, feature in zip(TEXTS, features, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = hidden.mean(dim=0) if pooling == "mean" else hidden[-1]
        assert np.abs(feature - (expected / expected.norm()).numpy()).max() < 1e-5
    assert len(np.unique(features.round(4), axis=0)) == len(TEXTS)
