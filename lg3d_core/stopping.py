"""Termination of worker processes: workers leave signals to their parent, and none outlives it."""

import multiprocessing
import os
import signal
import threading
import time

FOLLOW_SECONDS = 0.2
"""Interval in seconds at which a process checks whether its parent is alive."""


def leave_stopping_to_parent(parent_id: int | None = None) -> None:
    """Make a worker process end only when its parent terminates it or is gone. Call it in the worker's main thread.

    Ctrl-C and SIGTERM often reach a whole process group. The parent then decides what is saved, so a worker ignores
    Ctrl-C and accepts SIGTERM only from its parent. The worker also ends when the parent was killed.

    Args:
        parent_id: Process id of the parent, which may have ended already; None for a process of `multiprocessing`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    forked_by = os.getppid()
    started_by = multiprocessing.parent_process()
    if parent_id is not None:
        parent = parent_id
    else:
        parent = forked_by if started_by is None or started_by.pid is None else started_by.pid

    def is_there() -> bool:
        if started_by is None or parent == forked_by:
            return os.getppid() == parent
        # Forked by the server of "forkserver", or adopted by the reaper because the parent has ended already.
        return started_by.is_alive()

    def follow() -> None:
        while is_there():
            received = signal.sigtimedwait({signal.SIGTERM}, FOLLOW_SECONDS)
            if received is not None and received.si_pid == parent:
                break
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Make a process with its own signal handlers end as soon as its parent is gone.

    Args:
        parent: Process id of the parent, which may have ended already.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(FOLLOW_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
