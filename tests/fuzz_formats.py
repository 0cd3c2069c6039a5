"""The files that lg3d reads from others: for each a few good ones, ways to spoil them, and the code that reads them."""

import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import safetensors.numpy
import torch
import trimesh
from PIL import Image

from lg3d_core.errors import DataError, one_line
from lg3d_core.evaluation.checks import check_submission
from lg3d_core.evaluation.instances import PredictedInstances
from lg3d_core.evaluation.submissions import Submission, write_submission
from lg3d_core.language.anchors_file import Anchors, load_anchors, save_anchors
from lg3d_core.networks import MinkUNet
from lg3d_core.networks.checkpoint import CheckpointInfo, load_network, read_info, save_checkpoint
from lg3d_core.networks.minkunet import NETWORK_PLANS, NetworkPlan
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import find_frame
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.scans.ply import read_ply
from lg3d_core.seal import SEAL_BYTES, seal
from lg3d_core.settings import COMMANDS, PrepareSettings, StoreCheckSettings, read_recipe, recipe_names
from lg3d_core.store import SceneStore, merge_shards, prepare_store
from lg3d_core.store.budgets import ensure_budget, load_budget
from lg3d_core.store.scene_file import read_scene_file
from lg3d_core.synthetic.modelled.library import read_library
from lg3d_core.synthetic.modelled.resample import sample_model
from lg3d_core.training.run import Run
from lg3d_core.vocabulary import load_vocabulary, read_label_table
from tests import box_rooms, minkowski_checkpoints, model_files, scan_files, sh3f_files
from tests.fuzz_mutations import (
    BINARY,
    NUMBERS,
    WORDS,
    Mutator,
    change_json,
    change_lines,
    change_shape,
    change_tokens,
    dump_json,
    flip_bits,
    one_of,
    splice,
    truncate,
)
from tests.scan_layouts import Layout, random_las, random_pcd, random_ply

TINY = "fuzz"
"""A network small enough to be read ten thousand times."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: What it is called on the command line.
        mutate: Makes a bad file from a random number generator.
        read: Reads it, in a folder that may be written to; raises what the library raises, and AssertionError where a
            file was taken that should not have been, or something half-done was left.
    """

    name: str
    mutate: Callable[[random.Random], bytes]
    read: Callable[[bytes, Path], None]


def spoil(make_good: Callable[[], tuple[bytes, ...]], *mutators: Mutator) -> Callable[[random.Random], bytes]:
    """Take one of the good files and change it."""
    change = one_of(*mutators)
    return lambda rng: change(rng, rng.choice(make_good()))


@cache
def work_folder() -> Path:
    """Where good files are made, once for a process and its children."""
    import atexit
    import os
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="lg3d-fuzz-good-"))
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


# Scans of any origin, for `lg3d predict`.


@cache
def good_plys() -> tuple[bytes, ...]:
    folder = work_folder()
    xyz, rgb, faces = scan_files.furnished_room(spacing=0.6)
    box_rooms.write_binary_ply(folder / "a.ply", xyz, rgb, faces)
    scan_files.points_ply(folder / "b.ply", xyz[:40], rgb[:40], order=">", kind="d")
    scan_files.polygons_ply(folder / "c.ply", xyz[:6], [(0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 4, 5)])
    scan_files.polygons_ply(folder / "d.ply", xyz[:6], [(0, 1, 2), (0, 1, 2, 3)], ascii=True)
    return tuple((folder / f"{name}.ply").read_bytes() for name in "abcd")


PLY_WORDS = (
    *(b"element", b"property", b"list", b"vertex", b"face", b"end_header", b"ascii", b"binary_big_endian", b"comment"),
    *(b"char", b"uchar", b"short", b"int", b"uint", b"float", b"double", b"x", b"vertex_indices", b"format"),
)


