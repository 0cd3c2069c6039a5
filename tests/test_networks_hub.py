"""Models by name: download from a local fake of the hub, the list of models, and the upload by a fake client."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch

import lg3d_core as lg3d_library
from lg3d_core.errors import CheckpointError, MissingDependencyError, UsageError
from lg3d_core.inference import push as push_module
from lg3d_core.inference.push import push
from lg3d_core.language import questions
from lg3d_core.models import names
from lg3d_core.models.models import last_score
from lg3d_core.models.models import models as list_models
from lg3d_core.networks.checkpoint import load_tensors, read_info, resolve_checkpoint
from lg3d_core.networks.hub import cached_models, download_checkpoint, parse_hub_name
from lg3d_core.progress import Progress
from lg3d_core.settings import ModelsSettings, PushSettings
from tests import random_checkpoint
from tests.fake_hub import FakeHub, serve_hub
from tests.notes import Notes
from tests.scan_files import furnished_room, points_ply
from tests.test_cli import lg3d
from tests.test_inference_model import WordEncoder, write_grounded

SETTINGS = json.dumps({"store": "/home/me/data", "also_store": ["/home/me/more"], "batch_size": 2})
INFO = dataclasses.replace(random_checkpoint.INFO, epoch=7, settings=SETTINGS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = random_checkpoint.save_random(
        tmp_path_factory.mktemp("runs") / "f" / "checkpoint.safetensors", epoch=7, settings=SETTINGS
    )
    scores = {4: 0.25, 7: 0.5}
    lines = [{"step": epoch, "epoch": epoch, "val_miou_present": score} for epoch, score in scores.items()]
    lines.insert(0, {"step": 1, "epoch": 0, "loss": 2.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path.parent / "metrics.jsonl").write_text(text + '{"step": 5, "val')  # being written
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A local hub, an empty cache, and a network connection to that hub alone."""
    with serve_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


def test_a_name_gives_the_file_with_its_checksum_and_anchors(hub: FakeHub, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    hub.put("me/rooms", "checkpoint.safetensors", content)
    hub.put("me/rooms", "anchors.safetensors", b"anchors")
    hub.put("me/rooms", "pytorch_model.bin", b"a pickle")
    notes = Notes()
    path = resolve_checkpoint(Path("hf:me/rooms"), notes)
    assert path.read_bytes() == content
    assert path.with_name("anchors.safetensors").read_bytes() == b"anchors"
    assert read_info(path) == INFO
    assert notes.notes[0] == f"downloading hf:me/rooms from {hub.address}"
    commit = hub.commit_of("me/rooms", "main")[:12]
    assert notes.notes[1] == f"hf:me/rooms: revision {commit}, sha256 {hashlib.sha256(content).hexdigest()}"
    assert not [request for request in hub.requests if "pytorch_model" in request[1]]


def test_a_cached_file_is_not_downloaded_again_until_it_changes(hub: FakeHub, checkpoint: Path) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    first = download_checkpoint("hf:me/rooms", Progress())
    hub.requests.clear()
    assert download_checkpoint("hf:me/rooms", Progress()) == first
    assert not [request for request in hub.requests if request[0] == "GET"]
    hub.put("me/rooms", "checkpoint.safetensors", b"newer")
    newer = download_checkpoint("hf:me/rooms", Progress())
    assert newer.read_bytes() == b"newer"
    assert newer != first


def test_revisions_are_separate_and_listed(hub: FakeHub, checkpoint: Path) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes() + b" ", revision="v2")
    commit = hub.commit_of("me/rooms", "main")
    assert download_checkpoint("hf:me/rooms@v2", Progress()).read_bytes()[-1:] == b" "
    assert download_checkpoint(f"hf:me/rooms@{commit}", Progress()).read_bytes() == checkpoint.read_bytes()
    assert [model.name for model in cached_models()] == [f"hf:me/rooms@{commit[:12]}", "hf:me/rooms@v2"]


