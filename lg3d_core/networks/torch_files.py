"""Reader for `torch.save` files that executes nothing: plain values and tensors only.

A file is a zip archive with a pickle and the raw bytes of every storage. A pickle is a program; this reader follows its
instructions to call or build something only for a few harmless names, and replaces every other object by a placeholder
without behaviour. `torch.load(weights_only=True)` rejects a whole file that contains such an object, e.g. in the
settings of a training run; here only that object is lost, and its name is reported. Tensors are read lazily, so the
state of an optimiser is never read.

A pickle can also request more than it contains: a single number can demand terabytes of memory, and nested keys hours
of hashing. The C unpickler of `_pickle` executes such instructions; this module builds on the Python unpickler of
`pickle`, without them.
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
# Exceptions of unpickling a truncated, damaged or malicious file.
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
"""Exceptions of reading a zip archive; an encrypted or unsupported one raises a `RuntimeError`."""


class Storage(NamedTuple):
    """Raw numbers of a tensor in the archive."""

    name: str
    dtype: torch.dtype
    size: int
    """Size in numbers, not bytes."""


class StoredTensor(NamedTuple):
    """Tensor that is not read yet."""

    storage: Storage
    offset: int
    """Offset of the first element, in numbers."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Skipped:
    """Placeholder for an object that is not built: it has no behaviour, and keeps the dicts that it was made from.

    The settings of a training run are often such objects (`argparse.Namespace`, `AttributeDict`,
    `omegaconf.DictConfig`); their values are plain, and `plain_items` finds them.
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
        """Dicts and key-value pairs, by reference: objects that a pickle repeats are not copied."""
        parts: list[Any] = self.__dict__.setdefault("_parts", [])  # a pickle may create it without calling __init__
        return parts

    def _keep(self, *parts: object) -> None:
        self.parts.extend(part for part in parts if isinstance(part, dict | Skipped))

    def append(self, value: object) -> None:
        """Ignore an item."""
        del value

    def extend(self, values: object) -> None:
        """Ignore items."""
        del values

    def add(self, value: object) -> None:
        """Ignore an item."""
        del value


def plain_items(content: object) -> Iterator[tuple[str, str | int | float | bool]]:
    """Yield the named plain values in dicts, lists and placeholders, outermost first, each object once.

    A value that is the only content of an object (omegaconf's nodes, with `_val`) counts as plain.
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
    """Content of a file."""

    path: Path
    content: Any
    """Dicts, lists, tuples, text and numbers as saved; `StoredTensor` for tensors, `Skipped` for other objects."""
    skipped: tuple[str, ...]
    """Names, `module.name`, that the pickle refers to and that were not loaded."""

    def read(self, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read tensors as contiguous CPU tensors.

        Raises:
            CheckpointError: The data of a tensor is missing, damaged, or shorter than its shape.
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
        raise ValueError(f"a tensor of shape {list(shape)} exceeds its {len(data)} bytes")
    if math.prod(shape) > stored.storage.size:
        raise ValueError(f"a tensor of shape {list(shape)} repeats its {stored.storage.size} numbers")
    numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if is_big:
        numbers = numbers.view(-1, dtype.itemsize).flip(1).flatten()
    return numbers.view(dtype).as_strided(shape, strides, stored.offset).contiguous()


def is_torch_file(path: Path) -> bool:
    """Return whether the first bytes are those of a zip archive or a bare pickle, rather than of safetensors."""
    try:
        with path.open("rb") as stream:
            start = stream.read(SAFETENSORS_HEADER_STARTS + 1)
    except OSError:
        return False
    if start.startswith(ZIP_MAGIC):
        return True
    return start.startswith(PICKLE_MAGIC) and start[SAFETENSORS_HEADER_STARTS:] != b"{"


def read_torch_file(path: Path) -> TorchFile:
    """Read a file written by `torch.save`; nothing in it is executed.

    Raises:
        CheckpointError: The file is missing, a bare pickle, a TorchScript archive, or damaged.
    """
    foreign = recognise_foreign(path)
    if foreign is not None:
        raise CheckpointError(f"cannot read the checkpoint {path}: it is {foreign}")
    try:
        with path.open("rb") as stream:
            is_archive = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if not is_archive:
            raise CheckpointError(
                f"cannot read the checkpoint {path}: it is a bare pickle, the format of PyTorch before 1.6, used by "
                "MinkowskiEngine 0.4; lg3d executes no pickles and reads weights of MinkowskiEngine 0.5 "
                "(if these are weights of 0.5 in the old format, save them again with torch.save)"
            )
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            if f"{root}/constants.pkl" in archive.namelist():
                raise CheckpointError(
                    f"cannot read the checkpoint {path}: got TorchScript code, expected saved weights"
                )
            sizes = {entry.filename.removeprefix(f"{root}/data/"): entry.file_size for entry in archive.infolist()}
            unpickler = _Unpickler(io.BytesIO(_read_entry(archive, f"{root}/data.pkl")), sizes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about escapes in text, which the user cannot fix
                content = unpickler.load()
    except (*UNREADABLE, *DAMAGE) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error or type(error).__name__}") from None
    return TorchFile(path, content, tuple(sorted(unpickler.skipped)))


def _root(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.partition("/")[0]
    raise ValueError("not an archive of torch.save")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:  # a few compressed bytes could expand to terabytes
        raise ValueError(f"{name} is compressed, which torch.save never does")
    return archive.read(entry)


class _Unpickler(pickle._Unpickler):
    """Unpickler that resolves names in a fixed table, never in a module, and builds no more than the file's length."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        # Allocations of any size, and buffers and codes of other programs. torch.save writes none of these.
        if code not in b"".join((pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER))
        and code not in b"".join((pickle.EXT1, pickle.EXT2, pickle.EXT4))
    }

    def __init__(self, stream: io.BytesIO, sizes: Mapping[str, int]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.skipped: set[str] = set()
        self._sizes = sizes
        """Size in bytes of each storage in the archive."""

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
            raise pickle.UnpicklingError(f"a storage of unknown type: {kind}")
        if not isinstance(name, str) or not isinstance(size, int) or not 0 <= size <= MAX_NUMBER:
            raise pickle.UnpicklingError("a damaged storage")
        if self._sizes.get(name) != size * dtype.itemsize:
            found = f"holds {self._sizes[name]} bytes" if name in self._sizes else "is missing"
            raise pickle.UnpicklingError(f"a storage of {size} numbers exceeds data/{name}, which {found}")
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
    """Reject keys whose hash recurses through nested tuples: thirty levels that share elements take hours."""
    nested = (tuple, frozenset)
    if isinstance(key, nested) and (len(key) > MAX_DIMENSIONS or any(isinstance(part, nested) for part in key)):
        raise pickle.UnpicklingError("a key that is not made of text and numbers")
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
        raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} exceeds its {storage.size} numbers")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


class _Function:
    """Function that rejects attributes, because a pickle may try to set some on any object."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        del state


class _OrderedDict(dict[Any, Any]):
    """Dict that stores its state separately: PyTorch sets the versions of modules on its state dicts."""

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
