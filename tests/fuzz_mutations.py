"""Bad bytes: small random changes to good files, the same ones for the same seed."""

import json
import math
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    *(0, 1, -1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 10**6),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**18, 10**30),
)
FLOATS = (math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, 3.5e38, 0.0, -0.0, 1e16)
WORDS = (
    *(b"nan", b"inf", b"-inf", b"1e308", b"1e400", b"-0", b"0x10", b"1_000", b"9" * 30, b"9" * 5000, b"\xd9\xa3"),
    *(b"", b" ", b"\0", b"\n", b"\r", b"\xff", b"\xe2\x80\xa8", b"../../x", b"/etc/passwd", b"\x1b[2J", b"a" * 300),
)
TOKEN = re.compile(rb"[A-Za-z0-9_.+-]+")

Mutator = Callable[[random.Random, bytes], bytes]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """Turn one to eight bits over."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off, half of the time within the last bytes."""
    if rng.random() < 0.5:
        return data[: -rng.randint(1, 40)]
    return data[: rng.randrange(len(data) + 1)]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Remove, repeat, or move a piece."""
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 2, 4, 8, 16, 100, 1000)))
    piece = data[start:stop]
    kind = rng.randrange(4)
    if kind == 0:
        return data[:start] + data[stop:]
    if kind == 1:
        return data[:stop] + piece * rng.choice((1, 2, 50)) + data[stop:]
    at = rng.randrange(len(data) + 1)
    if kind == 2:
        return data[:at] + piece + data[at:]
    return data[:at] + piece + data[at + len(piece) :]


def set_number(rng: random.Random, data: bytes) -> bytes:
    """Write a count or a size that lies over one to eight bytes; twice as often near the start."""
    if len(data) < 9:
        return flip_bits(rng, data)
    limit = len(data) - 8 if rng.random() < 0.5 else min(len(data) - 8, 200)
    at = rng.randrange(limit)
    if rng.random() < 0.2:
        new = struct.pack(rng.choice("<>") + rng.choice("fd"), *[_as_single(rng.choice(FLOATS))])
    else:
        code = rng.choice("BHIQ")
        size = struct.calcsize(f"<{code}")
        new = struct.pack(rng.choice("<>") + code, rng.choice(NUMBERS) % (1 << 8 * size))
    return data[:at] + new + data[at + len(new) :]


def _as_single(value: float) -> float:
    return value if not math.isfinite(value) or abs(value) < 3e38 else math.inf


def random_bytes(rng: random.Random, data: bytes) -> bytes:
    """Nothing of the file, or only its beginning."""
    return data[: rng.choice((0, 4, 8, 16, 64))] + rng.randbytes(rng.randrange(300))


BINARY: tuple[Mutator, ...] = (flip_bits, flip_bits, truncate, splice, set_number, set_number, random_bytes)


def change_tokens(head: int | None = None, words: Sequence[bytes] = ()) -> Mutator:
    """Replace, swap, repeat or remove words of a text, or of the first `head` bytes of a file."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        text, rest = (data, b"") if head is None else (data[:head], data[head:])
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            found = list(TOKEN.finditer(text))
            if not found:
                return data
            token = rng.choice(found)
            kind = rng.randrange(6)
            if kind <= 2:
                numeric = re.fullmatch(rb"[0-9.e+-]+", token[0])
                new = str(rng.choice(NUMBERS)).encode() if numeric and rng.random() < 0.7 else rng.choice(WORDS)
            elif kind == 3:
                new = rng.choice([*words, *WORDS])
            else:
                new = rng.choice(found)[0]
            text = text[: token.start()] + new + text[token.end() :]
        return text + rest

    return mutate


def change_lines(head: int | None = None) -> Mutator:
    """Remove, repeat, swap or empty lines of a text, or of the first `head` bytes of a file."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        text, rest = (data, b"") if head is None else (data[:head], data[head:])
        lines = text.split(b"\n")
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            del lines[a]
        elif kind == 1:
            lines.insert(b, lines[a])
        elif kind == 2:
            lines[a], lines[b] = lines[b], lines[a]
        else:
            lines[a] = rng.choice((b"", b"\t", b"#", lines[a] + b" 1", lines[a][: len(lines[a]) // 2]))
        return b"\n".join(lines) + rest

    return mutate


def _odd_value(rng: random.Random) -> Any:
    return rng.choice(
        [
            *(None, True, False, "", "x", "0", "nan", "../../x", "a\0b", "\u2028", "</script>", [], {}, [[]], {"a": 1}),
            *NUMBERS,
            *FLOATS,
            *(0.5, -1.5, "y" * 100_000, [0] * 1000, list(range(50)), ["z" * 50_000, *range(2_000)], 10**400),
        ]
    )


def change_shape(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one thing in it of another type, missing, repeated or deep."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return _odd_value(rng)
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind <= 3:
        holder[key] = _odd_value(rng)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        other, own = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[own])) if own in other or isinstance(other, list) else None
    elif kind == 6 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), _odd_value(rng))
    elif kind == 6:
        holder[rng.choice(("", "x", "../x", "__proto__", "1"))] = _odd_value(rng)
    else:
        deep: Any = holder[key]
        for _ in range(rng.choice((1, 3, 400))):
            deep = [deep]
        holder[key] = deep
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        keys: Any = list(value)
    elif isinstance(value, list):
        keys = range(min(len(value), 30))
    else:
        return
    for key in keys:
        yield value, key
        if depth < 6:
            yield from _places(value[key], depth + 1)


def change_json(rng: random.Random, data: bytes) -> bytes:
    """Change the shape of a JSON text, or rarely nest it too deeply to be parsed by recursion."""
    if rng.random() < 0.02:
        return b"[" * 100_000 + data
    try:
        value = json.loads(data)
    except ValueError:
        return flip_bits(rng, data)
    return dump_json(change_shape(rng, value))


def dump_json(value: Any) -> bytes:
    """JSON with whatever Python's writer takes: NaN, numbers of 400 digits, half surrogates."""
    return json.dumps(value).encode()


def one_of(*mutators: Mutator) -> Mutator:
    """Any of these, sometimes two after another; bits are flipped where one needs a file that is still whole."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        for _ in range(rng.choice((1, 1, 1, 2))):
            try:
                data = rng.choice(mutators)(rng, data)
            except Exception:  # noqa: BLE001 - whatever a spoilt file does to the code that spoils it further
                data = flip_bits(rng, data)
        return data

    return mutate
