"""Checkpoints: what goes in comes out, and what does not fit is refused whole."""

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lg3d_core.errors import CheckpointError
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    load_network,
    load_weights,
    newest_checkpoint,
    read_info,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.networks.minkunet import MinkUNet

INFO = CheckpointInfo(
    kind="finetune",
    network="14A",
    num_classes=7,
    voxel_size=0.05,
    vocabulary="scannet200",
    vocabulary_digest="abc",
    epoch=3,
)


@pytest.fixture(scope="module")
def network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet("14A", num_classes=7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, network: MinkUNet) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    save_checkpoint(path, network, INFO)
    return path


def test_a_network_comes_back_bit_for_bit(saved: Path, network: MinkUNet) -> None:
    loaded, info = load_network(saved)
    assert info == INFO
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_fresh_classifier_keeps_its_own_values(saved: Path, network: MinkUNet) -> None:
    torch.manual_seed(1)
    other = MinkUNet("14A", num_classes=20)
    before = other.state_dict()["final.kernel"].clone()
    load_weights(other, saved, fresh_classifier=True)
    assert torch.equal(other.state_dict()["final.kernel"], before)
    assert torch.equal(other.state_dict()["conv0p1s1.kernel"], network.state_dict()["conv0p1s1.kernel"])


@pytest.fixture(scope="module")
def with_offsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("offsets") / "checkpoint.safetensors"
    info = dataclasses.replace(INFO, offset_head=True)
    save_checkpoint(path, MinkUNet("14A", num_classes=7, offset_head=True), info)
    return path


def test_an_offset_head_comes_back_bit_for_bit(with_offsets: Path) -> None:
    loaded, info = load_network(with_offsets)
    assert info.offset_head
    assert loaded.offset_head is not None
    assert torch.equal(loaded.offset_head.out.weight, load_file(with_offsets)["offset_head.out.weight"])


def test_a_checkpoint_without_the_field_has_no_offset_head(saved: Path, tmp_path: Path) -> None:
    older = {name: value for name, value in dataclasses.asdict(INFO).items() if name != "offset_head"}
    metadata = {"format": "lg3d-checkpoint-1", "info": json.dumps(older)}
    save_file(load_file(saved), tmp_path / "old.safetensors", metadata=metadata)
    loaded, info = load_network(tmp_path / "old.safetensors")
    assert not info.offset_head
    assert loaded.offset_head is None


def test_a_new_run_with_an_offset_head_starts_from_a_checkpoint_without_one(saved: Path, network: MinkUNet) -> None:
    other = MinkUNet("14A", num_classes=20, offset_head=True)
    before = other.state_dict()["offset_head.hidden.weight"].clone()
    load_weights(other, saved, fresh_classifier=True)
    assert torch.equal(other.state_dict()["offset_head.hidden.weight"], before)
    assert torch.equal(other.state_dict()["conv0p1s1.kernel"], network.state_dict()["conv0p1s1.kernel"])


def test_a_new_run_takes_over_an_offset_head_or_leaves_it_out(with_offsets: Path) -> None:
    tensors = load_file(with_offsets)
    both = MinkUNet("14A", num_classes=20, offset_head=True)
    load_weights(both, with_offsets, fresh_classifier=True)
    assert torch.equal(both.state_dict()["offset_head.out.bias"], tensors["offset_head.out.bias"])
    backbone = MinkUNet("14A", num_classes=20)
    load_weights(backbone, with_offsets, fresh_classifier=True)
    assert torch.equal(backbone.state_dict()["conv0p1s1.kernel"], tensors["conv0p1s1.kernel"])


def test_an_offset_head_that_is_missing_or_not_expected_is_refused(saved: Path, with_offsets: Path) -> None:
    with pytest.raises(CheckpointError, match=r"4 tensors missing \(first: offset_head\.hidden\.bias\)"):
        load_weights(MinkUNet("14A", num_classes=7, offset_head=True), saved)
    with pytest.raises(CheckpointError, match=r"4 unexpected \(first: offset_head\.hidden\.bias\)"):
        load_weights(MinkUNet("14A", num_classes=7), with_offsets)


def test_another_number_of_classes_is_refused_and_loads_nothing(saved: Path) -> None:
    other = MinkUNet("14A", num_classes=20)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"tensor final\.\w+ has shape"):
        load_weights(other, saved)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_another_network_is_refused_with_what_is_missing(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="tensors missing"):
        load_weights(MinkUNet("18A", num_classes=7), saved)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = MinkUNet("14A", num_classes=7)
    with torch.no_grad():
        broken.get_parameter("conv0p1s1.kernel").view(-1)[0] = float("nan")
    save_checkpoint(tmp_path / "nan.safetensors", broken, INFO)
    with pytest.raises(CheckpointError, match="not finite; the run diverged"):
        load_network(tmp_path / "nan.safetensors")


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_a_truncated_file_is_named(saved: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"short\.safetensors"):
        load_network(path)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is not an lg3d checkpoint"):
        read_info(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_info(tmp_path / "none.safetensors")


def test_damaged_metadata_and_an_unknown_network_are_named(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    for text, expected in (("{}", "is damaged"), ("[1]", "is damaged")):
        save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "lg3d-checkpoint-1", "info": text})
        with pytest.raises(CheckpointError, match=expected):
            read_info(tmp_path / "m.safetensors")
    info = {"kind": "x", "network": "99Z", "num_classes": 1, "voxel_size": 1, "vocabulary": "", "vocabulary_digest": ""}
    save_file(tensors, tmp_path / "n.safetensors", metadata={"format": "lg3d-checkpoint-1", "info": json.dumps(info)})
    with pytest.raises(CheckpointError, match="holds a network '99Z'"):
        read_info(tmp_path / "n.safetensors")


class Malice:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch executed",))


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_network(tmp_path / "evil.safetensors")
    assert not (tmp_path / "executed").exists()


def test_the_newest_run_of_a_kind_is_found(saved: Path, tmp_path: Path) -> None:
    for number, (name, kind) in enumerate([("a", "finetune"), ("b", "finetune"), ("c", "pretrain"), ("d", None)]):
        (tmp_path / name).mkdir()
        shutil.copy(saved, tmp_path / name / "checkpoint.safetensors")
        os.utime(tmp_path / name / "checkpoint.safetensors", (number, number))
        if kind is not None:
            (tmp_path / name / "card.json").write_text(json.dumps({"kind": kind}))
    assert newest_checkpoint(tmp_path, "finetune") == tmp_path / "b" / "checkpoint.safetensors"
    assert newest_checkpoint(tmp_path, "nothing") is None
    assert newest_checkpoint(tmp_path / "none", "finetune") is None


def test_a_run_folder_stands_for_its_last_checkpoint(saved: Path, tmp_path: Path) -> None:
    assert resolve_checkpoint(saved.parent) == saved
    assert resolve_checkpoint(saved) == saved
    with pytest.raises(CheckpointError, match="has this run finished an epoch"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve_checkpoint(tmp_path / "none")
