"""Reading what `torch.save` wrote without running it: plain values and tensors, nothing else.

A file is a zip archive with a pickle and the raw bytes of every storage. A pickle is a program; here its instructions
to call or build something are followed for a handful of harmless names alone, and every other name stands for an object
that does nothing and keeps nothing. `torch.load(weights_only=True)` refuses a whole file where one such object occurs,
in the settings of a training run for example; here only that object is lost, and its name is reported. Tensors are
handles at first, so that the state of an optimiser is never read.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
SAFETENSORS_HEADER_STARTS = 8

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What a pickle can raise that is cut off, damaged, or made to harm.
DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class Storage(NamedTuple):
    """Raw numbers in the archive."""

    name: str
    dtype: torch.dtype
    size: int
    """Numbers, not bytes."""


class StoredTensor(NamedTuple):
    """A tensor that is not read yet."""

    storage: Storage
    offset: int
    """Where it starts, in numbers."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Skipped:
    """Stands for an object that is not built: it can be called, filled and given a state, and keeps none of it."""

    origin: ClassVar[str] = "?"

    def __init__(self, *arguments: object, **choices: object) -> None:
        del arguments, choices

    def __call__(self, *arguments: object, **choices: object) -> "Skipped":
        del arguments, choices
        return self

    def __setstate__(self, state: object) -> None:
        del state

    def __setitem__(self, key: object, value: object) -> None:
        del key, value

    def append(self, value: object) -> None:
        """Forget an item."""
        del value

    def extend(self, values: object) -> None:
        """Forget items."""
        del values

    def add(self, value: object) -> None:
        """Forget an item."""
        del value


class TorchFile(NamedTuple):
    """What a file holds."""

    path: Path
    content: Any
    """Dicts, lists, tuples, text and numbers as saved; `StoredTensor` for tensors, `Skipped` for the rest."""
    skipped: tuple[str, ...]
    """Names, `module.name`, that the pickle asked for and did not get."""

    def read(self, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read tensors, contiguous, on the CPU.

        Raises:
            CheckpointError: Bytes are missing, damaged, or fewer than a shape needs.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                root = _root(archive)
                byte_order = f"{root}/byteorder"
                is_big = byte_order in archive.namelist() and _read_entry(archive, byte_order) == b"big"
                return {
                    name: _assemble(tensor, _read_entry(archive, f"{root}/data/{tensor.storage.name}"), is_big=is_big)
                    for name, tensor in stored.items()
                }
        except (OSError, zipfile.BadZipFile, LookupError, ValueError) as error:
            raise CheckpointError(f"cannot read the checkpoint {self.path}: {error}") from None


def _assemble(stored: StoredTensor, data: bytes, *, is_big: bool) -> Tensor:
    dtype, shape, strides = stored.storage.dtype, stored.shape, stored.strides
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    last = stored.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= stored.storage.size or stored.storage.size * dtype.itemsize != len(data):
        raise ValueError(f"a tensor of shape {list(shape)} reaches beyond its {len(data)} bytes")
    numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if is_big:
        numbers = numbers.view(-1, dtype.itemsize).flip(1).flatten()
    return numbers.view(dtype).as_strided(shape, strides, stored.offset).contiguous()


def is_torch_file(path: Path) -> bool:
    """Tell from the first bytes whether a file is an archive or a bare pickle, rather than safetensors."""
    try:
        with path.open("rb") as stream:
            start = stream.read(SAFETENSORS_HEADER_STARTS + 1)
    except OSError:
        return False
    if start.startswith(ZIP_MAGIC):
        return True
    return start.startswith(PICKLE_MAGIC) and start[SAFETENSORS_HEADER_STARTS:] != b"{"


def read_torch_file(path: Path) -> TorchFile:
    """Read a file that `torch.save` wrote; nothing in it is executed.

    Raises:
        CheckpointError: No such file, a bare pickle, a TorchScript archive, or damaged.
    """
    try:
        with path.open("rb") as stream:
            is_archive = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if not is_archive:
            raise CheckpointError(
                f"cannot read the checkpoint {path}: a bare pickle, as PyTorch before 1.6 wrote it, and with it "
                "MinkowskiEngine 0.4; lg3d runs no pickle and reads weights of MinkowskiEngine 0.5 "
                "(saved by it in this old form? torch.save writes them anew)"
            )
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            if f"{root}/constants.pkl" in archive.namelist():
                raise CheckpointError(f"cannot read the checkpoint {path}: TorchScript code, expected saved weights")
            unpickler = _Unpickler(io.BytesIO(_read_entry(archive, f"{root}/data.pkl")))
            content = unpickler.load()
    except (OSError, zipfile.BadZipFile, NotImplementedError, *DAMAGE) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error or type(error).__name__}") from None
    return TorchFile(path, content, tuple(sorted(unpickler.skipped)))


def _root(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.partition("/")[0]
    raise ValueError("an archive that torch.save did not write")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:  # torch.save never does; a few bytes could become terabytes
        raise ValueError(f"{name} is compressed, which torch.save never does")
    return archive.read(entry)


class _Unpickler(pickle.Unpickler):
    """Looks names up in a list of its own, never in a module."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.skipped: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        harmless = _HARMLESS.get((module, name))
        if harmless is not None:
            return harmless
        origin = f"{module}.{name}"
        self.skipped.add(origin)
        return type("Skipped", (Skipped,), {"origin": origin})

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, name, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a storage of a kind that is not known: {kind}")
        if not isinstance(name, str) or not isinstance(size, int) or size < 0:
            raise pickle.UnpicklingError("a damaged storage")
        return Storage(name, dtype, size)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a damaged tensor")
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or math.prod(shape) > 1 << 40:
        raise pickle.UnpicklingError("a damaged tensor")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


class _Function:
    """A function that takes no attributes: a pickle may try to hang some on whatever it gets."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        del state


class _StatelessDict(dict[Any, Any]):
    """A dict that forgets a state: PyTorch hangs the versions of modules on its state dicts."""

    def __setstate__(self, state: object) -> None:
        del state


_HARMLESS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("collections", "OrderedDict"): _StatelessDict,
}
