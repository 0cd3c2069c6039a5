"""SIGINT and SIGTERM while a command starts: one line and exit code 130, at whatever instant."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
START = """
import sys
from lg3d_cli import start
start.take_signals()
sys.stderr.write("up\\n")
sys.stderr.flush()
sys.argv = ["lg3d", *sys.argv[1:]]
start.main()
"""
INSTANTS = 24
SPAN_SECONDS = 1.2
"""What the commands below take to load on one slow core."""


def run(words: list[str], cwd: Path) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", START, *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_instant_of_the_start_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "x.ply").write_bytes(b"no scan")
    failed, stopped = [], 0
    for k in range(INSTANTS):
        process = run(["bench", "--what", "maps", "--peers", "none", "--voxel-size", "0.2"], tmp_path)
        assert process.stderr is not None
        process.stderr.readline()  # before that the interpreter starts, whose handlers are its own
        time.sleep(SPAN_SECONDS * k / INSTANTS)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        if process.returncode == 0:  # it was faster
            continue
        stopped += 1
        if process.returncode != 130 or out or not err.startswith("lg3d: stopped") or err.count("stopped") != 1:
            failed.append((k, process.returncode, err[-300:]))
    assert failed == []
    assert stopped > INSTANTS // 2


WITHIN = """
import os, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
import lg3d_cli.__main__ as entry
from lg3d_cli import console

@entry.app.command("spoil")
def spoil():
    {begin}
    try:
        import slow_module
        time.sleep(5)
    finally:
        print("cleaned up", flush=True)

sys.argv = ["lg3d", "spoil"]
entry.main()
"""
SLOW = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
except BaseException as error:
    print("broken by", type(error).__name__, flush=True)
    raise ImportError("this extension module fails in its own way") from None
print("imported", flush=True)
"""


@pytest.mark.parametrize(
    ("begin", "printed", "line"),
    [
        ("pass", "", "lg3d: stopped\n"),  # nothing was done yet: gone at once
        (
            "console.progress(quiet=True)",
            "imported\ncleaned up\n",
            "lg3d: stopped; rerun the command to start over\n",
        ),
    ],
)
def test_an_import_is_never_broken_by_a_signal(tmp_path: Path, begin: str, printed: str, line: str) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW)
    done = subprocess.run(
        [sys.executable, "-c", WITHIN.format(begin=begin), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, printed, line)


SWALLOWED = """
import os, signal, sys, time
import lg3d_cli.__main__ as entry
from lg3d_cli import console

class Spoilt:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

@entry.app.command("spoil")
def spoil():
    console.progress(quiet=True)
    spoilt = Spoilt()
    del spoilt  # Python can only print what is raised in there
    time.sleep(5)

sys.argv = ["lg3d", "spoil"]
entry.main()
"""


def test_a_stop_that_python_swallows_is_raised_again() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "lg3d: stopped; rerun the command to start over\n")


ENDING = """
import atexit, os, signal, sys, time
import lg3d_cli.__main__ as entry

@entry.app.command("done")
def done():
    atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(1)))

sys.argv = ["lg3d", "done"]
entry.main()
"""


def test_a_signal_after_the_end_is_one_line_too() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "lg3d: stopped\n")


def test_the_first_module_loads_nothing_that_takes_time() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lg3d_cli.start; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"typer", "click", "rich", "json", "typing", "contextlib", "dataclasses"}
