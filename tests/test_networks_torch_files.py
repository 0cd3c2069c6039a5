"""What `torch.save` wrote is read without being run."""

import io
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lg3d_core.errors import CheckpointError
from lg3d_core.networks.checkpoint import load_network
from lg3d_core.networks.torch_files import Skipped, StoredTensor, is_torch_file, read_torch_file


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_plain_values_and_tensors_come_as_they_went(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "whole": base,
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2, dtype=torch.float64)).detach(),
        **{str(kind): torch.tensor([1, 0, 1]).to(kind) for kind in (torch.float16, torch.bfloat16, torch.bool)},
        **{str(kind): torch.tensor([1, -2, 3]).to(kind) for kind in (torch.int8, torch.int16, torch.int32)},
    }
    plain = {"text": "ä", "numbers": [1, 2.5, True, None, (1, 2)], "nested": OrderedDict(a={"b": [3]})}
    file = read_torch_file(save({**plain, "t": tensors, "p": nn.Parameter(base)}, tmp_path / "x.pt"))
    assert {name: file.content[name] for name in plain} == plain
    assert file.skipped == ()
    assert isinstance(file.content["p"], StoredTensor)
    read = file.read(file.content["t"])
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].dtype == tensor.dtype
        assert read[name].is_contiguous()


def test_numbers_of_a_machine_of_the_other_byte_order_are_turned_round(tmp_path: Path) -> None:
    save({"a": torch.tensor([1.0, -2.5]), "b": torch.tensor([3, 4])}, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as source, zipfile.ZipFile(tmp_path / "big.pt", "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith("byteorder"):
                data = b"big"
            elif "/data/" in entry:
                width = len(data) // 2
                data = data[:width][::-1] + data[width:][::-1]
            target.writestr(entry, data)
    file = read_torch_file(tmp_path / "big.pt")
    read = file.read(file.content)
    assert read["a"].tolist() == [1.0, -2.5]
    assert read["b"].tolist() == [3, 4]


class Call:
    """Makes the pickle call a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(mark: Path) -> dict[str, Any]:
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "exec": Call(exec, f"open({str(mark)!r}, 'w').close()"),
        "eval": Call(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "mkdir": Call(os.mkdir, str(mark)),
    }


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "key", "whole"])
@pytest.mark.parametrize("kind", ["os.system", "exec", "eval", "mkdir"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_malicious_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str, forced: bool
) -> None:
    mark = tmp_path / "executed"
    attack = attacks(mark)[kind]
    content: Any = {
        "hyper_parameters": {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": {"model": "x", "evil": attack}},
        "state_dict": {"state_dict": {"a": torch.ones(3), "b": attack}},
        "key": {(1, 2): torch.ones(3), "evil": [attack] * 3},
        "whole": attack,
    }[place]
    path = save(content, tmp_path / "evil.ckpt")
    torch.load(path, weights_only=False)
    assert mark.exists()  # the attack is real
    shutil.rmtree(mark) if mark.is_dir() else mark.unlink()
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = read_torch_file(path)
    assert len(file.skipped) == 1
    with pytest.raises(CheckpointError, match="contains no MinkUNet"):
        load_network(path)
    assert not mark.exists()


def assemble(pickled: bytes, path: Path, *, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    """Write an archive like torch.save's around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(16))
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    return path


HARMLESS = "torch._utils\n_rebuild_tensor_v2"


@pytest.mark.parametrize(
    "program",
    [
        # Hang a state on a function that is allowed, by attributes (BUILD with a dict, then with a pair).
        f"c{HARMLESS}\n}}S'x'\nS'y'\nsb.",
        f"c{HARMLESS}\n(N}}S'__code__'\nS'y'\nstb.",
        # Call what is not called, and what was skipped, more than once; fill it, add to it.
        "cos\nsystem\n(S'touch executed'\ntR(S'again'\ntR.",
        "cos\nsystem\n(S'touch executed'\ntRS'a'\na.",
        "cos\nsystem\n(S'touch executed'\ntR(S'a'\nS'b'\ne.",
        "cos\nsystem\n(S'touch executed'\ntRS'k'\nS'v'\ns.",
        "cos\nsystem\n(S'touch executed'\ntR}b.",
        "(S'touch executed'\nios\nsystem\n.",
        "ccollections\nOrderedDict\n(tR}S'__class__'\nS'x'\nsb.",
        # An extension code, a name of another module through a dotted name.
        "\x82\x01.",
        "ctorch\nnn.Module\n(tR.",
    ],
)
def test_instructions_that_pickle_knows_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = assemble(program.encode("latin-1"), tmp_path / "x.pt")
    try:
        content = read_torch_file(path).content
    except CheckpointError:
        content = None
    assert content is None or isinstance(content, Skipped | dict) or callable(content)
    assert not (tmp_path / "executed").exists()
    good = read_torch_file(save({"a": torch.ones(2)}, tmp_path / "good.pt"))  # and later files are read as ever
    assert good.read(good.content)["a"].tolist() == [1, 1]


def storage(dtype: str = "torch\nFloatStorage", name: str = "S'0'", size: str = "I4") -> str:
    return f"(S'storage'\nc{dtype}\n{name}\nS'cpu'\n{size}\ntQ"


def tensor(stored: str, offset: str, shape: str, strides: str) -> str:
    return f"}}S'a'\nc{HARMLESS}\n({stored}{offset}\n({shape}t({strides}tI00\nNtRs."


def read_everything(path: Path) -> dict[str, torch.Tensor]:
    file = read_torch_file(path)
    return file.read(file.content)


def test_a_tensor_by_hand_is_read(tmp_path: Path) -> None:
    file = read_torch_file(assemble(tensor(storage(), "I0", "I4\n", "I1\n").encode(), tmp_path / "x.pt"))
    assert file.read(file.content)["a"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (tensor(storage(), "I0", "I5\n", "I1\n"), "exceeds"),
        (tensor(storage(), "I1", "I4\n", "I1\n"), "exceeds"),
        (tensor(storage(), "I0", "I2\nI2\n", "I1\nI9\n"), "exceeds"),
        (tensor(storage(size="I99"), "I0", "I99\n", "I1\n"), "exceeds"),
        (tensor(storage(name="S'7'"), "I0", "I4\n", "I1\n"), "data/7"),
        (tensor(storage(name="S'../../etc/passwd'"), "I0", "I4\n", "I1\n"), "passwd"),
        (tensor(storage(), "I-1", "I4\n", "I1\n"), "damaged tensor"),
        (tensor(storage(), "I0", "I4\n", "I-1\n"), "damaged tensor"),
        (tensor(storage(), "I0", "I4\n", "I1\nI1\n"), "damaged tensor"),
        (tensor(storage(), "I0", "I99999999\nI99999999\n", "I0\nI0\n"), "damaged tensor"),
        (tensor("N", "I0", "I4\n", "I1\n"), "damaged tensor"),
        (tensor(storage(size="I-1"), "I0", "I4\n", "I1\n"), "damaged storage"),
        (tensor(storage(dtype="builtins\nint"), "I0", "I4\n", "I1\n"), "unknown type"),
        ("}", "cannot read"),
        ("", "cannot read"),
        ("S'a'\nR.", "cannot read"),
        ("g1\n.", "cannot read"),
        ("(S'a'\nQ.", "cannot read"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, program: str, message: str) -> None:
    path = assemble(program.encode(), tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match=rf"broken\.pt.*{message}|{message}.*broken\.pt"):
        read_everything(path)


def test_bytes_changed_at_random_give_an_error_or_other_values_and_run_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(save({"state_dict": {"a": torch.ones(2, 3)}, "epoch": 3, "l": [1, "x"]}, tmp_path / "x")) as z:
        good = z.read("x/data.pkl")
    draw = random.Random(0)
    for _ in range(500):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = assemble(bytes(data), tmp_path / "changed.pt")
        try:
            file = read_torch_file(path)
            if isinstance(file.content, dict) and isinstance(file.content.get("state_dict"), dict):
                state = file.content["state_dict"]
                file.read({str(k): v for k, v in state.items() if isinstance(v, StoredTensor)})
        except CheckpointError as error:
            assert "cannot read the checkpoint" in str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path: Path, share: float) -> None:
    data = save({"a": torch.ones(1000)}, tmp_path / "x.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*short\.pt"):
        read_torch_file(tmp_path / "short.pt")


def test_changed_numbers_are_noticed(tmp_path: Path) -> None:
    path = save({"a": torch.ones(1000)}, tmp_path / "x.pt")
    data = path.read_bytes()
    place = data.index(torch.ones(4).numpy().tobytes()) + 100
    path.write_bytes(data[:place] + b"\x55" + data[place + 1 :])
    file = read_torch_file(path)
    with pytest.raises(CheckpointError, match="Bad CRC"):
        file.read(file.content)


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_torch_file(tmp_path / "none.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_torch_file(tmp_path / "plain.pkl")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not an archive of torch\.save"):
        read_torch_file(tmp_path / "other.zip")
    assemble(b"N.", tmp_path / "packed.pt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_torch_file(tmp_path / "packed.pt")
    assemble(b"N.", tmp_path / "script.pt", **{"constants.pkl": b"N."})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_torch_file(tmp_path / "script.pt")


def test_file_formats_are_recognised_by_their_first_bytes(tmp_path: Path) -> None:
    assert is_torch_file(save({}, tmp_path / "x.safetensors"))  # whatever the name says
    (tmp_path / "old").write_bytes(pickle.dumps([1, 2, 3]))
    assert is_torch_file(tmp_path / "old")
    (tmp_path / "header").write_bytes((640).to_bytes(8, "little") + b"{}")  # begins with 0x80 0x02, like a pickle
    assert not is_torch_file(tmp_path / "header")
    assert not is_torch_file(tmp_path / "none")


def test_reading_never_imports_a_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump(Call(os.getcwd))
    assert isinstance(read_torch_file(assemble(buffer.getvalue(), tmp_path / "x.pt")).content, Skipped)
    program = b"cthis_module_does_not_exist\nThing\n(tR."
    file = read_torch_file(assemble(program, tmp_path / "y.pt"))
    assert file.skipped == ("this_module_does_not_exist.Thing",)