def scan_reader(suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"scan{suffix}"
        path.write_bytes(data)
        surface = open_scan(path)
        for start, stop in surface.chunks():
            xyz = surface.positions(start, stop)
            assert xyz.shape == (stop - start, 3)
            if surface.colors is not None:
                assert surface.colors(start, stop).shape == xyz.shape
        faces = np.asarray(surface.faces)
        assert faces.ndim == 2
        assert faces.size == 0 or (faces.min() >= 0 and faces.max() < surface.num_vertices)
        if surface.paint is not None:
            places = np.arange(min(len(faces), 100))
            assert surface.paint(places, np.full((len(places), 3), 1 / 3, np.float32)).shape == (len(places), 3)
        assert all(doubt.isprintable() for doubt in map(one_line, surface.doubts))
        find_frame(surface, scale="auto", up="auto")

    return read


def make_layout(make: Callable[[random.Random], Layout]) -> Callable[[random.Random], bytes]:
    return lambda rng: pickle.dumps(make(rng))


def read_layout(data: bytes, folder: Path) -> None:
    check_layout(pickle.loads(data), folder)


def check_layout(layout: Layout, folder: Path) -> None:
    """Compare what is read with what was written; only a warning may stand in for equal colours."""
    path = folder / f"layout{layout.suffix}"
    path.write_bytes(layout.data)
    surface = open_scan(path)
    assert surface.num_vertices == len(layout.xyz)
    np.testing.assert_allclose(surface.positions(0, len(layout.xyz)), layout.xyz, atol=6e-4)
    got, wanted = {tuple(face) for face in np.asarray(surface.faces).tolist()}, set(map(tuple, layout.faces.tolist()))
    assert got == wanted, (got, wanted)
    is_equal = surface.colors is None and layout.rgb is None
    if surface.colors is not None and layout.rgb is not None:
        is_equal = bool(np.abs(surface.colors(0, len(layout.xyz)).astype(int) - layout.rgb).max() <= 1)
    assert is_equal or (surface.doubts and layout.told), (layout.text, surface.doubts)
    assert layout.told or not surface.doubts, (layout.text, surface.doubts)


def read_ply_strictly(data: bytes, folder: Path) -> None:
    path = folder / "mesh.ply"
    path.write_bytes(data)
    mesh = read_ply(path)
    assert mesh.faces.size == 0 or (mesh.faces.min() >= 0 and mesh.faces.max() < len(mesh.xyz))


@cache
def good_pcds() -> tuple[bytes, ...]:
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb n\nSIZE 4 4 4 4 2\nTYPE F F F U I\nCOUNT 1 1 1 1 2\n"
    head += "WIDTH 20\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\n"
    record = np.dtype([("xyz", "<f4", (3,)), ("rgb", "<u4"), ("n", "<i2", (2,))])
    rows = np.zeros(20, dtype=record)
    rows["xyz"] = np.random.default_rng(0).random((20, 3))
    columns = b"".join(np.ascontiguousarray(column).tobytes() for column in (*rows["xyz"].T, rows["rgb"], rows["n"]))
    packed = b"".join(bytes([len(columns[k : k + 32]) - 1]) + columns[k : k + 32] for k in range(0, len(columns), 32))
    text = "".join(f"{x} {y} {z} 255 1 2\n" for x, y, z in rows["xyz"].tolist())
    lengths = struct.pack("<II", len(packed), len(columns))
    return (
        f"{head}DATA ascii\n{text}".encode(),
        f"{head}DATA binary\n".encode() + rows.tobytes(),
        f"{head}DATA binary_compressed\n".encode() + lengths + packed,
    )


@cache
def good_las() -> tuple[bytes, ...]:
    return tuple(_las(form, packed=False) for form in (2, 7))


@cache
def good_laz() -> tuple[bytes, ...]:
    return tuple(_las(form, packed=True) for form in (2, 7))


def _las(form: int, *, packed: bool) -> bytes:
    import laspy

    header = laspy.LasHeader(point_format=form, version="1.4")
    las = laspy.LasData(header)
    las.x, las.y, las.z = np.random.default_rng(0).random((3, 50))
    las.red, las.green, las.blue = np.random.default_rng(0).integers(0, 65536, size=(3, 50), dtype=np.uint16)
    stream = io.BytesIO()
    las.write(stream, do_compress=packed, laz_backend=laspy.LazBackend.Lazrs if packed else None)
    return stream.getvalue()


PCD_WORDS = (b"FIELDS", b"SIZE", b"COUNT", b"POINTS", b"WIDTH", b"DATA", b"ascii", b"binary", b"F", b"U", b"_", b"x")


@cache
def good_objs() -> tuple[bytes, ...]:
    plain = "".join(f"v {x} {y} {z} 1 0.5 0\n" for x, y, z in sh3f_files.CORNERS)
    plain += "".join("f " + " ".join(map(str, side)) + "\n" for side in sh3f_files.SIDES)
    return plain.encode(), sh3f_files.box_obj().encode(), f"o a\n{plain}g b\nf -1 -2 -3\nf 1//1 2//2 3//3\n".encode()


MTL_WORDS = (b"newmtl", b"Kd", b"map_Kd", b"-s", b"-o", b"-clamp", b"on", b"map_Ka", b"-mm", b"scan0.png", b"scan.mtl")
OBJ_WORDS = (b"v", b"vt", b"vn", b"f", b"usemtl", b"mtllib", b"o", b"g", b"1/2/3", b"-9", b"0", b"1//", b"/")


@cache
def good_glbs() -> tuple[bytes, ...]:
    xyz, rgb, faces = scan_files.furnished_room(spacing=1.5)
    colored = trimesh.Trimesh(xyz, faces, vertex_colors=rgb, process=False)
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    textured = trimesh.Trimesh(xyz, faces, process=False)
    textured.visual = trimesh.visual.TextureVisuals(uv=np.random.default_rng(0).random((len(xyz), 2)), image=image)
    cloud = trimesh.Scene([trimesh.PointCloud(xyz, colors=rgb)])
    parts = [bytes(part.export(file_type="glb")) for part in (trimesh.Scene([colored]), textured.scene(), cloud)]
    return *parts, *(files[name] for files in good_models("glb") for name in files if name.endswith(".glb"))


@cache
def good_models(kind: str) -> tuple[dict[str, bytes], ...]:
    """OBJ or glTF scans of many forms, each with the files beside it."""
    found = []
    for seed in range(40):
        rng = random.Random(f"good {kind} {seed}")
        folder = work_folder() / f"{kind}{seed}"
        folder.mkdir(exist_ok=True)  # a child before this one has made it
        mesh = model_files.random_mesh(rng)
        (model_files.write_obj if kind == "obj" else model_files.write_glb)(rng, folder, mesh)
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))})
    return tuple(found)


