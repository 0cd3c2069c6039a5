"""The MinkUNet family: sizes, names, order of rows, determinism, what it learns and refuses."""

import pytest
import torch
from torch import Tensor, nn

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.networks import NETWORK_PLANS, MinkUNet
from lg3d_core.sparse import SparseBatchNorm, SparseTensor, set_num_workers, use_backend


def draw_room(num_voxels: int = 300, *, batches: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw colours and distinct voxels of a few crowded cubes, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batches * 12**3, generator=generator)[:num_voxels]
    columns = [cells // 12**3, *(cells // 12**axis % 12 - 6 for axis in (2, 1, 0))]
    return torch.rand(num_voxels, 3, generator=generator) - 0.5, torch.stack(columns, dim=1).to(torch.int32)


@pytest.fixture(scope="module")
def small() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet("14A", num_classes=20)


@pytest.mark.parametrize(
    ("plan", "millions", "num_features"),
    [("34D", 79.43, 512), ("34C", 37.86, 96), ("18C", 21.71, 96), ("18A", 15.50, 96), ("14A", 8.03, 96)],
)
def test_parameter_counts_are_those_of_the_published_table(plan: str, millions: float, num_features: int):
    with torch.device("meta"):
        network = MinkUNet(plan, num_classes=200)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions
    assert network.num_features == num_features


def test_parameter_names_and_shapes_are_those_of_the_released_weights():
    with torch.device("meta"):
        state = MinkUNet("34D", num_classes=200).state_dict()
    expected = {
        "conv0p1s1.kernel": (27, 3, 32),
        "bn0.bn.weight": (32,),
        "bn0.bn.running_mean": (32,),
        "bn0.bn.num_batches_tracked": (),
        "conv1p1s2.kernel": (8, 32, 32),
        "block1.0.conv1.kernel": (27, 32, 32),
        "block1.0.norm1.bn.bias": (32,),
        "conv2p2s2.kernel": (8, 32, 32),
        "block2.0.downsample.0.kernel": (32, 64),
        "block2.0.downsample.1.bn.running_var": (64,),
        "conv4p8s2.kernel": (8, 128, 128),
        "block4.5.conv2.kernel": (27, 256, 256),
        "convtr4p16s2.kernel": (8, 256, 256),
        "bntr4.bn.weight": (256,),
        "block5.0.conv1.kernel": (27, 384, 256),
        "convtr7p2s2.kernel": (8, 256, 512),
        "block8.0.downsample.0.kernel": (544, 512),
        "block8.1.norm2.bn.weight": (512,),
        "final.kernel": (512, 200),
        "final.bias": (1, 200),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected
    with torch.device("meta"):
        headless = MinkUNet("34D").state_dict()
    assert set(state) - set(headless) == {"final.kernel", "final.bias"}


def test_an_offset_head_adds_two_layers_and_leaves_the_other_initial_weights_unchanged():
    networks = []
    for offset_head in (False, True):
        torch.manual_seed(0)
        networks.append(MinkUNet("14A", num_classes=3, offset_head=offset_head))
    plain, with_head = (network.state_dict() for network in networks)
    shapes = {name: tuple(with_head[name].shape) for name in set(with_head) - set(plain)}
    assert shapes == {
        "offset_head.hidden.weight": (96, 96),
        "offset_head.hidden.bias": (96,),
        "offset_head.out.weight": (3, 96),
        "offset_head.out.bias": (3,),
    }
    assert all(torch.equal(with_head[name], tensor) for name, tensor in plain.items())


def test_running_statistics_move_faster_on_the_main_path_of_residual_blocks_alone():
    with torch.device("meta"):
        network = MinkUNet("18A")
    momenta = {name: norm.bn.momentum for name, norm in network.named_modules() if isinstance(norm, SparseBatchNorm)}
    # Its eight stages, but the first, change the width in their first block.
    shortcuts = {f"block{stage}.0.downsample.1" for stage in range(2, 9)}
    assert {name for name, momentum in momenta.items() if momentum == 0.02} == shortcuts | {
        *("bn0", "bn1", "bn2", "bn3", "bn4"),
        *("bntr4", "bntr5", "bntr6", "bntr7"),
    }
    assert {momentum for name, momentum in momenta.items() if ".norm" in name} == {0.1}


# Bound 1/sqrt(n) of some layers of 34C with 200 classes, n by MinkowskiEngine's rule.
BOUNDS = {
    "conv0p1s1.kernel": 3 * 27,
    "conv1p1s2.kernel": 32 * 8,
    "block4.5.conv2.kernel": 256 * 27,
    "block2.0.downsample.0.kernel": 32,  # 1x1, from 32 to 64 channels
    "convtr4p16s2.kernel": 256 * 8,  # transposed: n counts the channels that come out, 256
    "convtr5p8s2.kernel": 128 * 8,  # from 256 to 128
    "convtr6p4s2.kernel": 96 * 8,  # from 128 to 96
    "final.kernel": 96,
    "final.bias": 96,
}


def test_initial_weights_are_uniform_within_the_bound_of_minkowski_engine():
    torch.manual_seed(0)
    state = MinkUNet("34C", num_classes=200).state_dict()
    for name, n in BOUNDS.items():
        scaled = (state[name].flatten() * n**0.5).double()
        assert 0.98 < scaled.abs().max() <= 1.000001, name
        # Of N draws from U(-1, 1) the mean has the deviation sqrt(1/3N), the mean square sqrt(4/45N): five of them.
        assert abs(scaled.mean()) < 5 * (1 / 3 / len(scaled)) ** 0.5, name
        assert abs((scaled**2).mean() - 1 / 3) < 5 * (4 / 45 / len(scaled)) ** 0.5, name
    norms = {name: tensor for name, tensor in state.items() if ".bn." in name}
    assert all(bool((tensor == 1).all()) for name, tensor in norms.items() if name.endswith("bn.weight"))
    assert all(bool((tensor == 0).all()) for name, tensor in norms.items() if name.endswith("bn.bias"))


@pytest.mark.parametrize("training", [True, False])
def test_features_come_back_in_the_order_of_the_input(small: MinkUNet, training: bool):
    network = small.train(training)
    features, coordinates = draw_room()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight = network(SparseTensor(features, coordinates))
        shuffled = network(SparseTensor(features[order], coordinates[order]))
    assert straight.shape == (300, 96)
    assert torch.equal(shuffled, straight[order])


def test_both_backends_give_the_same_features_and_gradients(small: MinkUNet):
    network = small.train()
    features, coordinates = draw_room()
    results = []
    for backend in ("reference", "torch"):
        network.zero_grad()
        with use_backend(backend):
            out = network.classify(network(SparseTensor(features, coordinates)))
            out.square().mean().backward()
        results.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert len(results[0]) == 1 + len(list(network.parameters()))
    for ours, expected in zip(results[1], results[0], strict=True):
        # Measured: 1.1e-6 in the mean square. Additions in another order; ReLUs may then switch at zero.
        assert ((ours - expected).norm() / expected.norm().clamp(min=1e-6)).item() < 1e-3


def test_features_and_gradients_are_bit_equal_for_all_numbers_of_threads(small: MinkUNet):
    network = small.train()
    features, coordinates = draw_room(3000)
    upstream = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    runs = []
    try:
        for num_threads, workers in ((1, None), (1, 3), (2, None), (2, 1)):
            torch.set_num_threads(num_threads)
            set_num_workers(workers)
            network.zero_grad()
            out = network.classify(network(SparseTensor(features, coordinates)))
            out.backward(upstream)
            runs.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    finally:
        set_num_workers(None)
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(ours, expected) for ours, expected in zip(other, runs[0], strict=True))


def test_repeated_runs_are_bit_equal(small: MinkUNet):
    network = small.train()
    features, coordinates = draw_room(900)
    runs = []
    for _ in range(2):
        network.zero_grad()
        out = network(SparseTensor(features, coordinates))
        out.square().mean().backward()
        runs.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_scenes_of_a_batch_do_not_touch_one_another(small: MinkUNet):
    network = small.eval()
    features, coordinates = draw_room()
    first = coordinates[:, 0] == 0
    with torch.no_grad():
        together = network(SparseTensor(features, coordinates))
        alone = network(SparseTensor(features[first], coordinates[first]))
    # Measured: 2e-6; matrix products of another height may add in another order.
    torch.testing.assert_close(together[first], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_voxels", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_tiny_inputs_pass_through_training_and_evaluation(small: MinkUNet, num_voxels: int, training: bool):
    network = small.train(training)
    features, coordinates = draw_room(num_voxels)
    out = network(SparseTensor(features, coordinates))
    assert out.shape == (num_voxels, 96)
    assert torch.isfinite(out).all()
    out.sum().backward()
    network.zero_grad()


def test_features_have_any_sign_without_a_final_relu():
    features, coordinates = draw_room()
    torch.manual_seed(0)
    free = MinkUNet("14A")(SparseTensor(features, coordinates))
    torch.manual_seed(0)
    clipped = MinkUNet("14A", final_relu=True)(SparseTensor(features, coordinates))
    assert (free < 0).any()
    torch.testing.assert_close(clipped, free.clamp(min=0))
    deep = MinkUNet("18A").block8
    assert [block.final_relu for block in deep] == [True, False]


def test_the_classifier_is_linear_in_the_features(small: MinkUNet):
    features = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    assert small.final is not None
    assert small.final.bias is not None
    expected = nn.functional.linear(features, small.final.kernel.t(), small.final.bias.squeeze(0))
    torch.testing.assert_close(small.classify(features), expected)


def test_a_few_steps_fit_a_scene():
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=3)
    features, coordinates = draw_room()
    labels = (coordinates[:, 3] // 4 + 2).long().clamp(0, 2)  # three layers by height
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        logits = network.classify(network(SparseTensor(features, coordinates)))
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_in_bfloat16_stays_close_to_fp32(small: MinkUNet):
    network = small.eval()
    features, coordinates = draw_room(900)
    with torch.inference_mode():
        exact = network(SparseTensor(features, coordinates))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(SparseTensor(features, coordinates))
    assert ((rounded.float() - exact).norm() / exact.norm()).item() < 0.05  # measured: 1.4e-2


def test_unsupported_network_calls_are_rejected(small: MinkUNet):
    with pytest.raises(SettingsError, match="--network: expected one of 34D, 34C, 18C, 18A, 14A, got '50X'"):
        MinkUNet("50X")
    with torch.device("meta"):
        headless = MinkUNet("14A")
    with pytest.raises(SettingsError, match="no classifier"):
        headless.classify(torch.zeros(1, 96))
    with pytest.raises(ShapeError, match=r"\(voxels, 96\), got \(1, 95\)"):
        small.classify(torch.zeros(1, 95))
    features, coordinates = draw_room(10)
    with pytest.raises(ShapeError, match="weight of shape"):
        small(SparseTensor(features[:, :2], coordinates))


def test_every_plan_has_its_stages():
    assert list(NETWORK_PLANS) == ["34D", "34C", "18C", "18A", "14A"]
    assert all(len(plan.widths) == len(plan.depths) == 8 for plan in NETWORK_PLANS.values())


@pytest.mark.parametrize("on_workers", [True, False], ids=["own", "pytorch's, as on CUDA"])
def test_inference_between_training_steps_uses_the_current_weights_and_statistics(
    on_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_workers:
        monkeypatch.setattr("lg3d_core.sparse.modules._runs_on_workers", lambda *_: False)
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=5)
    cells = torch.stack(torch.meshgrid(*[torch.arange(5)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    coordinates = torch.cat([torch.zeros(len(cells), 1, dtype=torch.long), cells], dim=1).int()
    colors, labels = torch.rand(len(cells), 3), torch.randint(5, (len(cells),))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, fused=True)  # raises no tensor's version

    def predict(network: MinkUNet) -> Tensor:
        with torch.inference_mode():
            return network.eval().classify(network(SparseTensor(colors, coordinates)))

    for _ in range(3):
        network.train()
        optimiser.zero_grad()
        logits = network.classify(network(SparseTensor(colors, coordinates)))
        nn.functional.cross_entropy(logits, labels).backward()
        optimiser.step()
        fresh = MinkUNet("14A", num_classes=5)
        fresh.load_state_dict(network.state_dict())
        torch.testing.assert_close(predict(network), predict(fresh))
