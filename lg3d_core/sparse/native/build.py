"""Compilation of the kernels for the local processor, once, with the machine's C compiler."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.files import atomic_path, cache_folder

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.c", "normalization.c"))
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC", "-shared")
TUNINGS = ("-march=native", "-mcpu=native", "")  # some compilers do not support the first or the second
COMPILE_SECONDS = 120


@functools.cache
def load_kernels() -> ctypes.CDLL:
    """Return the compiled kernels; the first call on a machine compiles them in a few seconds.

    They are cached in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`), one file per source, compiler
    and processor, because home folders are often shared between different machines.

    Raises:
        MissingDependencyError: There is no C compiler (`CC`, or else cc, gcc, clang), it does not run, the compilation
            failed, or the kernels cannot be cached.
    """
    compiler = find_compiler()
    if compiler is None:
        raise MissingDependencyError(
            "backend native needs a C compiler, but neither CC nor cc, gcc or clang was found: install one "
            "(Debian: apt install gcc), or pass --backend torch"
        )
    try:
        path = cache_folder("native") / f"kernels-{_fingerprint(compiler)}.so"
    except DataError as error:
        raise MissingDependencyError(f"backend native: {error}, or pass --backend torch") from None
    if not os.path.exists(path):  # unlike Path.exists, it does not raise without permission to look
        compile_kernels(compiler, path)
    return open_kernels(path)


def open_kernels(path: Path) -> ctypes.CDLL:
    """Load compiled kernels.

    Raises:
        MissingDependencyError: The file cannot be loaded.
    """
    try:
        kernels = ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingDependencyError(
            f"cannot load {path} ({error}): delete it and run again, or pass --backend torch"
        ) from None
    for name in ("lg3d_lanes", "lg3d_has_bf16", "lg3d_num_panels", "lg3d_gradient_scratch"):
        getattr(kernels, name).restype = ctypes.c_int64
    return kernels


def find_compiler() -> str | None:
    """Return the path of the C compiler: that of `CC`, or else the first of cc, gcc and clang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    return None


def compile_kernels(compiler: str, path: Path, tunings: Sequence[str] = TUNINGS) -> None:
    """Compile the kernels with the first flags that the compiler accepts.

    Raises:
        MissingDependencyError: The compiler accepts none of them, or the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            for tuning in tunings:
                command = [compiler, *FLAGS, *tuning.split(), "-o", str(temporary), *map(str, SOURCES)]
                result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
                if result.returncode == 0:
                    return
            reason = (result.stderr.strip().splitlines() or ["no message"])[0]
            raise MissingDependencyError(
                f"{compiler} cannot compile {SOURCES[0].name} ({reason}): pass --backend torch"
            )
    except DataError as error:
        raise MissingDependencyError(f"{error.args[0]}; XDG_CACHE_HOME sets the folder of compiled kernels") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot_run(compiler, error) from None


def _cannot_run(compiler: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(f"{compiler} did not run ({error}): pass --backend torch")


def _fingerprint(compiler: str) -> str:
    """Return a name for kernels that this compiler makes on this processor.

    Raises:
        MissingDependencyError: The compiler does not run.
    """
    command = [compiler, "--version"]
    try:
        version = subprocess.run(command, capture_output=True, check=False, timeout=COMPILE_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot_run(compiler, error) from None
    parts = (*(source.read_bytes() for source in SOURCES), " ".join(FLAGS).encode(), version, _processor())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    """Return a description of the processor, on which `-march=native` depends."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return " ".join([platform.machine(), platform.processor()]).encode()
    wanted = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))
