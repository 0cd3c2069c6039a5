"""What several tests share: tiny raw rooms, written once a session."""

import os
import signal
from pathlib import Path

import pytest

from tests import box_rooms

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Tests are the same on every machine: on the CPU, with kernels in Triton interpreted. `make test-gpu` says otherwise.
# Both have to be known before anything loads PyTorch or Triton.
ON_GPU = os.environ.get("LG3D_TEST_GPU") == "1"
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TRITON_INTERPRET"] = "1"

# A job that a shell puts into the background ignores Ctrl-C, and so would every command that a test starts and stops.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not ON_GPU:
        pytest.skip("runs on a GPU only: make test-gpu")


@pytest.fixture(autouse=True)
def _without_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the model of the package, so that tests are the same in a copy with and without one."""
    monkeypatch.setattr("lg3d_core.models.FOLDER", Path(__file__).parent / "no_models")


@pytest.fixture(scope="session")
def raw_rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder with 3 training, 2 validation and 1 test room of boxes. Read only."""
    raw = tmp_path_factory.mktemp("raw")
    box_rooms.write_dataset(raw, train=3, val=2, test=1)
    return raw


@pytest.fixture(scope="session")
def store_path(raw_rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw rooms of boxes as a scene store. Read only."""
    from lg3d_core.progress import Progress
    from lg3d_core.settings import PrepareSettings
    from lg3d_core.store.prepare import prepare as prepare_store

    path = tmp_path_factory.mktemp("store") / "data"
    report = prepare_store(PrepareSettings(raw=raw_rooms, store=path, jobs=1), Progress())
    assert not report.failed
    return path


@pytest.fixture(scope="session")
def furnished_store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three procedural training rooms and one for validation, 20,000 vertices each, as a scene store. Read only."""
    from lg3d_core.progress import Progress
    from lg3d_core.settings import PrepareSettings, RoomsSettings
    from lg3d_core.store.prepare import prepare as prepare_store
    from lg3d_core.synthetic.rooms import rooms as write_rooms

    folder = tmp_path_factory.mktemp("furnished")
    write_rooms(RoomsSettings(out=folder / "raw", scenes=4, vertices=20_000, seed=1, jobs=1), Progress())
    report = prepare_store(PrepareSettings(raw=folder / "raw", store=folder / "data", jobs=1), Progress())
    assert not report.failed
    return folder / "data"


@pytest.fixture(scope="session")
def anchors_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled anchors, 96-d. Read only."""
    from lg3d_core.language.anchors import anchors as make_anchors
    from lg3d_core.progress import Progress
    from lg3d_core.settings import AnchorsSettings

    path = tmp_path_factory.mktemp("anchors") / "anchors.safetensors"
    return make_anchors(AnchorsSettings(anchors=path, encoder="bundled", dim=96), Progress())
