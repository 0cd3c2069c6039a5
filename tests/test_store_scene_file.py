"""Scene files: what is written comes back, and nothing that is damaged or hostile is read."""

import errno
import fcntl
import json
import os
import random
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.files import lock_file, sweep_temporaries, write_bytes
from lg3d_core.seal import SEAL_BYTES
from lg3d_core.store.scene_file import (
    COLUMNS,
    MAX_ROWS,
    Scene,
    SceneHeader,
    encode_scene,
    read_scene_file,
    read_scene_header,
    write_scene_file,
)

N, F = 70_000, 90_000  # more than one chunk of 65,536 rows


def make_scene(num_points: int = N, num_faces: int = F) -> tuple[Scene, SceneHeader]:
    rng = np.random.default_rng(0)
    scene = Scene(
        scene_id="room",
        split="val",
        xyz=rng.random((num_points, 3), dtype=np.float32),
        rgb=rng.integers(0, 256, (num_points, 3)).astype(np.uint8),
        normal=np.tile(np.array([(0, 0.6, 0.8)], np.float32), (num_points, 1)),
        label=rng.integers(-1, 200, num_points).astype(np.int16),
        instance=rng.integers(0, 40_000, num_points).astype(np.int32),
        segment=rng.integers(-1, 10**6, num_points).astype(np.int32),
        faces=rng.integers(0, num_points, (num_faces, 3)).astype(np.int32),
    )
    header = SceneHeader(
        scene="room",
        split="val",
        axis_alignment=np.eye(4),
        source_digest="abc",
        source_stamp="[]",
        label_table="t",
        vocabulary="v",
        num_points=num_points,
        num_faces=num_faces,
        class_counts={3: 7},
        unmapped={"a\tb": 2},
    )
    return scene, header


@cache
def whole_file() -> bytes:
    return encode_scene(*make_scene())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "room.h5").write_bytes(whole_file())
    return tmp_path / "room.h5"


def read(path: Path) -> Scene:
    return read_scene_file(path, num_classes=200)


def test_a_scene_comes_back_as_it_was_written(path: Path) -> None:
    scene, header = make_scene()
    found = read(path)
    assert (found.scene_id, found.split) == ("room", "val")
    for name in ("xyz", "rgb", "label", "instance", "segment", "faces"):
        assert np.array_equal(getattr(found, name), getattr(scene, name)), name
        assert getattr(found, name).dtype == getattr(scene, name).dtype
    assert found.normal.dtype == np.float32
    np.testing.assert_allclose(found.normal, scene.normal, atol=2**-12)  # half precision below 1: steps of 2^-11
    assert repr(read_scene_header(path)) == repr(header)


def test_datasets_that_training_does_not_use_can_be_skipped(path: Path) -> None:
    whole = read(path)
    scene = read_scene_file(path, num_classes=200, for_training=True)
    assert (scene.normal.shape, scene.segment.shape, scene.faces.shape) == ((0, 3), (0,), (0, 3))
    assert [scene.normal.dtype, scene.segment.dtype, scene.faces.dtype] == [np.float32, np.int32, np.int32]
    for name in ("scene_id", "split", "xyz", "rgb", "label", "instance"):
        np.testing.assert_array_equal(getattr(scene, name), getattr(whole, name))


def test_the_file_has_the_layout_that_the_design_promises(path: Path) -> None:
    with h5py.File(path) as file:
        for name, (dtype, _) in COLUMNS.items():
            column = file[name]
            assert column.dtype == np.dtype(dtype)
            assert column.compression == "gzip"
            assert not column.fletcher32  # the seal covers every byte
            assert column.shuffle == (column.dtype.itemsize > 1)
        assert file.attrs["axis_alignment"].shape == (4, 4)


def test_equal_scenes_have_equal_bytes() -> None:
    assert encode_scene(*make_scene()) == encode_scene(*make_scene())


