"""Limits of containers and batch jobs, from files as Linux has them in both versions of control groups."""

from pathlib import Path

import pytest

from lg3d_core import control_groups, processes
from lg3d_core.control_groups import core_limits, memory_limits


@pytest.fixture(autouse=True)
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with control groups in neither version."""
    monkeypatch.setattr(control_groups, "MOUNT", tmp_path)
    monkeypatch.setattr(control_groups, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_control_groups_nothing_is_limited() -> None:
    assert list(memory_limits()) == list(core_limits()) == []


def test_a_container_of_version_2_has_its_limits_in_the_mount(mount: Path) -> None:
    statistics = "anon 5\nactive_file 1000\ninactive_file 500\n"
    write(mount, own="0::/\n", memory__max="4000\n", memory__current="3000\n", memory__stat=statistics)
    write(mount, cpu__max="250000 100000\n")
    assert list(memory_limits()) == [(4000, 1500)]  # 3000 used, of them 1500 page cache
    assert list(core_limits()) == [2.5]


def test_a_container_of_version_1_does_not_see_the_path_of_its_group(mount: Path) -> None:
    write(mount, own="3:cpu,cpuacct:/docker/a1\n2:memory:/docker/a1\n1:name=systemd:/\n")
    statistics = "active_file 7\ninactive_file 8\ntotal_active_file 1000\ntotal_inactive_file 500\n"
    write(mount / "memory", memory__limit_in_bytes="4000\n", memory__usage_in_bytes="3000\n", memory__stat=statistics)
    write(mount / "cpu", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    assert list(memory_limits()) == [(4000, 1500)]
    assert list(core_limits()) == [0.5]


def test_a_batch_job_has_the_limits_of_all_groups_above_it(mount: Path) -> None:
    write(mount, own="0::/slurm/job: 7/step\n")
    write(mount / "slurm", memory__max="9000\n", memory__current="6000\n", cpu__max="max 100000\n")
    write(mount / "slurm" / "job: 7", memory__max="4000\n", memory__current="3000\n", cpu__max="200000 100000\n")
    write(mount / "slurm" / "job: 7" / "step", memory__max="max\n", memory__current="3000\n")
    assert list(memory_limits()) == [(9000, 6000), (4000, 3000)]
    assert list(core_limits()) == [2.0]


def test_a_group_without_a_limit_limits_nothing(mount: Path) -> None:
    write(mount, own="0::/\n", memory__max="max\n", memory__current="3000\n", cpu__max="max 100000\n")
    write(mount / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert list(memory_limits()) == list(core_limits()) == []


@pytest.mark.parametrize(("limits", "cores"), [((), 8), ((2.5,), 3), ((0.5,), 1), ((64.0, 4.0), 4), ((64.0,), 8)])
def test_processes_are_counted_within_the_limits(
    limits: tuple[float, ...], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(processes, "core_limits", lambda: iter(limits))
    assert processes.num_cores() == cores
