"""Predictions of a network for a scene: features, class scores and labels, in tiles if memory is short."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lg3d_core.devices import autocast, resolve_device, resolve_precision
from lg3d_core.errors import CheckpointError, SettingsError, UsageError
from lg3d_core.evaluation.adaptation import measuring_statistics
from lg3d_core.evaluation.instances import PredictedInstances
from lg3d_core.evaluation.interpolation import Candidates, choose_voxels
from lg3d_core.evaluation.votes import Vote, draw_votes
from lg3d_core.memory import available_memory, is_out_of_memory, kept_memory, memory_limit_error
from lg3d_core.networks.checkpoint import CheckpointInfo, is_onnx, load_network
from lg3d_core.networks.onnx_network import OnnxNetwork, load_onnx_network, require_cpu
from lg3d_core.networks.tiles import Tiling, reach_of, tile_voxels
from lg3d_core.progress import Progress
from lg3d_core.sampling.voxels import mean_colors, pack, voxelize
from lg3d_core.settings import ScanSettings
from lg3d_core.sparse import SparseTensor, owned_threads, use_backend

if TYPE_CHECKING:
    from lg3d_core.networks.minkunet import MinkUNet
    from lg3d_core.store.scene_file import Scene

CHUNK = 16_384
"""Number of voxels whose class scores are in memory at once (13 MB for 200 classes)."""
BASE_BYTES, BYTES_PER_CHANNEL = 3_000, 20
"""Memory of a forward pass in bytes per voxel: a constant, plus an amount per feature channel. Measured on a CPU: 2.4
to 3.5 kB for 14A (96 channels), 10.8 kB for 34D (512); the pass that adapts to a scan needs up to 3.9 and 13.0 kB."""
EXPORTED_FACTOR = 1.5
"""Memory per voxel of an exported network, relative to that. Measured: 6.4 kB for 14A, 38,283 voxels."""
FIXED_BYTES = 600 << 20
"""Memory in bytes of Python, PyTorch and the part of a scan being read, before any network or voxel."""
LEAST_VOXELS = 1000
"""Minimum number of voxels that a memory limit must allow."""
SHARE = 0.6
"""Fraction of the available memory that a forward pass may use without an explicit limit."""


class VoxelLabels(NamedTuple):
    """Predicted class of each voxel.

    Attributes:
        label: Class index of each voxel, shape `(voxels,)`, int16.
        confidence: Softmax of the highest class score, 0..1, shape `(voxels,)`, float32.
        offsets: Predicted vector from each voxel to the centre of its object in metres, shape `(voxels, 3)`, float32;
            None if the network has no offset head.
        candidates: Most probable classes of each voxel, from which the labels of points are interpolated; None if the
            labels do not come from a predictor.
    """

    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None = None
    candidates: Candidates | None = None

    def choose(
        self, keys: npt.NDArray[np.int64], xyz: npt.NDArray[np.floating], *, voxel_size: float
    ) -> npt.NDArray[np.int64]:
        """Return the voxel whose label each point takes; see `choose_voxels`."""
        assert self.candidates is not None, "only the labels of a predictor have candidates"
        return choose_voxels(self.candidates, keys, xyz, voxel_size=voxel_size)


class _Part(NamedTuple):
    """Rows of voxels, their features, and their offsets if the network has an offset head."""

    rows: npt.NDArray[np.int64]
    features: Tensor
    offsets: Tensor | None


class PredictedVoxels(NamedTuple):
    """Voxels of a scene with their prediction, from which objects are grouped.

    Attributes:
        labels: Prediction of each voxel.
        centres: Centres of the voxels in metres, shape `(voxels, 3)`, float64.
        point_to_voxel: Voxel whose label every vertex of the scene takes, shape `(vertices,)`, int64.
    """

    labels: VoxelLabels
    centres: npt.NDArray[np.float64]
    point_to_voxel: npt.NDArray[np.int64]


class Prediction(NamedTuple):
    """Prediction for a scene.

    Attributes:
        label: Class index of every vertex, shape `(vertices,)`, int16.
        confidence: Softmax of the highest class score of the same voxel, 0..1, shape `(vertices,)`, float32.
        voxel_label: Class index of every voxel, shape `(voxels,)`, int16.
        voxel_truth: Label of the vertex that each voxel keeps, -1 for unlabelled, shape `(voxels,)`, int16.
        features: Features of the voxels, shape `(voxels, num_features)`, float32, or None if not requested.
        voxels: The voxels, for grouping; None for a scene without vertices.
        objects: Predicted objects at the vertices; None if voxels were not grouped.
    """

    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    voxel_label: npt.NDArray[np.int16]
    voxel_truth: npt.NDArray[np.int16]
    features: Tensor | None = None
    voxels: PredictedVoxels | None = None
    objects: PredictedInstances | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """A network with its device, precision, backend and memory limit.

    Attributes:
        network: Network on `device`. A prediction does not change its training mode.
        voxel_size: Edge of a voxel in metres, as in training.
        device: Device of the network.
        precision: Precision of the features, `fp32` or `bf16`; class scores are always fp32.
        backend: Backend of the sparse convolutions; None keeps the one in use.
        score: Returns class scores `(voxels, classes)` for features; None uses the network's classifier.
        memory: Memory limit of a forward pass in bytes; None uses a share of the available memory.
        overlap: Overlap of neighbouring tiles in metres; None derives it from the network's receptive field.
        votes: Number of mirrored, rotated and shifted grids whose features are averaged; 1 uses the grid as it is.
        adapt: Share of the scan's own statistics in batch normalisation, 0..1, measured in one more forward pass. An
            exported network cannot adapt.
    """

    network: "MinkUNet | OnnxNetwork"
    voxel_size: float
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    backend: str | None = None
    score: Callable[[Tensor], Tensor] | None = None
    memory: int | None = None
    overlap: float | None = None
    votes: int = 1
    adapt: float = 0.0

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str | None = None,
        memory: int | None = None,
        overlap: float | None = None,
        votes: int = 1,
        adapt: float | None = None,
        final_relu: bool | None = None,
        vocabulary: str | None = None,
    ) -> tuple[Self, CheckpointInfo]:
        """Load the network of a checkpoint. Return the predictor and the checkpoint's metadata.

        Of several vocabularies, that with the digest or name `vocabulary` is kept, or else the first one. Without
        `adapt`, the value recorded in the checkpoint is used.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            SettingsError: The device does not exist.
        """
        network: MinkUNet | OnnxNetwork
        if is_onnx(path):
            require_cpu(path, device=device, precision=precision, backend=backend, final_relu=final_relu, adapt=adapt)
            network, info = load_onnx_network(path)
            where, precision, adapt = torch.device("cpu"), "fp32", 0.0
        else:
            where = resolve_device(device)
            network, info = load_network(path, device=where, final_relu=final_relu, vocabulary=vocabulary)
        predictor = cls(
            network=network,
            voxel_size=info.voxel_size,
            device=where,
            precision=resolve_precision(precision, where),
            backend=backend,
            memory=memory,
            overlap=overlap,
            votes=votes,
            adapt=info.adapt if adapt is None else adapt,
        )
        return predictor, info

    @classmethod
    def for_scans(
        cls, path: Path, settings: ScanSettings, *, final_relu: bool | None = None, vocabulary: str | None = None
    ) -> tuple[Self, CheckpointInfo]:
        """Load as `load`, with the settings of a command on scans."""
        return cls.load(
            path,
            device=settings.device,
            precision=settings.precision,
            backend=settings.backend,
            memory=settings.memory_bytes,
            overlap=settings.overlap,
            votes=settings.votes,
            adapt=settings.adapt,
            final_relu=final_relu,
            vocabulary=vocabulary,
        )

    def require_classes(self, count: int, name: str) -> None:
        """Check that the number of class scores is that of a vocabulary.

        Raises:
            CheckpointError: The network's classifier has another number of classes.
        """
        if self.score is None and self.network.num_classes != count:
            found = self.network.num_classes
            has = "no classifier" if found is None else f"a classifier of {found} classes"
            raise CheckpointError(
                f"expected a classifier of {count} classes ({name}), the network has {has}: fine-tune one on this store"
            )

    def predict(self, scene: "Scene", *, keep_features: bool = False, progress: Progress | None = None) -> Prediction:
        """Label every vertex of a scene with the best class between the voxels around it.

        Args:
            scene: Scene of the store. Its labels are only passed through.
            keep_features: Whether to return the features of the voxels.
            progress: Progress display; receives tiles and notes.

        Raises:
            MemoryLimitError: Not even a small tile fits into memory.
        """
        if len(scene.xyz) == 0:
            nothing = np.zeros(0, dtype=np.int16)
            return Prediction(nothing, np.zeros(0, dtype=np.float32), nothing, nothing)
        voxels = voxelize(scene.xyz, self.voxel_size)
        features = torch.empty(0)

        def keep(rows: npt.NDArray[np.int64], part: Tensor) -> None:
            nonlocal features
            if len(features) == 0:
                features = torch.empty((len(voxels.cells), part.shape[1]))
            features[torch.from_numpy(rows)] = part.cpu()

        found = self.label_voxels(
            voxels.cells,
            mean_colors(scene.rgb, voxels.point_to_voxel, len(voxels.cells)),
            name=scene.scene_id,
            observe=keep if keep_features else None,
            progress=progress,
        )
        rows = found.choose(pack(voxels.cells.astype(np.int64)), scene.xyz, voxel_size=self.voxel_size)
        return Prediction(
            label=found.label[rows],
            confidence=found.confidence[rows],
            voxel_label=found.label,
            voxel_truth=scene.label[voxels.point].astype(np.int16),
            features=features if keep_features else None,
            voxels=PredictedVoxels(found, voxel_centres(voxels.cells, self.voxel_size), rows),
        )

    def label_voxels(
        self,
        cells: npt.NDArray[np.int32],
        rgb: npt.NDArray[np.generic],
        *,
        name: str,
        observe: Callable[[npt.NDArray[np.int64], Tensor], None] | None = None,
        progress: Progress | None = None,
    ) -> VoxelLabels:
        """Return the highest-scoring class of every voxel and, with an offset head, the offset to its object's centre.

        Args:
            cells: Distinct cell indices, shape `(voxels, 3)`.
            rgb: Colours in 0..255, shape `(voxels, 3)`.
            name: Name of the scan, for messages.
            observe: Called with the rows of voxels and their features.
            progress: Progress display; receives tiles and notes.

        Raises:
            SettingsError: The memory limit is too small for any tile.
            MemoryLimitError: Not even a small tile fits into memory.
        """
        score = self.score or self.network.classify
        candidates: Candidates | None = None
        offsets = None if self.network.offset_head is None else np.empty((len(cells), 3), dtype=np.float32)
        for rows, features, shifts in self._parts(cells, rgb, name=name, progress=progress):
            if observe is not None:
                observe(rows, features)
            with torch.inference_mode():
                class_scores = score(features).float()
                if candidates is None:
                    candidates = Candidates.empty(len(cells), class_scores.shape[1])
                candidates.set_rows(rows, class_scores)
                if offsets is not None and shifts is not None:
                    offsets[rows] = shifts.cpu().numpy()
        if candidates is None:
            candidates = Candidates.empty(0, 1)
        label, confidence = candidates.classes[:, 0].copy(), candidates.probabilities[:, 0].copy()
        return VoxelLabels(label, confidence, offsets, candidates)

    def features(
        self,
        cells: npt.NDArray[np.int32],
        rgb: npt.NDArray[np.generic],
        *,
        name: str,
        progress: Progress | None = None,
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield rows of voxels with their features, `(rows, num_features)`, float32, each voxel exactly once.

        A scan that does not fit into memory is cut into overlapping tiles. If a tile runs out of memory, the rest of
        the scan is cut into tiles of half the size, repeatedly if necessary.

        Args:
            cells: Distinct cell indices, shape `(voxels, 3)`.
            rgb: Colours in 0..255, shape `(voxels, 3)`.
            name: Name of the scan, for messages.
            progress: Progress display; receives tiles and notes.

        Raises:
            SettingsError: The memory limit is too small for any tile.
            MemoryLimitError: Not even a small tile fits into memory.
        """
        for rows, features, _ in self._parts(cells, rgb, name=name, progress=progress):
            yield rows, features

    def _parts(
        self,
        cells: npt.NDArray[np.int32],
        rgb: npt.NDArray[np.generic],
        *,
        name: str,
        progress: Progress | None = None,
    ) -> Iterator[_Part]:
        """Yield the features, and the offsets of an offset head, as `features` does."""
        progress = progress or Progress()
        done = np.zeros(len(cells), dtype=np.bool_)
        limit, by_user = self.max_voxels(), self.memory is not None
        while not done.all():
            try:
                tiling = self._tile(cells, limit)
            except SettingsError:
                if by_user:
                    raise
                raise self._too_large(len(cells), name) from None
            if len(tiling.tiles) > 1:
                self._announce(tiling, cells, name, progress)
            with (
                progress.task("tiles", total=len(tiling.tiles), unit="tile")
                if len(tiling.tiles) > 1
                else (nullcontext()) as task
            ):
                for tile in tiling.tiles:
                    own = tile.own[~done[tile.own]]
                    if len(own):
                        outputs = self._compute(cells[tile.rows], rgb[tile.rows])
                        if outputs is None:
                            limit, by_user = min(limit, len(tile.rows)) // 2, False
                            break
                        features, offsets = outputs
                        places = torch.from_numpy(np.searchsorted(tile.rows, own)).to(features.device)
                        for start in range(0, len(own), CHUNK):
                            chosen = places[start : start + CHUNK]
                            with torch.inference_mode():
                                part = features[chosen].float()
                                shifts = None if offsets is None else offsets[chosen]
                            yield _Part(own[start : start + CHUNK], part, shifts)
                        done[own] = True
                    if task is not None:
                        task.advance()
            if limit < LEAST_VOXELS and not done.all():
                raise self._too_large(len(cells), name)

    def max_voxels(self) -> int:
        """Return the maximum number of voxels of a forward pass.

        Raises:
            SettingsError: The memory limit is too small for the network and the program.
        """
        per_voxel = BASE_BYTES + BYTES_PER_CHANNEL * self.network.num_features
        if isinstance(self.network, OnnxNetwork):
            per_voxel = int(EXPORTED_FACTOR * per_voxel)
        if self.memory is None:
            return max(LEAST_VOXELS, int(SHARE * available_memory(self.device)) // per_voxel)
        if isinstance(self.network, OnnxNetwork):
            weights = self.network.weight_bytes
        else:
            weights = sum(tensor.numel() * tensor.element_size() for tensor in self.network.state_dict().values())
        fixed = weights + (FIXED_BYTES if self.device.type == "cpu" else 0)
        if self.memory - fixed < LEAST_VOXELS * per_voxel:
            least = (fixed + LEAST_VOXELS * per_voxel) / 2**20
            given = f"{self.memory / 2**20:.0f}M" if self.memory >= 2**20 else f"{self.memory} bytes"
            raise UsageError(f"--memory {given} is too small: expected at least {least:.0f}M")
        return int((self.memory - fixed) // per_voxel)

    def _tile(self, cells: npt.NDArray[np.int32], limit: int) -> Tiling:
        reach = reach_of(self.network.plan_name, stem_size=self.network.stem_size) if len(cells) > limit else 0
        rim = None if self.overlap is None else round(self.overlap / self.voxel_size)
        return tile_voxels(cells, max_voxels=limit, reach=reach, rim=rim, voxel_size=self.voxel_size)

    def _announce(self, tiling: Tiling, cells: npt.NDArray[np.int32], name: str, progress: Progress) -> None:
        missing = reach_of(self.network.plan_name, stem_size=self.network.stem_size) - tiling.rim
        message = (
            f"{name}: {len(cells)} voxels do not fit into memory at once; predicting {len(tiling.tiles)} tiles that "
            f"overlap by {tiling.rim * self.voxel_size:.2f} m: "
        )
        if missing > 0:
            progress.warn(f"{message}labels may differ within {missing * self.voxel_size:.2f} m of a tile's border")
        elif self.adapt > 0:
            progress.note(f"{message}the network adapts to each tile by itself")
        else:
            progress.note(f"{message}labels are the same as without tiles")

    def _compute(
        self, cells: npt.NDArray[np.int32], rgb: npt.NDArray[np.generic]
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return the features and offsets of a tile's voxels, or None if it does not fit into memory."""
        if self.adapt == 0:
            return self._vote(cells, rgb)
        with measuring_statistics(self.network, self.adapt):
            if self._run(cells, rgb, training=True) is None:
                return None
            return self._vote(cells, rgb)

    def _vote(self, cells: npt.NDArray[np.int32], rgb: npt.NDArray[np.generic]) -> tuple[Tensor, Tensor | None] | None:
        """Return the features and offsets of a tile's voxels, averaged over all votes, or None without enough memory.

        The mean of the features of a linear classifier gives the mean of its scores.
        """
        features: Tensor | None = None
        offsets: Tensor | None = None
        for vote in draw_votes(self.votes):
            own = self._run(vote.move(cells), rgb)
            if own is None:
                return None
            with torch.inference_mode():
                shifts = None if self.network.offset_head is None else self._offsets(own, vote)
                if self.votes == 1:
                    return own, shifts
                features = own.float() / self.votes if features is None else features.add_(own, alpha=1 / self.votes)
                if shifts is not None:
                    offsets = shifts / self.votes if offsets is None else offsets.add_(shifts, alpha=1 / self.votes)
        assert features is not None
        return features, offsets

    def _offsets(self, features: Tensor, vote: Vote) -> Tensor:
        """Return the offsets of all voxels in the axes of the scan, in chunks because the head copies its features."""
        assert self.network.offset_head is not None
        parts = [self.network.offset_head(part.float()) for part in torch.split(features, CHUNK)]
        return vote.restore(torch.cat(parts))

    def _run(
        self, cells: npt.NDArray[np.int32], rgb: npt.NDArray[np.generic], *, training: bool = False
    ) -> Tensor | None:
        """Return the features of a tile's voxels in evaluation or training mode, or None without enough memory."""
        coordinates = torch.zeros((len(cells), 4), dtype=torch.int32)
        coordinates[:, 1:] = torch.from_numpy(cells)
        colors = torch.from_numpy(rgb.astype(np.float32) / np.float32(255) - np.float32(0.5))
        backend = use_backend(self.backend) if self.backend else nullcontext()
        try:
            with torch.inference_mode(), _mode(self.network, training), owned_threads(), kept_memory(), backend:
                voxels = SparseTensor(colors.to(self.device), coordinates.to(self.device))
                with autocast(self.device, self.precision):
                    features: Tensor = self.network(voxels)
                return features
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _too_large(self, voxels: int, name: str) -> Exception:
        return memory_limit_error(
            self.device,
            f"in a forward pass of {voxels} voxels of {name}, and in tiles of it",
            "use a smaller network, or "
            + ("--device cpu" if self.device.type == "cuda" else "a machine with more memory"),
        )


def voxel_centres(cells: npt.NDArray[np.integer], voxel_size: float) -> npt.NDArray[np.float64]:
    """Return the centres of cells in metres, shape `(voxels, 3)`."""
    centres: npt.NDArray[np.float64] = (cells.astype(np.float64) + 0.5) * voxel_size
    return centres


@contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Set training or evaluation mode inside the block, and restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    if training:
        network.train()
    else:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
