"""Adaptation to a scan: arithmetic, and a network that is the same afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lg3d_core.errors import CheckpointError, SettingsError
from lg3d_core.evaluation import predictor as predictor_module
from lg3d_core.evaluation.adaptation import measuring_statistics
from lg3d_core.evaluation.eval import evaluate
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.model import load_model
from lg3d_core.inference.predict import predict
from lg3d_core.networks.checkpoint import CheckpointInfo, read_info, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.onnx_network import require_cpu
from lg3d_core.progress import Progress
from lg3d_core.settings import AskSettings, EvalSettings, PredictSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.store.scene_store import SceneStore


class Normalised(nn.Module):
    """Network whose features are its normalised colours."""

    plan_name, stem_size, num_features, offset_head = "14A", 3, 3, None

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.02)

    def forward(self, x: SparseTensor) -> Tensor:
        return x.restore(self.norm(x.features))


def scan(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = np.unique(rng.integers(0, 14, size=(600, 3)), axis=0).astype(np.int32)
    return cells, rng.integers(90, 255, size=(len(cells), 3)).astype(np.uint8)


def features_of(predictor: Predictor, cells: np.ndarray, rgb: np.ndarray) -> Tensor:
    out = torch.empty(len(cells), predictor.network.num_features)
    for rows, part in predictor.features(cells, rgb, name="a"):
        out[torch.from_numpy(rows)] = part
    return out


def state_of(network: nn.Module) -> dict[str, Any]:
    momenta = {name: m.momentum for name, m in network.named_modules() if isinstance(m, nn.BatchNorm1d)}
    modes = {name: m.training for name, m in network.named_modules()}
    return {"weights": {k: v.clone() for k, v in network.state_dict().items()}, "momenta": momenta, "modes": modes}


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (first["momenta"], first["modes"]) == (second["momenta"], second["modes"])
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in second["weights"])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("votes", [1, 4])
def test_statistics_are_a_weighted_mean_of_those_of_the_model_and_of_the_scan(share: float, votes: int) -> None:
    network = Normalised().eval()
    cells, rgb = scan()
    predictor = Predictor(network=network, voxel_size=0.05, adapt=share, votes=votes)  # type: ignore[arg-type]
    before = state_of(network)
    found = features_of(predictor, cells, rgb)
    colours = torch.from_numpy(rgb).double() / 255 - 0.5
    mean = share * colours.mean(dim=0)  # the running mean is 0, the running variance 1
    variance = (1 - share) + share * colours.var(dim=0)
    torch.testing.assert_close(found, ((colours - mean) / (variance + 1e-5).sqrt()).float(), rtol=1e-4, atol=1e-4)
    assert_same_state(state_of(network), before)


def test_a_network_is_unchanged_after_it_adapted_to_a_scan() -> None:
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=4).eval()
    network.block8.train()  # the mode of every part is kept
    plain = Predictor(network=network, voxel_size=0.05)
    cells, rgb = scan()
    before, first = state_of(network), features_of(plain, cells, rgb)
    adapted = features_of(replace(plain, adapt=0.3), cells, rgb)
    assert not torch.allclose(adapted, first, atol=1e-2)
    features_of(replace(plain, adapt=0.9), *scan(seed=1))
    assert_same_state(state_of(network), before)
    assert torch.equal(features_of(replace(plain, adapt=0.3), cells, rgb), adapted)
    assert torch.equal(features_of(plain, cells, rgb), first)


def test_a_model_adapts_as_its_checkpoint_says_unless_told_otherwise(tmp_path: Path) -> None:
    network = MinkUNet("14A", num_classes=4)
    info = CheckpointInfo(
        kind="finetune",
        network="14A",
        num_classes=4,
        voxel_size=0.05,
        vocabulary="scannet200",
        vocabulary_digest="d",
        adapt=0.3,
    )
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    assert read_info(tmp_path / "a.safetensors") == info
    assert Predictor.load(tmp_path / "a.safetensors", device="cpu")[0].adapt == 0.3
    assert Predictor.load(tmp_path / "a.safetensors", device="cpu", adapt=0.0)[0].adapt == 0
    for value in (1.5, -0.1, True, "0.3"):
        save_checkpoint(tmp_path / "b.safetensors", network, replace(info, adapt=value))  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match="its adapt is invalid"):
            read_info(tmp_path / "b.safetensors")


def test_every_way_to_a_prediction_passes_the_share_on(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = SceneStore(store_path).vocabulary
    info = CheckpointInfo(
        kind="finetune",
        network="14A",
        num_classes=len(vocabulary),
        voxel_size=0.2,
        vocabulary=vocabulary.name,
        vocabulary_digest=vocabulary.digest,
        adapt=0.3,
    )
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, MinkUNet("14A", num_classes=len(vocabulary)), info)
    shares: list[float] = []

    @contextmanager
    def spy(network: nn.Module, share: float) -> Iterator[None]:
        shares.append(share)
        with measuring_statistics(network, share):
            yield

    monkeypatch.setattr(predictor_module, "measuring_statistics", spy)
    scene = SceneStore(store_path).scene_ids("val")[0]
    for share, expected in ((None, {0.3}), (0.2, {0.2}), (0.0, set())):
        common: dict[str, Any] = {"store": store_path, "checkpoint": path, "adapt": share, "device": "cpu"}
        evaluate(EvalSettings(**common), Progress())
        assert set(shares) == expected
        shares.clear()
        predict(PredictSettings(scans=(scene,), out=tmp_path, formats=("npz",), **common), Progress())
        assert set(shares) == expected
        shares.clear()
        xyz = np.random.default_rng(0).uniform(0, 2, size=(400, 3))
        load_model(path, device="cpu", adapt=share).predict((xyz, None))
        assert set(shares) == expected
        shares.clear()


def test_an_exported_model_refuses_to_adapt() -> None:
    for share in (None, 0.0):
        require_cpu(Path("a.onnx"), device="auto", precision="auto", backend=None, final_relu=None, adapt=share)
    with pytest.raises(SettingsError, match=r"a\.onnx runs .* in fp32: omit --adapt 0\.3"):
        require_cpu(Path("a.onnx"), device="auto", precision="auto", backend=None, final_relu=None, adapt=0.3)


def test_commands_on_scans_have_the_option() -> None:
    assert EvalSettings(adapt=0.2).adapt == PredictSettings(adapt=0.2, scans=("a.ply",)).adapt == 0.2
    assert AskSettings(scan="a.ply").adapt is None
    for wrong in (-0.1, 1.1):
        with pytest.raises(SettingsError, match="--adapt must be"):
            EvalSettings(adapt=wrong)
