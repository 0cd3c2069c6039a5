"""Weights of MinkowskiEngine 0.5 in and out: what matches, what is refused, what is used directly."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from lg3d_cli.__main__ import app
from lg3d_core.errors import CheckpointError, DataError, SettingsError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.language.anchors_file import load_anchors
from lg3d_core.networks import NETWORK_PLANS, MinkUNet
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    TrainedVocabulary,
    is_grounded,
    load_network,
    load_tensors,
    read_info,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.networks.convert import Comparison, compare_checkpoint, write_conversion
from lg3d_core.networks.minkowski_checkpoint import match_network
from lg3d_core.networks.minkunet import NetworkPlan
from lg3d_core.networks.torch_files import read_torch_file
from lg3d_core.progress import Progress
from lg3d_core.settings import ConvertSettings, EvalSettings, FinetuneSettings
from lg3d_core.training.finetune import finetune
from lg3d_core.vocabulary import load_vocabulary
from tests.minkowski_checkpoints import lightning_checkpoint
from tests.notes import Notes

TINY = NetworkPlan(widths=(8,) * 8, depths=(1,) * 8)


@pytest.fixture(scope="module", autouse=True)
def tiny_plan() -> Iterator[None]:
    """A plan whose files take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORK_PLANS, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def network(tiny_plan: None) -> MinkUNet:
    """A network whose every tensor, running statistics too, has values of its own."""
    del tiny_plan
    torch.manual_seed(0)
    network = MinkUNet("tiny", num_classes=200)
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype == torch.int64:
            tensor.fill_(5700)
    return network


