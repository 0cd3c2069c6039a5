"""Text encoders: naming them, loading real (tiny) open_clip models from files, and doing without a network."""

import http.server
import json
import socket
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lg3d_core.download import answers
from lg3d_core.errors import CheckpointError, DataError, MissingDependencyError, SettingsError
from lg3d_core.language import Anchors, load_anchors, require_vocabulary
from lg3d_core.language import encoders as encoders_module
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.language.encoder_names import EncoderKind, EncoderSpec, parse_encoder
from lg3d_core.language.encoders import load_open_clip
from lg3d_core.language.questions import open_reader
from lg3d_core.language.torchvision_compatibility import import_open_clip
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from lg3d_core.vocabulary import load_vocabulary
from tests.notes import Notes

CPU = torch.device("cpu")
TEXTS = ["a chair", "a folded chair in a room", "sink"]

IMAGE = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
# The layouts of open_clip's checkpoints: text weights at the top, below `text.`, and with a class token (as CoCa has).
TINY = {
    "lg3d-tiny": {"embed_dim": 24, "vision_cfg": IMAGE, "text_cfg": TEXT},
    "lg3d-tiny-custom": {"embed_dim": 24, "vision_cfg": IMAGE, "text_cfg": TEXT, "custom_text": True},
    "lg3d-tiny-class-token": {
        "embed_dim": 24,
        "vision_cfg": IMAGE,
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True},
        "custom_text": True,
    },
}


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    module = import_open_clip()
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in TINY.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    module.add_model_config(folder)
    return module


def random_model(open_clip, architecture, **options):
    torch.manual_seed(0)
    return open_clip.create_model(architecture, **options).eval()


def reference_features(open_clip, model, architecture):
    with torch.inference_mode():
        features = model.encode_text(open_clip.get_tokenizer(architecture)(TEXTS), normalize=True)
    return features.numpy()


def load(architecture, path, weights="", progress=None):
    spec = EncoderSpec(EncoderKind.OPEN_CLIP, architecture, weights)
    return load_open_clip(spec, checkpoint=path, device=CPU, progress=progress or Progress())


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bundled", ("bundled", "", "")),
        ("open_clip:ViT-B-32/openai", ("open_clip", "ViT-B-32", "openai")),
        ("open_clip:ViT-B/32/openai", ("open_clip", "ViT-B-32", "openai")),
        ("open_clip:RN50", ("open_clip", "RN50", "")),
        ("hf:bert-base-uncased", ("hf", "bert-base-uncased", "")),
        ("hf:/models/mini:lm", ("hf", "/models/mini:lm", "")),
    ],
)
def test_encoders_are_named(text, expected):
    assert parse_encoder(text) == expected


@pytest.mark.parametrize(
    "text", ["", "clip", "open_clip", "open_clip:", "open_clip:/", "hf:", "bundled:x", "bert:base/x"]
)
def test_unknown_encoders_are_refused_with_a_list(text):
    with pytest.raises(SettingsError, match="expected bundled, open_clip:ARCHITECTURE/WEIGHTS, hf:NAME or hf:FOLDER"):
        parse_encoder(text)


def test_an_unknown_architecture_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"nearest in spelling: ViT-B-32"):
        load("vit-b32", None, "openai")
    with pytest.raises(SettingsError, match="such as"):
        load("%%%%%%%%", None, "openai")


def test_an_error_on_unknown_weights_lists_the_known_ones():
    with pytest.raises(SettingsError, match=r"no weights 'nope': expected one of openai, .*--checkpoint FILE"):
        load("ViT-B-32", None, "nope")
    with pytest.raises(SettingsError, match="needs the name of its weights"):
        load("ViT-B-32", None)


# Weights from a file


