"""The thread that watches the processes of a run: whom it names, and when it ends its own process."""

import datetime
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from lg3d_core.progress import Progress
from lg3d_core.training import watch
from lg3d_core.training.watch import Watch

BEAT = 0.02
PATIENCE = 0.5


class Store:
    """What the watch asks of a store, without a server."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def multi_get(self, keys: list[str]) -> list[str]:
        return [self.values[key] for key in keys]

    def add(self, key: str, amount: int) -> int:
        self.values[key] = self.values.get(key, 0) + amount
        return int(self.values[key])

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        del timeout


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)

    def fatal(self, message: str) -> None:
        self.lines.append(message)


class Processes:
    """Several watches in one process, as if each were in its own."""

    def __init__(self, size: int, **options: Any) -> None:
        self.store = Store()
        self.told = Told()
        self.ended: dict[int, int] = {}
        self.watches = [
            Watch(
                lambda: self.store,
                rank=rank,
                size=size,
                patience=PATIENCE,
                progress=self.told,
                end=lambda code, rank=rank: self.ended.update({rank: code}),
                **options,
            )
            for rank in range(size)
        ]
        for own in self.watches:
            own.start()
        time.sleep(5 * BEAT)

    def wait_for(self, count: int) -> None:
        """Return when so many have ended themselves."""
        deadline = time.monotonic() + 20
        while len(self.ended) < count and time.monotonic() < deadline:
            time.sleep(BEAT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(watch, "QUIET_SECONDS", 10 * BEAT)
    monkeypatch.setattr(watch, "END_SECONDS", 10 * BEAT)


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Processes] = []

    def start(size: int, **options: Any) -> Processes:
        made.append(Processes(size, **options))
        return made[-1]

    yield start
    for processes in made:
        for own in processes.watches:
            own.stop()


def test_waiting_processes_name_the_one_that_hangs_and_all_end(make: Any) -> None:
    """One speaks; the one that hangs, and the other one that waits, end without a word."""
    processes = make(3)
    processes.watches[1].doing("loading scenes")
    with processes.watches[0].waiting(), processes.watches[2].waiting():
        processes.wait_for(3)
    assert processes.ended == {0: 1, 1: 1, 2: 1}
    (line,) = processes.told.lines
    assert line.startswith(
        f"process 1 of 3 ({os.uname().nodename}, pid {os.getpid()}) keeps the other processes waiting for 0.5"
    )
    assert "it has been loading scenes for " in line
    assert "other processes (" not in line


def test_several_that_are_late_are_counted(make: Any) -> None:
    processes = make(3)
    with processes.watches[0].waiting():
        processes.wait_for(3)
    assert ", as do other processes (2 in all)" in processes.told.lines[0]


def test_a_process_without_a_sign_of_life_is_named_although_nobody_waits(make: Any) -> None:
    processes = make(3)
    processes.watches[2].doing("computing step 7 of epoch 2")
    time.sleep(5 * BEAT)
    processes.watches[2].stop()
    processes.wait_for(2)
    assert processes.ended == {0: 1, 1: 1}
    (line,) = processes.told.lines
    assert line.startswith("process 2 of 3 (")
    assert "last seen computing step 7 of epoch 2, sent no heartbeat for 0.5 s (--rank-timeout)" in line


def test_the_one_of_several_that_is_gone_is_named_at_once(make: Any) -> None:
    processes = make(3)
    processes.watches[2].stop()
    time.sleep(12 * BEAT)
    line = processes.watches[0].describe_loss(timed_out=False)
    assert line.startswith("process 2 of 3 (")
    assert "last seen starting, is gone; unless the system or a user killed it" in line


def test_passes_may_be_where_a_process_waits_for_ever(make: Any) -> None:
    """NCCL's collectives belong to passes, and whoever hangs in one of them cannot end by itself."""
    processes = make(2, passes_wait=True)
    processes.watches[0].doing("computing step 1 of epoch 1", is_pass=True)
    processes.wait_for(2)
    assert processes.ended == {0: 1, 1: 1}


def test_passes_alone_may_take_their_time(make: Any) -> None:
    processes = make(2)
    processes.watches[0].doing("computing step 1 of epoch 1", is_pass=True)
    time.sleep(2 * PATIENCE)
    assert processes.ended == {}
    assert processes.told.lines == []


def test_a_process_whose_parent_is_gone_asks_itself_to_stop(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        processes = make(1)
        monkeypatch.setattr(watch.os, "getppid", lambda: 1)
        deadline = time.monotonic() + 10
        while not came and time.monotonic() < deadline:
            time.sleep(BEAT)
        time.sleep(5 * BEAT)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
    assert processes.told.lines == ["torchrun, which started this process, has ended: stopping"]


def test_without_a_store_no_process_is_reported_as_lost() -> None:
    def refuse() -> Store:
        raise RuntimeError("connection refused")

    told = Told()
    alone = Watch(refuse, rank=0, size=2, patience=60, progress=told)
    alone.start()
    time.sleep(5 * BEAT)
    alone.stop()
    assert told.lines == []
    assert alone.describe_loss(timed_out=False).startswith("process 1 of 2 is gone")