def test_a_scene_without_points_or_faces_comes_back(tmp_path: Path) -> None:
    write_scene_file(tmp_path / "room.h5", *make_scene(5, 0))
    assert read(tmp_path / "room.h5").faces.shape == (0, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.h5: missing; prepare this scene again"):
        read(tmp_path / "none.h5")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"room\.h5: damaged, not an intact HDF5 file \(\d+ bytes"):
        read(path)


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_flipped_byte_in_any_dataset_is_noticed(path: Path, name: str, is_sealed: bool) -> None:
    if not is_sealed:
        path.write_bytes(path.read_bytes()[:-SEAL_BYTES])
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    whole = read(path)
    path.write_bytes(bytes(data))
    if not is_sealed and name == "points/normal":  # equal rows: deflate unpacks the flipped bit to the same values
        np.testing.assert_array_equal(read(path).normal, whole.normal)
        return
    with pytest.raises(DataError, match="damaged"):
        read(path)


def test_a_flipped_bit_anywhere_breaks_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "room.h5"
    write_scene_file(path, *make_scene(60, 50))
    data = path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data) - SEAL_BYTES)] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match=r"checksum mismatch\); prepare this scene again"):
            read_scene_header(path)


def test_without_a_seal_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "room.h5"
    write_scene_file(path, *make_scene(60, 50))
    path.write_bytes(path.read_bytes()[:-SEAL_BYTES])
    whole, header, data = read(path), repr(read_scene_header(path)), path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            found, own = read(path), read_scene_header(path)
        except DataError:
            refused += 1
        else:
            assert repr(own) == header
            assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))
    assert refused > 40  # the rest hit free space in the file