def spoil_model(kind: str) -> Callable[[random.Random], bytes]:
    """Change one file of a scan that has several, take it away, or put another in its place."""

    def mutate(rng: random.Random) -> bytes:
        files = dict(rng.choice(good_models(kind)))
        name = rng.choice(sorted(files))
        if name.endswith((".obj", ".mtl")):
            change = one_of(change_tokens(words=(*OBJ_WORDS, *MTL_WORDS)), change_lines(), *BINARY)
        elif name.endswith(".gltf"):
            change = one_of(change_json, change_json, change_tokens(), *BINARY)
        else:
            change = one_of(change_glb, *BINARY) if name.endswith(".glb") else one_of(*BINARY)
        if rng.random() < 0.1 and not name.endswith((".obj", ".glb", ".gltf")):
            del files[name]
        else:
            files[name] = change(rng, files[name])
        return pickle.dumps(files)

    return mutate


def read_model(data: bytes, folder: Path) -> None:
    """Read a scan of several files."""
    shutil.rmtree(folder / "model", ignore_errors=True)
    for name, content in pickle.loads(data).items():
        (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / name).write_bytes(content)
    (scan,) = (folder / "model").glob("scan.[go]*[bjf]")
    scan_reader(scan.suffix)(scan.read_bytes(), folder / "model")


def seed_bytes(rng: random.Random) -> bytes:
    return str(rng.getrandbits(48)).encode()


def read_known_colors(kind: str) -> Callable[[bytes, Path], None]:
    """Write a good scan of a random form, and compare positions and colours with those it was made of."""

    def read(data: bytes, folder: Path) -> None:
        rng = random.Random(int(data))
        shutil.rmtree(folder / "known", ignore_errors=True)
        (folder / "known").mkdir()
        mesh = model_files.random_mesh(rng)
        if kind == "obj":
            path, rgb = model_files.write_obj(rng, folder / "known", mesh)
            xyz = np.concatenate([mesh.xyz, np.full((len(rgb) - len(mesh.xyz), 3), 0.5)])
        else:
            path, xyz, rgb = model_files.write_glb(rng, folder / "known", mesh)
        surface = open_scan(path)
        assert surface.num_vertices == len(rgb)
        np.testing.assert_allclose(surface.positions(0, len(rgb)), xyz, atol=2e-6)
        assert surface.colors is not None
        difference = np.abs(surface.colors(0, len(rgb)).astype(int) - rgb.astype(int))
        assert difference.max() <= 1, (
            f"{path.name}: {int((difference > 1).any(axis=1).sum())} of {len(rgb)} colours differ"
        )

    return read


def change_glb(rng: random.Random, data: bytes) -> bytes:
    """Change the shape of a GLB's JSON, with its lengths set right again."""
    length = struct.unpack("<I", data[12:16])[0]
    value = change_shape(rng, json.loads(data[20 : 20 + length]))
    if rng.random() < 0.6 and isinstance(value, dict):
        for kind in ("accessors", "bufferViews", "buffers"):
            entries = [entry for entry in value.get(kind, []) if isinstance(entry, dict)] if rng.random() < 0.5 else []
            if entries and isinstance(value[kind], list):
                key = rng.choice(("count", "byteOffset", "byteLength", "bufferView", "byteStride", "componentType"))
                rng.choice(entries)[key] = rng.choice(NUMBERS)
    text = dump_json(value)
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


# Raw scans, through the whole of `lg3d prepare`.


@cache
def good_raw() -> dict[str, bytes]:
    raw = work_folder() / "raw"
    box_rooms.write_dataset(raw, train=1, val=0, spacing=1.0)
    alignment = " ".join(map(str, np.eye(4).reshape(-1).tolist()))
    name = "scene9000_00"
    (raw / "scans" / name / f"{name}.txt").write_text(f"axisAlignment = {alignment}\nsceneType = Office\n")
    return {str(path.relative_to(raw)): path.read_bytes() for path in sorted(raw.rglob("*")) if path.is_file()}


