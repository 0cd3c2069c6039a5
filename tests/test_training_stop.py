"""Stop requests: what is aborted for them, and what happens to the handlers of signals."""

import signal
from collections.abc import Iterator

import pytest

from lg3d_core.progress import Task
from lg3d_core.training.stop import Dropped, Stop, stop_signals


class Stopped(Task):
    """A task that counts how often it was asked to stop."""

    count = 0

    def stopping(self) -> None:
        self.count += 1


@pytest.fixture(autouse=True)
def _handlers_of_python() -> Iterator[None]:
    """Set Python's own handlers: a process that was started in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_aborts_only_what_may_be_dropped() -> None:
    done = []
    with stop_signals(Task(), alone=True) as stop:
        signal.raise_signal(signal.SIGTERM)
        done.append("processing")  # outside of a block that may be dropped, the signal only sets the request
        with pytest.raises(Dropped), stop.at_once():
            done.append("never")
    assert done == ["processing"]
    assert not stop.droppable


def test_a_signal_in_a_block_that_may_be_dropped_aborts_it_there() -> None:
    done = []

    def work(stop: Stop) -> None:
        for item in stop.at_once_in(iter("abc")):
            done.append(item)
            with stop.at_once():
                if item == "b":
                    signal.raise_signal(signal.SIGINT)
                    done.append("never")

    with stop_signals(Task(), alone=True) as stop, pytest.raises(Dropped):
        work(stop)
    assert done == ["a", "b"]


def test_one_of_several_processes_aborts_nothing_by_itself() -> None:
    stop = Stop(alone=False)
    stop.asked = True
    with stop.at_once():
        done = list(stop.at_once_in(iter("abc")))
    assert done == ["a", "b", "c"]


def test_a_second_sigterm_is_ignored_a_second_ctrl_c_is_not_and_the_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    task = Stopped()
    with stop_signals(task, alone=True) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert task.count == 1
    assert {number: signal.getsignal(number) for number in before} == before
