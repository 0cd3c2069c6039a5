"""A scene of a store is shown with what there is: a checkpoint or none, a display or none."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, DataError, MissingDependencyError
from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import AskSettings, ViewSettings
from lg3d_core.store import SceneStore
from lg3d_core.viewing import view as show
from lg3d_core.viewing.layers import SceneView
from lg3d_core.vocabulary import load_vocabulary
from tests.notes import Notes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    torch.manual_seed(0)
    vocabulary = load_vocabulary()
    info = CheckpointInfo(
        kind="finetune",
        network="14A",
        num_classes=200,
        voxel_size=0.2,
        vocabulary=vocabulary.name,
        vocabulary_digest=vocabulary.digest,
    )
    save_checkpoint(path, MinkUNet("14A", num_classes=200), info)
    return path


def settings(store: Path, tmp_path: Path, **changes: object) -> ViewSettings:
    values: dict[str, object] = {"scene": "scene9003_00", "store": store, "runs": tmp_path / "none"}
    return ViewSettings(**(values | changes))  # type: ignore[arg-type]


def test_without_a_run_the_page_shows_colours_and_truth(store_path: Path, tmp_path: Path) -> None:
    notes = Notes()
    html = tmp_path / "room.html"
    assert show.view(settings(store_path, tmp_path, html=html), notes) == [html]
    assert any("showing colours and ground truth only" in line for line in notes.messages)


def test_a_checkpoint_adds_the_prediction(store_path: Path, tmp_path: Path, checkpoint: Path) -> None:
    bare, full = tmp_path / "bare.html", tmp_path / "full.html"
    show.view(settings(store_path, tmp_path, html=bare), Progress())
    show.view(settings(store_path, tmp_path, html=full, checkpoint=checkpoint), Progress())
    assert shown_layers(bare) == ["colours", "truth", "instances"]
    assert shown_layers(full) == ["colours", "truth", "prediction", "errors", "confidence", "instances"]


def test_heat_of_texts_becomes_layers(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Stand:
        """Stands for a network and an encoder."""

        def __init__(self, settings: AskSettings, _progress: Progress) -> None:
            asked.append((settings.scan, settings.texts, settings.store))

        def ask(self, texts: tuple[str, ...]) -> list[SimpleNamespace]:
            return [SimpleNamespace(text=text) for text in texts]

        def at_vertices(self, _answer: object) -> np.ndarray:
            return np.full(len(SceneStore(store_path).read("scene9003_00").xyz), 0.25, dtype=np.float32)

    monkeypatch.setattr("lg3d_core.viewing.asked.Conversation", Stand)
    html = tmp_path / "room.html"
    show.view(settings(store_path, tmp_path, html=html, heat=("to sit", "to lie")), Progress())
    assert shown_layers(html) == ["colours", "truth", "instances", "heat-1", "heat-2"]
    assert asked == [("scene9003_00", ("to sit", "to lie"), store_path)]
    notes = Notes()
    show.view(settings(store_path, tmp_path, html=html, heat=("to sit",), augmented=True), notes)
    assert any("--heat is ignored" in line for line in notes.messages)


def test_a_missing_encoder_of_heat_names_the_command_with_the_option(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MissingDependencyError("the encoder is missing: pass --encoder hf:FOLDER")

    monkeypatch.setattr("lg3d_core.viewing.asked.Conversation", refuse)
    with pytest.raises(MissingDependencyError, match=r"^--heat: .*hf:FOLDER \(lg3d ask shows heat too"):
        show.view(settings(store_path, tmp_path, html=tmp_path / "room.html", heat=("to sit",)), Progress())


def shown_layers(page: Path) -> list[str]:
    """The layers that the page's own description lists."""
    _, _, rest = page.read_text().partition('id="description">')
    description = json.loads(rest.partition("</script>")[0])
    return [layer["name"] for layer in description["layers"]]


def test_without_a_display_picture_and_page_go_to_the_working_directory(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "has_display", lambda: False)
    notes = Notes()
    written = show.view(settings(store_path, tmp_path), notes)
    assert [path.name for path in written] == ["scene9003_00.html", "scene9003_00.png"]
    assert any(line.startswith("no display") for line in notes.messages)


def test_with_a_display_a_window_opens_and_nothing_is_written(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SceneView] = []
    monkeypatch.setattr(show, "has_display", lambda: True)
    monkeypatch.setattr(show, "open_window", lambda view, _progress: opened.append(view))
    assert show.view(settings(store_path, tmp_path), Progress()) == []
    assert len(opened) == 1


def test_a_window_that_cannot_open_gives_way_to_the_page(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MissingDependencyError("open3d is not installed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "has_display", lambda: True)
    monkeypatch.setattr(show, "open_window", refuse)
    monkeypatch.setattr(show, "render_picture", refuse)
    notes = Notes()
    assert [path.suffix for path in show.view(settings(store_path, tmp_path), notes)] == [".html"]
    assert "cannot open a window: open3d is not installed" in notes.messages


def test_a_picture_that_cannot_be_drawn_is_an_error_only_where_it_was_asked_for(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MissingDependencyError("open3d is not installed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "has_display", lambda: False)
    monkeypatch.setattr(show, "render_picture", refuse)
    notes = Notes()
    assert [path.suffix for path in show.view(settings(store_path, tmp_path), notes)] == [".html"]
    assert "cannot write a picture: open3d is not installed" in notes.messages
    with pytest.raises(MissingDependencyError):
        show.view(settings(store_path, tmp_path, png=tmp_path / "a.png"), Progress())


def test_what_does_not_exist_is_named(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scene9999_00"):
        show.view(settings(store_path, tmp_path, scene="scene9999_00"), Progress())
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        show.view(settings(store_path, tmp_path, checkpoint=tmp_path / "none.safetensors"), Progress())
