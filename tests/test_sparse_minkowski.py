"""lg3d against MinkowskiEngine 0.5 itself: every kind of layer, whole networks, a training step."""

import builtins
import collections
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.networks import MinkUNet
from lg3d_core.networks.checkpoint import load_network
from lg3d_core.sparse import SparseTensor, backends, minkowski_backend, resolve_backend, sparse_convolution, use_backend
from tests.backend_choice import require_backend
from tests.minkowski_checkpoints import lightning_checkpoint
from tests.minkowski_twin import build_twin

# Their modules make an instance of their autograd functions, as was done long ago.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

# kernel size, stride, transposed
LAYERS = {
    "3^3": (3, 1, False),
    "5^3": (5, 1, False),
    "2^3 down": (2, 2, False),
    "2^3 up": (2, 2, True),
    "1x1": (1, 1, False),
}


@pytest.fixture(scope="module")
def engine() -> Any:
    """MinkowskiEngine, or a skip."""
    require_backend("minkowski")
    return minkowski_backend.import_engine()


@pytest.fixture(params=["torch", "minkowski"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def surface(num_voxels: int, *, seed: int = 0) -> Tensor:
    """Draw distinct voxels on two bumpy sheets (two batches) around the origin, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    edge = int((num_voxels / 2) ** 0.5) + 1
    batch, x, y = torch.meshgrid(torch.arange(2), torch.arange(edge), torch.arange(edge), indexing="ij")
    x, y = x - edge // 2, y - edge // 2
    z = (3 * torch.sin(x / 5) + 3 * torch.cos(y / 4)).long()
    voxels = torch.stack([batch, x, y, z], dim=-1).view(-1, 4)
    return voxels[torch.randperm(len(voxels), generator=generator)[:num_voxels]].to(torch.int32)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def sort_rows(coordinates: Tensor) -> Tensor:
    """Order rows lexicographically, as lg3d stores voxels: the rows' numbers."""
    order = torch.arange(len(coordinates))
    for column in (3, 2, 1, 0):
        order = order[torch.sort(coordinates[order, column], stable=True).indices]
    return order


@pytest.mark.parametrize("channels", [(3, 32), (32, 96)])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_and_its_gradients_equal_those_of_minkowski_engine(
    engine: Any, backend: str, kind: str, channels: tuple[int, int]
) -> None:
    size, stride, transposed = LAYERS[kind]
    coordinates = surface(400)
    order = sort_rows(coordinates)

    # Theirs, by their own modules, on features of the level at which the layer starts.
    start = engine.SparseTensor(torch.zeros(400, 1), coordinates=coordinates)
    if transposed:
        pool = engine.MinkowskiSumPooling(kernel_size=2, stride=2, dimension=3)
        start = pool(start)
    at_start = sort_rows(start.C)
    features = draw(len(at_start), channels[0])
    theirs_in = torch.empty_like(features)
    theirs_in[at_start] = features
    theirs_in.requires_grad_()
    layer = (engine.MinkowskiConvolutionTranspose if transposed else engine.MinkowskiConvolution)(
        *channels, kernel_size=size, stride=stride, dimension=3
    )
    x = engine.SparseTensor(
        theirs_in, coordinate_map_key=start.coordinate_map_key, coordinate_manager=start.coordinate_manager
    )
    y = layer(x)
    at_end = sort_rows(y.C)
    theirs = y.F[at_end]
    weighting = draw(*theirs.shape, seed=2)
    (theirs * weighting).sum().backward()
    assert theirs_in.grad is not None

    # Ours, with their weights.
    ours_in = features.clone().requires_grad_()
    weight = layer.kernel.detach().clone().requires_grad_()
    with use_backend(backend):
        tensor = SparseTensor(torch.zeros(400, 1), coordinates)
        assert torch.equal(tensor.coordinates, coordinates[order])
        tensor.cache.keys(2)
        tensor = tensor.replace(ours_in, stride=2 if transposed else 1)
        output = sparse_convolution(tensor, weight, kernel_size=size, stride=stride, transposed=transposed)
    assert torch.equal(output.coordinates, y.C[at_end])
    (output.features * weighting).sum().backward()

    # Measured: at most 7e-7, from another order of additions.
    assert relative_error(output.features, theirs) < 1e-5
    assert relative_error(ours_in.grad, theirs_in.grad[at_start]) < 1e-5
    assert relative_error(weight.grad, layer.kernel.grad) < 1e-5


def their_output(engine: Any, twin: nn.Module, features: Tensor, coordinates: Tensor) -> Tensor:
    """Run the twin; rows in the order of the input."""
    x = engine.SparseTensor(features, coordinates=coordinates)
    assert torch.equal(x.C, coordinates)
    rows: Tensor = twin(x).F
    return rows


@pytest.mark.parametrize(("plan", "stem_size", "final_relu"), [("34C", 3, False), ("34D", 3, False), ("14A", 5, True)])
def test_a_network_gives_the_features_and_logits_of_minkowski_engine(
    engine: Any, plan: str, stem_size: int, final_relu: bool
) -> None:
    torch.manual_seed(0)
    coordinates, features = surface(500), draw(500, 3)
    ours = MinkUNet(plan, num_classes=20, stem_size=stem_size, final_relu=final_relu)
    twin = build_twin(engine, plan, num_classes=20, stem_size=stem_size, final_relu=final_relu)
    twin.load_state_dict(ours.state_dict())  # the names are the same, one by one
    with torch.no_grad():
        theirs = their_output(engine, twin, features, coordinates)
        for backend in ("torch", "minkowski"):
            with use_backend(backend):
                logits = ours.classify(ours(SparseTensor(features, coordinates)))
            assert relative_error(logits, theirs) < 1e-4  # measured: 6e-6


def test_initial_weights_are_drawn_as_minkowski_engine_draws_them(engine: Any) -> None:
    torch.manual_seed(0)
    ours, theirs = (
        MinkUNet("14A", num_classes=200).state_dict(),
        build_twin(engine, "14A", num_classes=200).state_dict(),
    )
    for name, tensor in ours.items():
        if name.endswith((".kernel", ".bias")) and ".bn." not in name:
            # Deviations of N draws from one uniform distribution differ by sqrt(2 / 5N), relative: five of them.
            tolerance = 5 * (2 / 5 / tensor.numel()) ** 0.5
            assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=tolerance), name
        elif ".bn." in name:
            assert torch.equal(tensor, theirs[name]), name


def test_a_training_step_equals_that_of_minkowski_engine(engine: Any, backend: str) -> None:
    torch.manual_seed(0)
    coordinates, features = surface(600), draw(600, 3)
    labels = torch.randint(0, 20, (600,), generator=torch.Generator().manual_seed(3))
    ours = MinkUNet("14A", num_classes=20)
    twin = build_twin(engine, "14A", num_classes=20)
    twin.load_state_dict(ours.state_dict())
    with use_backend(backend):
        loss = nn.functional.cross_entropy(ours.classify(ours(SparseTensor(features, coordinates))), labels)
        step(ours, loss)
    theirs = nn.functional.cross_entropy(their_output(engine, twin, features, coordinates), labels)
    step(twin, theirs)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = twin.state_dict()
    for name, tensor in ours.state_dict().items():  # weights, and running statistics
        assert relative_error(tensor.float(), expected[name].float()) < 1e-4, name  # measured: 4e-6


def step(network: nn.Module, loss: Tensor) -> None:
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@pytest.mark.parametrize("final_relu", [False, True])
def test_weights_saved_by_minkowski_engine_give_the_same_features_here(
    engine: Any, tmp_path: Path, final_relu: bool
) -> None:
    torch.manual_seed(0)
    coordinates, features = surface(500), draw(500, 3)
    twin = build_twin(engine, "14A", num_classes=20, final_relu=final_relu)
    for name, tensor in twin.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    model = "Res16UNet14A" if final_relu else "Res16UNet34CR"
    torch.save(lightning_checkpoint(twin, hyper_parameters={"model": model}), tmp_path / "theirs.ckpt")
    network, _ = load_network(tmp_path / "theirs.ckpt")
    with torch.no_grad():
        theirs = their_output(engine, twin.eval(), features, coordinates)
        ours = network.classify(network(SparseTensor(features, coordinates)))
    assert relative_error(ours, theirs) < 1e-5  # measured: 2e-6


def test_levels_are_registered_once_for_all_layers_and_both_directions(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    new = engine.CoordinateManager
    monkeypatch.setattr(engine, "CoordinateManager", lambda **choices: made.append(new(**choices)) or made[-1])
    with use_backend("minkowski"):
        x = SparseTensor(draw(100, 4), surface(100))
        x = sparse_convolution(sparse_convolution(x, draw(27, 4, 4), kernel_size=3), draw(27, 4, 4), kernel_size=3)
        down = sparse_convolution(x, draw(8, 4, 4), kernel_size=2, stride=2)
        sparse_convolution(down, draw(8, 4, 4), kernel_size=2, stride=2, transposed=True)
    assert len(made) == 2  # one for the 3^3 map, one for the way down and back


def test_another_order_of_rows_in_the_manager_changes_nothing(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MinkowskiEngine keeps the order on the CPU, but need not: on CUDA it does not."""

    class Shuffling:
        def __init__(self, **choices: Any) -> None:
            self._real = new(**choices)

        def insert_and_map(self, coordinates: Tensor, stride: list[int]) -> Any:
            order = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(4))
            key, (unique, inverse) = self._real.insert_and_map(coordinates[order], stride)
            assert torch.equal(unique, inverse)
            return key, (order.int(), torch.argsort(order))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    new = engine.CoordinateManager
    features, weight, coordinates = draw(100, 4), draw(8, 4, 5), surface(100)

    def there_and_back() -> Tensor:
        with use_backend("minkowski"):
            down = sparse_convolution(SparseTensor(features, coordinates), weight, kernel_size=2, stride=2)
            back = sparse_convolution(down, weight.mT, kernel_size=2, stride=2, transposed=True)
        return torch.cat([down.features.flatten(), back.features.flatten()])

    expected = there_and_back()
    monkeypatch.setattr(engine, "CoordinateManager", Shuffling)
    torch.testing.assert_close(there_and_back(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.usefixtures("engine")
def test_other_dtypes_come_back_as_they_went(dtype: torch.dtype) -> None:
    features, weight, coordinates = draw(80, 4).to(dtype), draw(27, 4, 5).to(dtype), surface(80)
    with use_backend("minkowski"):
        output = sparse_convolution(SparseTensor(features, coordinates), weight, kernel_size=3).features
    with use_backend("reference"):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        x = SparseTensor(features.to(wide), coordinates)
        expected = sparse_convolution(x, weight.to(wide), kernel_size=3).features
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype), rtol=8e-3, atol=1e-2)  # one rounding: products are in fp32


@pytest.mark.usefixtures("engine")
def test_no_voxels_give_no_rows_and_zero_gradients() -> None:
    weight = draw(27, 4, 5).requires_grad_()
    with use_backend("minkowski"):
        x = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32))
        output = sparse_convolution(x, weight, kernel_size=3).features
    output.sum().backward()
    assert output.shape == (0, 5)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.usefixtures("engine")
def test_the_import_leaves_collections_and_the_environment_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hasattr(collections, "Sequence")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    minkowski_backend.import_engine()
    assert minkowski_backend.os.environ["OMP_NUM_THREADS"] == "3"


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the backend that an earlier test made."""
    monkeypatch.setattr(backends, "_instances", {})


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'MinkowskiEngine'", name="MinkowskiEngine"),
            "is not installed.*make mink",
        ),
        (ImportError("undefined symbol: _ZN2at"), "does not load .undefined symbol.*make minkowski"),
    ],
)
def test_without_a_usable_minkowski_engine_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, message: str
) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *arguments: Any, **choices: Any) -> Any:
        if name == "MinkowskiEngine":
            raise error
        return real_import(name, *arguments, **choices)

    monkeypatch.delitem(sys.modules, "MinkowskiEngine", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=message), use_backend("minkowski"):
        pass


@pytest.mark.usefixtures("fresh_choice")
def test_another_version_of_minkowski_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("MinkowskiEngine")
    old.__version__ = "0.4.3"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", old)
    with pytest.raises(MissingDependencyError, match=r"expected MinkowskiEngine 0\.5, got 0\.4\.3"):
        resolve_backend("minkowski", torch.device("cpu"))


def test_a_build_for_the_cpu_refuses_cuda_before_any_kernel_starts(engine: Any) -> None:
    if engine.is_cuda_available():
        pytest.skip("this MinkowskiEngine was built for CUDA")
    backend = minkowski_backend.MinkowskiBackend()
    with pytest.raises(SettingsError, match=r"built for the CPU.*--device cpu"):
        backend._new_manager(torch.device("cuda"))
