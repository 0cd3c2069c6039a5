"""`lg3d prepare --verify`: damaged scenes are named, and preparing again mends exactly those."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.seal import SEAL_BYTES, require_seal, seal, sealed_digest
from lg3d_core.settings import PrepareSettings, StoreCheckSettings
from lg3d_core.store import VerifyReport, prepare_store, verify_store
from tests import box_rooms

IDS = [f"scene900{k}_00" for k in range(5)]


@pytest.fixture(scope="module")
def place_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verify")
    box_rooms.write_dataset(place / "raw", train=3, val=1, test=1, spacing=0.5)
    prepare_store(PrepareSettings(raw=place / "raw", store=place / "data", jobs=1), Progress())
    return place


@pytest.fixture
def place(place_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place_once, tmp_path / "place"))


def scene(place: Path, k: int) -> Path:
    return place / "data/scenes" / f"{IDS[k]}.h5"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def verify(place: Path, *, jobs: int = 1) -> VerifyReport:
    return verify_store(StoreCheckSettings(store=place / "data", jobs=jobs), Progress())


def lg3d(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lg3d_cli", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_store_as_written_is_whole(place: Path) -> None:
    assert verify(place) == (place / "data", IDS, {}, [], [])


def test_every_kind_of_damage_is_named_and_nothing_is_written(place: Path) -> None:
    flip(scene(place, 0), 2000)
    scene(place, 1).unlink()
    scene(place, 2).write_bytes(scene(place, 2).read_bytes()[:-1000])
    shutil.copy(scene(place, 4), scene(place, 3))
    before = {path: path.read_bytes() for path in place.rglob("*.h5")}
    report = verify(place, jobs=2)
    assert (report.whole, sorted(report.damaged)) == ([IDS[4]], IDS[:4])
    assert "checksum mismatch" in report.damaged[IDS[0]]
    assert "missing" in report.damaged[IDS[1]]
    assert "not an intact HDF5 file" in report.damaged[IDS[2]]
    assert "is another scene" in report.damaged[IDS[3]]
    assert {path: path.read_bytes() for path in place.rglob("*.h5")} == before


def test_preparing_again_repairs_exactly_the_damaged_scenes(place: Path) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*.h5")}
    flip(scene(place, 0), 2000)
    scene(place, 3).unlink()
    flip(scene(place, 4), scene(place, 4).stat().st_size // 2)
    assert sorted(verify(place).damaged) == [IDS[0], IDS[3], IDS[4]]
    report = prepare_store(PrepareSettings(raw=place / "raw", store=place / "data", jobs=1), Progress())
    assert (report.prepared, report.skipped) == ([IDS[0], IDS[3], IDS[4]], IDS[1:3])
    assert {path: path.read_bytes() for path in place.rglob("*.h5")} == before
    assert verify(place).whole == IDS


def test_a_store_of_before_there_were_seals_is_read_by_its_other_checksums(place: Path) -> None:
    for k in range(5):
        scene(place, k).write_bytes(scene(place, k).read_bytes()[:-SEAL_BYTES])
    with h5py.File(scene(place, 0)) as file:
        chunk = file["points/xyz"].id.get_chunk_info(0)
    flip(scene(place, 0), chunk.byte_offset + chunk.size // 2)
    report = verify(place)
    assert (report.whole, report.unsealed, list(report.damaged)) == (IDS[1:], IDS[1:], [IDS[0]])


def test_a_damaged_index_is_one_line(place: Path) -> None:
    (place / "data/store.json").write_text("{")
    with pytest.raises(DataError, match=r"store\.json cannot be read .* run lg3d prepare again"):
        verify(place)


def test_the_command_reports_damage_and_how_to_repair_it(place: Path) -> None:
    whole = lg3d("prepare", "--verify", cwd=place)
    assert (whole.returncode, whole.stdout) == (0, "scene\treason\n")
    assert "5 scenes intact, 0 damaged or missing" in whole.stderr
    flip(scene(place, 2), 3000)
    (place / "data/scenes/stray.h5").write_bytes(b"")
    scene(place, 1).write_bytes(scene(place, 1).read_bytes()[:-SEAL_BYTES])
    found = lg3d("prepare", "--verify", cwd=place)
    assert found.returncode == 1
    assert found.stdout.splitlines()[1].startswith(f"{IDS[2]}\t")
    assert "lg3d prepare RAW --store data prepares these 1 again" in found.stderr
    assert "1 of them have no checksum of the whole file" in found.stderr
    assert "1 files do not belong to any scene of the store, e.g. stray.h5" in found.stderr
    report = json.loads(lg3d("prepare", "--verify", "--json", "--jobs", "1", cwd=place).stdout)
    assert (report["whole"], list(report["damaged"])) == ([IDS[0], IDS[1], IDS[3], IDS[4]], [IDS[2]])
    assert (report["unsealed"], report["strange"]) == ([IDS[1]], ["stray.h5"])
    for words in (("--verify", "--merge"), ("--verify", "--shard", "1/2"), ("--check", "--verify")):
        refused = lg3d("prepare", *words, cwd=place)
        assert (refused.returncode, refused.stderr) == (2, refused.stderr)
        assert "cannot be combined" in refused.stderr


def test_a_seal_is_the_sha256_of_the_bytes_before_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(seal(b"abc"))
    assert path.stat().st_size == 3 + SEAL_BYTES
    # The digest of "abc" in FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (sealed_digest(path), require_seal(path, again="")) == (expected, expected)
    path.write_bytes(b"abc")
    assert (sealed_digest(path), require_seal(path, again="")) == (None, None)
    with pytest.raises(DataError, match="cannot be read"):
        require_seal(tmp_path, again="")
