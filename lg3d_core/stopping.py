"""Processes that end when they should: workers that leave stopping to their parent, and none that outlives it."""

import multiprocessing
import os
import signal
import threading
import time

FOLLOW_SECONDS = 0.2
"""How often a process looks whether its parent is still there."""


def leave_stopping_to_parent(parent_id: int | None = None) -> None:
    """Called in a worker process, in its main thread: it ends when its parent says so or is gone.

    Ctrl-C and SIGTERM often reach a whole group of processes. The parent then decides what is saved, so a worker
    ignores Ctrl-C, and obeys a SIGTERM from its parent alone. A parent that was killed cannot say anything.

    Args:
        parent_id: Process id of the parent, which may be gone already; None for a process of `multiprocessing`.
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
        # Forked by the server of "forkserver" for the parent, or left to the reaper by a parent that is gone already.
        return started_by.is_alive()

    def follow() -> None:
        while is_there():
            received = signal.sigtimedwait({signal.SIGTERM}, FOLLOW_SECONDS)
            if received is not None and received.si_pid == parent:
                break
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Called in a process with handlers of its own: it ends, at once, when its parent is gone.

    Args:
        parent: Process id of the parent, as the parent told it: it may be gone already.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(FOLLOW_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
