"""Reading what `torch.save` wrote without running it: plain values and tensors, nothing else.

A file is a zip archive with a pickle and the raw bytes of every storage. A pickle is a program; here its instructions
to call or build something are followed for a handful of harmless names alone, and every other name stands for an object
that does nothing and keeps nothing. `torch.load(weights_only=True)` refuses a whole file where one such object occurs,
in the settings of a training run for example; here only that object is lost, and its name is reported. Tensors are
handles at first, so that the state of an optimiser is never read.

A pickle can also ask for more than it holds: for memory by a number alone, for hours by keys whose hash takes them. The
unpickler of `_pickle`, in C, gives what is asked for; the one of `pickle`, in Python, is built upon here, without those
instructions.
"""

import io
import math
import pickle
import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError
from lg3d_core.files import recognise_foreign

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
SAFETENSORS_HEADER_STARTS = 8
MAX_DIMENSIONS = 16
MAX_NUMBER = 1 << 62

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
    AssertionError,
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


UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, struct.error)
"""What a zip archive can raise; an encrypted one and one packed in an unknown way raise a `RuntimeError`."""


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
    """Stands for an object that is not built: it does nothing, and keeps the dicts that it was made of.

    Settings of a training run often are such objects (`argparse.Namespace`, `AttributeDict`, `omegaconf.DictConfig`):
    the values in them are plain, and `plain_items` finds them.
    """

    origin: ClassVar[str] = "?"

    def __init__(self, *arguments: object, **choices: object) -> None:
        del choices
        self._keep(*arguments)

    def __call__(self, *arguments: object, **choices: object) -> "Skipped":
        del choices
        self._keep(*arguments)
        return self

    def __setstate__(self, state: object) -> None:
        self._keep(*state) if isinstance(state, tuple) else self._keep(state)

    def __setitem__(self, key: object, value: object) -> None:
        self.parts.append((key, value))

    @property
    def parts(self) -> list[Any]:
        """Dicts, and pairs of a key and its value, by reference: nothing is copied that a pickle names again."""
        parts: list[Any] = self.__dict__.setdefault("_parts", [])  # a pickle may make it without calling __init__
        return parts

    def _keep(self, *parts: object) -> None:
        self.parts.extend(part for part in parts if isinstance(part, dict | Skipped))

    def append(self, value: object) -> None:
        """Forget an item."""
        del value

    def extend(self, values: object) -> None:
        """Forget items."""
        del values

    def add(self, value: object) -> None:
        """Forget an item."""
        del value


def plain_items(content: object) -> Iterator[tuple[str, str | int | float | bool]]:
    """Yield the named plain values in dicts, lists and skipped objects, the outermost first, each object once.

    A value that is wrapped alone in an object (omegaconf's nodes, with `_val`) counts as plain.
    """
    seen: set[int] = set()
    pending: deque[object] = deque([content])
    while pending:
        holder = pending.popleft()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for key, value in _items(holder):
            value = _unwrap(value)
            if isinstance(value, dict | list | tuple | Skipped):
                pending.append(value)
            elif isinstance(key, str) and isinstance(value, str | int | float | bool):
                yield key, value


def _items(holder: object) -> Iterable[tuple[object, object]]:
    if isinstance(holder, dict):
        return [*holder.items(), *((None, state) for state in getattr(holder, "states", ()))]
    if isinstance(holder, Skipped):
        return [part if isinstance(part, tuple) else (None, part) for part in holder.parts]
    return [(None, value) for value in holder] if isinstance(holder, list | tuple) else []


def _unwrap(value: object) -> object:
    if isinstance(value, Skipped):
        for part in value.parts:
            if isinstance(part, dict) and isinstance(part.get("_val"), str | int | float | bool):
                return part["_val"]
    return value


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
        except (*UNREADABLE, LookupError, ValueError) as error:
            raise CheckpointError(f"cannot read the checkpoint {self.path}: {error or type(error).__name__}") from None


def _assemble(stored: StoredTensor, data: bytes, *, is_big: bool) -> Tensor:
    dtype, shape, strides = stored.storage.dtype, stored.shape, stored.strides
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    if stored.storage.size * dtype.itemsize != len(data):
        raise ValueError(f"a tensor of shape {list(shape)} reaches beyond its {len(data)} bytes")
    if math.prod(shape) > stored.storage.size:
        raise ValueError(f"a tensor of shape {list(shape)} repeats its {stored.storage.size} numbers")
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
    foreign = recognise_foreign(path)
    if foreign is not None:
        raise CheckpointError(f"cannot read the checkpoint {path}: it is {foreign}")
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
            sizes = {entry.filename.removeprefix(f"{root}/data/"): entry.file_size for entry in archive.infolist()}
            unpickler = _Unpickler(io.BytesIO(_read_entry(archive, f"{root}/data.pkl")), sizes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in text, by which nothing is to be mended
                content = unpickler.load()
    except (*UNREADABLE, *DAMAGE) as error:
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


class _Unpickler(pickle._Unpickler):
    """Looks names up in a list of its own, never in a module; builds no more than the file is long."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        # Memory by a number alone; buffers and codes of other programs. torch.save writes none of these.
        if code not in b"".join((pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER))
        and code not in b"".join((pickle.EXT1, pickle.EXT2, pickle.EXT4))
    }

    def __init__(self, stream: io.BytesIO, sizes: Mapping[str, int]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.skipped: set[str] = set()
        self._sizes = sizes
        """Bytes of each storage in the archive."""

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
        if not isinstance(name, str) or not isinstance(size, int) or not 0 <= size <= MAX_NUMBER:
            raise pickle.UnpicklingError("a damaged storage")
        if self._sizes.get(name) != size * dtype.itemsize:
            found = f"holds {self._sizes[name]} bytes" if name in self._sizes else "is missing"
            raise pickle.UnpicklingError(f"a storage of {size} numbers reaches beyond data/{name}, which {found}")
        return Storage(name, dtype, size)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_plain_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_plain_key(key)] = value

    def load_dict(self) -> None:
        items = self.pop_mark()
        pairs = zip(items[::2], items[1::2], strict=True)
        self.append({_plain_key(key): value for key, value in pairs})

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        for item in items:
            target.add(_plain_key(item))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_plain_key, self.pop_mark())))

    dispatch |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _plain_key(key: Any) -> Any:
    """Refuse keys whose hash goes through tuples in tuples: thirty of them, each twice in the next, take hours."""
    nested = (tuple, frozenset)
    if isinstance(key, nested) and (len(key) > MAX_DIMENSIONS or any(isinstance(part, nested) for part in key)):
        raise pickle.UnpicklingError("a key made of more than text and numbers")
    return key


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a damaged tensor")
    numbers = (offset, *shape, *strides)
    in_range = all(isinstance(number, int) and 0 <= number <= MAX_NUMBER for number in numbers)
    if not in_range or math.prod(shape) > 1 << 40:
        raise pickle.UnpicklingError("a damaged tensor")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} reaches beyond its {storage.size} numbers")
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


class _OrderedDict(dict[Any, Any]):
    """A dict that keeps its state apart: PyTorch hangs the versions of modules on its state dicts."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__((_plain_key(key), value) for key, value in pairs)
        self.states: list[object] = []

    def __setstate__(self, state: object) -> None:
        self.states.append(state)


_HARMLESS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("collections", "OrderedDict"): _OrderedDict,
}
