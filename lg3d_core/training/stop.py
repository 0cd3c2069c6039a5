"""Stopping of a training run by Ctrl-C or SIGTERM, so that its state is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from lg3d_core.progress import Task

T = TypeVar("T")


class Dropped(BaseException):
    """Raised to abort work that is repeated after a resume. Error handlers must not catch it."""


class Stop:
    """Stop request of the user or the scheduler, and whether it may abort the current work.

    With several processes, none may abort alone: they agree on a stop at the end of a step.
    """

    asked = False
    droppable = False

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Dropped` in the block as soon as a stop is requested; the block must not change saved state."""
        if not self.alone:
            yield
            return
        self.droppable = True
        try:
            if self.asked:
                raise Dropped
            yield
        finally:
            self.droppable = False

    def at_once_in(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; waiting for an item may be aborted, processing it may not."""
        while True:
            with self.at_once():
                item = next(items, None)
            if item is None:
                return
            yield item


@contextmanager
def stop_signals(task: Task, *, alone: bool) -> Iterator[Stop]:
    """Turn SIGINT or SIGTERM into a stop request, which takes effect as soon as the current work may be aborted.

    A second Ctrl-C acts at once. A second SIGTERM is ignored: schedulers send it to a process group and its members.
    """
    stop = Stop(alone=alone)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        if stop.asked:
            return
        stop.asked = True
        task.stopping()
        if stop.droppable:
            raise Dropped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
