"""Processes that train one network together, as `torchrun` starts them: who they are, and what they tell each other.

Every process holds the whole network and takes its share of every effective batch. The first one, the leader, writes
and reports; the others are silent. What they exchange, apart from gradients and statistics, are a few numbers a step,
over the CPU: so a process that is gone is noticed by the others at their next step.
"""

import datetime
import inspect
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lg3d_core.devices import resolve_device
from lg3d_core.errors import EndedElsewhere, Interrupted, Lg3dError, LostProcessError, SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import TrainSettings
from lg3d_core.sparse import share_statistics
from lg3d_core.training.watch import BEAT_SECONDS, MISSED_BEATS, Watch, speaks_first

OWN_GPU = "own-gpu"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 0.05
"""How often a process looks whether the first one has called it."""
SLACK_SECONDS = 10.0
"""How much longer PyTorch waits than the watch: what ends the run then says less."""


class Launch(NamedTuple):
    """What `torchrun` told this process.

    Attributes:
        rank: Of all processes, from 0.
        size: Number of processes.
        local_rank: Of those on this machine, from 0.
        local_size: Processes on this machine.
        run_id: The job's id (`--rdzv-id`), or None.
        max_restarts: How often the job is started again after an error.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    run_id: str | None
    max_restarts: int


def read_launch(environ: Mapping[str, str]) -> Launch | None:
    """What the environment says of this process, or None where no `torchrun` started it.

    Raises:
        SettingsError: A variable that is no number.
    """
    if not all(name in environ for name in TORCHRUN):
        return None
    try:
        rank, size, local_rank = (int(environ[name]) for name in TORCHRUN[:3])
        local_size = int(environ.get("LOCAL_WORLD_SIZE", "1"))
        max_restarts = int(environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    except ValueError as error:
        raise SettingsError(f"expected numbers in RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets: {error}") from None
    run_id = environ.get("TORCHELASTIC_RUN_ID")
    if run_id in ("", "none"):
        run_id = None
    return Launch(rank, size, local_rank, local_size, run_id, max_restarts)


class World:
    """The processes of a run; a single one where no `torchrun` started it."""

    def __init__(self, device: torch.device, launch: Launch | None = None) -> None:
        self.device = device
        self.launch = launch
        self.rank = 0 if launch is None else launch.rank
        self.size = 1 if launch is None else launch.size
        self.watch: Watch | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def doing(self, what: str) -> None:
        """Note what this process is at, for the others to say if it never ends."""
        if self.watch is not None:
            self.watch.doing(what)

    def _waiting(self) -> AbstractContextManager[None]:
        return nullcontext() if self.watch is None else self.watch.waiting()

    def gather(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """Every process's numbers in the order of ranks, shape `(size, len(values))`; all give equally many."""
        own = torch.tensor(list(values), dtype=torch.float64)
        if self.size == 1:
            return own.numpy()[None]
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self._waiting():
            distributed.all_gather(parts, own)
        return torch.stack(parts).numpy()

    def add_up(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The sum of all processes' arrays of one shape."""
        if self.size == 1:
            return counts
        total = torch.from_numpy(counts.copy())
        with self._waiting():
            distributed.all_reduce(total)
        return total.numpy()

    def total(self, count: int) -> int:
        """The sum of all processes' counts."""
        return int(self.gather([count]).sum())

    def tell(self, text: str, *, source: int = 0) -> str:
        """The text of one process, in all of them."""
        if self.size == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        with self._waiting():
            distributed.broadcast(length, source)
            if self.rank != source:
                data = torch.zeros(int(length), dtype=torch.uint8)
            if len(data):
                distributed.broadcast(data, source)
        return bytes(data.numpy()).decode()

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather([0.0])

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader runs the block, then the first process of every other machine does, then all that are left.

        So each finds what was written before, whether machines share a file system or have copies of their own.
        """
        turn = 0 if self.leads else 1 if self.launch is not None and self.launch.local_rank == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()

    def require_equal(self, facts: Mapping[str, str], advice: str) -> None:
        """Refuse processes that were given, or have found, something else than the first.

        Args:
            facts: What must be equal everywhere, by the name that the user knows; all processes give the same names.
            advice: What to do.

        Raises:
            SettingsError: In all processes, where one differs; the line names it.
        """
        own = "\0".join(f"{name} {value}" for name, value in facts.items())
        first = self.tell(own)
        different = np.flatnonzero(self.gather([own != first])[:, 0])
        if not len(different):
            return
        pairs = zip(own.split("\0"), first.split("\0"), strict=True)
        named = ", ".join(f"{mine} instead of {theirs}" for mine, theirs in pairs if mine != theirs)
        other = int(different[0])
        raise SettingsError(self.tell(f"process {other} on {socket.gethostname()} has {named}: {advice}", source=other))

    def find_name(self, settings: TrainSettings) -> str | None:
        """The name of a run that processes which `torchrun` starts again find by themselves; None leaves it open.

        Raises:
            SettingsError: There will be restarts, and nothing to name the run after.
        """
        if settings.name is not None or self.launch is None or self.launch.max_restarts == 0:
            return settings.name
        if self.launch.run_id is None:
            raise SettingsError(
                "torchrun --max-restarts needs a name by which the processes find their run again: give --name, or "
                "torchrun's --rdzv-id"
            )
        return f"{settings.command}-{re.sub(r'[^A-Za-z0-9._-]+', '-', self.launch.run_id)}"

    def share_of(self, batch_size: int) -> int:
        """Scenes that each process takes of an effective batch.

        Raises:
            SettingsError: They cannot be shared out equally.
        """
        if batch_size % self.size:
            lower = batch_size // self.size * self.size
            others = " or ".join(str(size) for size in (lower, lower + self.size) if size)
            raise SettingsError(
                f"--batch-size {batch_size}, the effective batch, cannot be shared equally by {self.size} processes: "
                f"take {others}, or another --nproc-per-node"
            )
        return batch_size // self.size

    def together(self, module: nn.Module, network: nn.Module, *, deterministic: bool) -> nn.Module:
        """Make the processes train one network.

        Args:
            module: What is called forward, with `network` inside; on the device.
            network: Its batch normalisation measures over all processes from now on.
            deterministic: Add gradients in the order of ranks, so that the sum does not depend on how they are packed.

        Returns:
            The module to call forward. Its gradients are the sums, not the means, of those of all processes.
        """
        if self.size == 1:
            return module
        group = distributed.group.WORLD
        assert group is not None
        share_statistics(network, group)
        # Statistics are the same everywhere already. PyTorch renamed the option in 2.13.
        names = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {"gradient_as_bucket_view": True, option: False}
        wrapped = DistributedDataParallel(module, **options)
        wrapped.register_comm_hook(group, _add_in_order if deterministic else _add)
        return wrapped


def _add(group: distributed.ProcessGroup, bucket: GradBucket) -> Future[Tensor]:
    work = distributed.all_reduce(bucket.buffer(), group=group, async_op=True)
    done: Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return done


def _add_in_order(group: distributed.ProcessGroup, bucket: GradBucket) -> Future[Tensor]:
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(group.size())]
    distributed.all_gather(parts, own, group=group)
    total = parts[0]
    for part in parts[1:]:
        total += part
    done: Future[Tensor] = Future()
    done.set_result(own.copy_(total))
    return done


@contextmanager
def join(settings: TrainSettings, progress: Progress) -> Iterator[World]:
    """The processes that `torchrun` started, or this one alone, for as long as the context is open.

    Inside, an error of one process ends all of them, and only one says why: the others raise `EndedElsewhere`.

    Raises:
        SettingsError: A device that is not there, or processes that do not find each other.
        LostProcessError: Another process is gone, or was not heard of for `rank_timeout` seconds.
        EndedElsewhere: Another process says why the run ends.
    """
    launch = read_launch(os.environ)
    if launch is None:
        yield World(resolve_device(settings.device))
        return
    device = _choose_device(settings.device, launch, progress)
    world = World(device, launch)
    if launch.size == 1:
        yield world
        return
    timeout = datetime.timedelta(seconds=settings.rank_timeout + SLACK_SECONDS)
    own_gpu = device.type == "cuda" and torch.cuda.device_count() >= launch.local_size
    kind = OWN_GPU if own_gpu else device.type
    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        base = _open_store(launch, timeout, hosts=hosts)
        attempt = f"lg3d/{_agree_on_attempt(base, launch, timeout)}"
        store = distributed.PrefixStore(attempt, base)  # type: ignore[attr-defined]
        store.set(f"device/{launch.rank}", f"{kind} {socket.gethostname()}")
        kinds = [store.get(f"device/{rank}").decode() for rank in range(launch.size)]
        backend = _choose_backend(kinds, launch)
        distributed.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=timeout,
        )
    except RuntimeError as error:
        raise SettingsError(
            f"process {launch.rank} of {launch.size} did not find the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {settings.rank_timeout:g} s: {_first_line(error)}"
        ) from None
    world.watch = watch = Watch(
        lambda: distributed.PrefixStore(  # type: ignore[attr-defined]
            attempt, _open_store(launch, timeout, hosts=False)
        ),
        rank=launch.rank,
        size=launch.size,
        patience=settings.rank_timeout,
        passes_wait="nccl" in backend,
        progress=progress,
    )
    watch.start()
    try:
        with _lost_processes(watch):
            yield world
            world.wait()
    except Lg3dError:
        _ignore_termination()
        watch.speaks = not watch.heard and speaks_first(store)
        if not watch.speaks:
            raise EndedElsewhere from None
        if hosts and world.leads:
            time.sleep(MISSED_BEATS * BEAT_SECONDS)  # the store goes with this process: let the others read the word
        raise
    except Interrupted:
        _ignore_termination()
        if not world.leads:
            raise EndedElsewhere(interrupted=True) from None
        raise
    watch.stop()
    distributed.destroy_process_group()


def _choose_device(name: str, launch: Launch, progress: Progress) -> torch.device:
    """A GPU for each process of a machine; where there are too few, they share."""
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if launch.local_size > count and launch.local_rank == 0:
        gpus = f"{count} GPU{'s' if count > 1 else ''}"
        progress.warn(
            f"{launch.local_size} processes share {gpus} on {socket.gethostname()}: slow, and good for trying out "
            f"alone; take --nproc-per-node {count}"
        )
    device = torch.device("cuda", launch.local_rank % count)
    torch.cuda.set_device(device)
    return device


def _choose_backend(kinds: Sequence[str], launch: Launch) -> str:
    """What all processes exchange gradients by: NCCL where each has a GPU of its own, on whatever machine.

    Args:
        kinds: Of every process the kind of its device, `OWN_GPU`, `cuda` or `cpu`, and its machine.
        launch: Of this process.

    Raises:
        SettingsError: Some train on a GPU and some do not; in the leader.
        EndedElsewhere: The same, in the others.
    """
    on_cpu = [line for line in kinds if line.startswith("cpu ")]
    if not on_cpu or len(on_cpu) == len(kinds):
        return "cpu:gloo,cuda:nccl" if all(line.startswith(OWN_GPU) for line in kinds) else "gloo"
    _ignore_termination()
    if launch.rank:
        raise EndedElsewhere
    machines = ", ".join(dict.fromkeys(line.split()[1] for line in on_cpu))
    raise SettingsError(
        f"{len(on_cpu)} of {len(kinds)} processes would train on the CPU ({machines}), the others on GPUs: give all "
        "machines GPUs, or --device cpu"
    )


@contextmanager
def _lost_processes(watch: Watch) -> Iterator[None]:
    """Turn what PyTorch says when it misses another process into one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not (isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text):
            raise
        _ignore_termination()  # another machine may start again already, and torchrun end this process for it
        timed_out = "timed out" in text or "timeout" in text
        raise LostProcessError(f"{watch.describe_loss(timed_out=timed_out)} ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[\S+\] ", "", line).partition(". This is typically")[0]


def _ignore_termination() -> None:
    """Let this process end its own way: torchrun terminates the processes that are left as soon as the first ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _open_store(launch: Launch, timeout: datetime.timedelta, *, hosts: bool) -> Any:
    """What processes find each other by: the store of torchrun's agent, or that which the leader hosts."""
    return distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=hosts and launch.rank == 0,
        timeout=timeout,
        wait_for_workers=False,
    )


def _agree_on_attempt(store: Any, launch: Launch, timeout: datetime.timedelta) -> str:
    """A word that is new in every attempt and the same in all processes, before which all keys of the attempt stand.

    The store may be older than this attempt, and hold what processes wrote that are gone. torchrun's own count of
    restarts is of one machine: where one agent starts its processes again because another did, or is itself a new one,
    the counts differ. So the leader makes up the word, and a process takes it when it is called by its own.

    Raises:
        RuntimeError: A process does not come.
    """
    own = uuid.uuid4().hex
    if launch.rank == 0:
        store.set("lg3d/leader", own)
        for rank in range(1, launch.size):
            store.set(f"lg3d/{own}/called/{rank}", store.get(f"lg3d/{own}/here/{rank}"))
        return own
    leader, deadline = "", time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        found = store.get("lg3d/leader").decode()
        if found != leader:
            leader = found
            store.set(f"lg3d/{leader}/here/{launch.rank}", own)
        called = f"lg3d/{leader}/called/{launch.rank}"
        if store.check([called]) and store.get(called).decode() == own:
            return leader
        time.sleep(POLL_SECONDS)
    raise RuntimeError("the first process does not answer")
