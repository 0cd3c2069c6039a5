"""How the last block of weights from elsewhere ends: told by whatever settings are in the file, else refused."""

import argparse
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lg3d_cli.__main__ import app
from lg3d_core.errors import CheckpointError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.networks import NETWORK_PLANS, MinkUNet
from lg3d_core.networks.checkpoint import load_network, read_info
from lg3d_core.networks.convert import compare_checkpoint, write_conversion
from lg3d_core.networks.minkunet import NetworkPlan
from lg3d_core.networks.torch_files import plain_items
from lg3d_core.progress import Progress
from lg3d_core.settings import ConvertSettings, EvalSettings, FinetuneSettings
from lg3d_core.training.finetune import finetune


class AttributeDict(dict[str, Any]):
    """As Lightning's: a dict whose items are attributes too."""


class EasyDict(dict[str, Any]):
    """A dict that keeps its items as attributes as well, so that both are saved."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__(items)
        self.__dict__.update(items)


class AnyNode:
    """As omegaconf 2.3 saves one: the value in `_val`, beside its metadata."""

    def __init__(self, key: str, value: object, parent: object) -> None:
        self.__dict__.update(_val=value, _metadata={"key": key, "optional": True}, _parent=parent, _flags_cache=None)


class DictConfig:
    """As omegaconf 2.3 saves one: nodes in `_content`, which point back to it."""

    def __init__(self, content: dict[str, Any]) -> None:
        nodes = {
            key: DictConfig(value) if isinstance(value, dict) else AnyNode(key, value, self)
            for key, value in content.items()
        }
        self.__dict__.update(_content=nodes, _metadata={"key": None, "object_type": dict}, _parent=None)


@pytest.fixture(scope="module", autouse=True)
def tiny_plan() -> Iterator[None]:
    """A plan whose files take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORK_PLANS, "tiny", NetworkPlan(widths=(8,) * 8, depths=(1,) * 8))
        yield


def entries(**beside: Any) -> dict[str, Any]:
    """A checkpoint of a network of the tiny plan, whose tensors tell nothing."""
    torch.manual_seed(0)
    return {"state_dict": OrderedDict(MinkUNet("tiny", num_classes=20).state_dict()), **beside}


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


WRAPPINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "defaultdict": lambda values: defaultdict(list, values),
    "AttributeDict": AttributeDict,
    "EasyDict": EasyDict,
    "Namespace": lambda values: argparse.Namespace(**values),
    "SimpleNamespace": lambda values: types.SimpleNamespace(**values),
    "DictConfig": DictConfig,
    "DictConfig in it": lambda values: {"config": DictConfig({"net": values, "lr": 0.1})},
    "Namespace in it": lambda values: {"config": argparse.Namespace(net=argparse.Namespace(**values))},
    "AttributeDict in it": lambda values: AttributeDict(cfg=AttributeDict(values), phase=types.SimpleNamespace(x=1)),
    "list in it": lambda values: {"stages": [{"lr": 1.0}, values]},
}


@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "config", "args"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_settings_are_found_however_they_are_wrapped(wrapping: str, key: str, tmp_path: Path) -> None:
    for name, expected in (("Res16UNet34C", True), ("Res16UNet34CR", False)):
        settings = WRAPPINGS[wrapping]({"model": name, "voxel_size": 0.05, "resume": None})
        info = read_info(save(entries(**{key: settings}), tmp_path / f"{name}.ckpt"))
        assert (info.final_relu, info.voxel_size) == (expected, 0.05)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "Res16UNet14A"}, True),
        ({"model": "Res16UNet18A"}, True),
        ({"model": "Res16UNet34C"}, True),
        ({"model": "Mink16UNet34C"}, True),
        ({"arch": "MinkUNet18A"}, True),
        ({"_target_": "models.res16unet.Res16UNet34C"}, True),
        ({"model": "Res16UNet34DPaired"}, True),  # the reference's own: 34D's widths, but no wrapped last block
        ({"model": "Res16UNet34CR"}, False),
        ({"model": "Res16UNet34CR_Proj"}, False),
        ({"model": "Res16UNet34C_P"}, False),
        ({"model": "Res16UNet34D"}, False),
        ({"model": "Res16UNet34Dv2"}, False),
        ({"final_relu": True, "model": "Res16UNet34D"}, True),  # said outright
        ({"model": {"name": "Res16UNet34C", "out": 20}}, True),
        ({"model": "Res16UNet34CR", "teacher": "Res16UNet34C"}, False),  # the key that names the network itself
    ],
)
def test_the_networks_name_decides(settings: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    assert read_info(save(entries(hyper_parameters=settings), tmp_path / "x.ckpt")).final_relu is expected


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"model": "MyOwnUNet"},
        {"model": "Res16UNet50"},
        {"model": "Res16UNet34C-pretrained"},
        {"weights": "Res16UNet34C.pth"},
        {"final_relu": "yes"},
        {"teacher": "Res16UNet34C", "student": "Res16UNet34CR"},  # two answers
    ],
)
def test_without_an_answer_the_file_is_refused_and_the_option_named(settings: Any, tmp_path: Path) -> None:
    path = save(entries(**({} if settings is None else {"hyper_parameters": settings})), tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"does not record .* a ReLU .*--final-relu.*--no-final-relu") as refusal:
        read_info(path)
    assert str(path) in str(refusal.value)
    out = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="--final-relu"):
        compare_checkpoint(ConvertSettings(checkpoint=path, out=out), Progress())
    assert not out.exists()
    for answer in (True, False):
        assert load_network(path, final_relu=answer)[0].final_relu is answer
        chosen = ConvertSettings(checkpoint=path, out=out, final_relu=answer)
        write_conversion(compare_checkpoint(chosen, Progress()), chosen)
        assert read_info(out).final_relu is answer


