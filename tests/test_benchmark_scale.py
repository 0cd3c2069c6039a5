"""What the benchmark of scale lets pass, and what it does not."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = [10, 100, 1000]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failures(scale: ModuleType, name: str, cpu: list[float], mebibytes: list[float]) -> list[str]:
    taken = [{"cpu": c, "wall": c, "peak": m * 2**20} for c, m in zip(cpu, mebibytes, strict=True)]
    return list(scale.check(name, NUMBERS, scale.fit(NUMBERS, taken)))


@pytest.mark.parametrize(
    ("name", "cpu", "mebibytes", "expected"),
    [
        ("prepare", [1.2, 3.0, 21.0], [100, 100, 105], []),  # 1 s and 20 ms a scene
        ("prepare", [1.2, 3.0, 101.0], [100, 100, 105], ["takes 99.8 CPU seconds more"]),  # 0.1 ms n^2
        ("prepare", [1.2, 3.0, 21.0], [100, 110, 200], ["memory grows by 90 MiB"]),
        ("epoch", [5.0, 9.5, 54.5], [300, 480, 500], []),  # ten scenes do not fill a batch
        ("start", [5.0, 5.1, 5.9], [400, 410, 420], []),
        ("start", [5.0, 5.2, 6.5], [400, 410, 420], ["takes 1.50 CPU seconds longer"]),
    ],
)
def test_a_claim_that_does_not_hold_is_named(
    name: str, cpu: list[float], mebibytes: list[float], expected: list[str], scale: ModuleType
) -> None:
    found = failures(scale, name, cpu, mebibytes)
    assert len(found) == len(expected)
    assert all(words in line for words, line in zip(expected, found, strict=True))


def test_the_stored_record_holds(scale: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((ROOT / "docs" / "results").glob("*-scale-*.json")):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            scale.report(record)
        assert stop.value.code == 0, path
        assert "1000 scenes" in capsys.readouterr().out


def test_scenes_are_copied_under_new_ids_with_their_splits(scale: ModuleType, tmp_path: Path, raw_rooms: Path) -> None:
    from lg3d_core.progress import Progress
    from lg3d_core.settings import PrepareSettings
    from lg3d_core.store import SceneStore, prepare_store

    scale.copy_rooms(raw_rooms, tmp_path / "raw", 6)
    report = prepare_store(PrepareSettings(raw=tmp_path / "raw", store=tmp_path / "data", jobs=1), Progress())
    assert not report.failed
    store = SceneStore(tmp_path / "data")
    assert store.scene_ids("train") == ["scene0000_00", "scene0001_00", "scene0002_00"]
    assert store.scene_ids("val") == ["scene0003_00", "scene0004_00", "scene0005_00"]
