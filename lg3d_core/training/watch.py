"""Heartbeats of the processes of a run, and what each process is doing.

A thread in every process sends a heartbeat every second to the store in which `torchrun`'s processes find each other.
Waiting processes can therefore name the process they wait for, and the thread can end a process that hangs.
"""

import datetime
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from lg3d_core.progress import Progress

BEAT_SECONDS = 1.0
"""Seconds between two heartbeats."""
MISSED_BEATS = 3
"""Number of missed heartbeats that identify the lost process, once it is known that one is lost."""
QUIET_SECONDS = (MISSED_BEATS - 0.5) * BEAT_SECONDS
END_SECONDS = 5.0
"""Seconds that a process has to end by itself after another one has reported why the run ends."""
ANSWER_SECONDS = 5.0
"""Seconds that a process waits for an answer of the store before it continues without one."""
PACKAGE = "lg3d_core."
AGAIN = "start the job again to resume from the last checkpoint, or pass --max-restarts to torchrun"


class Sign(NamedTuple):
    """Heartbeat of a process.

    Attributes:
        rank: Rank of the process.
        size: Number of processes.
        host: Name of its machine.
        pid: Process id on that machine.
        beat: Number of heartbeats so far.
        doing: Current activity, in a few words.
        seconds: Seconds since that activity started.
        place: Current position in the code.
        waits: Whether it waits for the others.
    """

    rank: int
    size: int
    host: str
    pid: int
    beat: int
    doing: str
    seconds: float
    place: str
    waits: bool

    @property
    def name(self) -> str:
        """Rank, machine and process id, for messages."""
        return f"process {self.rank} of {self.size} ({self.host}, pid {self.pid})"


class _Activity(NamedTuple):
    """Activity of this process, in a few words, since a time of the monotonic clock."""

    what: str
    since: float
    is_pass: bool