def test_an_offline_machine_uses_the_cache_or_reports_one_line(
    hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    path = download_checkpoint("hf:me/rooms", Progress())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notes = Notes()
    assert download_checkpoint("hf:me/rooms", notes) == path
    assert notes.notes[-1].endswith("not checked for a newer revision")
    with pytest.raises(MissingDependencyError, match="hf:me/other is not in the cache and HF_HUB_OFFLINE is set"):
        download_checkpoint("hf:me/other", Progress())
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    assert download_checkpoint("hf:me/rooms", Progress()) == path
    with pytest.raises(MissingDependencyError, match=r"http://127\.0\.0\.1:9 does not answer: connect to the network"):
        download_checkpoint("hf:me/other", Progress())


def test_a_damaged_file_in_the_cache_is_found(hub: FakeHub, checkpoint: Path) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    path = download_checkpoint("hf:me/rooms", Progress())
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.resolve().write_bytes(blob)
    with pytest.raises(CheckpointError, match=r"is damaged \(sha256 [0-9a-f]{12}\): delete it to download it again"):
        download_checkpoint("hf:me/rooms", Progress())


def test_an_interrupted_download_continues_where_it_stopped(hub: FakeHub, checkpoint: Path) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    hub.cuts = 1
    assert download_checkpoint("hf:me/rooms", Progress()).read_bytes() == checkpoint.read_bytes()
    first, second = hub.ranges
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").partition("-")[0]) <= checkpoint.stat().st_size // 2


def test_a_connection_that_is_lost_for_good_is_one_line(
    hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.HTTPError("connection reset")

    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(CheckpointError, match=r"the transfer failed \(connection reset\): run the command again"):
        download_checkpoint("hf:me/rooms", Progress())


def test_each_refusal_is_one_line(hub: FakeHub) -> None:
    hub.put("me/empty", "README.md", b"")
    hub.put("me/gated", "checkpoint.safetensors", b"")
    hub.gated.add("me/gated")
    for name, message in {
        "hf:me/none": "has no such model, or it is private",
        "hf:me/empty@v9": "there is no revision v9",
        "hf:me/empty": "holds no checkpoint.safetensors: expected a model that lg3d push uploaded",
        "hf:me/gated": "restricts access: request it at",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            download_checkpoint(name, Progress())


@pytest.mark.parametrize("name", ["hf:", "hf:rooms", "hf:a/b/c", "hf:a/b@", "hf:a/..", "hf:me/ro oms", "hf:-a/b"])
def test_invalid_names_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError, match="expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"):
        parse_hub_name(name)


def test_the_library_and_the_commands_accept_a_name(hub: FakeHub, checkpoint: Path, tmp_path: Path) -> None:
    hub.put("me/rooms", "checkpoint.safetensors", checkpoint.read_bytes())
    xyz, rgb, _ = furnished_room()
    points_ply(tmp_path / "room.ply", xyz, rgb)
    model = lg3d_library.load_model("hf:me/rooms", device="cpu")
    assert model.predict(tmp_path / "room.ply").labels.shape == (len(xyz),)
    network = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "cache")}
    done = lg3d("predict", "room.ply", "--checkpoint", "hf:me/rooms", "--format", "txt", cwd=tmp_path, **network)
    assert done.stdout == "room.labelled.txt\n"
    listed = lg3d("models", "--runs", checkpoint.parents[1], cwd=tmp_path, **network).stdout.splitlines()
    assert listed[0].split("\t") == ["model", "MB", "network", "voxels", "classes", "ask", "objects", "epochs", "mIoU"]
    size = f"{checkpoint.stat().st_size / 1e6:.1f}"
    common = [size, "14A", "10 cm", "200 (scannet200)", "-", "-", "7"]
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in listed[1:]}
    assert rows["hf:me/rooms"] == [*common, "-"]
    assert rows[str(checkpoint.parent)] == [*common, "50.0"]
    failed = lg3d("predict", "room.ply", "--checkpoint", "hf:me/none", cwd=tmp_path, code=1, **network)
    assert failed.stderr.count("error") == 1


@pytest.mark.usefixtures("hub")
def test_unreadable_checkpoints_are_left_out_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "checkpoint.safetensors").write_bytes(b"x")
    notes = Notes()
    assert [
        entry for entry in list_models(ModelsSettings(runs=tmp_path / "runs"), notes) if entry.name != "shipped"
    ] == []
    assert len(notes.warnings) == 1
    assert "broken" in notes.warnings[0]


class FakeClient:
    """Client of the hub that records what is uploaded."""

    def __init__(self, **_: object) -> None:
        self.calls: list[tuple[object, ...]] = []
        FakeClient.last = self  # type: ignore[attr-defined]

    def create_repo(self, repository: str, **options: object) -> None:
        self.calls.append(("create", repository, options))

    def create_commit(self, repository: str, operations: list[object], **options: object) -> SimpleNamespace:
        files = {}
        for entry in operations:
            content = entry.path_or_fileobj  # type: ignore[attr-defined]
            files[entry.path_in_repo] = content if isinstance(content, bytes) else Path(content).read_bytes()  # type: ignore[attr-defined]
        self.calls.append(("commit", repository, files, options))
        return SimpleNamespace(commit_url=f"https://hub/{repository}/commit/1")


