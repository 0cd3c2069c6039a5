"""Workers leave stopping to their parent, and no process outlives it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKER = """
    import os, signal, sys, time
    from lg3d_core.stopping import end_with_parent, leave_stopping_to_parent
    if sys.argv[1] == "worker":
        signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
        signal.signal(signal.SIGINT, lambda *_: print("asked", flush=True))
    pid = os.fork()
    if pid == 0:
        if sys.argv[1] == "worker":
            leave_stopping_to_parent()
        else:
            end_with_parent(os.getppid())
        print(os.getpid(), flush=True)
        time.sleep(60)
    while True:
        line = sys.stdin.readline()
        if line == "end\\n":
            os.kill(pid, 15)
        elif line == "wait\\n":
            print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(params=["worker", "step"])
def family(request: pytest.FixtureRequest) -> "Iterator[subprocess.Popen[str]]":
    """A parent with a child that sleeps; the child's id is on its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_there(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_child_ends_with_its_killed_parent(family: "subprocess.Popen[str]") -> None:
    child = int(read_line(family))
    assert is_there(child)
    family.kill()
    family.wait(timeout=10)
    wait_until_gone(child)


LATE = """
    import multiprocessing, os, signal, time
    from lg3d_core.stopping import leave_stopping_to_parent

    def work():
        print(os.getpid(), flush=True)
        while os.getppid() == multiprocessing.parent_process().pid:
            time.sleep(0.01)
        leave_stopping_to_parent()
        time.sleep(60)

    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(60)
"""


def test_a_worker_that_starts_after_its_parent_was_killed_ends_too() -> None:
    code = [sys.executable, "-c", textwrap.dedent(LATE)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT) as process:
        child = int(read_line(process))
        process.kill()
        process.communicate(timeout=10)  # until the worker, too, has closed its end
    wait_until_gone(child)


SERVED = """
    import multiprocessing, os, time
    from lg3d_core.stopping import leave_stopping_to_parent

    def work():
        leave_stopping_to_parent()
        time.sleep(0.5)  # more than twice as long as it would take to miss the parent
        print(os.getpid(), flush=True)
        time.sleep(60)

    if __name__ == "__main__":
        process = multiprocessing.get_context("forkserver").Process(target=work)
        process.start()
        process.join()
"""


def test_a_worker_that_a_server_forked_lives_as_long_as_its_parent(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(textwrap.dedent(SERVED))
    code = [sys.executable, str(tmp_path / "family.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment) as process:
        child = int(read_line(process))
        assert is_there(child)
        process.kill()
        process.communicate(timeout=10)
    wait_until_gone(child)


@pytest.mark.parametrize("family", ["worker"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_obeys_its_parent_and_ignores_group_signals(
    family: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    child = int(read_line(family))
    os.killpg(family.pid, number)
    assert read_line(family) == "asked"
    time.sleep(0.5)  # more than twice as long as it would take to obey
    assert is_there(child)
    assert family.stdin is not None
    family.stdin.write("end\nwait\n")
    family.stdin.flush()
    assert int(read_line(family)) == 1 << 8  # exit code 1, by itself
