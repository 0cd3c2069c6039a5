"""Limits that a container or batch job sets for its processes, from the control groups of Linux.

A limit of any group above this process applies to it. Files that are missing or have no limit are skipped, so that
nothing is limited on other systems.
"""

import re
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
"""Folder of all groups in version 2; version 1 has a folder per controller in it."""
OWN_GROUPS = Path("/proc/self/cgroup")
"""Lines `number:controllers:path` of the groups of this process; version 2 has one line, without controllers."""
PAGE_CACHE = re.compile(r"^(\w*active_file) (\d+)$", re.MULTILINE)


def memory_limits() -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the used memory of each group in bytes; page cache does not count as used."""
    names = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    for controller, limit_name, usage_name in names:
        for folder in _folders(controller):
            limit, used = _read_integers(folder / limit_name), _read_integers(folder / usage_name)
            if not limit or not used:
                continue
            cache = {name: int(size) for name, size in PAGE_CACHE.findall(_read(folder / "memory.stat"))}
            total = "total_" if "total_active_file" in cache else ""  # in version 1, with the groups below this one
            yield limit[0], used[0] - cache.get(f"{total}active_file", 0) - cache.get(f"{total}inactive_file", 0)


def core_limits() -> Iterator[float]:
    """Yield the number of cores whose time each group may use."""
    for folder in _folders(""):
        yield from _share(_read_integers(folder / "cpu.max"))
    for folder in _folders("cpu"):
        yield from _share(_read_integers(folder / "cpu.cfs_quota_us") + _read_integers(folder / "cpu.cfs_period_us"))


def _share(quota_and_period: list[int]) -> Iterator[float]:
    if len(quota_and_period) == 2 and min(quota_and_period) > 0:  # a quota of -1 is none
        yield quota_and_period[0] / quota_and_period[1]


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those above it; in most containers there is only the mount."""
    mount = MOUNT / controller
    parts: list[str] = []
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            parts = [name for name in path.split("/") if name]
    for depth in range(len(parts) + 1):
        yield mount.joinpath(*parts[:depth])


def _read_integers(path: Path) -> list[int]:
    """Return the numbers in a file; empty if it is missing or holds anything else, such as `max` for no limit."""
    try:
        return [int(word) for word in _read(path).split()]
    except ValueError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