@pytest.mark.parametrize("architecture", sorted(TINY))
@pytest.mark.parametrize("form", ["safetensors", "state dict", "training checkpoint", "old torch file"])
def test_features_equal_open_clips_own(open_clip, tmp_path, architecture, form):
    model = random_model(open_clip, architecture)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    elif form == "training checkpoint":
        wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": wrapped}, path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=form == "state dict")
    features = load(architecture, path).encode(TEXTS)
    assert features.dtype == np.float32
    assert np.abs(features - reference_features(open_clip, model, architecture)).max() < 1e-6


def test_batches_do_not_change_the_features(open_clip, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(random_model(open_clip, "lg3d-tiny").state_dict(), path)
    encoder = load("lg3d-tiny", path)
    at_once = encoder.encode(TEXTS)
    monkeypatch.setattr(encoders_module, "BATCH_SIZE", 2)
    assert np.abs(encoder.encode(TEXTS) - at_once).max() < 1e-6


def test_the_tag_of_the_weights_decides_on_the_activation(open_clip, tmp_path, monkeypatch):
    """OpenAI's weights need QuickGELU; open_clip itself only warns when the architecture does not say so."""
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: {"quick_gelu": True} if tag == "quick" else {})
    quick = random_model(open_clip, "lg3d-tiny", force_quick_gelu=True)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(quick.state_dict(), path)
    expected = reference_features(open_clip, quick, "lg3d-tiny")
    assert np.abs(load("lg3d-tiny", path, "quick").encode(TEXTS) - expected).max() < 1e-6
    assert np.abs(load("lg3d-tiny", path, "plain").encode(TEXTS) - expected).max() > 1e-5


def test_openais_weights_are_known_to_need_quick_gelu(open_clip):
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"] is True


