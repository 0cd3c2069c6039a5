"""Pointcept's format: a folder per scene with `coord.npy`, `color.npy`, `normal.npy`, `segment*.npy`, `instance.npy`.

Labels are class indices, -1 for none; objects are numbered from 0, -1 for none; positions are metres with +z up. The
files `face.npy` and `superpoint.npy`, which `lg3d export-store` adds, are read if they exist.
"""

import fnmatch
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.arrays import read_npy
from lg3d_core.errors import DataError
from lg3d_core.scans.colors import colors_as_bytes
from lg3d_core.scans.files import digest_files
from lg3d_core.scans.formats.assembly import (
    MappedLabels,
    SceneArrays,
    as_objects,
    assemble,
    digest_choice,
    map_ids,
    metre_frame,
    no_labels,
    require_length,
)
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.names import find_names, load_vocabularies, missing_names, require_labels
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place, place_of
from lg3d_core.scans.scannet import Scan
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary import Vocabulary

COORD = "coord.npy"
LABEL_ARRAYS = {"scannet200": "segment200", "scannet20": "segment20"}
"""Label array of the vocabularies that Pointcept prepares."""
OTHER_ARRAYS = ("color", "normal", "instance", "face", "superpoint")
MAX_DEPTH = 4
MAX_FOLDERS = 20_000


@dataclass(frozen=True, kw_only=True)
class PointceptScene(RawScene):
    """Scene of numpy arrays."""

    place: Path
    vocabularies: tuple[Vocabulary, ...]
    arrays: tuple[str, ...]
    object_ids: str
    scale: str
    up: str

    @property
    def folder(self) -> Path:
        """Folder of the arrays."""
        return self.place

    @property
    def files(self) -> list[Path]:
        """Arrays that exist."""
        names = ("coord", *OTHER_ARRAYS[:2], *self.arrays, self.object_ids, *OTHER_ARRAYS[3:])
        paths = [self.place / f"{name}.npy" for name in dict.fromkeys(names)]
        return [path for path in paths if path.exists()]

    def read(self) -> Scan:
        """Read the scene.

        Raises:
            DataError: An array is missing, damaged, or of another length than `coord.npy`.
        """
        xyz = read_npy(self.place / COORD)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "iuf" or not len(xyz):
            raise DataError(f"{self.place / COORD}: expected an array (points, 3) of numbers, found {xyz.shape}")
        rgb, warnings = self._read_colors(len(xyz))
        normal = self._read("normal")
        if normal is not None and (normal.shape != xyz.shape or normal.dtype.kind != "f"):
            raise DataError(
                f"{self.place}/normal.npy: expected floats {xyz.shape}, found {normal.dtype} {normal.shape}"
            )
        instance, segment = self._read_numbers(self.object_ids, len(xyz)), self._read_numbers("superpoint", len(xyz))
        arrays = SceneArrays(
            path=self.place,
            xyz=xyz,
            rgb=rgb,
            faces=self._read_faces(len(xyz)),
            normal=normal,
            labels=[self._read_labels(*pair, len(xyz)) for pair in zip(self.arrays, self.vocabularies, strict=True)],
            instance=instance,
            segment=None if segment is None else segment - 1,
            warnings=warnings,
        )
        frame = metre_frame(arrays, scale=self.scale, up=self.up)
        digest = digest_files(self.files)
        return assemble(arrays, frame, scene_id=self.scene_id, vocabularies=self.vocabularies, digest=digest)

    def _read(self, name: str) -> npt.NDArray[Any] | None:
        path = self.place / f"{name}.npy"
        return read_npy(path) if name and path.exists() else None

    def _read_colors(self, num_points: int) -> tuple[npt.NDArray[np.uint8] | None, tuple[str, ...]]:
        values = self._read("color")
        if values is None:
            return None, (f"{self.place}: no color.npy: using grey, which reduces accuracy",)
        if values.ndim != 2 or values.shape[1] < 3 or len(values) != num_points or values.dtype.kind not in "iuf":
            raise DataError(
                f"{self.place}/color.npy: expected an array ({num_points}, 3) of numbers, found {values.shape}"
            )
        rgb, doubts = colors_as_bytes(np.asarray(values[:, :3]))
        return rgb, tuple(f"{self.place}/color.npy: {doubt}" for doubt in doubts)

    def _read_faces(self, num_points: int) -> npt.NDArray[np.integer] | None:
        faces = self._read("face")
        if faces is None:
            return None
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
            raise DataError(f"{self.place}/face.npy: expected an array (faces, 3) of integers, found {faces.shape}")
        if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < num_points:
            raise DataError(f"{self.place}/face.npy: faces use points outside of 0 to {num_points - 1}")
        return faces.astype(np.int32)

    def _read_labels(self, name: str, vocabulary: Vocabulary, num_points: int) -> MappedLabels:
        path = self.place / f"{name}.npy"
        if not path.exists():
            if self.split == "test":
                return no_labels(num_points)
            found = sorted(p.name for p in self.place.glob("segment*.npy"))
            raise DataError(f"{path}: missing; the folder has {', '.join(found) or 'no labels'}: pass --labels")
        values = read_npy(path)
        if values.ndim == 2 and values.shape[1] > 1:
            values = values[:, 0]  # several labels per point, the main one first, as for ScanNet++
        values = require_length(values, num_points, source=str(path))
        return map_ids(values, np.arange(len(vocabulary)), source=str(path))

    def _read_numbers(self, name: str, num_points: int) -> npt.NDArray[np.int32] | None:
        """Return the number of each point plus 1, 0 for negative ones; None without the array."""
        values = self._read(name)
        if values is None:
            return None
        source = f"{self.place}/{name}.npy"
        if values.ndim == 2 and values.shape[1] > 1:
            values = values[:, 0]
        return as_objects(require_length(values, num_points, source=source), source=source, from_zero=True)


