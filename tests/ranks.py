"""Processes that train together, started as `torchrun` starts them but without loading PyTorch anew for each."""

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_stores: list[Any] = []


def context() -> ForkServerContext:
    """Children of a process that has loaded everything, and computed nothing."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["lg3d_core.training.finetune", "lg3d_core.training.pretrain", "lg3d_cli.__main__"])
    return server


def start(
    size: int, target: Callable[..., Any], *arguments: Any, log: Path, **variables: str
) -> list[ForkServerProcess]:
    """Start `target(*arguments)` in so many processes; what they write goes to `log` with `.0`, `.1`, ... behind it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # The agent of torchrun holds the store by which processes find each other; here the test does.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    processes = []
    for rank in range(size):
        environment = {"CUDA_VISIBLE_DEVICES": "", **variables}
        if size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            environment |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
            environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        own = log.with_name(f"{log.name}.{rank}")
        process = context().Process(target=_enter, args=(environment, own, target, arguments))
        process.start()
        processes.append(process)
    return processes


def finish(processes: Sequence[ForkServerProcess], *, seconds: float = 120) -> list[int | None]:
    """Exit codes of processes, once they have ended."""
    for process in processes:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run_command(words: Sequence[str], threads: int = 1) -> None:
    """`lg3d` with these words, as from a shell."""
    import torch

    from lg3d_cli.__main__ import main

    torch.set_num_threads(threads)
    sys.argv = ["lg3d", *words]
    main()


def _enter(environment: dict[str, str], log: Path, target: Callable[..., Any], arguments: Sequence[Any]) -> None:
    for name in [name for name in os.environ if name.startswith("LG3D_")]:
        del os.environ[name]
    os.environ.update(environment)
    with log.open("w", buffering=1) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        try:
            target(*arguments)
        except Exception:
            traceback.print_exc()
            raise
        finally:
            with contextlib.suppress(ValueError):
                stream.flush()
