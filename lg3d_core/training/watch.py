"""What the processes of a run tell each other beside the training: that they are alive, and what each is at.

A thread of its own in every process gives a sign of life every second, in the store by which `torchrun` lets processes
find each other. So those that wait can say for whom, and a process that hangs can be ended: it cannot do so itself.
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
"""Between two signs of life."""
MISSED_BEATS = 3
"""So many of them missed tell who is gone, once it is known that somebody is."""
QUIET_SECONDS = (MISSED_BEATS - 0.5) * BEAT_SECONDS
END_SECONDS = 5.0
"""What a process has to end by itself when another one has said why the run ends."""
ANSWER_SECONDS = 5.0
"""How long a process asks the store before it goes on without an answer."""
PACKAGE = "lg3d_core."
AGAIN = "start the job again to go on from the last checkpoint, or give torchrun --max-restarts"


class Sign(NamedTuple):
    """A sign of life.

    Attributes:
        rank: Of the process.
        size: Number of processes.
        host: Its machine.
        pid: On that machine.
        beat: How many signs it gave.
        doing: What it is at, in a few words.
        seconds: For how long.
        place: Where in the code it is.
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
        """Which process it is."""
        return f"process {self.rank} of {self.size} ({self.host}, pid {self.pid})"


class Watch:
    """Gives signs of life, looks for those of the others, and ends this process where it cannot do so itself.

    Args:
        connect: Opens a connection to the store, used by the thread alone.
        rank: Of this process.
        size: Number of processes.
        patience: Seconds without a sign of life, or of waiting, after which the run ends.
        passes_wait: Whether forward and backward passes may wait for others without an end of their own, as with NCCL.
        progress: Told why this process ends itself.
        end: Ends it.
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
        self.speaks = False
        """Whether this process is the one to say why the run ends."""
        self.heard = False
        """Whether another process has said so."""
        self._connect = connect
        self._doing = ("starting", time.monotonic())
        self._waits = 0.0
        self._over = threading.Event()
        self._silence = {other: 0.0 for other in range(size) if other != rank}
        """Seconds for which each of the others gave no sign of life while this process looked for one."""
        self._looked = 0.0
        self._signs: dict[int, Sign] = {}
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="lg3d-watch", daemon=True)

    def start(self) -> None:
        """Begin; all processes are there."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, not the process."""
        self._over.set()
        self._thread.join(BEAT_SECONDS + ANSWER_SECONDS)

    def doing(self, what: str) -> None:
        """Note what this process is at from now on, in a few words."""
        self._doing = (what, time.monotonic())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the block runs, this process waits for the others."""
        self._waits = time.monotonic()
        try:
            yield
        finally:
            self._waits = 0.0
            self._doing = (self._doing[0], time.monotonic())

    def describe_loss(self, *, timed_out: bool) -> str:
        """Why the run ends, once PyTorch has missed another process: which one, and what was last known of it.

        Args:
            timed_out: Whether it was waited for; otherwise its connection is closed.
        """
        if timed_out:
            return self._describe_late()
        if self.size > 2 and self._thread.is_alive():
            time.sleep(MISSED_BEATS * BEAT_SECONDS)  # then those that are left have given signs
        silent = self._find_silent(QUIET_SECONDS)
        if self.size == 2:
            silent = [1 - self.rank]
        who = " and ".join(self._last(rank) for rank in silent) or f"another of the {self.size} processes"
        be = "are" if len(silent) > 1 else "is"
        return f"{who} {be} gone; if the system or a person did not kill it, its own output says why; {AGAIN}"

    def _last(self, rank: int) -> str:
        sign = self._signs.get(rank)
        return f"process {rank} of {self.size}" if sign is None else f"{sign.name}, last seen {sign.doing},"

    def _find_silent(self, seconds: float) -> list[int]:
        """Processes that have given no sign of life for so long."""
        return [rank for rank, silence in self._silence.items() if silence >= seconds]

    def _describe_late(self) -> str:
        """For whom this process has waited too long."""
        limit = f"{self.patience:g} s (--rank-timeout)"
        silent = self._find_silent(min(QUIET_SECONDS, self.patience))
        if silent:
            who = " and ".join(self._last(rank) for rank in silent)
            return f"{who} gave no sign of life for {limit}: it is stopped, or its machine or network is; {AGAIN}"
        late = [sign for sign in self._signs.values() if not sign.waits] or list(self._signs.values())
        if not late:
            return f"another of the {self.size} processes was not heard of for {limit}; {AGAIN}"
        late.sort(key=lambda sign: -sign.seconds)
        more = f", and so have others ({len(late)} in all)" if len(late) > 1 else ""
        return (
            f"{late[0].name} has let the others wait for {limit}: it has been {late[0].doing} for "
            f"{late[0].seconds:.0f} s, in {late[0].place}{more}; {AGAIN}"
        )

    def _run(self) -> None:
        store: Any = None
        parent, beat, ending = os.getppid(), 0, 0.0
        with suppress(RuntimeError):
            store = self._connect()
            store.set_timeout(datetime.timedelta(seconds=ANSWER_SECONDS))
        self._looked = time.monotonic()
        while not self._over.wait(BEAT_SECONDS if beat else 0.0):
            beat += 1
            if os.getppid() != parent:
                parent = os.getppid()
                self.progress.warn("torchrun, which started this process, is gone: stopping")
                os.kill(os.getpid(), signal.SIGTERM)  # the processes agree on a stop, and save
            if store is None:
                continue
            with suppress(RuntimeError):  # the store is with torchrun, which ends this process when it ends
                store.set(f"sign/{self.rank}", json.dumps(self._sign(beat)))
                self._look(store)
                if not ending and store.check(["word"]):
                    self.heard = not self.speaks
                    ending = time.monotonic()
            now = time.monotonic()
            if ending:
                if not self.speaks and now - ending > END_SECONDS:
                    self.end(1)
                    return
            elif self._find_silent(self.patience) or self._waits_too_long(now):
                if speaks_first(store):
                    self.speaks = True
                    self.progress.last_word(self._describe_late())
                self.end(1)
                return

    def _waits_too_long(self, now: float) -> bool:
        since = self._waits
        if not since and self.passes_wait and self._doing[0].startswith(PASS):
            since = self._doing[1]
        return since > 0 and now - since >= self.patience

    def _look(self, store: Any) -> None:
        """Read the signs of the others."""
        keys = [f"sign/{rank}" for rank in self._silence]
        if len(self._signs) < len(keys):
            keys = [key for key in keys if store.check([key])]
        signs = [Sign(*json.loads(data)) for data in store.multi_get(keys)] if keys else []
        # While this process was itself stopped, or had no answer, it cannot say that others were silent.
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
        what, since = self._doing
        seconds = round(time.monotonic() - since, 1)
        place = _find_place(self._main)
        return Sign(
            self.rank, self.size, socket.gethostname(), os.getpid(), beat, what, seconds, place, self._waits > 0
        )


PASS = "computing"
"""How what a process is at begins, where that is a step's passes."""


def speaks_first(store: Any) -> bool:
    """Whether no other process has said why the run ends; where nobody answers, this one speaks."""
    with suppress(RuntimeError):
        store.set_timeout(datetime.timedelta(seconds=ANSWER_SECONDS))
        return int(store.add("word", 1)) == 1
    return True


def _find_place(thread: int | None) -> str:
    """Module and line of this package that a thread is at, or of whatever it is at."""
    frame = innermost = sys._current_frames().get(thread or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith(PACKAGE):
        frame = frame.f_back
    frame = frame or innermost
    return "an unknown place" if frame is None else f"{frame.f_globals.get('__name__', '?')}, line {frame.f_lineno}"
