"""Engines behind one face: equal results on the same voxels, in each engine's own layout and order."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lg3d_core.sparse_benchmark.workload as workload_module
from lg3d_core.errors import DataError, MissingDependencyError, SettingsError, UsageError
from lg3d_core.networks import MinkUNet
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.progress import Progress
from lg3d_core.sparse import SparseConvolution, SparseTensor, sparse_convolution, use_backend
from lg3d_core.sparse_benchmark.agreement import (
    Values,
    collect,
    compare,
    gradient_tolerance,
    relative_difference,
    tolerance,
)
from lg3d_core.sparse_benchmark.bench import Upstream
from lg3d_core.sparse_benchmark.engines import Engine, Lg3dEngine, Rows, Trial, _try_backend, find_backends
from lg3d_core.sparse_benchmark.operations import Operation, plan_operations
from lg3d_core.sparse_benchmark.peers import (
    PEERS,
    MinkowskiPeer,
    Peer,
    SpconvPeer,
    find_peers,
)
from lg3d_core.sparse_benchmark.placement import Voxelization, Work
from lg3d_core.sparse_benchmark.workload import Cloud, Workload, gather_clouds, make_workload
from tests import fake_engines
from tests.box_rooms import write_room

CPU = torch.device("cpu")


def make_cloud(name: str, seed: int) -> Cloud:
    """Points on a floor and a wall of 1.6 m, in no order."""
    rng = np.random.default_rng(seed)
    floor = rng.random((3000, 3)) * [1.6, 1.6, 0.05]
    wall = rng.random((3000, 3)) * [0.05, 1.6, 1.6]
    rgb = rng.integers(0, 255, (6000, 3)).astype(np.uint8)
    return Cloud(name, np.concatenate([floor, wall]).astype(np.float32) - 1, rgb)


@pytest.fixture(scope="module")
def workload() -> Workload:
    """About 3,000 voxels: enough of them at the lowest level that batch norm is well conditioned."""
    return make_workload([make_cloud("a", 0), make_cloud("b", 1)], voxel_size=0.05, batch_size=2)


def run(trial: Trial, operation: Operation) -> Values:
    trial.clear()
    output = trial.train(Upstream()) if operation.training else trial.infer()
    return collect(trial, output, training=operation.training)


class ShuffledPeer(Peer):
    """A peer on lg3d's own kernels that keeps its voxels and offsets in an order of its own."""

    title = "shuffled"
    module_name = "nowhere"
    install = "never"

    def __init__(self) -> None:
        super().__init__(None, CPU)

    def open(self, workload: Workload, features: Tensor) -> Any:
        backwards = torch.arange(workload.num_voxels - 1, -1, -1)
        return SparseTensor(features[backwards], workload.coordinates[backwards])

    def make_layer(self, convolution: SparseConvolution, stride: int) -> nn.Module:
        assert stride in (1, 2, 4, 8, 16)
        return self.copy_weights(ReversedConvolution(convolution), convolution)

    def features(self, x: Any) -> Tensor:
        return x.features.flip(0)

    def replace(self, x: Any, features: Tensor) -> Any:
        return x.replace(features.flip(0))

    def coordinates(self, x: Any) -> Tensor:
        return x.coordinates.flip(0)

    def pack(self, kernel: Tensor) -> Tensor:
        return kernel.flip(0)

    def unpack(self, kernel: Tensor) -> Tensor:
        return kernel.flip(0)


class ReversedConvolution(nn.Module):
    """A convolution whose weights are stored back to front."""

    def __init__(self, like: SparseConvolution) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty_like(like.kernel))
        self.bias = None if like.bias is None else nn.Parameter(torch.empty_like(like.bias))
        self.like = (like,)  # hidden from `parameters`

    def forward(self, x: SparseTensor) -> SparseTensor:
        like = self.like[0]
        return sparse_convolution(
            x,
            self.kernel.flip(0),
            kernel_size=like.kernel_size,
            stride=like.stride,
            transposed=like.transposed,
            bias=self.bias,
        )


