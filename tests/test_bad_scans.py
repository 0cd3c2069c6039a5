"""What people hand over, through the command line: each odd scan is labelled, or is one clear line."""

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import trimesh

from lg3d_core.networks.checkpoint import save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.scans.open_scan import open_scan
from tests.random_checkpoint import INFO, save_random
from tests.scan_files import furnished_room, points_ply, polygons_ply
from tests.test_cli import lg3d
from tests.test_scans_refine import box_room

XYZ, RGB, _ = furnished_room()


def without_faces(path: Path) -> None:
    points_ply(path, XYZ, RGB)


def without_colours(path: Path) -> None:
    polygons_ply(path, XYZ, [[0, 1, 2]])


def with_nan(path: Path) -> None:
    xyz = XYZ.copy()
    xyz[::7] = np.nan
    points_ply(path, xyz, RGB)


def of_nan_alone(path: Path) -> None:
    points_ply(path, np.full_like(XYZ, np.nan), RGB)


def of_one_point(path: Path) -> None:
    points_ply(path, XYZ[:1], RGB[:1])


def of_no_point(path: Path) -> None:
    points_ply(path, XYZ[:0], RGB[:0])


def with_a_million_outliers(path: Path) -> None:
    far = np.random.default_rng(0).uniform(-1e5, 1e5, size=(1_000_000, 3))
    room, colors = np.concatenate([XYZ] * 40), np.concatenate([RGB] * 40)
    points_ply(path, np.concatenate([room, far]), np.concatenate([colors, np.zeros(far.shape, np.uint8)]))


def of_large_triangles(path: Path) -> None:
    xyz, faces = box_room(2)
    trimesh.Trimesh(xyz, faces, process=False).export(path)


def of_words(path: Path) -> None:
    path.write_text("dear sir or madam\n", encoding="utf-8")


SCANS = {
    "without faces.ply": without_faces,
    "ohne Farben ü.ply": without_colours,
    "mit NaN 椅子.ply": with_nan,
    "of nan.ply": of_nan_alone,
    "one point.ply": of_one_point,
    "no point.ply": of_no_point,
    "outliers.ply": with_a_million_outliers,
    "box.ply": of_large_triangles,
    "letter.obj": of_words,
}
REFUSED = {
    "of nan.ply": "none of the",
    "no point.ply": "vert",
    "letter.obj": "found none",
    "gone.ply": "gone.ply",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans of mine")
    save_random(folder / "c.safetensors")
    for name, write in SCANS.items():
        write(folder / name)
    return folder


def test_each_odd_scan_is_labelled_or_is_one_clear_line(workplace: Path) -> None:
    words = [*SCANS, "gone.ply", "--checkpoint", "c.safetensors", "--out", "out put", "--scale", "m", "--up", "z"]
    done = lg3d("predict", *words, "--json", cwd=workplace, code=1)
    report = json.loads(done.stdout)
    assert report["failed"].keys() == REFUSED.keys()
    for name, expected in REFUSED.items():
        assert expected in report["failed"][name], name
        assert "\n" not in report["failed"][name]
    errors = [line for line in done.stderr.splitlines() if line.startswith("lg3d: error: ")]
    assert len(errors) == len(REFUSED)
    assert "Traceback" not in done.stderr
    for scan in report["scans"]:
        (written,) = scan["files"]
        surface = open_scan(workplace / written)
        assert surface.num_vertices == scan["num_vertices"] + scan["num_added"]
    told = {scan["scan"]: scan for scan in report["scans"]}
    assert told.keys() == SCANS.keys() - REFUSED.keys()
    assert told["mit NaN 椅子.ply"]["num_unlabelled"] == -(-len(XYZ) // 7)
    assert told["outliers.ply"]["num_unlabelled"] == pytest.approx(1_000_000, abs=10)
    assert told["box.ply"]["num_added"] > 5000
    assert "ohne Farben ü.ply: no colours: using grey" in done.stderr
    assert "box.ply: triangles of up to" in done.stderr
    assert "outliers.ply: 1000000 of" in done.stderr


def one_error(words: list[str], cwd: Path, *, code: int = 1, **variables: str) -> str:
    done = lg3d(*words, cwd=cwd, code=code, **variables)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("lg3d: error: ")
    return line


def test_a_checkpoint_without_words_cannot_be_asked(workplace: Path) -> None:
    line = one_error(["ask", "without faces.ply", "a chair", "--checkpoint", "c.safetensors"], workplace)
    assert "its features are no longer aligned with text" in line
    info = dataclasses.replace(INFO, kind="pretrain", num_classes=None, anchors_digest=None)
    save_checkpoint(workplace / "supcon.safetensors", MinkUNet("14A"), info)
    line = one_error(["ask", "without faces.ply", "a chair", "--checkpoint", "supcon.safetensors"], workplace)
    assert "was trained without text anchors" in line


def test_an_empty_text_is_refused_before_anything_is_loaded(workplace: Path) -> None:
    assert "TEXT must be a text such as 'somewhere to sit', got ' '" in one_error(
        ["ask", "without faces.ply", " "], workplace, code=2
    )
    assert "--heat must be a text" in one_error(["view", "scene9003_00", "--heat", ""], workplace, code=2)


def test_standard_input_and_a_scan_as_a_checkpoint_are_refused(workplace: Path) -> None:
    assert "scans cannot be read from standard input: pass a file" in one_error(["predict", "-"], workplace)
    line = one_error(["convert", "without faces.ply", "--out", "x.ckpt"], workplace)
    assert line.endswith("cannot read the checkpoint without faces.ply: it is a PLY mesh")


def test_a_port_in_use_and_a_scene_that_is_not_there(store_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["view", "scene9003_00", "--store", str(store_path), "--runs", "none", "--serve", "--port", port]
        assert f"port {port} is in use: pass another --port" in one_error(words, tmp_path)


def test_without_a_display_there_is_a_page(store_path: Path, tmp_path: Path) -> None:
    done = lg3d("view", "scene9003_00", "--store", store_path, "--runs", "none", cwd=tmp_path)
    assert "scene9003_00.html" in done.stdout.splitlines()
    assert "no display: writing a picture and a page" in done.stderr
