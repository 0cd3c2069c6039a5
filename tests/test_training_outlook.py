"""What a run on a CPU says before and after its first step."""

import pytest

from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.outlook import Outlook, format_span
from tests.notes import Notes


def outlook(notes: Notes, *, on_cpu: bool = True, **options: object) -> Outlook:
    settings = FinetuneSettings(**options)  # type: ignore[arg-type]
    return Outlook(settings, steps=400, on_cpu=on_cpu, progress=notes)


def test_a_large_run_on_a_cpu_shows_its_first_step_and_suggests_a_smaller_one() -> None:
    notes = Notes()
    told = outlook(notes, network="34D", voxel_size=0.02)
    told.before_step(scenes=8, voxels=1_234_567)
    told.before_step(scenes=8, voxels=1)  # the first alone
    assert notes.notes == [
        "training 34D with 2 cm voxels on a CPU, 400 steps; computing the first one: 8 scenes, 1,234,567 voxels"
    ]
    told.after_step(seconds=432.0, left=399)  # 399 * 432 / 86400 = 1.995 days
    told.after_step(seconds=432.0, left=398)
    (warning,) = notes.warnings
    assert warning.startswith("the first step took 432 s: the other 399 will take about 2 days on this CPU.")
    assert "--recipe demo" in warning


def test_a_small_run_reports_nothing_unless_it_is_long() -> None:
    notes = Notes()
    told = outlook(notes, network="14A", voxel_size=0.1)
    told.before_step(scenes=2, voxels=1000)
    told.after_step(seconds=0.5, left=399)
    assert notes.notes == notes.warnings == []
    slow = outlook(notes, network="14A", voxel_size=0.1)
    slow.after_step(seconds=60.0, left=399)
    assert "about 7 hours" in notes.warnings[0]  # 399 / 60 = 6.65


def test_a_gpu_is_not_commented_on() -> None:
    notes = Notes()
    told = outlook(notes, on_cpu=False, network="34D", voxel_size=0.02)
    told.before_step(scenes=8, voxels=10)
    told.after_step(seconds=1e4, left=399)
    assert notes.notes == notes.warnings == []


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_run_that_a_model_finds_long_is_announced_before_its_first_step(on_cpu: bool) -> None:
    notes = Notes()
    told = Outlook(
        FinetuneSettings(network="14A", voxel_size=0.1),
        steps=400,
        on_cpu=on_cpu,
        progress=notes,
        model=lambda voxels: (voxels / 1000, 3 << 30),
    )
    told.before_step(scenes=2, voxels=100_000)  # 100 s a step: 40,000 s, 11.1 hours
    told.before_step(scenes=2, voxels=100_000)
    (note,) = notes.notes
    assert note.startswith(
        "400 steps of 14A will take about 11 hours and 3 GiB of memory (estimate); lg3d doctor --plan"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(10, "10 seconds"), (100, "2 minutes"), (6000, "2 hours"), (1e9, "11,574 days")],
)
def test_a_duration_is_formatted_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_span(seconds) == text
