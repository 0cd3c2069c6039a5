"""Exported networks that onnxruntime runs on the CPU, without the sparse convolutions of this package."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lg3d_core.errors import CheckpointError, SettingsError, ShapeError
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.networks.minkunet import NETWORK_PLANS
from lg3d_core.networks.onnx_file import import_onnx, read_onnx
from lg3d_core.networks.plain import COLORS, FEATURES, OFFSETS, SCORES
from lg3d_core.networks.tables import build_tables
from lg3d_core.sparse import SparseTensor

ERRORS = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
"""Exceptions of onnxruntime."""
WARNINGS_OFF = 3


class OnnxNetwork(nn.Module):
    """Network of an ONNX file, with the interface of `MinkUNet` for predictions.

    The file is cut in two at the features: one session computes them for all voxels, one the outputs of the heads for
    any rows of them.

    Args:
        model: Model, as `read_onnx` returns it; its heads are removed.
        info: Metadata of the checkpoint that it was made from.
        path: File of the model, for messages.
    """

    def __init__(self, model: Any, info: CheckpointInfo, path: Path) -> None:
        super().__init__()
        self.plan_name = info.network
        self.stem_size = info.stem_size
        self.num_features = NETWORK_PLANS[info.network].widths[-1]
        self.num_classes = info.num_classes
        self._path = path
        self.weight_bytes = model.ByteSize()
        outputs = [output.name for output in model.graph.output]
        wanted = [FEATURES] + [SCORES] * (info.num_classes is not None) + [OFFSETS] * info.offset_head
        if outputs != wanted:
            raise CheckpointError(f"{path}: expected the outputs {', '.join(wanted)}, got {', '.join(outputs)}")
        heads = _cut_heads(model)
        self._heads = None if heads is None else self._open(heads)
        self._backbone = self._open(model)
        self.offset_head = self._predict_offsets if info.offset_head else None

    def forward(self, x: SparseTensor) -> Tensor:
        """Compute one feature per voxel; as `MinkUNet.forward`, for the voxels of one scan.

        Raises:
            CheckpointError: onnxruntime cannot run the file.
            MemoryError: There is not enough memory.
        """
        cells = x.coordinates
        if bool((cells[:, 0] != 0).any()):
            raise ShapeError("Expected voxels of one scan with batch index 0: an exported network runs one at a time.")
        inputs: dict[str, npt.NDArray[Any]] = dict(build_tables(cells[:, 1:].numpy(), stem_size=self.stem_size))
        inputs[COLORS] = x.features.numpy()
        return x.restore(self._run(self._backbone, FEATURES, inputs))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits of shape `(voxels, num_classes)`; as `MinkUNet.classify`.

        Raises:
            SettingsError: The network has no classifier.
        """
        if self.num_classes is None:
            raise SettingsError("This network has no classifier: export a fine-tuned checkpoint.")
        return self._run(self._heads, SCORES, {FEATURES: features.numpy()})

    def _predict_offsets(self, features: Tensor) -> Tensor:
        return self._run(self._heads, OFFSETS, {FEATURES: features.numpy()})

    def _open(self, model: Any) -> Any:
        runtime = import_onnx("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = WARNINGS_OFF
        # The default order gathers for all columns before it multiplies any; this one took a sixth of the memory.
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
        options.enable_mem_pattern = False  # sizes differ from scan to scan
        try:
            return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except _errors(runtime) as error:
            raise self._cannot_run(error) from None

    def _run(self, session: Any, output: str, inputs: dict[str, npt.NDArray[Any]]) -> Tensor:
        try:
            (values,) = session.run([output], inputs)
        except _errors(import_onnx("onnxruntime")) as error:
            if "alloc" in str(error):
                raise MemoryError(str(error)) from None
            raise self._cannot_run(error) from None
        return torch.from_numpy(np.asarray(values))

    def _cannot_run(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"onnxruntime cannot run {self._path} ({error}): run lg3d export again")


def _cut_heads(model: Any) -> Any | None:
    """Remove the heads from a model in place, and return them as a model of the features; None without heads.

    All nodes before that of the features are needed for them, and the heads come after it.
    """
    graph = model.graph
    end = 1 + next(index for index, node in enumerate(graph.node) if FEATURES in node.output)
    nodes, outputs = list(graph.node[end:]), list(graph.output[1:])
    if not outputs:
        return None
    used = {name for node in nodes for name in node.input}
    places = [index for index, tensor in enumerate(graph.initializer) if tensor.name in used]
    helper = import_onnx().helper
    heads = helper.make_model(
        helper.make_graph(nodes, "heads", [graph.output[0]], outputs, [graph.initializer[index] for index in places]),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    del graph.node[end:], graph.output[1:]
    for index in reversed(places):
        del graph.initializer[index]
    return heads


def load_onnx_network(path: Path) -> tuple[OnnxNetwork, CheckpointInfo]:
    """Load a model that `lg3d export` wrote.

    Raises:
        MissingDependencyError: `onnx` or `onnxruntime` is not installed.
        CheckpointError: The file is missing or damaged, or lg3d did not write it.
    """
    model, info = read_onnx(path)
    return OnnxNetwork(model, info, path), info


def require_cpu(
    path: Path, *, device: str, precision: str, backend: str | None, final_relu: bool | None, adapt: float | None
) -> None:
    """Reject options that an exported model does not have.

    Raises:
        SettingsError: An option asks for something else than the CPU, fp32 and the running statistics.
    """
    given = {
        f"--device {device}": device not in ("auto", "cpu"),
        f"--precision {precision}": precision not in ("auto", "fp32"),
        f"--backend {backend}": backend not in (None, "auto"),
        "--final-relu": final_relu is not None,
        f"--adapt {adapt}": adapt not in (None, 0),
    }
    wrong = [option for option, is_given in given.items() if is_given]
    if wrong:
        raise SettingsError(f"{path} runs through onnxruntime on the CPU in fp32: omit {' and '.join(wrong)}")


def _errors(runtime: ModuleType) -> tuple[type[Exception], ...]:
    state = runtime.capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in ERRORS if hasattr(state, name))