def spoil_raw(rng: random.Random) -> bytes:
    files = dict(good_raw())
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice([name for name in sorted(files) if files[name]])
        if name.endswith(".json"):
            change = one_of(change_json, change_json, change_tokens(), *BINARY)
        elif name.endswith(".ply"):
            change = one_of(change_tokens(300, PLY_WORDS), change_lines(300), *BINARY)
        else:
            change = one_of(change_tokens(), change_lines(), flip_bits, truncate)
        files[name] = change(rng, files[name])
    return pickle.dumps(files)


def prepare_raw(data: bytes, folder: Path) -> None:
    """Prepare spoilt scans: a scene is whole in the store, or named and not there."""
    raw, store = folder / "raw", folder / "store"
    for path in (raw, store):
        shutil.rmtree(path, ignore_errors=True)
    for name, content in pickle.loads(data).items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    report = prepare_store(PrepareSettings(raw=raw, store=store, jobs=1), Progress())
    left = sorted(path.name for path in (store / "scenes").iterdir())
    assert left == [f"{scene_id}.h5" for scene_id in report.prepared], left
    for scene_id in report.prepared:
        SceneStore(store).read(scene_id)
    assert report.prepared or report.failed
    if report.failed:
        raise DataError(" ".join(report.failed.values()))


# The store.


@cache
def good_store() -> Path:
    raw, store = work_folder() / "store-raw", work_folder() / "store"
    box_rooms.write_dataset(raw, train=1, val=1, spacing=1.0)
    prepare_store(PrepareSettings(raw=raw, store=store, jobs=1), Progress())
    ensure_budget(SceneStore(store), 0.5, progress=Progress())
    return store


@cache
def good_scenes() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted((good_store() / "scenes").glob("*.h5")))


@cache
def good_budgets() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted((good_store() / "budgets").glob("*.h5")))