def test_a_workload_is_sorted_starts_at_zero_and_repeats_scenes() -> None:
    a, b = make_cloud("a", 0), make_cloud("b", 1)
    workload = make_workload([a, b], voxel_size=0.1, batch_size=3)
    assert workload.names == ("a", "b", "a")
    rows = workload.coordinates
    assert rows[:, 1:].amin(dim=0).tolist() == [0, 0, 0]
    assert torch.equal(rows, torch.unique(rows, dim=0))
    assert workload.shape == (16, 16, 16)  # 1.6 m over 0.1 m
    assert torch.equal(rows[rows[:, 0] == 0, 1:], rows[rows[:, 0] == 2, 1:])
    assert workload.colours.abs().max() <= 0.5
    assert workload.first(7).num_voxels == 7


def test_scenes_of_a_store_are_read_by_their_id(store_path: Path) -> None:
    (cloud,) = gather_clouds(["scene9000_00"], store_path, num_rooms=1, voxel_size=0.05, seed=0, progress=Progress())
    assert cloud.name == "scene9000_00"
    assert len(cloud.xyz) == len(cloud.rgb) > 100


def test_procedural_rooms_are_generated_and_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_module, "VERTICES_AT_5_CM", 12_000)
    rooms = gather_clouds([], tmp_path, num_rooms=1, voxel_size=0.2, seed=3, progress=Progress())
    assert [room.name for room in rooms] == ["procedural bedroom, seed 3"]
    assert all(len(room.xyz) == len(room.rgb) > 5_000 for room in rooms)
    mesh = next(write_room(tmp_path / "raw", "scene0000_00").glob("*_vh_clean_2.ply"))
    (cloud,) = gather_clouds([str(mesh)], tmp_path, num_rooms=1, voxel_size=0.05, seed=0, progress=Progress())
    assert cloud.name == mesh.stem
    with pytest.raises(DataError, match=r"expected a \.ply file or a scene of a store"):
        gather_clouds(["scene0000_00"], tmp_path, num_rooms=1, voxel_size=0.05, seed=0, progress=Progress())
    with pytest.raises(DataError, match="no points"):
        make_workload(
            [Cloud("none", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))], voxel_size=1, batch_size=1
        )


def test_every_convolution_is_placed_once_at_the_stride_of_its_input(workload: Workload) -> None:
    network = MinkUNet("14A", num_classes=5)
    strides: dict[int, int] = {}
    for module in network.modules():
        if isinstance(module, SparseConvolution):
            module.register_forward_pre_hook(lambda m, args: strides.__setitem__(id(m), args[0].stride))
    with torch.no_grad():
        network.train()(SparseTensor(workload.colours, workload.coordinates))
    placed = list(place_convolutions(network))
    every = {name: module for name, module in network.named_modules() if isinstance(module, SparseConvolution)}
    assert {p.name: p.convolution for p in placed} == every
    for name, convolution, stride in placed:
        if id(convolution) in strides:  # some are computed without a call of the module, the classifier among them
            assert stride == strides[id(convolution)], name


def test_work_counts_pairs_voxels_and_weights() -> None:
    # Two voxels side by side and one far away: 2 pairs among neighbours, 3 with themselves.
    cells = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 8, 8, 8]], dtype=torch.int32)
    workload = Workload(("three",), 0.1, cells, torch.zeros(3, 3), 1, (16, 16, 16))
    voxels = Voxelization(workload)
    assert voxels.work(SparseConvolution(4, 6, kernel_size=3), 1) == Work(5, 3, 3, 27, 4, 6)
    assert voxels.work(SparseConvolution(4, 6, kernel_size=1), 1) == Work(3, 3, 3, 1, 4, 6)
    down = voxels.work(SparseConvolution(4, 6, kernel_size=2, stride=2), 1)
    assert down == Work(3, 3, 2, 8, 4, 6)
    assert voxels.work(SparseConvolution(4, 6, kernel_size=2, stride=2, transposed=True), 2) == Work(3, 2, 3, 8, 4, 6)
    assert down.flops == 2 * 3 * 4 * 6
    assert down.elements == 3 * 4 + 2 * 6 + 8 * 4 * 6