@pytest.fixture(scope="module")
def lightning(network: MinkUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lightning") / "released.ckpt"
    torch.save(lightning_checkpoint(network), path)
    return path


@pytest.fixture(scope="module")
def state_dict(network: MinkUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def told(state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries with the name of a network beside them, which ends with a ReLU."""
    return {**state, "arch": "MinkUNet14A"}


def convert(path: Path, out: Path, progress: Progress | None = None, **options: Any) -> Comparison:
    settings = ConvertSettings(checkpoint=path, out=out, **options)
    comparison = compare_checkpoint(settings, progress or Progress())
    assert write_conversion(comparison, settings) == out
    return comparison


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_lightning_checkpoint_becomes_one_of_ours(lightning: Path, network: MinkUNet, tmp_path: Path) -> None:
    notes = Notes()
    comparison = convert(lightning, tmp_path / "ours.safetensors", notes)
    assert comparison.match.is_full
    assert len(comparison.match.matched) == len(network.state_dict())
    loaded, info = load_network(tmp_path / "ours.safetensors")
    assert_same_tensors(loaded.state_dict(), dict(network.state_dict()))
    assert (info.kind, info.network, info.num_classes, info.epoch) == ("finetune", "tiny", 200, 37)
    assert info.voxel_size == 0.05  # its hyper-parameters say so
    assert info.final_relu  # and that it is a baseline, Res16UNet14A
    (warning,) = notes.warnings
    for origin in ("tests.minkowski_checkpoints.Phase", "pathlib.PosixPath", "argparse.Namespace"):
        assert origin in warning
    (note,) = notes.notes
    assert "vocabulary" in note


def test_a_state_dict_is_converted_with_the_facts_of_the_user(state_dict: Path, tmp_path: Path) -> None:
    notes = Notes()
    convert(state_dict, tmp_path / "a.safetensors", notes, final_relu=False)
    assert len(notes.notes) == 2  # voxel size and vocabulary are taken for granted
    assert read_info(tmp_path / "a.safetensors").voxel_size == 0.02
    settings = ConvertSettings(
        checkpoint=state_dict, out=tmp_path / "b.safetensors", voxel_size=0.1, final_relu=True, vocabulary="scannet200"
    )
    notes = Notes()
    digest = load_vocabulary("scannet200").digest
    comparison = compare_checkpoint(settings, notes, vocabulary=("scannet200", digest))
    assert notes.notes == []
    write_conversion(comparison, settings)
    info = read_info(tmp_path / "b.safetensors")
    assert (info.voxel_size, info.final_relu, info.vocabulary_digest) == (0.1, True, digest)
    assert load_network(tmp_path / "b.safetensors")[0].final_relu


@pytest.mark.parametrize("name", ["there.ckpt", "there.pth"])
def test_ours_comes_back_from_there_and_back(network: MinkUNet, tmp_path: Path, name: str) -> None:
    info = CheckpointInfo(
        kind="finetune",
        network="tiny",
        num_classes=200,
        voxel_size=0.05,
        vocabulary="scannet200",
        vocabulary_digest="abc",
        anchors_digest="def",
        epoch=3,
        settings='{"classifier": "fixed-anchors"}',
        final_relu=True,
        labels_seen="all",
        adapt=0.3,
        vocabularies=(
            TrainedVocabulary(name="scannet200", digest="abc", num_classes=150, anchors_digest="def"),
            TrainedVocabulary(name="others", digest="ghi", num_classes=50, anchors_digest="jkl"),
        ),
    )
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", network, info)
    convert(tmp_path / "run", tmp_path / name)  # a run's folder stands for its checkpoint
    convert(tmp_path / name, tmp_path / "back.safetensors")
    assert_same_tensors(
        load_tensors(tmp_path / "back.safetensors"), load_tensors(tmp_path / "run/checkpoint.safetensors")
    )
    assert read_info(tmp_path / name) == read_info(tmp_path / "back.safetensors") == info
    assert is_grounded(read_info(tmp_path / name))
    theirs = MinkUNet("tiny", num_classes=200)
    state = torch.load(tmp_path / name, weights_only=True)
    if name.endswith(".pth"):  # its metadata are no hindrance to those who load it
        assert str(theirs.load_state_dict(state)) == "<All keys matched successfully>"
        assert_same_tensors(dict(theirs.state_dict()), dict(network.state_dict()))


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.ckpt", "x.PTH"])
def test_the_suffix_of_a_file_determines_its_format(
    state_dict: Path, network: MinkUNet, tmp_path: Path, name: str
) -> None:
    convert(state_dict, tmp_path / name, final_relu=False)
    assert (tmp_path / name).read_bytes().startswith(b"PK")
    convert(tmp_path / name, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    found = load_tensors(tmp_path / "y.safetensors")
    assert_same_tensors({name: found[name] for name in network.state_dict()}, dict(network.state_dict()))
    assert (tmp_path / "y.safetensors").read_bytes()[8:9] == b"{"
    with pytest.raises(SettingsError, match=rf"--to lg3d does not write a {Path(name).suffix} file.*\.safetensors"):
        convert(state_dict, tmp_path / f"other-{name}", to="lg3d", final_relu=False)
    with pytest.raises(SettingsError, match=r"--to minkowski does not write a \.safetensors file.*\.ckpt"):
        convert(state_dict, tmp_path / "z.safetensors", to="minkowski", final_relu=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "x.safetensors", "y.safetensors"])


def test_leftovers_of_a_killed_conversion_are_removed_by_the_next(state_dict: Path, tmp_path: Path) -> None:
    left, other = tmp_path / ".x.safetensors.0123abcd.tmp", tmp_path / ".y.safetensors.0123abcd.tmp"
    left.touch()
    other.touch()
    convert(state_dict, tmp_path / "x.safetensors", final_relu=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "x.safetensors"]


FOREIGN_FILES = {
    b"<!DOCTYPE html><html>quota</html>": "a web page",
    b"\xef\xbb\xbf \n<html lang='en'>": "a web page",
    "\ufeff<!doctype html>".encode("utf-16-le"): "a web page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "an XML page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "a Git LFS pointer",
    b'{"message": "Not Found"}': "a JSON text",
    b"\x1f\x8b\x08\0\0\0\0\0\0\0": "a gzip archive",
    b"Access denied. Sign in first.": "a text file",
    b"": "empty",
}


@pytest.mark.parametrize("data", FOREIGN_FILES, ids=FOREIGN_FILES.values())
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_a_download_that_is_something_else_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"cannot read the checkpoint .*: it is {FOREIGN_FILES[data]}"):
        read_info(path)
    with pytest.raises(CheckpointError, match=f"it is {FOREIGN_FILES[data]}"):
        read_torch_file(path)
    with pytest.raises(DataError, match=f"it is {FOREIGN_FILES[data]}"):
        load_anchors(path)


def test_minkowski_engine_output_loads_as_its_users_expect(network: MinkUNet, tmp_path: Path) -> None:
    torch.save(told(network.state_dict()), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", to="minkowski")
    convert(tmp_path / "a.pth", tmp_path / "b.ckpt", to="minkowski")
    plain = torch.load(tmp_path / "b.pth", weights_only=True)
    assert isinstance(plain, OrderedDict)
    assert_same_tensors(dict(plain), dict(network.state_dict()))
    whole = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "hyper_parameters"} == set(whole)
    assert set(whole["state_dict"]) == {f"model.{name}" for name in network.state_dict()}


@pytest.mark.parametrize("name", ["b.pth", "b.ckpt"])
def test_an_offset_head_survives_the_way_through_minkowski_engines_format(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    network = MinkUNet("tiny", num_classes=5, offset_head=True)
    info = CheckpointInfo(
        kind="finetune",
        network="tiny",
        num_classes=5,
        voxel_size=0.05,
        vocabulary="v",
        vocabulary_digest="d",
        offset_head=True,
    )
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    convert(tmp_path / "a.safetensors", tmp_path / name)
    convert(tmp_path / name, tmp_path / "c.safetensors")
    loaded, back = load_network(tmp_path / "c.safetensors")
    assert back.offset_head
    assert_same_tensors(loaded.state_dict(), dict(network.state_dict()))


def test_a_pretraining_checkpoint_has_no_classifier(network: MinkUNet, tmp_path: Path) -> None:
    content = lightning_checkpoint(network, hyper_parameters={"model": "Res16UNet34D"})
    for name in ("model.final.kernel", "model.final.bias"):
        del content["state_dict"][name]
    torch.save(content, tmp_path / "pretrained.ckpt")
    info = read_info(tmp_path / "pretrained.ckpt")
    assert (info.kind, info.num_classes, info.final_relu) == ("pretrain", None, False)


@pytest.mark.parametrize("stem_size", [3, 5])
@pytest.mark.parametrize("plan", NETWORK_PLANS)
def test_the_plan_is_found_from_the_shapes(plan: str, stem_size: int) -> None:
    with torch.device("meta"):
        network = MinkUNet(plan, num_classes=20, stem_size=stem_size)
    match = match_network({name: tuple(t.shape) for name, t in network.state_dict().items()}, Path("x"))
    assert match.is_full
    assert (match.network, match.num_classes, match.stem_size) == (plan, 20, stem_size)


def test_a_network_with_a_5x5x5_stem_ends_with_a_relu(tmp_path: Path) -> None:
    network = MinkUNet("tiny", num_classes=20, stem_size=5, final_relu=True)
    torch.save(network.state_dict(), tmp_path / "minkunet.pth")
    loaded, info = load_network(tmp_path / "minkunet.pth")
    assert (info.stem_size, info.final_relu) == (5, True)
    assert loaded.conv0p1s1.kernel.shape == (125, 3, 32)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "model.module.", "backbone."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_tensors_are_found_behind_any_prefix(network: MinkUNet, tmp_path: Path, prefix: str, key: str | None) -> None:
    state: dict[str, Any] = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save(told(state if key is None else {key: state, "epoch": 4}), tmp_path / "x.pt")
    info = read_info(tmp_path / "x.pt")
    assert (info.network, info.epoch) == ("tiny", 0 if key is None else 4)


def test_tensors_of_a_loss_beside_the_network_are_named_and_left(network: MinkUNet, tmp_path: Path) -> None:
    torch.save(lightning_checkpoint(network, extra_state={"criterion.weight": torch.ones(200)}), tmp_path / "x.ckpt")
    comparison = convert(tmp_path / "x.ckpt", tmp_path / "x.safetensors")
    assert comparison.match.is_full
    assert comparison.outside == ("criterion.weight",)
    assert ("not of the network", "criterion.weight", "", "") in comparison.rows()


def spoil(network: nn.Module) -> dict[str, Tensor]:
    """Take away two tensors, add one, cut one, and give one another shape of the same values."""
    state = dict(network.state_dict())
    del state["block1.0.conv1.kernel"], state["bn0.bn.running_mean"]
    state["projection.weight"] = torch.zeros(3)
    state["bntr4.bn.weight"] = torch.zeros(4)
    state["final.bias"] = state["final.bias"].flatten()
    return state


def test_less_than_a_full_match_is_refused_and_every_tensor_named(network: MinkUNet, tmp_path: Path) -> None:
    path, out = tmp_path / "x.pth", tmp_path / "x.safetensors"
    torch.save(spoil(network), path)  # how it ends is not asked before it fits
    settings = ConvertSettings(checkpoint=path, out=out)
    comparison = compare_checkpoint(settings, Progress())
    match = comparison.match
    assert set(match.missing) == {"block1.0.conv1.kernel", "bn0.bn.running_mean"}
    assert match.unexpected == ("projection.weight",)
    assert [tuple(entry) for entry in match.misshapen] == [("bntr4.bn.weight", (4,), (8,))]
    assert [tuple(entry) for entry in match.reshaped] == [("final.bias", (200,), (1, 200))]
    with pytest.raises(CheckpointError, match=r"2 missing .*1 unexpected .*1 of another shape .*pass --partial"):
        write_conversion(comparison, settings)
    assert not out.exists()
    with pytest.raises(CheckpointError, match=r"does not fit tiny.*lg3d convert .* --partial"):
        load_network(path)


def test_partial_converts_matching_tensors(network: MinkUNet, tmp_path: Path) -> None:
    torch.save(spoil(network), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="--final-relu"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors", partial=True)
    convert(tmp_path / "x.pth", tmp_path / "x.safetensors", partial=True, final_relu=True)
    loaded = load_network(tmp_path / "x.safetensors")[0].state_dict()
    own = network.state_dict()
    assert torch.equal(loaded["final.bias"], own["final.bias"])
    assert torch.equal(loaded["block8.0.conv2.kernel"], own["block8.0.conv2.kernel"])
    assert torch.equal(loaded["bntr4.bn.weight"], torch.ones(8))  # fresh
    assert not loaded["bn0.bn.running_mean"].any()  # fresh


def test_half_precision_is_widened(network: MinkUNet, tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    torch.save(told(halves), tmp_path / "h")
    loaded = load_network(tmp_path / "h")[0]
    assert loaded.final is not None
    assert loaded.final.kernel.dtype == torch.float32
    assert torch.equal(loaded.final.kernel, network.state_dict()["final.kernel"].half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv0p1s1.kernel": (81, 3, 32)}, r"conv0p1s1.kernel has shape \[81, 3, 32\]"),
        ({"conv0p1s1.kernel": (27, 3, 64)}, "it fits no network of lg3d"),
        ({"conv0p1s1.kernel": (27, 6, 32)}, "takes 6 values per voxel"),
        ({"block1.0.conv3.kernel": (32, 128)}, "bottleneck blocks"),
    ],
)
def test_other_networks_are_named(network: MinkUNet, change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        match_network(shapes | change, Path("x.pth"))


def test_a_file_without_a_network_is_named(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"expected a tensor conv0p1s1\.kernel, but its first tensor is conv\.w"):
        read_info(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_info(tmp_path / "x.pth")


def test_values_that_are_not_finite_are_refused(network: MinkUNet, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["bn3.bn.bias"][5] = torch.inf
    torch.save(told(state), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"bn3\.bn\.bias contains values that are not finite"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")


def test_integers_in_place_of_weights_are_refused(network: MinkUNet, tmp_path: Path) -> None:
    state = dict(network.state_dict()) | {"bn3.bn.bias": torch.zeros(8, dtype=torch.int64)}
    torch.save(told(state), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"bn3\.bn\.bias is of type torch\.int64, expected torch\.float32"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("count", [0, 32_768])
def test_a_number_of_classes_that_no_checkpoint_may_have_is_refused(
    network: MinkUNet, tmp_path: Path, count: int
) -> None:
    state = dict(network.state_dict()) | {"final.kernel": torch.zeros(8, count), "final.bias": torch.zeros(1, count)}
    torch.save(told(state), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"has {count} classes \(final\.kernel\), expected 1 to 32767"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")


def test_a_vector_with_as_many_values_as_a_kernel_has_offsets_is_no_kernel(network: MinkUNet, tmp_path: Path) -> None:
    state = dict(network.state_dict()) | {"block1.0.norm1.bn.weight": torch.ones(27)}
    torch.save(told(state), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 of another shape \(first: block1\.0\.norm1\.bn\.weight\)"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")


class Saved(nn.Module):
    """A module with any state dict."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.state = dict(state)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        return self.state


@pytest.mark.parametrize(
    ("options", "left_out", "summary"),
    [
        ({}, "conv0p1s1.kernel", r"1 missing \(first: conv0p1s1\.kernel\)"),
        ({"stem_size": 5}, "", r"1 of another shape \(first: conv0p1s1\.kernel\)"),
        ({"num_classes": 5}, "", r"2 of another shape \(first: final\.kernel\)"),
        ({"offset_head": True}, "", r"4 unexpected \(first: offset_head\.hidden\.bias\)"),
    ],
)
def test_tensors_of_ours_are_compared_with_its_own_metadata(
    tmp_path: Path, options: dict[str, Any], left_out: str, summary: str
) -> None:
    path, out = tmp_path / "own.safetensors", tmp_path / "x.pth"
    state = MinkUNet("tiny", **{"num_classes": 4, **options}).state_dict()
    info = CheckpointInfo(
        kind="finetune", network="tiny", num_classes=4, voxel_size=0.1, vocabulary="v", vocabulary_digest="d"
    )
    save_checkpoint(path, Saved({name: tensor for name, tensor in state.items() if name != left_out}), info)
    with pytest.raises(CheckpointError, match=rf"does not fit tiny: .*{summary}; pass --partial"):
        convert(path, out)
    assert not out.exists()
    convert(path, out, partial=True)
    assert load_network(out)[1].num_classes == 4


def test_a_checkpoint_without_any_tensor_of_its_network_is_refused(tmp_path: Path) -> None:
    info = CheckpointInfo(
        kind="finetune", network="tiny", num_classes=4, voxel_size=0.1, vocabulary="v", vocabulary_digest="d"
    )
    save_checkpoint(tmp_path / "own.safetensors", Saved({"a": torch.zeros(1)}), info)
    with pytest.raises(CheckpointError, match=r"has no tensor that fits tiny: nothing to convert"):
        convert(tmp_path / "own.safetensors", tmp_path / "x.pth", partial=True)


def test_a_checkpoint_of_minkowski_engine_0_4_is_named(network: MinkUNet, tmp_path: Path) -> None:
    """In its hybrid kernels the centre is offset 0, not 13; a trained centre is the heaviest."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trained = {name for name, tensor in state.items() if name.startswith("block") and tensor.shape[:1] == (27,)}
    for name in trained:
        state[name][13] *= 3
    torch.save(told(state), tmp_path / "new.pth")
    assert read_info(tmp_path / "new.pth").network == "tiny"
    for name in trained:
        state[name] = torch.cat([state[name][13:14], state[name][:13], state[name][14:]])
    torch.save(told(state), tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=r"is of MinkowskiEngine 0\.4"):
        read_info(tmp_path / "old.pth")


def test_files_of_minkowski_engine_0_4_are_mostly_bare_pickles(network: MinkUNet, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"bare pickle.*MinkowskiEngine 0\.4"):
        read_info(tmp_path / "old.pth")


def test_a_checkpoint_is_never_written_over_itself(lightning: Path) -> None:
    with pytest.raises(SettingsError, match="is the input checkpoint"):
        convert(lightning, lightning)
    with pytest.raises(DataError, match="cannot write"):
        convert(lightning, Path("/proc/x.pth"), to="minkowski")
    assert load_network(lightning)[1].network == "tiny"


def test_assumptions_about_a_foreign_file_are_reported(lightning: Path) -> None:
    notes = Notes()
    assert resolve_checkpoint(lightning, notes) == lightning
    (note,) = notes.notes
    assert re.search(r"tiny, 200 classes; assuming voxels of 0\.05 m and with a final ReLU", note)


def test_eval_and_finetune_take_a_file_from_elsewhere(lightning: Path, store_path: Path, tmp_path: Path) -> None:
    other = MinkUNet("tiny", num_classes=20, stem_size=5, final_relu=True)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    notes = Notes()
    with pytest.raises(CheckpointError, match="is for 20 classes, the store has 200"):
        evaluate_checkpoint(EvalSettings(store=store_path, checkpoint=tmp_path / "other.pth"), notes)
    scores = evaluate_checkpoint(EvalSettings(store=store_path, checkpoint=lightning), notes)
    assert scores.to_dict()
    run = finetune(
        FinetuneSettings(
            store=store_path,
            runs=tmp_path / "runs",
            network="tiny",
            voxel_size=0.1,
            start=str(tmp_path / "other.pth"),
            epochs=1,
            jobs=0,
            validate_every=0,
        ),
        notes,
    )
    assert sum("weights of MinkowskiEngine" in note for note in notes.notes) == 3
    tuned, info = load_network(run)
    assert (info.stem_size, info.final_relu, info.num_classes) == (5, True, 200)  # it goes on as it began
    assert tuned.conv0p1s1.kernel.shape == (125, 3, 32)
    distance = (tuned.state_dict()["conv0p1s1.kernel"] - other.state_dict()["conv0p1s1.kernel"]).abs().max()
    assert 0 < distance < 0.1  # and from those weights


def test_the_command_prints_the_table_on_stderr_and_the_result_alone_on_stdout(
    state_dict: Path, network: MinkUNet, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    words = ["convert", str(state_dict), "--out", str(out), "--vocabulary", "scannet200"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, CheckpointError)  # the file does not say how it ends
    result = CliRunner().invoke(app, [*words, "--no-final-relu"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    assert f"matched\t{len(network.state_dict())} tensors" in result.stderr
    assert read_info(out).vocabulary_digest == load_vocabulary("scannet200").digest
    result = CliRunner().invoke(app, ["convert", str(out), "--out", str(tmp_path / "x.ckpt"), "--json", "--quiet"])
    assert result.stderr == ""
    answer = json.loads(result.stdout)
    assert answer["origin"] == "lg3d"
    assert answer["full"]
    assert len(answer["matched"]) == len(network.state_dict())
    torch.save(spoil(network), tmp_path / "bad.pth")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "bad.pth"), "--out", str(tmp_path / "y.safetensors")])
    assert isinstance(result.exception, CheckpointError)
    assert result.stdout == ""
    assert "misshapen\tbntr4.bn.weight\t[4]\t[8]" in result.stderr
