"""Distributed training with processes that `torchrun` starts.

Every process holds the whole network and computes its share of every effective batch. Rank 0, the leader, writes files
and reports progress. Besides gradients and batch statistics, processes exchange a few numbers per step over the CPU,
so a lost process is noticed at the next step.
"""

import datetime
import inspect
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lg3d_core.devices import resolve_device
from lg3d_core.errors import EndedElsewhere, Interrupted, Lg3dError, LostProcessError, SettingsError, first_line
from lg3d_core.progress import Progress
from lg3d_core.settings import TrainSettings
from lg3d_core.sparse import share_statistics
from lg3d_core.training.watch import BEAT_SECONDS, MISSED_BEATS, Watch, claim_report

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 0.05
"""Seconds between checks whether the leader has stored the id of this process."""
SLACK_SECONDS = 10.0
"""Seconds that PyTorch waits longer than the watch, because the message of the watch is more precise."""


class DeviceKind(StrEnum):
    """Device of a process; `OWN_GPU` is a GPU that no other process uses."""

    OWN_GPU = "own-gpu"
    SHARED_GPU = "cuda"
    CPU = "cpu"


class Place(NamedTuple):
    """Device and machine of a process."""

    kind: DeviceKind
    host: str


class Launch(NamedTuple):
    """Environment that `torchrun` sets for a process.

    Attributes:
        rank: Rank among all processes, from 0.
        size: Number of processes.
        local_rank: Rank among the processes of this machine, from 0.
        local_size: Processes on this machine.
        run_id: The job's id (`--rdzv-id`), or None.
        max_restarts: Number of restarts after an error.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    run_id: str | None
    max_restarts: int


def read_launch(environ: Mapping[str, str]) -> Launch | None:
    """Read the launch from environment variables; return None if `torchrun` did not start this process.

    Raises:
        SettingsError: A variable is not a number.
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
    """The processes of a run; a single one without `torchrun`."""

    def __init__(self, device: torch.device, launch: Launch | None = None) -> None:
        self.device = device
        self.launch = launch
        self.rank = 0 if launch is None else launch.rank
        self.size = 1 if launch is None else launch.size
        self.watch: Watch | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def doing(self, what: str, *, is_pass: bool = False) -> None:
        """Record the current activity of this process, which others report if it never ends; see `Watch.doing`."""
        if self.watch is not None:
            self.watch.doing(what, is_pass=is_pass)

    def _waiting(self) -> AbstractContextManager[None]:
        return nullcontext() if self.watch is None else self.watch.waiting()

    def gather(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """Gather equally many numbers from every process, shape `(size, len(values))`, in rank order."""
        own = torch.tensor(list(values), dtype=torch.float64)
        if self.size == 1:
            return own.numpy()[None]
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self._waiting():
            distributed.all_gather(parts, own)
        return torch.stack(parts).numpy()

    def add_up(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sum of the arrays of all processes, which have the same shape."""
        if self.size == 1:
            return counts
        total = torch.from_numpy(counts.copy())
        with self._waiting():
            distributed.all_reduce(total)
        return total.numpy()

    def total(self, count: int) -> int:
        """Return the sum of the counts of all processes."""
        return int(self.gather([count]).sum())

    def broadcast(self, text: str, *, source: int = 0) -> str:
        """Broadcast a text from one process to all."""
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
        """Return when every process has reached this point."""
        self.gather([0.0])

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block in the leader first, then in the first process of every other machine, then in the rest.

        Later processes find the files of earlier ones, whether or not the machines share a file system.
        """
        turn = 0 if self.leads else 1 if self.launch is not None and self.launch.local_rank == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()

    def require_equal(self, facts: Mapping[str, str], advice: str) -> None:
        """Require the same facts in all processes.

        Args:
            facts: Values that must be equal, by a name that the user knows; all processes pass the same names.
            advice: What the user should do if they differ.

        Raises:
            SettingsError: A process differs; raised in all processes.
        """
        own = "\0".join(f"{name} {value}" for name, value in facts.items())
        first = self.broadcast(own)
        different = np.flatnonzero(self.gather([own != first])[:, 0])
        if not len(different):
            return
        pairs = zip(own.split("\0"), first.split("\0"), strict=True)
        named = ", ".join(f"{mine} instead of {theirs}" for mine, theirs in pairs if mine != theirs)
        other = int(different[0])
        raise SettingsError(
            self.broadcast(f"process {other} on {socket.gethostname()} has {named}: {advice}", source=other)
        )

    def find_name(self, settings: TrainSettings) -> str | None:
        """Return the run name by which restarted processes find their run; None if `--name` is not needed.

        Raises:
            SettingsError: Restarts are enabled and there is no name to use.
        """
        if settings.name is not None or self.launch is None or self.launch.max_restarts == 0:
            return settings.name
        if self.launch.run_id is None:
            raise SettingsError(
                "torchrun --max-restarts needs a run name, so that restarted processes find their run: pass --name, or "
                "torchrun's --rdzv-id"
            )
        return f"{settings.command}-{re.sub(r'[^A-Za-z0-9._-]+', '-', self.launch.run_id)}"

    def share_of(self, batch_size: int) -> int:
        """Return the number of scenes of an effective batch that each process takes.

        Raises:
            SettingsError: The batch cannot be divided equally.
        """
        if batch_size % self.size:
            lower = batch_size // self.size * self.size
            others = " or ".join(str(size) for size in (lower, lower + self.size) if size)
            raise SettingsError(
                f"--batch-size {batch_size}, the effective batch, is not divisible by {self.size} processes: "
                f"pass {others}, or another --nproc-per-node to torchrun"
            )
        return batch_size // self.size

    def together(self, module: nn.Module, network: nn.Module, *, deterministic: bool) -> nn.Module:
        """Wrap a module for distributed training.

        Args:
            module: Module on the device whose `forward` is called; contains `network`.
            network: Network whose batch normalisation becomes synchronised over all processes.
            deterministic: Whether to add gradients in rank order, so that sums do not depend on how they are packed.

        Returns:
            Module whose `forward` to call. Its gradients are sums, not means, over all processes.
        """
        if self.size == 1:
            return module
        group = distributed.group.WORLD
        assert group is not None
        share_statistics(network, group)
        # Statistics are already equal in all processes. PyTorch renamed the option in 2.13.
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
    """Join the processes that `torchrun` started, or yield a world of one process.

    Within the context, an error in one process ends all; one process reports it, the others raise `EndedElsewhere`.

    Raises:
        SettingsError: A device is missing, or the processes do not find each other.
        LostProcessError: Another process is gone, or sent no heartbeat for `rank_timeout` seconds.
        EndedElsewhere: Another process reports why the run ends.
    """
    launch = read_launch(os.environ)
    if launch is None:
        yield World(resolve_device(settings.device))
        return
    world = World(_choose_device(settings.device, launch, progress), launch)
    if launch.size == 1:
        yield world
        return
    meeting, backend = _meet(world.device, launch, patience=settings.rank_timeout)
    world.watch = watch = Watch(
        meeting.open_again,
        rank=launch.rank,
        size=launch.size,
        patience=settings.rank_timeout,
        passes_wait="nccl" in backend,
        progress=progress,
    )
    watch.start()
    with _end_together(world, watch, meeting):
        yield world
        world.wait()
    watch.stop()
    distributed.destroy_process_group()


class _Meeting(NamedTuple):
    """The store through which the processes of one attempt found each other.

    Attributes:
        store: Connection of the main thread, with the attempt's prefix.
        open_again: Opens another connection.
        hosts_store: Whether the leader hosts the store, rather than torchrun's agent.
    """

    store: Any
    open_again: Callable[[], Any]
    hosts_store: bool


def _meet(device: torch.device, launch: Launch, *, patience: float) -> tuple[_Meeting, str]:
    """Meet the other processes, and start PyTorch's process group with a backend that fits their devices.

    Args:
        device: Device of this process.
        launch: Launch of this process.
        patience: Seconds to wait for the others.

    Returns:
        The store, and the backend.

    Raises:
        SettingsError: The processes do not find each other, or only some of them train on a GPU.
        EndedElsewhere: The leader reports that only some train on a GPU.
    """
    timeout = datetime.timedelta(seconds=patience + SLACK_SECONDS)
    own_gpu = device.type == "cuda" and torch.cuda.device_count() >= launch.local_size
    place = Place(DeviceKind.OWN_GPU if own_gpu else DeviceKind(device.type), socket.gethostname())
    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        base = _open_store(launch, timeout, hosts=hosts)
        attempt = f"lg3d/{_agree_on_attempt(base, launch, timeout)}"
        store = distributed.PrefixStore(attempt, base)  # type: ignore[attr-defined]
        store.set(f"device/{launch.rank}", json.dumps(place))
        backend = _choose_backend([_read_place(store.get(f"device/{rank}")) for rank in range(launch.size)], launch)
        distributed.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=timeout,
        )
    except RuntimeError as error:
        raise SettingsError(
            f"process {launch.rank} of {launch.size} could not connect to the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {patience:g} s: {_describe_failure(error)}"
        ) from None

    def open_again() -> Any:
        again = _open_store(launch, timeout, hosts=False)
        return distributed.PrefixStore(attempt, again)  # type: ignore[attr-defined]

    return _Meeting(store, open_again, hosts_store=hosts and launch.rank == 0), backend


@contextmanager
def _end_together(world: World, watch: Watch, meeting: _Meeting) -> Iterator[None]:
    """Let one process report an error in the block, or a stop of the run, and end the others without a message.

    Raises:
        LostProcessError: PyTorch has lost another process.
        EndedElsewhere: Another process reports why the run ends.
    """
    try:
        with _lost_processes(watch):
            yield
    except Lg3dError:
        _ignore_termination()
        watch.reports = not watch.reported_elsewhere and claim_report(meeting.store)
        if not watch.reports:
            raise EndedElsewhere from None
        if meeting.hosts_store:
            time.sleep(MISSED_BEATS * BEAT_SECONDS)  # the store ends with this process: let the others read the reason
        raise
    except Interrupted:
        _ignore_termination()
        if not world.leads:
            raise EndedElsewhere(interrupted=True) from None
        raise


def _choose_device(name: str, launch: Launch, progress: Progress) -> torch.device:
    """Choose one GPU per process of a machine; processes share GPUs if there are too few.

    Raises:
        SettingsError: A GPU is missing, or several processes were given the same one.
    """
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if ":" in str(device):  # a numbered GPU
        if launch.local_size > 1:
            raise SettingsError(
                f"--device {name}: torchrun started {launch.local_size} processes here, each of which takes a GPU of "
                f"its own: pass --device cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        return device
    count = torch.cuda.device_count()
    if launch.local_size > count and launch.local_rank == 0:
        gpus = f"{count} GPU{'s' if count > 1 else ''}"
        progress.warn(
            f"{launch.local_size} processes share {gpus} on {socket.gethostname()}: this is slow and only useful for "
            f"testing; pass --nproc-per-node {count} to torchrun"
        )
    device = torch.device("cuda", launch.local_rank % count)
    torch.cuda.set_device(device)
    return device


def _read_place(data: bytes) -> Place:
    kind, host = json.loads(data)
    return Place(DeviceKind(kind), host)


def _choose_backend(places: Sequence[Place], launch: Launch) -> str:
    """Choose the backend for gradients: NCCL if every process has its own GPU, on any machine.

    Args:
        places: Device and machine of every process.
        launch: Launch of this process.

    Raises:
        SettingsError: Only some processes train on a GPU; raised in the leader.
        EndedElsewhere: The same, in the other processes.
    """
    on_cpu = [place for place in places if place.kind is DeviceKind.CPU]
    if not on_cpu or len(on_cpu) == len(places):
        return "cpu:gloo,cuda:nccl" if all(place.kind is DeviceKind.OWN_GPU for place in places) else "gloo"
    _ignore_termination()
    if launch.rank:
        raise EndedElsewhere
    machines = ", ".join(dict.fromkeys(place.host for place in on_cpu))
    raise SettingsError(
        f"{len(on_cpu)} of {len(places)} processes would train on the CPU ({machines}), the others on GPUs: use "
        "machines that all have GPUs, or pass --device cpu"
    )


@contextmanager
def _lost_processes(watch: Watch) -> Iterator[None]:
    """Turn PyTorch's error about a lost process into one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not (isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text):
            raise
        _ignore_termination()  # another machine may already restart, and torchrun would end this process for it
        timed_out = "timed out" in text or "timeout" in text
        raise LostProcessError(f"{watch.describe_loss(timed_out=timed_out)} ({_describe_failure(error)})") from None


def _describe_failure(error: Exception) -> str:
    return re.sub(r"^\[\S+\] ", "", first_line(error)).partition(". This is typically")[0]


def _ignore_termination() -> None:
    """Let this process end by itself: torchrun terminates the remaining processes as soon as one has ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _open_store(launch: Launch, timeout: datetime.timedelta, *, hosts: bool) -> Any:
    """Open the key-value store of the rendezvous, which torchrun's agent or the leader hosts."""
    return distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=hosts and launch.rank == 0,
        timeout=timeout,
        wait_for_workers=False,
    )


def _agree_on_attempt(store: Any, launch: Launch, timeout: datetime.timedelta) -> str:
    """Return an id of this attempt, the same in all processes, that prefixes all keys of the attempt.

    The store may be older than this attempt and hold keys of ended processes. torchrun counts restarts per machine: if
    one agent restarts its processes because another did, or is new itself, the counts differ. Therefore the leader
    generates the id, and a process accepts it once the leader has stored the process's own id under it.

    Raises:
        RuntimeError: A process did not answer.
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