def test_the_score_of_a_card_is_that_of_the_checkpoints_epoch(checkpoint: Path) -> None:
    run = checkpoint.parent
    assert [last_score(run, epoch=epoch) for epoch in (4, 5, 7)] == [0.25, None, 0.5]
    assert last_score(run) == 0.5


def test_a_score_that_is_not_a_number_is_skipped(tmp_path: Path) -> None:
    scores = ("0.25", "NaN", "Infinity")
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": 1, "val_miou_present": {own}}}\n' for own in scores))
    assert last_score(tmp_path) == 0.25


def test_a_push_uploads_the_checkpoint_and_a_card_in_one_commit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeClient)
    report = push(PushSettings(checkpoint=checkpoint.parent, repository="me/rooms", private=True), Progress())
    assert (report.url, report.name) == ("https://hub/me/rooms/commit/1", "hf:me/rooms")
    (_, _, created), (_, _, files, options) = FakeClient.last.calls  # type: ignore[attr-defined]
    assert created == {"private": True, "exist_ok": True}
    assert options["revision"] is None
    assert list(files) == ["checkpoint.safetensors", "README.md"]
    pushed = tmp_path / "pushed.safetensors"
    pushed.write_bytes(files["checkpoint.safetensors"])
    info, own = read_info(pushed), read_info(checkpoint)
    assert json.loads(info.settings) == {"batch_size": 2}
    assert dataclasses.replace(info, settings=own.settings) == own
    torch.testing.assert_close(load_tensors(pushed), load_tensors(checkpoint), rtol=0, atol=0)
    card = files["README.md"].decode()
    assert "batch_size" in card
    assert "/home/me" not in card
    assert "| validation mIoU, present classes | 50.0 % |" in card
    assert "lg3d predict scan.ply --checkpoint hf:me/rooms" in card
    (tmp_path / "card.md").write_text("# mine")
    settings = PushSettings(checkpoint=checkpoint, repository="me/rooms@v2", card=tmp_path / "card.md")
    assert push(settings, Progress()).name == "hf:me/rooms@v2"
    files, options = FakeClient.last.calls[1][2:]  # type: ignore[attr-defined]
    assert (files["README.md"], options["revision"]) == (b"# mine", "v2")


def test_a_pushed_language_grounded_model_answers_texts(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_load", lambda *_: WordEncoder())
    folder = tmp_path / "run"
    folder.mkdir()
    grounded = write_grounded(folder, anchors_name="mine.safetensors")
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeClient)
    report = push(PushSettings(checkpoint=grounded, repository="me/words"), Progress())
    assert report.files == ("checkpoint.safetensors", "README.md", "anchors.safetensors")
    for name, content in FakeClient.last.calls[1][2].items():  # type: ignore[attr-defined]
        hub.put("me/words", name, content)
    shutil.rmtree(folder)
    xyz, rgb, _ = furnished_room(spacing=0.1)
    match = lg3d_library.load_model("hf:me/words", device="cpu").ask("door", (xyz, rgb))
    assert match.nearest[0] == ("door", pytest.approx(1, abs=1e-3))
    assert match.heat.shape == (len(xyz),)


def test_the_shipped_model_can_be_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grounded = write_grounded(tmp_path)
    monkeypatch.setattr(names, "shipped_checkpoint", lambda: grounded)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeClient)
    report = push(PushSettings(checkpoint=Path("shipped"), repository="me/words"), Progress())
    assert report.files == ("checkpoint.safetensors", "README.md", "anchors.safetensors")


def test_a_push_without_a_token_says_how_to_get_one(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Anonymous(FakeClient):
        def create_repo(self, *_: object, **__: object) -> None:
            raise huggingface_hub.errors.LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub, "HfApi", Anonymous)
    with pytest.raises(MissingDependencyError, match="no access token of Hugging Face: set HF_TOKEN, or run hf auth"):
        push(PushSettings(checkpoint=checkpoint, repository="me/rooms"), Progress())


def test_only_own_checkpoints_are_pushed(checkpoint: Path, tmp_path: Path) -> None:
    assert push_module.CARD_FILE == "README.md"
    torch.save({}, tmp_path / "other.pth")
    for name, message in {
        "hf:me/rooms": "is on the hub already",
        str(tmp_path / "none.safetensors"): "no checkpoint at",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            push(PushSettings(checkpoint=Path(name), repository="me/rooms"), Progress())
    with pytest.raises(UsageError, match="expected hf:OWNER/NAME"):
        push(PushSettings(checkpoint=checkpoint, repository="rooms"), Progress())