def replace(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


def set_value(name: str, row: int, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][row] = value
        sums = json.loads(file.attrs["checksums"])
        file.attrs["checksums"] = json.dumps(sums | {name: zlib.crc32(file[name][()].tobytes())})

    return change


def set_attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def drop_attribute(file: h5py.File) -> None:
    del file.attrs["split"]


def link_out(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["secret"] = np.zeros((N, 3), np.float32)
    del file["points/xyz"]
    file["points/xyz"] = h5py.ExternalLink("other.h5", "/secret")


def link_group(file: h5py.File) -> None:
    file.move("points", "elsewhere")
    file["points"] = h5py.SoftLink("/elsewhere")


def store_outside(file: h5py.File) -> None:
    outside = Path(file.filename).with_name("outside.bin")
    outside.write_bytes(bytes(N * 12))
    replace("points/xyz", shape=(N, 3), dtype="<f4", external=[(str(outside), 0, N * 12)])(file)


def make_virtual(file: h5py.File) -> None:
    del file["points/xyz"]
    layout = h5py.VirtualLayout(shape=(N, 3), dtype="<f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", shape=(N, 3))
    file.create_virtual_dataset("points/xyz", layout)


HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "link to another file": (link_out, "expected a dataset points/xyz inside the file"),
    "link in the file": (link_group, "expected a dataset points/xyz inside the file"),
    "external storage": (store_outside, "not a dataset stored in this file"),
    "virtual": (make_virtual, "not a dataset stored in this file"),
    "missing": (lambda file: file.__delitem__("points/label"), "expected a dataset points/label"),
    "a group": (
        lambda file: (file.__delitem__("mesh/faces"), file.create_group("mesh/faces"))[0],
        "not a dataset stored",
    ),
    "other type": (replace("points/label", shape=(N,), dtype="<i8"), r"points/label as int16 \(rows,\), got int64"),
    "objects": (replace("points/label", shape=(N,), dtype=h5py.string_dtype()), "expected points/label as int16"),
    "other width": (replace("points/xyz", shape=(N, 2), dtype="<f4"), r"\(rows, 3\), got float32 \(70000, 2\)"),
    "scalar": (replace("points/label", shape=(), dtype="<i2"), "expected points/label"),
    "empty": (replace("points/label", data=h5py.Empty("<i2")), "expected points/label"),
    "12 TB": (replace("points/xyz", shape=(10**12, 3), dtype="<f4", chunks=(65536, 3)), "declares 1000000000000 rows"),
    "never written": (replace("points/xyz", shape=(MAX_ROWS, 3), dtype="<f4", chunks=(65536, 3)), "but stores 0"),
    "half written": (
        replace("points/label", shape=(N,), dtype="<i2", chunks=(65536,), fillvalue=0),
        "declares 140000 bytes but stores 0",
    ),
    "foreign filter": (replace("points/label", data=np.zeros(N, "<i2"), compression="lzf"), "points/label declares"),
    "fewer rows": (
        replace("points/label", data=np.zeros(5, "<i2")),
        "points/label has 5 rows, its header records 70000",
    ),
    "label beyond": (set_value("points/label", 0, 200), "label contains -1 to 200, expected -1 to 199"),
    "label below": (set_value("points/label", 0, -2), "expected -1 to 199"),
    "instance below": (set_value("points/instance", 0, -1), "instance contains -1 to .* expected 0 or more"),
    "segment below": (set_value("points/segment", 0, -9), "expected -1 or more"),
    "face beyond": (set_value("mesh/faces", 0, (0, 1, N)), "faces contains 0 to 70000, expected 0 to 69999"),
    "nan": (set_value("points/xyz", 0, np.nan), "not finite"),
    "other version": (set_attribute("format_version", 99), "format version 99, expected 1"),
    "no split": (drop_attribute, "but split is missing"),
    "odd split": (set_attribute("split", "dev"), "attributes split are invalid"),
    "number for text": (set_attribute("scene", 5), "attributes scene are invalid"),
    "negative size": (set_attribute("num_points", -5), "are invalid"),
    "no numbers": (set_attribute("class_counts", '{"a": 1}'), "damaged"),
    "alignment": (set_attribute("axis_alignment", np.eye(3)), "damaged"),
    "more labels that are a list": (set_attribute("more_labels", "[1]"), "damaged"),
    "more labels without counts": (set_attribute("more_labels", '{"a": {"vocabulary": "v"}}'), "damaged"),
    "more labels of no kind": (set_attribute("more_labels", 7), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(path: Path, name: str) -> None:
    change, reason = HOSTILE[name]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=rf"room\.h5: .*{reason}"):
        read(path)


def test_a_file_whose_writer_still_holds_its_lock_is_read(path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read(path).scene_id == "room"


def test_a_chunk_that_was_never_written_is_not_read_as_zeros(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        values = file["points/label"][()]
        del file["points/label"]
        column = file.create_dataset("points/label", shape=(N,), dtype="<i2", chunks=(65536,))
        column[:65536] = values[:65536]
    with pytest.raises(DataError, match="points/label damaged: the checksum"):
        read(path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*room\.h5 \(No space left on device\)"):
        write_scene_file(path, *make_scene(5, 5))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["room.h5"]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file/a"):
        write_bytes(tmp_path / "file" / "a", b"x")


def test_old_temporaries_are_swept_and_young_ones_may_be_spared(tmp_path: Path) -> None:
    for name in (".a.h5.12345678.tmp", "b.tmp", ".c"):
        (tmp_path / name).write_text("x")
    assert sweep_temporaries(tmp_path, older_than=60) == 0
    assert sweep_temporaries(tmp_path) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".c", "b.tmp"]


def test_a_lock_keeps_others_out_unless_all_share_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with (
        lock_file(lock, shared=True),
        lock_file(lock, shared=True),
        pytest.raises(DataError, match="is in use by me"),
        lock_file(lock, holder="me"),
    ):
        pass
    with lock_file(lock):
        pass
    with pytest.raises(DataError, match="cannot write"), lock_file(tmp_path / "none" / ".lock"):
        pass
