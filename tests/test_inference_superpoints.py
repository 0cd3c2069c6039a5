"""Superpoint voting: labels and objects of whole superpoints, by arithmetic."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lg3d_core.errors import DataError
from lg3d_core.evaluation.predictor import VoxelLabels
from lg3d_core.inference import superpoints as module
from lg3d_core.inference.input import Input
from lg3d_core.inference.objects import find_scan_objects
from lg3d_core.inference.predict import predict as predict_scans
from lg3d_core.inference.scan_voxels import vertex_rows, voxelize_scan
from lg3d_core.inference.superpoints import find_superpoints
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import plain_frame
from lg3d_core.scans.ply import Mesh, write_ply
from lg3d_core.scans.surface import surface_in_memory
from tests.scan_files import furnished_room
from tests.test_inference_objects import CHAIR, FLOOR, NAMES, SPACING, TABLE, VOCABULARY, checkpoint, settings_of

__all__ = ["checkpoint"]
XYZ, RGB, FACES = furnished_room()


def strip(count: int, segment: list[int], monkeypatch: pytest.MonkeyPatch) -> Input:
    """Points in a line, one per voxel of 5 cm, with a superpoint each."""
    xyz = np.column_stack([np.arange(count), np.zeros(count), np.zeros(count)]) * SPACING + SPACING / 2
    surface = surface_in_memory(Path("a"), xyz.astype(np.float32), np.full((count, 3), 9, dtype=np.uint8), None)
    monkeypatch.setattr(module, "segment_points", lambda *_: np.array(segment))
    return Input("a", "a", surface, plain_frame())


def logits(rows: list[dict[int, float]]) -> torch.Tensor:
    """Logarithms of probabilities by class."""
    values = torch.full((len(rows), len(NAMES)), -torch.inf)
    for row, shares in zip(values, rows, strict=True):
        for category, share in shares.items():
            row[category] = np.log(share)
    return values


TABLE_LIKE, CHAIR_LIKE, FLOOR_LIKE = {TABLE: 0.9, CHAIR: 0.1}, {TABLE: 0.4, CHAIR: 0.6}, {FLOOR: 1.0}


def test_a_superpoint_gets_the_class_of_highest_mean_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of three points say chair, but the mean is 0.57 for table."""
    scan = strip(5, [1, 1, 1, 0, 0], monkeypatch)
    voxels = voxelize_scan(scan.surface, scan.frame, SPACING)
    values = logits([TABLE_LIKE, CHAIR_LIKE, CHAIR_LIKE, FLOOR_LIKE, FLOOR_LIKE])
    found = find_superpoints(
        scan, voxels, [(np.arange(5), values)], score=lambda features: features, num_classes=len(NAMES)
    )
    assert [rows.tolist() for _, _, rows in found.rows()] == [[1, 1, 1, 0, 0]]
    assert found.label.tolist() == [FLOOR, TABLE]
    np.testing.assert_allclose(found.confidence, [1, 1.7 / 3], atol=1e-6)
    np.testing.assert_allclose(found.probabilities[1], [0, 0, 1.7 / 3, 1.3 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(found.places[1], [1.5 * SPACING, SPACING / 2, SPACING / 2], atol=1e-6)
    at_voxels = found.at_voxels()
    assert at_voxels.label.tolist() == [TABLE, TABLE, TABLE, FLOOR, FLOOR]
    np.testing.assert_allclose(at_voxels.confidence, [1.7 / 3] * 3 + [1, 1], atol=1e-6)


def test_a_superpoint_belongs_to_the_object_with_more_than_half_of_its_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = strip(9, [0, 0, 0, 1, 1, 2, 2, 2, 2], monkeypatch)
    voxels = voxelize_scan(scan.surface, scan.frame, SPACING)
    rows = [TABLE_LIKE] * 3 + [TABLE_LIKE] * 2 + [CHAIR_LIKE] * 4
    found = find_superpoints(
        scan, voxels, [(np.arange(9), logits(rows))], score=lambda features: features, num_classes=len(NAMES)
    )
    number = np.array([0, 0, -1, 0, -1, 1, 1, 1, 0], dtype=np.int32)
    # 2 of 3 points of the first, 1 of 2 of the second, 3 of 4 of the third.
    assert found.vote(number, 2).tolist() == [0, -1, 1]
    assert found.vote(np.full(9, -1, dtype=np.int32), 0).tolist() == [-1, -1, -1]


def test_a_voxel_has_the_mean_probabilities_of_the_superpoints_of_its_vertices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four vertices in one voxel: three of a superpoint with 0.9 and 0.1, one of a superpoint with 0.4 and 0.6."""
    scan = strip(4, [0, 0, 0, 1], monkeypatch)
    voxels = voxelize_scan(scan.surface, scan.frame, 4 * SPACING)
    found = find_superpoints(
        scan, voxels, [(np.arange(1), logits([TABLE_LIKE]))], score=lambda features: features, num_classes=len(NAMES)
    )
    found.probabilities[1] = np.exp(logits([CHAIR_LIKE]).numpy()[0])
    candidates = found.at_voxels().candidates
    assert candidates is not None
    assert candidates.classes[0, :2].tolist() == [TABLE, CHAIR]
    np.testing.assert_allclose(candidates.probabilities[0, :3], [0.75 * 0.9 + 0.25 * 0.4, 0.75 * 0.1 + 0.25 * 0.6, 0])


def test_objects_of_superpoints_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gap of misclassified voxels inside a table splits it; its superpoint joins the parts."""
    scan = strip(300, [0] * 300, monkeypatch)
    voxels = voxelize_scan(scan.surface, scan.frame, SPACING)
    rows = [TABLE_LIKE] * 140 + [FLOOR_LIKE] * 20 + [TABLE_LIKE] * 140
    features = [(np.arange(300), logits(rows))]
    label = np.array([TABLE] * 140 + [FLOOR] * 20 + [TABLE] * 140, dtype=np.int16)
    labels = VoxelLabels(label, np.ones(300, dtype=np.float32))

    def identity(values: torch.Tensor) -> torch.Tensor:
        return values

    options = {"score": identity, "vocabulary": VOCABULARY, "min_points": 10}
    rows_of = partial(vertex_rows, scan.surface, scan.frame, voxels)
    apart = find_scan_objects(scan, voxels, labels, features, rows=rows_of, **options)  # type: ignore[arg-type]
    assert [one.points for one in apart.objects] == [140, 140]
    patches = find_superpoints(scan, voxels, features, score=identity, num_classes=len(NAMES))
    whole = find_scan_objects(scan, voxels, labels, features, rows=patches.rows, superpoints=patches, **options)  # type: ignore[arg-type]
    (one,) = whole.objects
    assert (one.points, one.name) == (300, "table")
    np.testing.assert_allclose(one.box.size, [299 * SPACING, 0, 0], atol=1e-5)
    assert one.names[0] == ("table", pytest.approx(0.9 * 280 / 300))


def test_too_many_vertices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERTICES", 4)
    scan = strip(5, [0] * 5, monkeypatch)
    voxels = voxelize_scan(scan.surface, scan.frame, SPACING)
    with pytest.raises(DataError, match=r"a: 5 vertices, expected at most 4 with --superpoints: pass --no-superpoints"):
        find_superpoints(scan, voxels, [], score=lambda features: features, num_classes=5)


@pytest.mark.parametrize("faces", [FACES, np.zeros((0, 3), dtype=np.int64)])
def test_a_scan_is_segmented_by_its_points(
    checkpoint: Path, tmp_path: Path, faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, segments = module.segment_points, []

    def keep(*arguments: Any) -> np.ndarray:
        segments.append(segment(*arguments))
        return segments[-1]

    monkeypatch.setattr(module, "segment_points", keep)
    scan = tmp_path / "room.ply"
    write_ply(scan, Mesh(XYZ.astype(np.float32), RGB, faces.astype(np.int32)))
    settings = settings_of(
        checkpoint, tmp_path / "o", scan, formats=("txt",), objects=True, min_points=5, superpoints=True
    )
    (labels,) = predict_scans(settings, Progress()).labelled
    label, instance = (np.loadtxt(path, dtype=int) for path in labels.files[:2])
    assert sum(found.vertices for found in labels.found) == len(XYZ)
    assert len(np.unique(label)) < 40  # patches instead of noise
    (own,) = segments
    for values in (label, instance):  # one class and one object, or none, for each superpoint
        assert len(np.unique(np.column_stack([own, values]), axis=0)) == own.max() + 1
    assert labels.objects is not None
    for one in labels.objects:
        assert one.points == (instance == one.id).sum()