def change_hdf5(rng: random.Random, data: bytes) -> bytes:
    """Change what an HDF5 file says through its own library: attributes, datasets, links."""
    image = io.BytesIO(data[:-SEAL_BYTES])
    with h5py.File(image, "r+", libver=("v108", "v110")) as file:
        names = [name for name in ("points/xyz", "points/label", "mesh/faces", "points/rgb") if name in file]
        names = names or list(file)
        kind = rng.randrange(6)
        name = rng.choice(names)
        if kind <= 1:
            key = rng.choice(sorted(file.attrs))
            odd = [
                *(n for n in NUMBERS if n < 2**63),
                0.5,
                float("nan"),
                "x",
                "",
                "../../x",
                np.zeros(3),
                b"\xff",
                "[]",
            ]
            file.attrs[key] = rng.choice([*odd, json.dumps(change_shape(rng, {"points/xyz": 1, "3": 2}))])
        elif kind == 2:
            del file[name]
            file[name] = rng.choice(
                [h5py.SoftLink("/points"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/etc/passwd", "/x")]
            )
        elif kind == 3:
            shape = rng.choice([(), (0,), (5,), (5, 3), (2**40,), (2**40, 3), (2**26, 3), (3, 3, 3), (10**9,)])
            chunks = True if shape and 0 not in shape else None
            dtype = rng.choice(["<i2", "<i4", "<f4", "<f2", "u1", "<i8", "S64", ">f4"])
            del file[name]
            file.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks)
        elif kind == 4 and file[name].shape and file[name].shape[0]:
            column = file[name]
            row = rng.randrange(column.shape[0])
            numbers = [n for n in NUMBERS if abs(n) < 2**15]
            column[row] = rng.choice([*numbers, float("nan")]) if column.dtype.kind == "f" else rng.choice([-3, 0, 200])
        else:
            del file[name]
    return image.getvalue()


def reseal(change: Mutator) -> Mutator:
    """Change a file and leave its seal as it was, take it off, or make it anew as a forger would."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        content = change(rng, data[:-SEAL_BYTES] if rng.random() < 0.8 else data)
        kind = rng.randrange(4)
        if kind == 0:
            return content + data[-SEAL_BYTES:]
        return seal(content) if kind == 1 else content

    return mutate


def read_scene(data: bytes, folder: Path) -> None:
    path = folder / "scene.h5"
    path.write_bytes(data)
    scene = read_scene_file(path, num_classes=200)
    assert np.isfinite(scene.xyz).all()
    assert scene.faces.size == 0 or (scene.faces.min() >= 0 and scene.faces.max() < len(scene.xyz))
    assert scene.label.min(initial=-1) >= -1
    assert scene.label.max(initial=-1) < 200


def read_budget(data: bytes, folder: Path) -> None:
    path = folder / "budget.h5"
    path.write_bytes(data)
    budget = load_budget(path, num_classes=200)
    for scene_id in budget.extents:
        rows = budget.rows(scene_id)
        assert rows.min(initial=0) >= 0
        assert budget.class_counts(scene_id).shape == (200,)


def good_indices() -> tuple[bytes, ...]:
    return ((good_store() / "store.json").read_bytes(),)


def read_index(data: bytes, folder: Path) -> None:
    for path in (good_store() / "scenes").glob("*.h5"):
        (folder / "scenes").mkdir(exist_ok=True)
        if not (folder / "scenes" / path.name).exists():
            shutil.copy(path, folder / "scenes" / path.name)
    (folder / "store.json").write_bytes(data)
    store = SceneStore(folder)
    for split in ("train", "val", "test"):
        store.class_counts(split)
    for scene_id in store.scene_ids():
        assert store.scene_path(scene_id).resolve().parent == (folder / "scenes").resolve()
        store.read(scene_id)


@cache
def good_shards() -> tuple[bytes, ...]:
    raw, store = work_folder() / "store-raw", work_folder() / "shards"
    good_store()
    for k in (1, 2):
        prepare_store(PrepareSettings(raw=raw, store=store, jobs=1, shard=f"{k}/2"), Progress())
    return ((store / "shards" / "1-of-2.json").read_bytes(),)


def read_shard(data: bytes, folder: Path) -> None:
    store = folder / "store"
    if not store.exists():
        shutil.copytree(work_folder() / "shards", store)
    (store / "store.json").unlink(missing_ok=True)
    (store / "shards" / "1-of-2.json").write_bytes(data)
    try:
        merge_shards(StoreCheckSettings(store=store, jobs=1), Progress())
    except DataError:
        assert not (store / "store.json").exists()
        raise
    SceneStore(store)


# Anchors and checkpoints.


@cache
def good_anchors() -> tuple[bytes, ...]:
    path = work_folder() / "anchors.safetensors"
    metadata = {"encoder": "e", "weights": "w", "prompt": "{}", "vocabulary_digest": "d", "projection": "none"}
    vectors = np.random.default_rng(0).random((5, 8), dtype=np.float32)
    save_anchors(path, Anchors(vectors, tuple("abcde"), metadata))
    plain = path.read_bytes()
    tensors = {
        "anchors": vectors,
        "projection.mean": np.zeros(12, np.float32),
        "projection.matrix": np.ones((12, 8), np.float32),
    }
    metadata |= {"format": "lg3d anchors 1", "names": json.dumps(list("abcde"))}
    return plain, safetensors.numpy.save(tensors, metadata=metadata)


DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "U64", "F4", "x", "")


def change_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the shape of a safetensors header, mostly with its length set right again."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    tensors = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(6)
    if kind == 0:
        header = change_shape(rng, header)
    elif kind == 1 and tensors:
        header[rng.choice(tensors)]["dtype"] = rng.choice(DTYPES)
    elif kind == 2 and tensors:
        entry = header[rng.choice(tensors)]
        entry["shape"] = rng.choice([[], [0], [2**40, 2**40], [-1], entry["shape"][::-1], [*entry["shape"], 1]])
    elif kind == 3 and tensors:
        a, b = rng.choice(tensors), rng.choice(tensors)
        header[a], header[b] = header[b], header[a]
    else:
        metadata = header.get("__metadata__", {})
        key = rng.choice(sorted(metadata)) if metadata else "format"
        try:
            inner = json.loads(metadata.get(key, ""))
        except ValueError:
            inner = {}
        if rng.random() < 0.05:
            metadata[key] = "[" * 50_000
        else:
            metadata[key] = json.dumps(change_shape(rng, inner)) if inner else rng.choice(["", "x", "lg3d", "\0"])
        header["__metadata__"] = metadata
    text = dump_json(header)
    size = len(text) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return struct.pack("<Q", size) + text + body


def read_anchors(data: bytes, folder: Path) -> None:
    path = folder / "anchors.safetensors"
    path.write_bytes(data)
    anchors = load_anchors(path)
    assert np.isfinite(anchors.vectors).all()
    assert len(anchors.names) == len(anchors.vectors)


def tiny_network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(TINY, num_classes=5)


@cache
def good_checkpoints() -> tuple[bytes, ...]:
    path = work_folder() / "checkpoint.safetensors"
    with tiny_plan():
        save_checkpoint(path, tiny_network(), CheckpointInfo(
            kind="finetune", network=TINY, num_classes=5, voxel_size=0.05, vocabulary="v", vocabulary_digest="d",
            settings='{"epochs": 3}',
        ))  # fmt: skip
    return (path.read_bytes(),)


def tiny_plan() -> Any:
    """Let a network of a few thousand weights be read as the large ones are."""
    return mock.patch.dict(NETWORK_PLANS, {TINY: NetworkPlan((4,) * 8, (1,) * 8)})


def read_checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(data)
    with tiny_plan():
        network, info = load_network(path)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
    assert 0 < info.voxel_size < 100
    assert info.epoch >= 0


@cache
def good_ckpts() -> tuple[bytes, ...]:
    with tiny_plan():
        content = minkowski_checkpoints.lightning_checkpoint(tiny_network())
    streams = [io.BytesIO() for _ in range(3)]
    torch.save(content, streams[0])
    torch.save(content["state_dict"], streams[1])
    torch.save(content, streams[2], _use_new_zipfile_serialization=False)
    return tuple(stream.getvalue() for stream in streams)


OPCODES = tuple(
    bytes([code]) for code in b"(.012FGIJKLMNPQRSTUVX]abcdeghijlopqrstu}" + bytes([0x80, 0x81, *range(0x85, 0x97)])
)


def change_pickle(rng: random.Random, data: bytes) -> bytes:
    """Put instructions into a pickle, or take some out."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data))
        new = rng.choice(
            [
                *(
                    rng.choice(OPCODES),
                    rng.choice(OPCODES) + rng.randbytes(4),
                    b"r\xff\xff\xff\x7f",
                    b"j\xff\xff\xff\x7f",
                ),
                *(
                    b"\x8e" + struct.pack("<Q", rng.choice((10**9, 2**40, 2**63))),
                    b"\x8b" + struct.pack("<I", 2**31 - 1),
                ),
                *(b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"I" + b"9" * 5000 + b"\n", b"p99999999\n"),
                *(b"\x95" + struct.pack("<Q", 2**40), b"B" + struct.pack("<I", 2**31 - 1), b"\x86" * 40, b"2\x86" * 40),
            ]
        )
        data = data[:at] + new + data[at + rng.choice((0, 0, len(new))) :]
    return data


def change_members(rng: random.Random, data: bytes, change: Mutator, pick: str = "") -> bytes:
    """Change a member of a zip archive, its name, or what else there is, and pack it again."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(target, "w") as copy:
        names = archive.namelist()
        wanted = [name for name in names if pick in name] or names
        chosen = rng.choice(wanted)
        packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        for name in names:
            content = archive.read(name)
            if name == chosen:
                kind = rng.randrange(12)
                if kind == 0:
                    continue
                if kind == 1:
                    name = rng.choice(("../x", "/etc/x", "x", f"{name}/", name.upper()))
                else:
                    content = change(rng, content)
            copy.writestr(name, content, packing)
    return target.getvalue()


def change_ckpt(rng: random.Random, data: bytes) -> bytes:
    if not data.startswith(b"PK"):
        return change_pickle(rng, data)
    if rng.random() < 0.15:
        return change_members(rng, data, one_of(*BINARY))
    return change_members(rng, data, one_of(change_pickle, flip_bits, splice, change_tokens()), "data.pkl")


def change_saved_values(rng: random.Random, data: bytes) -> bytes:
    """Save other values than a run saves, with torch itself."""
    if data not in good_ckpts():
        return flip_bits(rng, data)  # what was spoilt already is not for torch to load
    content = torch.load(io.BytesIO(data), weights_only=False)
    state = content.get("state_dict", content)
    names = [name for name in state if isinstance(state[name], torch.Tensor)]
    for _ in range(rng.choice((1, 2))):
        name = rng.choice(names)
        odd = [
            torch.zeros(0),
            torch.tensor(float("nan")),
            torch.zeros(2, 2, dtype=torch.int64),
            torch.zeros(1).expand(10**6, 10**6),
            *(
                None,
                5,
                "x",
                [1],
                torch.zeros(27, 3, 32),
                torch.full((3,), float("inf")),
                torch.zeros(1, dtype=torch.complex64),
            ),
        ]
        kind = rng.randrange(4)
        if kind == 0:
            state[name] = rng.choice(odd)
        elif kind == 1 and name in state:
            del state[name]
            names.remove(name)
        elif kind == 2:
            state[rng.choice(("x", "", "../x", "a\nb", "final.kernel", "model.conv0p1s1.kernel"))] = rng.choice(odd)
        else:
            key = rng.choice(("epoch", "hyper_parameters", "state_dict", "voxel_size", "model"))
            holder = content if rng.random() < 0.5 or "hyper_parameters" not in content else content["hyper_parameters"]
            if isinstance(holder, dict):
                holder[key] = rng.choice([None, -1, "x", float("nan"), 10**400, [], {}, True, state])
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def read_ckpt(data: bytes, folder: Path) -> None:
    path = folder / "reference.ckpt"
    path.write_bytes(data)
    with tiny_plan():
        info = read_info(path)
        network, _ = load_network(path)
    assert info.network in (*NETWORK_PLANS, TINY)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


@cache
def good_states() -> tuple[bytes, ...]:
    stream = io.BytesIO()
    state = {"epoch": 3, "model": {"a": torch.ones(3)}, "optimizer": {"state": {0: {"m": torch.zeros(2)}}}, "rng": [1]}
    torch.save(state, stream)
    return (stream.getvalue(),)


def read_state(data: bytes, folder: Path) -> None:
    run = Run(folder)
    run.resume_file.write_bytes(data)
    assert run.load_resume() is not None


# Tables, settings, furniture.


@cache
def good_tables() -> tuple[bytes, ...]:
    table = good_raw()["scannetv2-labels.combined.tsv"]
    vocabulary = b"id\tname\tsplit\tred\tgreen\tblue\n1\twall\thead\t1\t2\t3\n2\tchair\ttail\t4\t5\t6\n"
    return table, vocabulary


def read_tables(data: bytes, folder: Path) -> None:
    path = folder / "table.tsv"
    path.write_bytes(data)
    if data.startswith(b"id\tn") or b"\tname\t" in data[:40]:
        vocabulary = load_vocabulary(str(path))
        assert 0 < len(vocabulary) < 2**15
        assert vocabulary.colors.shape == (len(vocabulary), 3)
        return
    table = read_label_table(path, load_vocabulary())
    assert all(-1 <= index < 200 for index in table.index_by_label.values())


@cache
def good_recipes() -> tuple[bytes, ...]:
    folder = Path(__file__).parents[1] / "lg3d_core" / "recipes"
    own = b'store = "data"\nvoxel_size = 0.05\n\n[finetune]\nepochs = 60\nloss = "cross-entropy"\nfrom = "x"\n'
    own += b'\n[anchors]\nprompt = ["a {}"]\n\n[prepare]\nraw = "r"\njobs = 2\nshard = "1/2"\n'
    return (own, *((folder / f"{name}.toml").read_bytes() for name in recipe_names()))


TOML_WORDS = (
    *(
        b"true",
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b'"',
        b"'''",
        b"[[a]]",
        b"1979-05-27T07:32:00Z",
        b"07:32:00",
        b"0xdeadbeef",
    ),
    *(b"[" * 5000, b"a." * 2000 + b"a", b'"\\u0000"', b'"\\ud800"', b"1e9999", b"[pretrain]", b"epochs", b"seed"),
)


def read_settings(data: bytes, folder: Path) -> None:
    path = folder / "recipe.toml"
    path.write_bytes(data)
    table = read_recipe(str(path))
    for name in ("prepare", "anchors", "pretrain", "finetune", "eval", "predict"):
        options: dict[str, Any] = {"prepare": {"raw": folder}, "predict": {"scans": ("x",)}}.get(name, {})
        settings = COMMANDS[name].resolve(config=path, **options)
        assert type(settings).from_json(settings.to_json()) == settings
    COMMANDS["finetune"].from_table(table, source="x")


@cache
def good_libraries() -> tuple[bytes, ...]:
    path = work_folder() / "lib.sh3f"
    sh3f_files.write_library(
        path,
        [{"name": "Box"}, {"name": "Picture", "rotation": "1 0 0 0 1 0 0 0 1"}],
        members={
            "lib/2/box.obj": sh3f_files.box_obj(material="picture"),
            "lib/2/picture.png": sh3f_files.png(np.zeros((4, 4, 3))),
        },
    )
    return (path.read_bytes(),)


def change_library(rng: random.Random, data: bytes) -> bytes:
    text = one_of(change_tokens(words=OBJ_WORDS), change_lines(), flip_bits, splice, truncate)
    return change_members(rng, data, text, rng.choice(("", ".properties", ".obj", ".mtl", ".png")))


def read_furniture(data: bytes, folder: Path) -> None:
    path = folder / "lib.sh3f"
    path.write_bytes(data)
    library = read_library(path)
    assert all(line.isprintable() for line in library.problems), library.problems
    error = None
    for entry in library.entries:
        try:
            model = sample_model(path, entry, spacing=0.2)
            assert np.isfinite(model.mesh.xyz).all()
        except DataError as reason:
            error = reason
    if error is not None:
        raise error


SUBMITTED = {"scene0000_00": 40, "scene0001_00": 30}
"""Number of vertices of the scenes of a submission."""


@cache
def good_submissions() -> tuple[bytes, ...]:
    vocabulary = load_vocabulary()
    made = []
    for task in ("semantic", "instance"):
        path = work_folder() / f"{task}.zip"
        with write_submission(path, vocabulary) as writer:
            for scene_id, number in SUBMITTED.items():
                if task == "semantic":
                    writer.add_labels(scene_id, np.arange(number) % 7)
                else:
                    rows = [np.arange(k, number, 2) for k in range(3)]
                    predicted = PredictedInstances.from_rows(rows, [1, 3, 5], [0.5, 0.25, 1.0])
                    writer.add_instances(scene_id, predicted, num_vertices=number)
        made.append(path.read_bytes())
    return tuple(made)


def change_submission(rng: random.Random, data: bytes) -> bytes:
    text = one_of(change_tokens(words=(b"nan", b"-1", b"1e999", b"../x", b"0", b"99999")), change_lines(), flip_bits)
    return change_members(rng, data, text, rng.choice(("", "scene0000_00.txt", "predicted_masks/")))


def read_submission(data: bytes, folder: Path) -> None:
    path = folder / "mine.zip"
    path.write_bytes(data)
    vocabulary = load_vocabulary()
    with Submission(path) as submission:
        problems = check_submission(submission, SUBMITTED, vocabulary, task=submission.task)
        assert all(one_line(problem.message) == problem.message for problem in problems), problems
        for scene_id, number in SUBMITTED.items():
            if submission.task == "semantic":
                labels = submission.read_labels(scene_id, vocabulary, num_vertices=number)
                assert labels.shape == (number,)
                assert -1 <= labels.min() <= labels.max() < 200
            else:
                found = submission.read_instances(scene_id, vocabulary, num_vertices=number)
                assert np.isfinite(found.confidences).all()
                assert not len(found.rows) or 0 <= found.rows.min() <= found.rows.max() < number


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("raw-scan", spoil_raw, prepare_raw),
        Format(
            "ply",
            spoil(good_plys, change_tokens(300, PLY_WORDS), change_tokens(300, PLY_WORDS), change_lines(300), *BINARY),
            scan_reader(".ply"),
        ),
        Format(
            "ply-strict",
            spoil(good_plys, change_tokens(300, PLY_WORDS), change_lines(300), *BINARY),
            read_ply_strictly,
        ),
        Format(
            "pcd",
            spoil(good_pcds, change_tokens(220, PCD_WORDS), change_tokens(220, PCD_WORDS), change_lines(220), *BINARY),
            scan_reader(".pcd"),
        ),
        Format("ply-layout", make_layout(random_ply), read_layout),
        Format("pcd-layout", make_layout(random_pcd), read_layout),
        Format("las-layout", make_layout(random_las), read_layout),
        Format("las", spoil(good_las, *BINARY), scan_reader(".las")),
        Format("laz", spoil(good_laz, *BINARY), scan_reader(".laz")),
        Format(
            "obj",
            spoil(good_objs, change_tokens(words=OBJ_WORDS), change_tokens(words=OBJ_WORDS), change_lines(), *BINARY),
            scan_reader(".obj"),
        ),
        Format("obj-files", spoil_model("obj"), read_model),
        Format("gltf-files", spoil_model("glb"), read_model),
        Format("obj-colors", seed_bytes, read_known_colors("obj")),
        Format("glb-colors", seed_bytes, read_known_colors("glb")),
        Format("glb", spoil(good_glbs, change_glb, change_glb, change_glb, *BINARY), scan_reader(".glb")),
        Format(
            "scene",
            spoil(good_scenes, reseal(change_hdf5), *map(reseal, BINARY)),
            read_scene,
        ),
        Format("budget", spoil(good_budgets, reseal(change_hdf5), *map(reseal, BINARY)), read_budget),
        Format("index", spoil(good_indices, change_json, change_json, change_tokens(), *BINARY), read_index),
        Format("shard", spoil(good_shards, change_json, change_json, change_tokens(), *BINARY), read_shard),
        Format(
            "anchors",
            spoil(good_anchors, change_safetensors, change_safetensors, change_tokens(400), *BINARY),
            read_anchors,
        ),
        Format(
            "checkpoint",
            spoil(good_checkpoints, change_safetensors, change_safetensors, change_tokens(900), *BINARY),
            read_checkpoint,
        ),
        Format(
            "torch-checkpoint",
            spoil(good_ckpts, change_ckpt, change_ckpt, change_ckpt, change_saved_values, *BINARY),
            read_ckpt,
        ),
        Format("resume", spoil(good_states, change_ckpt, change_ckpt, *BINARY), read_state),
        Format(
            "table",
            spoil(
                good_tables, change_tokens(words=WORDS), change_tokens(), change_lines(), flip_bits, splice, truncate
            ),
            read_tables,
        ),
        Format(
            "recipe",
            spoil(good_recipes, change_tokens(words=TOML_WORDS), change_tokens(), change_lines(), flip_bits, splice),
            read_settings,
        ),
        Format(
            "submission",
            spoil(good_submissions, change_submission, change_submission, change_submission, *BINARY),
            read_submission,
        ),
        Format("furniture", spoil(good_libraries, change_library, change_library, *BINARY), read_furniture),
    )
}
