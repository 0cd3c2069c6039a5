"""Exported networks: numpy tables, folded weights, ONNX and torch.export give what the network gives."""

import ast
import io
import json
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, MissingDependencyError, SettingsError, ShapeError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.export import export
from lg3d_core.networks import onnx_file, onnx_network, tables
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    TrainedVocabulary,
    load_network,
    load_tensors,
    read_info,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.plain import PlainNetwork
from lg3d_core.networks.tables import MAX_CELL, build_tables
from lg3d_core.networks.torch_program import METADATA_NAME, build_program, write_program
from lg3d_core.progress import Progress
from lg3d_core.scans.ply import Mesh, write_ply
from lg3d_core.settings import ExportSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.vocabulary import load_vocabulary
from tests.scan_files import furnished_room, points_ply
from tests.test_cli import lg3d

VOCABULARY = load_vocabulary("scannet200")
TOLERANCE = 1e-5
"""Largest difference of a score; the measured one is 1.2e-7 with scores up to 0.3."""
STANDARD = {"Add", "Concat", "Gather", "Gemm", "MatMul", "Relu", "Reshape", "Slice"}


def make_network(plan: str = "14A", *, stem_size: int = 3, final_relu: bool = False, heads: bool = True) -> MinkUNet:
    """Return a network whose batch norms change every channel."""
    torch.manual_seed(0)
    network = MinkUNet(
        plan, num_classes=200 if heads else None, stem_size=stem_size, final_relu=final_relu, offset_head=heads
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


def info_of(network: MinkUNet, **changes: object) -> CheckpointInfo:
    values = {
        "kind": "pretrain" if network.num_classes is None else "finetune",
        "network": network.plan_name,
        "num_classes": network.num_classes,
        "voxel_size": 0.1,
        "vocabulary": VOCABULARY.name,
        "vocabulary_digest": VOCABULARY.digest,
        "stem_size": network.stem_size,
        "final_relu": network.final_relu,
        "offset_head": network.offset_head is not None,
    }
    return CheckpointInfo(**values | changes)  # type: ignore[arg-type]


def make_voxels(count: int, *, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, SparseTensor]:
    """Return distinct cells around the origin in random order, their colours, and both as a sparse tensor."""
    rng = np.random.default_rng(seed)
    everything = np.array(list(product(range(-6, 7), repeat=3)))
    cells = rng.permutation(everything)[:count]
    colors = torch.from_numpy(rng.random((count, 3), dtype=np.float32) - np.float32(0.5))
    coordinates = torch.zeros((count, 4), dtype=torch.int32)
    coordinates[:, 1:] = torch.from_numpy(cells)
    return cells, colors, SparseTensor(colors, coordinates)


def outputs_of(network: MinkUNet, voxels: SparseTensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        features = network(voxels)
        outputs = {"features": features}
        if network.num_classes is not None:
            outputs["scores"] = network.classify(features)
        if network.offset_head is not None:
            outputs["offsets"] = network.offset_head(features)
    return outputs


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [3, 5])
def test_neighbours_are_the_rows_at_each_offset(size: int) -> None:
    cells, _, _ = make_voxels(300)
    rows = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    found = tables.find_neighbours(cells, size)
    radius = size // 2
    for column, (dz, dy, dx) in enumerate(product(range(-radius, radius + 1), repeat=3)):
        wanted = [rows.get((x + dx, y + dy, z + dz), -1) for x, y, z in cells.tolist()]
        assert found[:, column].tolist() == wanted


def test_children_and_parents_are_inverse_and_round_down() -> None:
    cells, _, _ = make_voxels(300)
    coarse, children, parents = tables.coarsen(cells)
    assert {tuple(cell) for cell in coarse.tolist()} == {tuple(cell) for cell in (cells // 2).tolist()}
    for row, (cell, parent) in enumerate(zip(cells.tolist(), parents.tolist(), strict=True)):
        x, y, z = cell
        assert coarse[parent // 8].tolist() == [x // 2, y // 2, z // 2]
        assert parent % 8 == x % 2 + 2 * (y % 2) + 4 * (z % 2)
        assert children[parent // 8, parent % 8] == row
    assert (children >= 0).sum() == len(cells)


def test_tables_of_two_touching_voxels() -> None:
    found = build_tables(np.array([[0, 0, 0], [-1, 0, 0]]))
    assert found["neighbours1"].dtype == np.int32
    assert found["neighbours1"][0, 12:15].tolist() == [1, 0, -1]  # dx -1, 0, 1
    assert found["neighbours1"][1, 12:15].tolist() == [-1, 1, 0]
    assert found["parents1"].tolist() == [8, 1]  # -1 is the odd child of -1, whose cell comes first
    assert found["children2"].tolist() == [[-1, 1, -1, -1, -1, -1, -1, -1], [0, -1, -1, -1, -1, -1, -1, -1]]
    assert found["neighbours16"].shape == (2, 27)
    assert "stem" not in found


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (np.zeros((2, 3), dtype=int), {}, "expected distinct cells, got 1 duplicates of 2"),
        (np.zeros((2, 3)), {}, r"expected integer cells of shape \(voxels, 3\), got \(2, 3\) float64"),
        (np.zeros((2, 4), dtype=int), {}, r"got \(2, 4\) int64"),
        (np.array([[0, 0, MAX_CELL + 1]]), {}, rf"expected cells within \+-{MAX_CELL}, got 0..{MAX_CELL + 1}"),
        (np.zeros((1, 3), dtype=int), {"stem_size": 7}, "expected a stem of size 3 or 5, got 7"),
    ],
)
def test_invalid_cells_are_described(cells: np.ndarray, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tables(cells, **options)


def test_the_module_of_the_tables_can_be_copied() -> None:
    tree = ast.parse(Path(tables.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"numpy", "numpy.typing"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize(
    "options",
    [
        {"plan": "34C"},
        {"plan": "18A", "stem_size": 5},
        {"plan": "14A", "final_relu": True},
        {"plan": "14A", "heads": False},
    ],
    ids=str,
)
def test_gathers_and_products_give_the_networks_outputs(options: dict[str, object]) -> None:
    network = make_network(**options)  # type: ignore[arg-type]
    cells, colors, voxels = make_voxels(400)
    found = build_tables(cells, stem_size=network.stem_size)
    with torch.inference_mode():
        outputs = PlainNetwork(network)({"colors": colors} | {name: torch.from_numpy(t) for name, t in found.items()})
    assert_same(outputs, outputs_of(network, voxels))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[MinkUNet, Path]:
    network = make_network(stem_size=5)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    classes = onnx_file.Classes(VOCABULARY.names, tuple(VOCABULARY.ids.tolist()))
    onnx_file.write_onnx(path, network, info_of(network), classes)
    return network, path


@pytest.mark.parametrize("count", [0, 1, 2, 60, 700])
def test_onnxruntime_alone_gives_the_networks_outputs(exported: tuple[MinkUNet, Path], count: int) -> None:
    import onnxruntime

    network, path = exported
    cells, colors, voxels = make_voxels(count)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = ["features", "scores", "offsets"]
    values = session.run(names, build_tables(cells, stem_size=5) | {"colors": colors.numpy()})
    assert_same(dict(zip(names, map(torch.from_numpy, values), strict=True)), outputs_of(network, voxels))


@pytest.mark.parametrize("count", [0, 1, 2, 700])
def test_the_runtime_has_the_interface_of_the_network(exported: tuple[MinkUNet, Path], count: int) -> None:
    network, path = exported
    _, _, voxels = make_voxels(count)
    runtime, info = onnx_network.load_onnx_network(path)
    assert info == info_of(network) == read_info(path)
    features = runtime(voxels)
    assert runtime.offset_head is not None
    found = {"features": features, "scores": runtime.classify(features), "offsets": runtime.offset_head(features)}
    assert_same(found, outputs_of(network, voxels))
    assert (runtime.plan_name, runtime.num_features, runtime.num_classes) == ("14A", 96, 200)


def test_the_graph_has_standard_operators_and_metadata(exported: tuple[MinkUNet, Path]) -> None:
    import onnx

    model = onnx.load(exported[1])
    assert {node.op_type for node in model.graph.node} <= STANDARD
    assert {node.domain for node in model.graph.node} == {""}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(VOCABULARY.names)
    assert json.loads(metadata["class_ids"]) == VOCABULARY.ids.tolist()
    assert (metadata["voxel_size"], metadata["stem_size"], metadata["vocabulary"]) == ("0.1", "5", VOCABULARY.name)
    rows = {entry.name: entry.type.tensor_type.shape.dim[0].dim_param for entry in model.graph.input}
    assert rows["colors"] == rows["neighbours1"] == rows["parents1"] == rows["stem"] == "voxels1"
    assert rows["children16"] == rows["neighbours16"] == "voxels16"


def test_an_exported_network_runs_one_scan_at_a_time(exported: tuple[MinkUNet, Path]) -> None:
    runtime, _ = onnx_network.load_onnx_network(exported[1])
    coordinates = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
    with pytest.raises(ShapeError, match="batch index 0"):
        runtime(SparseTensor(torch.zeros(2, 3), coordinates))


def test_a_program_of_torch_export_gives_the_networks_outputs(tmp_path: Path) -> None:
    network = make_network()
    write_program(tmp_path / "model.pt2", network, {"voxel_size": "0.1"})
    extra = {METADATA_NAME: ""}
    program = torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra).module()
    assert json.loads(extra[METADATA_NAME]) == {"voxel_size": "0.1"}
    for count in (0, 1, 2, 700):
        cells, colors, voxels = make_voxels(count)
        inputs = {"colors": colors} | {name: torch.from_numpy(table) for name, table in build_tables(cells).items()}
        with torch.inference_mode():
            assert_same(program(inputs), outputs_of(network, voxels))


def test_a_program_holds_no_operator_of_this_package() -> None:
    program = build_program(make_network(heads=False, stem_size=5))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {name.split(".")[0] for name in called if not name.startswith("<")} == {"aten"}


@pytest.fixture
def workplace(tmp_path: Path) -> tuple[Path, np.ndarray]:
    xyz, rgb, faces = furnished_room()
    write_ply(tmp_path / "room.ply", Mesh(xyz.astype(np.float32), rgb, faces.astype(np.int32)))
    network = make_network()
    save_checkpoint(tmp_path / "model.safetensors", network, info_of(network))
    return tmp_path, xyz


def test_commands_run_an_exported_model_as_the_checkpoint(workplace: tuple[Path, np.ndarray]) -> None:
    folder, xyz = workplace
    done = lg3d("export", "model.safetensors", "model.onnx", cwd=folder)
    assert done.stdout == "model.onnx\n"
    assert "voxels of 10 cm" in done.stderr
    labels = {}
    for name in ("model.safetensors", "model.onnx"):
        where = folder / name.replace(".", "-")
        lg3d(
            "predict",
            "room.ply",
            "--checkpoint",
            name,
            "--out",
            where,
            "--format",
            "npz",
            "--precision",
            "fp32",
            cwd=folder,
        )
        (written,) = where.glob("room.labelled*.npz")
        labels[name] = np.load(written)["label"][: len(xyz)]
    np.testing.assert_array_equal(labels["model.onnx"], labels["model.safetensors"])


@pytest.mark.parametrize("votes", [1, 3])
def test_an_exported_model_predicts_as_the_checkpoint(workplace: tuple[Path, np.ndarray], votes: int) -> None:
    folder, _ = workplace
    network, info = load_network(folder / "model.safetensors")
    onnx_file.write_onnx(folder / "model.onnx", network, info, None)
    predictor, _ = Predictor.load(folder / "model.onnx", device="cpu", votes=votes)
    cells, colors, _ = make_voxels(900)
    rgb = ((colors.numpy() + 0.5) * 255).astype(np.uint8)
    whole = predictor.label_voxels(cells, rgb, name="cells")
    assert whole.offsets is not None
    expected, _ = Predictor.load(folder / "model.safetensors", device="cpu", precision="fp32", votes=votes)
    native = expected.label_voxels(cells, rgb, name="cells")
    np.testing.assert_array_equal(whole.label, native.label)
    np.testing.assert_allclose(whole.confidence, native.confidence, atol=TOLERANCE)
    np.testing.assert_allclose(whole.offsets, native.offsets, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "cuda"}, "--device cuda"),
        ({"precision": "bf16"}, "--precision bf16"),
        ({"backend": "torch"}, "--backend torch"),
        ({"final_relu": False}, "--final-relu"),
    ],
)
def test_options_that_an_exported_model_does_not_have_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=f"on the CPU in fp32: omit {named}"):
        Predictor.load(Path("model.onnx"), **options)  # type: ignore[arg-type]


def test_files_that_are_no_exported_model_are_refused(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "page.onnx").write_text("<html>")
    other = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.save(other, tmp_path / "other.onnx")
    network = make_network(heads=False)
    onnx_file.write_onnx(tmp_path / "own.onnx", network, info_of(network), None)
    cut = (tmp_path / "own.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(cut[: len(cut) // 2])
    for name, message in {
        "page.onnx": "is damaged, or not an ONNX file",
        "cut.onnx": "is damaged, or not an ONNX file",
        "other.onnx": "was not written by lg3d export",
        "none.onnx": "no checkpoint at",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_info(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is an exported model, .* pass the checkpoint that it was made from"):
        load_tensors(tmp_path / "own.onnx")


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_installation(
    module: Literal["onnx", "onnxruntime"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lg3d\[onnx\]'"):
        onnx_file.import_onnx(module)


def test_a_program_of_torch_export_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"which lg3d does not run: pass a checkpoint, or export it as .onnx"):
        resolve_checkpoint(tmp_path / "model.pt2")


def test_another_suffix_is_a_usage_error(tmp_path: Path) -> None:
    points_ply(tmp_path / "a.ply", np.zeros((1, 3)))
    done = lg3d("export", "model.safetensors", "model.trt", cwd=tmp_path, code=2)
    assert "OUT must be a file that ends in .onnx or .pt2, got model.trt" in done.stderr


def test_a_vocabulary_of_joint_training_is_exported_by_name(tmp_path: Path) -> None:
    other = load_vocabulary("scannet20")
    network = MinkUNet("14A", num_classes=220)
    vocabularies = tuple(
        TrainedVocabulary(name=own.name, digest=own.digest, num_classes=len(own), anchors_digest="")
        for own in (VOCABULARY, other)
    )
    save_checkpoint(tmp_path / "joint.safetensors", network, info_of(network, vocabularies=vocabularies))
    for name, own in ((None, VOCABULARY), ("scannet20", other)):
        settings = ExportSettings(
            checkpoint=tmp_path / "joint.safetensors", exported=tmp_path / "own.onnx", vocabulary=name
        )
        export(settings, Progress())
        model, info = onnx_file.read_onnx(tmp_path / "own.onnx")
        assert (info.num_classes, info.vocabulary_digest) == (len(own), own.digest)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(metadata["classes"]) == list(own.names)