class Watch:
    """Thread that sends heartbeats, checks those of the other processes, and ends this process if it hangs.

    Args:
        connect: Opens a connection to the store, used by the thread alone.
        rank: Rank of this process.
        size: Number of processes.
        patience: Seconds without a heartbeat, or of waiting, after which the run ends.
        passes_wait: Whether forward and backward passes may wait for other processes without a timeout, as with NCCL.
        progress: Receives the reason why this process ends itself.
        end: Ends the process.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        rank: int,
        size: int,
        patience: float,
        passes_wait: bool = False,
        progress: Progress | None = None,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.rank = rank
        self.size = size
        self.patience = patience
        self.passes_wait = passes_wait
        self.progress = progress or Progress()
        self.end = end
        self.reports = False
        """Whether this process reports why the run ends."""
        self.reported_elsewhere = False
        """Whether another process has reported why the run ends."""
        self._connect = connect
        self._doing = _Activity("starting", time.monotonic(), is_pass=False)
        self._waits = 0.0
        self._over = threading.Event()
        self._silence = {other: 0.0 for other in range(size) if other != rank}
        """Seconds without a heartbeat of each other process, while this process was checking."""
        self._looked = 0.0
        self._signs: dict[int, Sign] = {}
        self._main = threading.main_thread().ident
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._run, name="lg3d-watch", daemon=True)

    def start(self) -> None:
        """Start the thread; all processes must be connected."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(BEAT_SECONDS + ANSWER_SECONDS)

    def doing(self, what: str, *, is_pass: bool = False) -> None:
        """Record the current activity of this process.

        Args:
            what: The activity in a few words, for messages.
            is_pass: Whether it is a forward and backward pass.
        """
        self._doing = _Activity(what, time.monotonic(), is_pass)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark this process as waiting for the others while the block runs."""
        self._waits = time.monotonic()
        try:
            yield
        finally:
            self._waits = 0.0
            self._doing = self._doing._replace(since=time.monotonic())

    def describe_loss(self, *, timed_out: bool) -> str:
        """Return why the run ends after PyTorch has lost another process: which one, and its last known activity.

        Args:
            timed_out: Whether waiting for it timed out; otherwise its connection was closed.
        """
        if timed_out:
            return self._describe_late()
        if self.size > 2 and self._thread.is_alive():
            time.sleep(MISSED_BEATS * BEAT_SECONDS)  # by then all remaining processes have sent heartbeats
        silent = self._find_silent(QUIET_SECONDS)
        if self.size == 2:
            silent = [1 - self.rank]
        who = " and ".join(self._last(rank) for rank in silent) or f"another of the {self.size} processes"
        be = "are" if len(silent) > 1 else "is"
        return f"{who} {be} gone; unless the system or a user killed it, its own output has the reason; {AGAIN}"

    def _last(self, rank: int) -> str:
        sign = self._signs.get(rank)
        return f"process {rank} of {self.size}" if sign is None else f"{sign.name}, last seen {sign.doing},"

    def _find_silent(self, seconds: float) -> list[int]:
        """Return the processes without a heartbeat for `seconds`."""
        return [rank for rank, silence in self._silence.items() if silence >= seconds]

    def _describe_late(self) -> str:
        """Describe the process that this one has waited too long for."""
        limit = f"{self.patience:g} s (--rank-timeout)"
        silent = self._find_silent(min(QUIET_SECONDS, self.patience))
        if silent:
            who = " and ".join(self._last(rank) for rank in silent)
            return f"{who} sent no heartbeat for {limit}: it is suspended, or its machine or network is down; {AGAIN}"
        late = [sign for sign in self._signs.values() if not sign.waits] or list(self._signs.values())
        if not late:
            return f"another of the {self.size} processes sent no heartbeat for {limit}; {AGAIN}"
        late.sort(key=lambda sign: -sign.seconds)
        more = f", as do other processes ({len(late)} in all)" if len(late) > 1 else ""
        return (
            f"{late[0].name} keeps the other processes waiting for {limit}: it has been {late[0].doing} for "
            f"{late[0].seconds:.0f} s, in {late[0].place}{more}; {AGAIN}"
        )

    def _run(self) -> None:
        store: Any = None
        beat, ending = 0, 0.0
        with suppress(RuntimeError):
            store = self._connect()
            store.set_timeout(datetime.timedelta(seconds=ANSWER_SECONDS))
        self._looked = time.monotonic()
        while not self._over.wait(BEAT_SECONDS if beat else 0.0):
            beat += 1
            if os.getppid() != self._parent:
                self._parent = os.getppid()
                self.progress.warn("torchrun, which started this process, has ended: stopping")
                os.kill(os.getpid(), signal.SIGTERM)  # the processes agree on a stop, and save
            if store is None:
                continue
            with suppress(RuntimeError):  # the store ends with torchrun, which then ends this process
                store.set(f"sign/{self.rank}", json.dumps(self._sign(beat)))
                self._look(store)
                if not ending and store.check(["report"]):
                    self.reported_elsewhere = not self.reports
                    ending = time.monotonic()
            now = time.monotonic()
            if ending:
                if not self.reports and now - ending > END_SECONDS:
                    self.end(1)
                    return
            elif self._find_silent(self.patience) or self._waits_too_long(now):
                if claim_report(store):
                    self.reports = True
                    self.progress.fatal(self._describe_late())
                self.end(1)
                return

    def _waits_too_long(self, now: float) -> bool:
        since = self._waits
        doing = self._doing
        if not since and self.passes_wait and doing.is_pass:
            since = doing.since
        return since > 0 and now - since >= self.patience

    def _look(self, store: Any) -> None:
        """Read the heartbeats of the others."""
        keys = [f"sign/{rank}" for rank in self._silence]
        if len(self._signs) < len(keys):
            keys = [key for key in keys if store.check([key])]
        signs = [Sign(*json.loads(data)) for data in store.multi_get(keys)] if keys else []
        # If this process was suspended or got no answer itself, it cannot tell whether others were silent.
        now = time.monotonic()
        elapsed, self._looked = min(now - self._looked, 2 * BEAT_SECONDS), now
        for rank in self._silence:
            self._silence[rank] += elapsed
        for sign in signs:
            known = self._signs.get(sign.rank)
            if known is None or known.beat != sign.beat:
                self._silence[sign.rank] = 0.0
            self._signs[sign.rank] = sign

    def _sign(self, beat: int) -> Sign:
        what, since, _ = self._doing
        seconds = round(time.monotonic() - since, 1)
        place = _find_place(self._main)
        return Sign(
            self.rank, self.size, socket.gethostname(), os.getpid(), beat, what, seconds, place, self._waits > 0
        )


def claim_report(store: Any) -> bool:
    """Return whether this process is the first to report why the run ends; also true if the store does not answer."""
    with suppress(RuntimeError):
        store.set_timeout(datetime.timedelta(seconds=ANSWER_SECONDS))
        return int(store.add("report", 1)) == 1
    return True


def _find_place(thread: int | None) -> str:
    """Return the innermost module and line of this package that a thread is executing, else of any module."""
    frame = innermost = sys._current_frames().get(thread or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith(PACKAGE):
        frame = frame.f_back
    frame = frame or innermost
    return "an unknown place" if frame is None else f"{frame.f_globals.get('__name__', '?')}, line {frame.f_lineno}"
