"""The demo runs the whole pipeline, and says every step as a command that exists."""

from pathlib import Path

import pytest

from lg3d_core.demo import demo as run_demo
from lg3d_core.doctor import doctor as examine_machine
from lg3d_core.settings import COMMANDS, DemoSettings
from lg3d_core.store.scene_store import SceneStore
from tests.notes import Notes

RECIPE = """
network = "14A"
voxel_size = 0.3
batch_size = 3
jobs = 0
epochs = 1
[anchors]
encoder = "bundled"
dim = 96
[finetune]
classifier = "anchors"
"""


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_scores_a_picture_and_a_page(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    notes = Notes()
    settings = DemoSettings(
        out=tmp_path / "demo", recipe=str(tmp_path / "tiny.toml"), scenes=4, vertices=4000, jobs=1, device="cpu"
    )
    outcome = run_demo(settings, notes)
    commands = [line.split()[2] for line in notes.notes if line.startswith("$ lg3d ")]
    assert commands == ["rooms", "prepare", "anchors", "pretrain", "finetune", "eval", "view"]
    assert set(commands) <= set(COMMANDS)
    assert list(outcome.seconds) == commands
    assert outcome.evaluation.num_scenes == len(SceneStore(tmp_path / "demo" / "data").scene_ids("val")) == 1
    assert [path.suffix for path in outcome.files] == [".html", ".png"]
    assert all(path.stat().st_size > 10_000 for path in outcome.files)
    assert set(outcome.to_dict()) == {"scores", "scene", "files", "seconds"}


def test_the_machine_is_described_in_plain_values() -> None:
    facts = examine_machine()
    assert facts["torch"]
    assert all(value is None or isinstance(value, str | int) for value in facts.values())