@pytest.mark.parametrize("plan", ["34C", "18C", "18A", "14A"])
def test_plain_state_dicts_of_plans_with_both_ends_are_refused(plan: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{plan} exists with and without one"):
        read_info(save(MinkUNet(plan, num_classes=20).state_dict(), tmp_path / "x.pth"))


def test_a_plain_state_dict_of_34d_is_the_released_one_and_ends_without(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MinkUNet("34D", num_classes=200).state_dict().items()}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    info = read_info(save(state, tmp_path / "x.pth"))
    assert (info.network, info.final_relu) == ("34D", False)


def test_an_option_overrides_the_file(tmp_path: Path) -> None:
    path = save(entries(hyper_parameters={"model": "Res16UNet34C"}), tmp_path / "x.ckpt")
    settings = ConvertSettings(checkpoint=path, out=tmp_path / "y.safetensors", final_relu=False)
    assert not compare_checkpoint(settings, Progress()).info.final_relu


def test_plain_items_end_on_objects_that_hold_each_other() -> None:
    inner: dict[str, Any] = {"voxel_size": 0.1}
    inner["outer"] = [inner, {"again": inner, "deep": {"model": "x"}}]
    assert list(plain_items(inner)) == [("voxel_size", 0.1), ("model", "x")]


def test_shared_objects_are_read_once_however_often_they_are_named(tmp_path: Path) -> None:
    """Twenty levels, each twice in the next: a million paths to one value."""
    nested: Any = argparse.Namespace(model="Res16UNet34C")
    for _ in range(20):
        nested = argparse.Namespace(left=nested, right=nested)
    assert read_info(save(entries(hyper_parameters=nested), tmp_path / "x.ckpt")).final_relu


def test_an_lg3d_checkpoint_rejects_a_contradicting_option(tmp_path: Path) -> None:
    path = save(entries(), tmp_path / "x.ckpt")
    settings = ConvertSettings(checkpoint=path, out=tmp_path / "own.safetensors", final_relu=True)
    write_conversion(compare_checkpoint(settings, Progress()), settings)
    assert read_info(settings.out, final_relu=True).final_relu
    with pytest.raises(CheckpointError, match="its last block ends with a ReLU: omit --no-final-relu"):
        read_info(settings.out, final_relu=False)


def test_commands_use_the_option(store_path: Path, tmp_path: Path) -> None:
    """Scores, labels and a fine-tuned network follow the option, as if it had been in the file."""
    torch.manual_seed(1)
    state = MinkUNet("tiny", num_classes=200).state_dict()
    plain = save(state, tmp_path / "plain.pth")
    scores = {}
    for answer in (True, False):
        told = save({**state, "final_relu": answer}, tmp_path / f"told-{answer}.pth")
        options: dict[str, Any] = {"store": store_path, "device": "cpu"}
        expected = evaluate_checkpoint(EvalSettings(checkpoint=told, **options), Progress())
        found = evaluate_checkpoint(EvalSettings(checkpoint=plain, final_relu=answer, **options), Progress())
        assert found.vertex.predicted.tolist() == expected.vertex.predicted.tolist()
        scores[answer] = found.vertex.predicted.tolist()
    assert scores[True] != scores[False]
    with pytest.raises(CheckpointError, match="pass --final-relu, or --no-final-relu"):
        evaluate_checkpoint(EvalSettings(checkpoint=plain, **options), Progress())
    training: dict[str, Any] = {"network": "tiny", "voxel_size": 0.2, "epochs": 1, "jobs": 0, "validate_every": 0}
    run = finetune(
        FinetuneSettings(start=str(plain), final_relu=True, runs=tmp_path / "runs", **training, **options), Progress()
    )
    assert read_info(run).final_relu


@pytest.mark.parametrize("command", ["convert", "eval", "finetune", "predict", "view"])
def test_the_named_option_exists(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert "--final-relu" in text
    assert "--no-final-relu" in text