def test_a_file_of_another_architecture_is_refused(open_clip, tmp_path):
    state = random_model(open_clip, "lg3d-tiny").state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({key: value for key, value in state.items() if "resblocks.1" not in key}, path)
    with pytest.raises(CheckpointError, match=r"text weights are missing, first transformer\.resblocks\.1"):
        load("lg3d-tiny", path)
    safetensors.torch.save_file({**state, "ln_final.weight": torch.ones(7)}, path)
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is \(7,\) instead of \(32,\)"):
        load("lg3d-tiny", path)
    safetensors.torch.save_file({**state, "ln_final.weight": torch.full((32,), torch.nan)}, path)
    with pytest.raises(CheckpointError, match=r"not finite, first in ln_final\.weight"):
        load("lg3d-tiny", path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 nor these"])
@pytest.mark.usefixtures("open_clip")
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load("lg3d-tiny", tmp_path / name)


def test_a_truncated_checkpoint_is_refused(open_clip, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(random_model(open_clip, "lg3d-tiny").state_dict(), path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load("lg3d-tiny", path)


@pytest.mark.usefixtures("open_clip")
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (proof,))

    torch.save({"token_embedding.weight": Malicious()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load("lg3d-tiny", tmp_path / "weights.pt")
    assert not proof.exists()


def test_a_torchscript_archive_is_refused_with_the_conversion(open_clip, tmp_path):
    """The form of OpenAI's first release; such an archive holds code."""
    assert open_clip
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("weights/constants.pkl", b"")
        archive.writestr("weights/data.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load("lg3d-tiny", tmp_path / "weights.pt")


@pytest.mark.parametrize("stored", [[1, 2], {}, {"state_dict": {}}])
@pytest.mark.usefixtures("open_clip")
def test_a_file_without_weights_is_refused(tmp_path, stored):
    torch.save(stored, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="contains no weights"):
        load("lg3d-tiny", tmp_path / "weights.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such file"):
        load("ViT-B-32", tmp_path / "absent.pt")


def test_a_tokenizer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(encoders_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install transformers"):
        load("ViT-B-16-SigLIP", None, "webli")


def test_a_missing_open_clip_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match="pip install open_clip_torch"):
        import_open_clip()


# The network


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A machine without cached weights, and free to use the network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return cache


@pytest.fixture
def deaf_port():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def web_site():
    """A site that answers every request with 404, as the hub does at paths it does not know."""

    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *arguments):
            del arguments

    server = http.server.HTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("empty_cache")
def test_offline_fails_at_once_with_advice(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    with pytest.raises(MissingDependencyError, match=r"HF_HUB_OFFLINE is set.*--checkpoint FILE.*--encoder bundled"):
        load("ViT-B-32", None, "openai")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("option", ["--encoder-checkpoint", "--checkpoint"])
@pytest.mark.usefixtures("empty_cache")
def test_the_encoder_of_anchors_is_missed_with_the_option_of_the_command(monkeypatch, option):
    """`lg3d ask` and `lg3d anchors --like` name the file differently, and neither can use another encoder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    metadata = {"encoder": "open_clip:ViT-B-32", "prompt": "{}", "vocabulary_digest": "", "projection": "none"}
    for weights, message in (
        ("openai from local.pt", f"with weights from local.pt: pass {option} FILE$"),
        ("openai", f"HF_HUB_OFFLINE is set: pass the weights with {option} FILE$"),
    ):
        anchors = Anchors(np.eye(3, dtype=np.float32), ("a", "b", "c"), metadata | {"weights": weights})
        with pytest.raises(MissingDependencyError, match=message):
            open_reader(
                anchors, encoder=None, checkpoint=None, device=CPU, progress=Progress(), checkpoint_option=option
            )


@pytest.mark.parametrize("port", ["closed_port", "deaf_port"])
@pytest.mark.usefixtures("empty_cache")
def test_no_network_fails_within_seconds_with_advice(monkeypatch, request, port):
    site = f"http://127.0.0.1:{request.getfixturevalue(port)}"
    monkeypatch.setenv("HF_ENDPOINT", site)
    monkeypatch.setattr(encoders_module, "PROBE_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(MissingDependencyError, match=r"does not answer: .*--checkpoint FILE.*--encoder bundled"):
        load("ViT-B-32", None, "openai")
    assert time.monotonic() - start < 5


def test_any_response_counts_as_an_answer_of_a_site(web_site, closed_port, deaf_port):
    assert answers(web_site, seconds=3)
    assert not answers(f"http://127.0.0.1:{closed_port}", seconds=3)
    assert not answers(f"http://127.0.0.1:{deaf_port}", seconds=0.2)
    assert not answers("no address at all", seconds=3)


@pytest.fixture
def tiny_tag(open_clip, monkeypatch):
    """`lg3d-tiny/tag`, as if its weights lay on the hub."""
    tag = {"hf_hub": "someone/tiny/"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, name: tag if name == "tag" else {})
    return tag


@pytest.mark.usefixtures("tiny_tag")
def test_weights_in_the_cache_need_no_network(open_clip, empty_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = empty_cache / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    model = random_model(open_clip, "lg3d-tiny")
    safetensors.torch.save_file(model.state_dict(), repository / "snapshots" / "abc" / "open_clip_model.safetensors")
    features = load("lg3d-tiny", None, "tag").encode(TEXTS)
    assert np.abs(features - reference_features(open_clip, model, "lg3d-tiny")).max() < 1e-6


@pytest.mark.usefixtures("empty_cache", "tiny_tag")
def test_weights_are_downloaded_where_there_is_a_network(open_clip, web_site, tmp_path, monkeypatch):
    path = tmp_path / "downloaded.safetensors"
    safetensors.torch.save_file(random_model(open_clip, "lg3d-tiny").state_dict(), path)
    monkeypatch.setenv("HF_ENDPOINT", web_site)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))
    progress = Notes()
    assert load("lg3d-tiny", None, "tag", progress).weights == "tag"
    assert progress.notes == ["downloading the weights lg3d-tiny/tag"]


@pytest.mark.usefixtures("empty_cache", "tiny_tag")
def test_a_failed_download_is_one_line(open_clip, web_site, monkeypatch):
    def fail(_):
        raise FileNotFoundError("Failed to download file\nwith a long story")

    monkeypatch.setenv("HF_ENDPOINT", web_site)
    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(MissingDependencyError, match=r"could not be downloaded \(Failed to download file\): pass"):
        load("lg3d-tiny", None, "tag")


@pytest.mark.usefixtures("empty_cache")
def test_weights_by_address_are_looked_for_in_their_own_cache(tmp_path):
    tag = {"url": "https://example.invalid/rn50.pt"}
    assert encoders_module._cached_weights(tag) is None
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "rn50.pt").touch()
    assert encoders_module._cached_weights(tag) == tmp_path / ".cache" / "clip" / "rn50.pt"


# The whole command


@pytest.fixture(scope="module")
def tiny_checkpoint(open_clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.torch.save_file(random_model(open_clip, "lg3d-tiny").state_dict(), path)
    return path


def test_anchors_average_the_unit_features_of_the_prompts(tmp_path, tiny_checkpoint):
    prompts = ("{}", "a photo of a {} in a room")
    out = tmp_path / "a.safetensors"
    progress = Notes()
    settings = AnchorsSettings(
        anchors=out,
        encoder="open_clip:lg3d-tiny/mine",
        checkpoint=tiny_checkpoint,
        vocabulary="scannet20",
        prompt=prompts,
        device="cpu",
    )
    assert make_anchors(settings, progress) == out
    anchors, vocabulary = load_anchors(out), load_vocabulary("scannet20")
    require_vocabulary(anchors, vocabulary)
    encoder = load("lg3d-tiny", tiny_checkpoint)
    total = sum(encoder.encode([prompt.format(name) for name in vocabulary.names]) for prompt in prompts)
    assert np.abs(anchors.vectors - total / np.linalg.norm(total, axis=1, keepdims=True)).max() < 1e-6
    assert anchors.metadata["weights"] == "mine from tiny.safetensors"
    assert anchors.metadata["prompt"] == "{} | a photo of a {} in a room"
    assert progress.notes == ["20 anchors of width 24 by open_clip:lg3d-tiny (projection: none)"]


@pytest.mark.parametrize(
    ("dim", "projection"),
    [(8, "svd about the origin, 24 -> 8"), (22, "svd about the origin, 24 -> 20, zero-padded -> 22")],
)
def test_anchors_take_the_wanted_width(tmp_path, tiny_checkpoint, dim, projection):
    out = tmp_path / "a.safetensors"
    make_anchors(
        AnchorsSettings(
            anchors=out,
            encoder="open_clip:lg3d-tiny",
            checkpoint=tiny_checkpoint,
            vocabulary="scannet20",
            dim=dim,
        ),
        Progress(),
    )
    anchors = load_anchors(out)
    assert anchors.dim == dim
    assert anchors.metadata["projection"] == projection


def test_bundled_anchors_take_the_wanted_width(tmp_path):
    out = tmp_path / "a.safetensors"
    make_anchors(AnchorsSettings(anchors=out, encoder="bundled", dim=512), Progress())
    anchors = load_anchors(out)
    assert anchors.vectors.shape == (200, 512)
    assert not anchors.vectors[:, 384:].any()
    assert anchors.metadata["projection"] == "zero-padded 384 -> 512"


def test_options_that_do_not_go_together_are_refused(tmp_path, monkeypatch):
    def make(**options):
        make_anchors(AnchorsSettings(anchors=tmp_path / "a.safetensors", **options), Progress())

    with pytest.raises(SettingsError, match="not bundled"):
        make(encoder="bundled", checkpoint=tmp_path / "x.pt")
    with pytest.raises(SettingsError, match="was made with the prompt"):
        make(encoder="bundled", prompt=("a {}",))
    with pytest.raises(DataError, match="no vocabulary"):
        make(encoder="bundled", vocabulary="absent.tsv")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="--device cuda"):
        make(encoder="open_clip:ViT-B-32/openai", device="cuda")
    assert not list(tmp_path.iterdir())
