"""Networks as ONNX files of standard operators: Gather, Gemm, MatMul, Add, Relu and operations on shapes.

The graph is written node by node (design page 0030). Its inputs are `colors` and the tables of
`lg3d_core.networks.tables`; its outputs `features`, `scores` and `offsets` have one row per voxel, any number of them.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from lg3d_core.errors import CheckpointError, MissingDependencyError
from lg3d_core.files import write_bytes
from lg3d_core.networks.checkpoint import CheckpointInfo, parse_info
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.plain import COLORS, FEATURES, OFFSETS, SCORES, Layer, fold_network, run_plain

OPSET, IR_VERSION = 17, 8
"""Versions of ONNX 1.12 (2022), which all current runtimes support."""
PRODUCER = "lg3d"
INFO_KEY = "lg3d"
GATHERED_CHANNELS = 288
"""Maximum number of channels per voxel that one Gather collects (at least one column); it bounds the memory of a
convolution. Measured with 14A and 32,864 voxels: 59 MB for 96, 92 MB for 288, 193 MB for 1024, in times within 15 %."""


class Classes(NamedTuple):
    """Classes of the scores, for programs without lg3d.

    Attributes:
        names: Names.
        ids: Raw ids.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]


def import_onnx(name: Literal["onnx", "onnxruntime"] = "onnx") -> ModuleType:
    """Import a package of the extra `onnx`.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX files need onnx and onnxruntime ({error}): pip install 'lg3d[onnx]'"
        ) from None


def build_onnx(network: MinkUNet, metadata: Mapping[str, str]) -> Any:
    """Return the ONNX model of a network.

    Args:
        network: Network.
        metadata: Texts to store in the model.

    Raises:
        MissingDependencyError: `onnx` is not installed.
    """
    onnx = import_onnx()
    helper, types = onnx.helper, onnx.TensorProto
    shape, layers = fold_network(network)
    graph = _Graph(onnx, layers)
    inputs = {COLORS: COLORS} | {name: name for name in shape.tables}
    outputs = run_plain(shape, graph, inputs)
    graph.rename({tensor: name for name, tensor in outputs.items()})
    channels = {FEATURES: network.num_features, SCORES: network.num_classes, OFFSETS: 3}
    columns = {"neighbours": [27], "children": [8], "stem": [shape.stem_size**3], "parents": []}
    entries = [helper.make_tensor_value_info(COLORS, types.FLOAT, ["voxels1", network.in_channels])]
    for name in shape.tables:
        kind = name.rstrip("0123456789")
        dimensions = [f"voxels{name.removeprefix(kind) or 1}", *columns[kind]]
        entries.append(helper.make_tensor_value_info(name, types.INT32, dimensions))
    results = [helper.make_tensor_value_info(name, types.FLOAT, ["voxels1", channels[name]]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(graph.nodes, f"MinkUNet{network.plan_name}", entries, results, graph.initializers),
        producer_name=PRODUCER,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    return model


class _Graph:
    """Operations of `run_plain` that append nodes to a graph; tensors are their names."""

    def __init__(self, onnx: ModuleType, layers: Mapping[str, Layer]) -> None:
        self._onnx = onnx
        self._layers = layers
        self._columns: dict[tuple[str, int, int], str] = {}
        self._constants: dict[str, str] = {}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add_node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename tensors."""
        for node in self.nodes:
            for tensors in (node.input, node.output):
                tensors[:] = [names.get(tensor, tensor) for tensor in tensors]

    def _constant(self, name: str, values: Any) -> str:
        array = np.ascontiguousarray(values)
        if name not in self._constants:
            self.initializers.append(self._onnx.numpy_helper.from_array(array, name))
            self._constants[name] = name
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(f"integers_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def _columns_of(self, table: str, start: int, stop: int, total: int) -> str:
        """Return columns of a table; they are cut once for all convolutions of the level."""
        if stop - start == total:
            return table
        if (table, start, stop) not in self._columns:
            where = (self._integers(start), self._integers(stop), self._integers(1))
            self._columns[table, start, stop] = self.add_node("Slice", table, *where)
        return self._columns[table, start, stop]

    def gather(self, x: str, table: str, layer: str) -> str:
        weight, bias = self._layers[layer]
        columns, channels, _ = weight.shape
        zeros = self._constant(f"zeros{channels}", np.zeros((1, channels), dtype=np.float32))
        padded = self.add_node("Concat", x, zeros, axis=0)  # row -1
        total = self._constant(f"{layer}.bias", bias.numpy())
        step = max(1, GATHERED_CHANNELS // channels)
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            own = self._columns_of(table, start, stop, columns)
            rows = self.add_node("Gather", padded, own, axis=0)  # voxels, columns, channels
            rows = self.add_node("Reshape", rows, self._integers(0, (stop - start) * channels))
            part = self._constant(f"{layer}.weight{start}", weight[start:stop].flatten(0, 1).numpy())
            total = self.add_node("Gemm", rows, part, total)
        return total

    def spread(self, x: str, parents: str, layer: str) -> str:
        weight, bias = self._layers[layer]
        channels = weight.shape[2]
        flat = self._constant(f"{layer}.weight", weight.transpose(0, 1).flatten(1).numpy())
        expanded = self.add_node("MatMul", x, flat)
        expanded = self.add_node("Reshape", expanded, self._integers(-1, channels))
        rows = self.add_node("Gather", expanded, parents, axis=0)
        return self.add_node("Add", rows, self._constant(f"{layer}.bias", bias.numpy()))

    def multiply(self, x: str, layer: str) -> str:
        weight, bias = self._layers[layer]
        constants = (self._constant(f"{layer}.weight", weight.numpy()), self._constant(f"{layer}.bias", bias.numpy()))
        return self.add_node("Gemm", x, *constants)

    def add(self, x: str, y: str) -> str:
        return self.add_node("Add", x, y)

    def join(self, x: str, y: str) -> str:
        return self.add_node("Concat", x, y, axis=1)

    def relu(self, x: str) -> str:
        return self.add_node("Relu", x)


def describe_model(info: CheckpointInfo, classes: Classes | None) -> dict[str, str]:
    """Return the metadata of an exported model: readable entries, and the checkpoint's metadata as one JSON text."""
    texts = {
        "voxel_size": repr(info.voxel_size),
        "stem_size": str(info.stem_size),
        "vocabulary": info.vocabulary,
        INFO_KEY: info.to_json(),
    }
    if classes is not None:
        texts |= {"classes": json.dumps(classes.names), "class_ids": json.dumps(classes.ids)}
    return texts


def write_onnx(path: Path, network: MinkUNet, info: CheckpointInfo, classes: Classes | None) -> None:
    """Write a network as an ONNX file, atomically.

    Raises:
        MissingDependencyError: `onnx` is not installed.
        DataError: The file cannot be written.
    """
    model = build_onnx(network, describe_model(info, classes))
    import_onnx().checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def read_onnx(path: Path) -> tuple[Any, CheckpointInfo]:
    """Read an ONNX file that lg3d wrote, and the metadata of the checkpoint that it was made from.

    Raises:
        MissingDependencyError: `onnx` is not installed.
        CheckpointError: The file is missing or damaged, or lg3d did not write it.
    """
    onnx = import_onnx()
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a file that lg3d export wrote")
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise CheckpointError(f"{path} is damaged, or not an ONNX file ({error}): run lg3d export again") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if INFO_KEY not in metadata:
        raise CheckpointError(f"{path} was not written by lg3d export: expected an entry {INFO_KEY!r} in its metadata")
    return model, parse_info(metadata[INFO_KEY], path)
