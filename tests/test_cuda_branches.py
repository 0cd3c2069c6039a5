"""Network, training, validation, predict and bench through the branches that CUDA takes, on a CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lg3d_core.evaluation.eval import evaluate
from lg3d_core.inference.predict import predict
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch
from lg3d_core.settings import BenchSettings, EvalSettings, FinetuneSettings, PredictSettings, PretrainSettings
from lg3d_core.sparse import SparseTensor, parallel, use_backend
from lg3d_core.sparse_benchmark.bench import bench
from lg3d_core.training import launch
from lg3d_core.training.batches import SceneBatches, load_batches, plan_batches
from lg3d_core.training.finetune import finetune
from lg3d_core.training.learners import Classification
from lg3d_core.training.pretrain import pretrain
from tests.cuda_branches import Branches, take_cuda_branches

SMALL = {"network": "14A", "voxel_size": 0.2, "device": "cpu"}


@pytest.fixture
def branches(monkeypatch: pytest.MonkeyPatch) -> Branches:
    monkeypatch.setattr(launch, "trains_faster_in_bf16", lambda *_: True)
    return take_cuda_branches(monkeypatch)


def compute(network: MinkUNet) -> list[Tensor]:
    """Give the logits and gradients of a network on a box of voxels, and its statistics afterwards."""
    cells = torch.stack(torch.meshgrid(*[torch.arange(6)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    coordinates = torch.cat([torch.zeros(len(cells), 1, dtype=torch.long), cells], dim=1).int()
    colours = torch.rand(len(cells), 3, generator=torch.Generator().manual_seed(1)).to(network.conv0p1s1.kernel.dtype)
    logits = network.classify(network(SparseTensor(colours, coordinates)))
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad for p in network.parameters() if p.grad is not None), *network.buffers()]


@pytest.mark.usefixtures("branches")
def test_a_network_computes_the_same_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=5).double()
    ours = [value.clone() for value in compute(network)]
    monkeypatch.undo()
    torch.manual_seed(0)
    with use_backend("torch"):
        expected = compute(MinkUNet("14A", num_classes=5).double())
    assert len(ours) > 100
    for value, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("branches")
def test_nothing_in_them_is_cut_into_pieces_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pieces for threads")

    monkeypatch.setattr(parallel, "run_pieces", refuse)
    for module in ("modules", "normalization", "pointwise", "torch_backend"):
        monkeypatch.setattr(f"lg3d_core.sparse.{module}.run_pieces", refuse, raising=False)
    compute(MinkUNet("14A", num_classes=5))


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_run_trains_and_its_last_validation_is_what_eval_scores(
    branches: Branches, store_path: Path, tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    loss = Classification.loss

    def watch(self: Classification, features: Tensor, batch: Batch, **choices: Any) -> Any:
        assert features.dtype == torch.bfloat16
        seen.append(batch)
        return loss(self, features, batch, **choices)

    monkeypatch.setattr(Classification, "loss", watch)
    settings = FinetuneSettings(
        store=store_path, runs=tmp_path, start="scratch", epochs=3, validate_every=1, jobs=jobs, **SMALL
    )
    path = finetune(settings, Progress())
    assert len(seen) == 3
    assert all(batch.labels.data_ptr() in branches.pinned for batch in seen)
    records = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    validated = [record["val_miou_present"] for record in records if "val_miou_present" in record]
    assert len(validated) == 3
    score = evaluate(EvalSettings(store=store_path, checkpoint=path, precision="bf16", device="cpu"), Progress())
    assert score.vertex.miou_present == pytest.approx(validated[-1], rel=1e-12)


def test_pretraining_learns_from_both_kinds_of_batches(
    branches: Branches, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    for method in ("language", "csc"):
        settings = PretrainSettings(
            store=store_path, anchors=anchors_path, runs=tmp_path, name=method, method=method, jobs=0, **SMALL
        )
        assert pretrain(settings, Progress()).is_file()
    assert branches.pinned


@pytest.mark.usefixtures("branches")
def test_labels_of_a_scan_are_those_of_the_cpu(
    store_path: Path, raw_rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FinetuneSettings(store=store_path, runs=tmp_path, start="scratch", jobs=0, **SMALL)
    path = finetune(settings, Progress())
    scan = next((raw_rooms / "scans").glob("*/*_clean_2.ply"))
    for name in ("cuda", "cpu"):
        if name == "cpu":
            monkeypatch.undo()
        predict(
            PredictSettings(
                checkpoint=path,
                scans=(str(scan),),
                out=tmp_path / name,
                formats=("npz",),
                precision="fp32",
                device="cpu",
            ),
            Progress(),
        )
    ours, expected = (np.load(next((tmp_path / name).glob("*.npz"))) for name in ("cuda", "cpu"))
    np.testing.assert_allclose(ours["confidence"], expected["confidence"], rtol=1e-4)
    assert (ours["label"] == expected["label"]).mean() > 0.99  # rounding decides where two classes score the same


@pytest.mark.usefixtures("branches")
def test_the_benchmark_runs_and_its_results_agree(store_path: Path, tmp_path: Path) -> None:
    settings = BenchSettings(
        store=store_path,
        networks=("14A",),
        voxel_size=(0.2,),
        batch=(1,),
        backends=("torch",),
        peers=("none",),
        what=("maps", "layers-train", "train"),
        repeats=1,
        precision="fp32",  # without the CPU's padding, oneDNN prepares each shape in bfloat16 anew
        device="cpu",
        out=tmp_path / "bench.json",
    )
    report = bench(settings, Progress())
    assert {result.what for result in report.results} == {"maps", "layers-train", "train"}
    assert all(one.agrees for result in report.results for one in result.measured)


@pytest.mark.usefixtures("branches")
def test_errors_of_worker_processes_pass_through_page_locked_memory() -> None:
    class Broken(SceneBatches):
        def __init__(self) -> None:
            self.max_voxels = None

        def load(self, *_: Any, **__: Any) -> Batch:
            raise MemoryError("no memory for this scene")

    plans = plan_batches(1, batch_size=1, micro_batch=1, seed=0, epochs=1)
    with pytest.raises(MemoryError, match="no memory for this scene"):
        list(load_batches(Broken(), plans, jobs=0, seed=0, shift=False))