def recognise_pointcept(raw: Path) -> str:
    """Return what a folder in this format has, or ""."""
    found = next((path for path in _walk(raw) if (path / COORD).exists()), None)
    return "" if found is None else f"{found.relative_to(raw)}/{COORD}"


def open_pointcept(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a folder in this format.

    Raises:
        DataError: The folder has no scenes, or has no class names.
        UsageError: The number of `--labels` is not that of the vocabularies.
    """
    raw = settings.raw_folder
    found = sorted(_walk(raw))
    if not found:
        raise DataError(f"{raw} contains no scenes: expected folders such as {raw}/train/scene0000_00/{COORD}")
    sample = next((path for path in found if any(path.glob("segment*.npy"))), found[0])
    vocabularies = load_vocabularies(settings.vocabulary or (_find_vocabulary(raw, sample),))
    arrays = _choose_arrays(settings.labels, vocabularies, sample)
    object_ids = {None: "instance", "none": ""}.get(settings.object_ids, settings.object_ids or "")
    places = [place_of(raw, path) for path in found]
    table = digest_choice("pointcept", *arrays, object_ids, settings.scale, settings.up)

    def scene_of(place: Place, split: str) -> RawScene:
        return PointceptScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            place=place.path,
            vocabularies=vocabularies,
            arrays=arrays,
            object_ids=object_ids,
            scale=settings.scale,
            up=settings.up,
        )

    return list_scenes(raw, "pointcept", vocabularies, places, table, scene_of)


def label_array(vocabulary: Vocabulary, *, is_first: bool) -> str:
    """Return the name of the label array of a vocabulary, as `lg3d export-store` writes it."""
    return LABEL_ARRAYS.get(vocabulary.name, "segment" if is_first else f"segment_{vocabulary.name}")


def _find_vocabulary(raw: Path, scene: Path) -> str:
    names = find_names(raw)
    if names is not None:
        return names
    for name, array in LABEL_ARRAYS.items():
        if (scene / f"{array}.npy").exists():
            return name
    raise missing_names(raw)


def _choose_arrays(typed: tuple[str, ...], vocabularies: tuple[Vocabulary, ...], scene: Path) -> tuple[str, ...]:
    if typed:
        require_labels(typed, vocabularies)
        return tuple(name.removesuffix(".npy") for name in typed)
    chosen = []
    for k, vocabulary in enumerate(vocabularies):
        name = label_array(vocabulary, is_first=k == 0)
        exists = (scene / f"{name}.npy").exists()
        chosen.append(name if exists or len(vocabularies) > 1 else "segment")
    return tuple(chosen)


def _walk(raw: Path) -> Iterator[Path]:
    """Yield the folders with points or labels, at most `MAX_DEPTH` levels below a folder.

    Labels without points are an error of the scene when it is read.
    """
    for folder, below, names in itertools.islice(os.walk(raw, followlinks=True), MAX_FOLDERS):
        path = Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if path != raw and (COORD in names or fnmatch.filter(names, "segment*.npy")):
            below.clear()
            yield path
        elif len(path.relative_to(raw).parts) >= MAX_DEPTH:
            below.clear()
