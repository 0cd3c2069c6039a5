"""Seals: every flipped bit is found, files without a seal pass, and each library still reads its own sealed format."""

import io
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from lg3d_core.errors import DataError
from lg3d_core.seal import (
    MARK,
    NO_SEAL,
    SEAL_BYTES,
    SealError,
    require_seal,
    require_sealed_safetensors,
    require_sealed_zip,
    seal,
    seal_safetensors,
    seal_zip,
)

TENSORS = {"weight": torch.arange(600.0), "bias": torch.zeros(3)}


def write_plain(path: Path) -> None:
    path.write_bytes(seal(bytes(range(256)) * 8))


def write_zip(path: Path) -> None:
    torch.save(TENSORS, path)
    seal_zip(path)


def write_safetensors(path: Path) -> None:
    path.write_bytes(seal_safetensors(save(TENSORS, {"format": "x", "seal": NO_SEAL})))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "plain": (write_plain, lambda path: require_seal(path, again="create it again")),
    "zip": (write_zip, lambda path: require_sealed_zip(path, again="create it again")),
    "safetensors": (write_safetensors, lambda path: require_sealed_safetensors(path, again="create it again")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    write, verify = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    assert verify(path)
    data, draw = path.read_bytes(), random.Random(0)
    tail = (
        range(len(data) - SEAL_BYTES, len(data))
        if kind != "safetensors"
        else range(data.index(b'"seal"'), data.index(b'"seal"') + 80)
    )
    for place in [*(draw.randrange(len(data)) for _ in range(300)), *tail]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            sealed = verify(path)
        except DataError:
            continue
        # Only a damaged key or length hides this seal: formats that have one require it.
        assert kind == "safetensors"
        assert not sealed
        assert place < 8 or place - data.index(b'"seal":"') in range(8) or place == data.index(b'"seal":"') + 8 + 64


@pytest.mark.parametrize("kind", ["plain", "zip"])
def test_a_file_that_is_cut_off_is_not_taken_for_a_sealed_one(tmp_path: Path, kind: str) -> None:
    write, verify = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    data = path.read_bytes()
    for size in (1, 20, SEAL_BYTES - 1, SEAL_BYTES + 1, len(data) // 2):
        path.write_bytes(data[:-size])
        if kind == "zip":
            with pytest.raises(DataError, match="damaged"):
                verify(path)
        else:
            assert verify(path) is None


def test_torch_and_safetensors_read_what_is_sealed(tmp_path: Path) -> None:
    write_zip(tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes()[-SEAL_BYTES:].startswith(MARK)
    assert torch.equal(torch.load(tmp_path / "state.pt", weights_only=True)["weight"], TENSORS["weight"])
    assert torch.equal(torch.load(tmp_path / "state.pt", weights_only=True, mmap=True)["weight"], TENSORS["weight"])
    write_safetensors(tmp_path / "weights.safetensors")
    assert torch.equal(load((tmp_path / "weights.safetensors").read_bytes())["weight"], TENSORS["weight"])


def test_equal_tensors_and_metadata_give_equal_bytes() -> None:
    metadata = {"format": "x", "info": "\u00e4", "seal": NO_SEAL}
    written = {bytes(seal_safetensors(save(TENSORS, metadata))) for _ in range(20)}  # the library's order is random
    assert len(written) == 1
    assert all(torch.equal(load(written.copy().pop())[name], tensor) for name, tensor in TENSORS.items())


def test_files_without_a_seal_pass(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "state.pt")
    (tmp_path / "weights.safetensors").write_bytes(save(TENSORS, {"format": "x"}))
    assert require_sealed_zip(tmp_path / "state.pt", again="") is None
    assert not require_sealed_safetensors(tmp_path / "weights.safetensors", again="")


def test_an_archive_with_a_comment_cannot_be_sealed(tmp_path: Path) -> None:
    write_zip(tmp_path / "state.pt")
    with pytest.raises(ValueError, match="not a complete zip archive"):
        seal_zip(tmp_path / "state.pt")


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path)
    data = path.read_bytes()
    monkeypatch.setattr("lg3d_core.seal.SETTLED_SECONDS", -1.0)
    assert require_sealed_safetensors(path, again="")
    reads: list[int] = []
    fstat = os.fstat
    monkeypatch.setattr("lg3d_core.seal.hashlib", None)  # a second hash would fail
    monkeypatch.setattr(os, "fstat", lambda descriptor: reads.append(descriptor) or fstat(descriptor))
    assert require_sealed_safetensors(path, again="")
    assert len(reads) == 1
    monkeypatch.undo()
    changed = io.BytesIO(data).getvalue()[:-1] + bytes([data[-1] ^ 1])
    path.unlink()
    path.write_bytes(changed)
    with pytest.raises(DataError, match="checksum mismatch"):
        require_sealed_safetensors(path, again="")


def test_an_error_of_a_worker_process_arrives_with_its_message(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SealError, match="checksum mismatch") as caught:
        require_sealed_safetensors(path, again="restore it")
    assert caught.value.reason == "checksum mismatch; restore it"
    arrived = pickle.loads(pickle.dumps(caught.value))
    assert (type(arrived), str(arrived), arrived.reason) == (SealError, str(caught.value), caught.value.reason)