@pytest.mark.parametrize("what", ["maps", "layers", "layers-train", "forward", "train"])
def test_a_peer_of_another_order_of_voxels_and_offsets_computes_the_same(workload: Workload, what: str) -> None:
    ours, theirs = Lg3dEngine("torch", CPU), ShuffledPeer()
    operations = [o for o in plan_operations([what], ["14A"], workload, seed=0) if not o.is_own]
    assert len(operations) == {"maps": 1, "layers": 6, "layers-train": 6, "forward": 1, "train": 1}[what]
    for operation in operations:
        expected = run(operation.build(ours, workload, "fp32"), operation)
        trial = operation.build(theirs, workload, "fp32")
        with use_backend("torch"):
            difference = compare(run(trial, operation), expected)
        assert difference.output < tolerance("fp32", network=operation.is_network), operation.name
        if operation.training:
            assert difference.gradients is not None
            assert difference.gradients < gradient_tolerance("fp32", network=operation.is_network)
            assert len(expected.gradients) == len(trial.kernels) + (trial.source is not None)


def test_a_wrong_layout_is_detected(workload: Workload) -> None:
    class Mislaid(ShuffledPeer):
        def pack(self, kernel: Tensor) -> Tensor:
            return kernel

    (operation,) = [o for o in plan_operations(["layers"], [], workload, seed=0) if o.name == "layer 96->96 3^3"]
    expected = run(operation.build(Lg3dEngine("torch", CPU), workload, "fp32"), operation)
    with use_backend("torch"):
        values = run(operation.build(Mislaid(), workload, "fp32"), operation)
    assert compare(values, expected).output > 0.5


def test_layouts_are_invertible_and_every_offset_is_where_the_peer_reads_it() -> None:
    device = CPU
    for kind in (MinkowskiPeer, SpconvPeer):
        peer = kind(None, device)
        for shape in ((27, 3, 5), (8, 3, 5), (3, 5)):
            kernel = torch.randn(shape)
            assert torch.equal(peer.unpack(peer.pack(kernel)), kernel), kind.title
    kernel = torch.zeros(27, 3, 5)
    kernel[2 + 3 * 1 + 9 * 0, 1, 4] = 1.0  # x = 2, y = 1, z = 0: the first axis is the fastest
    assert SpconvPeer(None, device).pack(kernel)[4, 2, 1, 0, 1] == 1.0


def test_differences_are_relative_and_infinite_where_shapes_differ() -> None:
    one, two = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_difference([two], [one]) == pytest.approx(0.1)  # 0.5 of 5
    assert relative_difference([one], [one]) == 0.0
    assert relative_difference([torch.zeros(3)], [one]) == float("inf")
    assert relative_difference([torch.tensor([float("nan"), 0])], [one]) == float("inf")
    assert relative_difference([torch.zeros(2)], [torch.zeros(2)]) == 0.0
    assert relative_difference([one], [torch.zeros(2)]) == float("inf")
    assert tolerance("fp32", network=False, may_be_tf32=True) > tolerance("fp32", network=False)
    assert gradient_tolerance("fp32", network=True, may_be_tf32=True) > gradient_tolerance("fp32", network=True)


def test_backends_are_found_by_name_and_the_reference_only_by_name() -> None:
    found, _ = find_backends(["all"], CPU)
    assert found[0].name == "lg3d torch"
    assert "lg3d reference" not in [engine.name for engine in found]
    found, missing = find_backends(["reference"], CPU)
    assert [engine.name for engine in found] == ["lg3d reference"]
    assert missing == {}
    with pytest.raises(SettingsError, match="--backends: expected all or some of"):
        find_backends(["cudnn"], CPU)


def test_a_missing_peer_is_reported_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import lg3d_core.sparse_benchmark.peers as peers

    def nothing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(peers, "import_peer", nothing)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _name: None)
    found, missing = find_peers(["all"], CPU)
    assert found == []
    assert set(missing) == {kind.title for kind in PEERS.values()}
    with pytest.raises(MissingDependencyError, match=r"--peers spconv: not installed \(pip install spconv"):
        find_peers(["spconv"], CPU)
    with pytest.raises(UsageError, match="--peers: expected all, none or some of minkowski"):
        find_peers(["cudnn"], CPU)
    assert find_peers(["none"], CPU) == ([], {})


