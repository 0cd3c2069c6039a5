"""Pieces of one operation on several threads."""

import multiprocessing
import threading

import pytest
import torch

from lg3d_core.errors import SettingsError
from lg3d_core.sparse.parallel import num_workers, owned_threads, run_pieces, set_num_workers


@pytest.fixture(params=[1, 2, 4])
def num_threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_piece_runs_once_without_autograd(num_threads: int, count: int):
    ran = []

    def task(piece: int) -> None:
        assert not torch.is_grad_enabled()
        ran.append(piece)

    run_pieces(task, count)
    assert sorted(ran) == list(range(count))
    assert torch.get_num_threads() == num_threads
    assert torch.is_grad_enabled()


def meet(barrier: threading.Barrier) -> None:
    """Go on only when two threads are here at once."""
    barrier.wait(timeout=20)


def test_threads_share_the_pieces():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2)
    try:
        run_pieces(lambda _: meet(meeting), 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_an_exception_of_a_piece_reaches_the_caller(num_threads: int, bad: int):
    def task(piece: int) -> None:
        if piece == bad:
            raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match=f"piece {bad}"):
        run_pieces(task, 8)
    assert torch.get_num_threads() == num_threads


@pytest.mark.usefixtures("num_threads")
def test_inference_mode_reaches_every_thread():
    with torch.inference_mode():
        target = torch.zeros(8)
        run_pieces(lambda piece: target[piece].fill_(piece), 8)
    assert target.tolist() == list(range(8))


def test_the_number_of_workers_can_differ_from_the_number_of_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    meeting = threading.Barrier(2)
    try:
        assert num_workers() == 1
        set_num_workers(2)
        assert num_workers() == 2
        run_pieces(lambda _: meet(meeting), 2)
        assert torch.get_num_threads() == 1
    finally:
        set_num_workers(None)
        torch.set_num_threads(before)
    assert num_workers() == min(8, before)


def test_owned_threads_leave_one_thread_to_torch_and_the_rest_to_workers(num_threads: int):
    meeting = threading.Barrier(num_threads)
    with owned_threads():
        assert (torch.get_num_threads(), num_workers()) == (1, num_threads)
        with owned_threads():
            run_pieces(lambda _: meet(meeting), num_threads)
        assert (torch.get_num_threads(), num_workers()) == (1, num_threads)
    assert (torch.get_num_threads(), num_workers()) == (num_threads, num_threads)


def test_every_piece_has_one_thread_of_torch_shared_or_not(num_threads: int):
    inside = []
    for shared in (True, False):
        run_pieces(lambda _: inside.append(torch.get_num_threads()), 1, shared=shared)
    assert inside == [1, 1]
    assert torch.get_num_threads() == num_threads


def test_threads_come_back_after_an_error(num_threads: int):
    with pytest.raises(ValueError, match="stop"), owned_threads():
        raise ValueError("stop")
    assert (torch.get_num_threads(), num_workers()) == (num_threads, num_threads)


def test_contexts_of_two_threads_that_overlap_leave_nothing_behind():
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def enter_first() -> None:
        torch.set_num_threads(3)
        with owned_threads():
            first_is_in.set()
            assert second_is_in.wait(10)
        first_is_out.set()

    def enter_second() -> None:
        torch.set_num_threads(3)
        assert first_is_in.wait(10)
        with owned_threads():
            second_is_in.set()
            assert first_is_out.wait(10)

    before = torch.get_num_threads()
    threads = [threading.Thread(target=target) for target in (enter_first, enter_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first_is_out.is_set()
    try:
        torch.set_num_threads(1)
        assert num_workers() == 1
    finally:
        torch.set_num_threads(before)


def test_fewer_than_one_worker_is_refused():
    with pytest.raises(SettingsError, match="at least one worker"):
        set_num_workers(0)


def _add_in_a_child(queue: "multiprocessing.Queue[float]") -> None:
    torch.set_num_threads(2)
    sums = torch.zeros(4)
    run_pieces(lambda piece: sums[piece].fill_(1), 4)
    queue.put(float(sums.sum()))


def test_a_spawned_process_makes_its_own_threads():
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    child = context.Process(target=_add_in_a_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 4
    child.join()