def test_peers_that_need_cuda_are_refused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import lg3d_core.sparse_benchmark.peers as peers

    monkeypatch.setattr(peers, "import_peer", lambda _name: SimpleNamespace(is_cuda_available=lambda: False))
    found, missing = find_peers(["all"], CPU)
    assert [peer.name for peer in found] == ["MinkowskiEngine", "spconv"]
    assert all("CUDA" in reason for reason in missing.values())
    assert "gradients" in (found[1].refusal(training=True) or "")
    assert found[0].precision("bf16") == "fp32"


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (MinkowskiPeer, fake_engines.FakeMinkowski),
        (SpconvPeer, fake_engines.FakeSpconv),
    ],
    ids=lambda value: value.__name__,
)
def test_an_adapter_uses_the_documented_interface_of_its_engine(
    workload: Workload, kind: type[Peer], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lg3d_core.sparse_benchmark.peers as peers

    monkeypatch.setattr(peers.importlib, "import_module", fake_engines.MODULES.__getitem__)
    monkeypatch.setattr(kind, "refusal", Engine.refusal)  # nothing needs CUDA here
    with use_backend("torch"):
        check_peer(kind(module, CPU), workload)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # MinkowskiEngine's modules do
@pytest.mark.parametrize("name", ["minkowski", "spconv"])
def test_an_installed_peer_computes_the_same(workload: Workload, name: str) -> None:
    if importlib.util.find_spec(PEERS[name].module_name.split(".")[0]) is None:
        pytest.skip(f"{PEERS[name].title} is not installed")
    (peer,), _ = find_peers([name], CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # spconv's threads overwrite each other's sums
    try:
        check_peer(peer, workload)
    finally:
        torch.set_num_threads(before)


def check_peer(peer: Engine, workload: Workload) -> None:
    assert isinstance(peer, Peer)
    ours = Lg3dEngine("torch", CPU)
    what = ["maps", "layers", "layers-train", "forward", "train"]
    for operation in plan_operations(what, ["14A"], workload, seed=0):
        kept = operation.layer is None or peer.keeps_map(operation.layer.build())
        if operation.is_own or peer.refusal(training=operation.training) or not kept:
            continue
        expected = run(operation.build(ours, workload, "fp32"), operation)
        difference = compare(run(operation.build(peer, workload, "fp32"), operation), expected)
        assert difference.output < tolerance("fp32", network=operation.is_network), operation.name
        assert (difference.gradients or 0) < gradient_tolerance("fp32", network=operation.is_network), operation.name


def test_a_batch_is_cropped_to_the_centres_of_its_rooms() -> None:
    """A floor of 21 x 11 cells, of which 30 a room remain: the 2 x 30 closest to the middle along x and y."""
    x, y = np.meshgrid(np.arange(21), np.arange(11), indexing="ij")
    xyz = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1).astype(np.float32) + 0.5
    cloud = Cloud("floor", xyz, np.zeros((len(xyz), 3), dtype=np.uint8))
    whole = make_workload([cloud], voxel_size=1.0, batch_size=2, max_voxels=1000)
    assert whole.num_voxels == 2 * 231
    batch = make_workload([cloud], voxel_size=1.0, batch_size=2, max_voxels=60)
    assert batch.num_voxels == 60
    extent = batch.coordinates[:, 1:].amax(dim=0).tolist()
    assert max(extent[:2]) <= 6  # of seven by seven cells, 49, the inner 25 and five more
    assert batch.coordinates[:, 1:].amin(dim=0).tolist() == [0, 0, 0]
    assert torch.equal(batch.coordinates[:30, 1:], batch.coordinates[30:, 1:])


def test_on_a_gpu_the_compiled_cpu_kernels_are_not_timed_as_a_backend_of_their_own() -> None:
    with pytest.raises(UsageError, match=r"--backends native: .* on cuda it is the backend torch"):
        _try_backend("native", torch.device("cuda"))


def test_the_gradient_of_the_output_keeps_its_digits_in_half_precision_at_any_size():
    values = torch.zeros(40_000, 100)
    rows = torch.cat([torch.zeros(len(values), 3, dtype=torch.int32), torch.arange(len(values))[:, None].int()], dim=1)
    single, half = (Upstream()(Rows(rounded, lambda: rows)) for rounded in (values, values.half()))
    assert (half.double() - single).norm() < 1e-3 * single.norm()
