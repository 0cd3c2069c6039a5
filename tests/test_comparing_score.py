"""Scores, differences and checks of predictions in the benchmark's submission format."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.comparing.check import check, read_scenes
from lg3d_core.comparing.instance_statistics import resampled_precisions
from lg3d_core.comparing.score import ScoredPredictions, score
from lg3d_core.comparing.score_table import class_table, difference_table, score_table
from lg3d_core.comparing.statistics import scene_weights
from lg3d_core.errors import DataError, Lg3dError, UsageError
from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.instances import (
    InstanceScores,
    PredictedInstances,
    SceneMatches,
    match_scene,
    score_instances,
    scored_classes,
)
from lg3d_core.evaluation.scores import Scores, score_confusion
from lg3d_core.evaluation.submissions import write_submission
from lg3d_core.progress import Progress
from lg3d_core.settings import PrepareSettings, ScoreSettings
from lg3d_core.store.prepare import prepare
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet200")
WALL, CHAIR, TABLE = (VOCABULARY.index_by_name[name] for name in ("wall", "chair", "table"))
SCORED = scored_classes(VOCABULARY)


def write_labels(
    path: Path,
    store: SceneStore,
    predict: Callable[[Scene], np.ndarray] = lambda scene: scene.label,
    split: str = "val",
) -> Path:
    with write_submission(path, VOCABULARY) as writer:
        for scene_id in store.scene_ids(split):
            writer.add_labels(scene_id, predict(store.read(scene_id)))
    return path


def objects_of(scene: Scene, seed: int = 0) -> PredictedInstances:
    """Annotated objects with some vertices removed and others added, and a few false ones."""
    rng = np.random.default_rng(seed)
    rows, classes = [], []
    for instance in np.unique(scene.instance[scene.instance > 0]):
        mask = scene.instance == instance
        if scene.label[mask][0] < 0:
            continue
        mask &= rng.random(len(mask)) < rng.uniform(0.5, 1)
        mask |= rng.random(len(mask)) < rng.choice([0, 0.01])
        rows.append(np.flatnonzero(mask))
        classes.append(int(scene.label[scene.instance == instance][0]))
    for _ in range(2):
        rows.append(np.flatnonzero(rng.random(len(scene.label)) < 0.2))
        classes.append(CHAIR)
    return PredictedInstances.from_rows(rows, classes, rng.random(len(rows)).tolist())


def write_objects(
    path: Path, store: SceneStore, predict: Callable[[Scene], PredictedInstances] = objects_of, split: str = "val"
) -> Path:
    with write_submission(path, VOCABULARY) as writer:
        for scene_id in store.scene_ids(split):
            scene = store.read(scene_id)
            writer.add_instances(scene_id, predict(scene), num_vertices=len(scene.label))
    return path


def unpack(path: Path) -> Path:
    folder = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def run(store: SceneStore, *paths: Path, **options: object) -> tuple[ScoredPredictions, ...]:
    defaults = {"jobs": 1, "resamples": 100}
    return score(ScoreSettings(predictions=paths, store=store.path, **(defaults | options)), Progress()).predictions


def half_wall(scene: Scene) -> np.ndarray:
    return np.where(np.arange(len(scene.label)) % 2, scene.label, WALL)


@pytest.fixture
def store(store_path: Path) -> SceneStore:
    return SceneStore(store_path)


@pytest.mark.parametrize("unpacked", [False, True])
def test_labels_are_scored_at_all_vertices(store: SceneStore, tmp_path: Path, unpacked: bool) -> None:
    path = write_labels(tmp_path / "mine.zip", store, half_wall)
    (own,) = run(store, unpack(path) if unpacked else path)
    confusion = ConfusionMatrix(200)
    for scene_id in store.scene_ids("val"):
        scene = store.read(scene_id)
        confusion.update(scene.label, half_wall(scene))
    assert isinstance(own.scores, Scores)
    assert own.scores.to_dict() == score_confusion(confusion, VOCABULARY).to_dict()
    assert own.name == "mine"


def test_perfect_predictions_score_one(store: SceneStore, tmp_path: Path) -> None:
    (own,) = run(store, write_labels(tmp_path / "s.zip", store))
    assert isinstance(own.scores, Scores)
    assert own.scores.miou_present == 1
    assert own.intervals["present"]["iou"]["all"] == (1, 1)
    (own,) = run(
        store,
        write_objects(
            tmp_path / "i.zip",
            store,
            lambda scene: PredictedInstances.from_rows(
                [np.flatnonzero(scene.instance == k) for k in np.unique(scene.instance[scene.label >= 0]) if k],
                [int(scene.label[scene.instance == k][0]) for k in np.unique(scene.instance[scene.label >= 0]) if k],
                [1.0] * sum(k > 0 for k in np.unique(scene.instance[scene.label >= 0])),
            ),
        ),
    )
    assert isinstance(own.scores, InstanceScores)
    assert (own.scores.mean("ap"), own.scores.mean("ap50"), own.scores.mean("ap25")) == (1, 1, 1)
    assert own.intervals["present"]["ap"]["all"] == (1, 1)


@pytest.mark.parametrize("unpacked", [False, True])
def test_objects_have_the_scores_of_the_predictions_in_memory(
    store: SceneStore, tmp_path: Path, unpacked: bool
) -> None:
    path = write_objects(tmp_path / "s.zip", store)
    (own,) = run(store, unpack(path) if unpacked else path)
    scenes = [store.read(scene_id) for scene_id in store.scene_ids("val")]
    matches = [match_scene(s.label, s.instance, objects_of(s), scored=SCORED) for s in scenes]
    expected = score_instances(matches, VOCABULARY)
    assert 0 < expected.mean("ap") < expected.mean("ap25")
    assert isinstance(own.scores, InstanceScores)
    assert own.scores.to_dict() == expected.to_dict()


def test_several_processes_give_the_same_scores(store: SceneStore, tmp_path: Path) -> None:
    for path in (write_labels(tmp_path / "s.zip", store, half_wall), write_objects(tmp_path / "i.zip", store)):
        one, two = (run(store, path, path, jobs=jobs) for jobs in (1, 2))
        assert [own.to_dict() for own in one] == [own.to_dict() for own in two]


def test_differences_are_paired_over_scenes(store: SceneStore, tmp_path: Path) -> None:
    good = write_labels(tmp_path / "good.zip", store)
    bad = write_labels(tmp_path / "bad.zip", store, half_wall)
    first, second, same = run(store, good, bad, good)
    assert first.differences == {}
    all_classes = second.differences["iou"]["all"]
    assert isinstance(first.scores, Scores)
    assert isinstance(second.scores, Scores)
    assert all_classes.value == pytest.approx(second.scores.miou_present - first.scores.miou_present)
    assert all_classes.over_scenes.low <= all_classes.value <= all_classes.over_scenes.high < 0
    assert same.differences["iou"]["all"][:2] == (0, (0, 0))
    objects = write_objects(tmp_path / "i.zip", store)
    other = write_objects(tmp_path / "j.zip", store, lambda scene: objects_of(scene, seed=1))
    first, second = run(store, objects, other)
    assert isinstance(first.scores, InstanceScores)
    assert isinstance(second.scores, InstanceScores)
    assert set(second.differences) == {"ap", "ap50", "ap25"}
    expected = second.scores.mean("ap50") - first.scores.mean("ap50")
    assert second.differences["ap50"]["all"].value == pytest.approx(expected)


def test_the_mean_over_all_classes_is_chosen_by_an_option(store: SceneStore, tmp_path: Path) -> None:
    good, bad = write_labels(tmp_path / "good.zip", store), write_labels(tmp_path / "bad.zip", store, half_wall)
    first, second = run(store, good, bad, classes="all")
    assert isinstance(first.scores, Scores)
    assert isinstance(second.scores, Scores)
    assert second.differences["iou"]["all"].value == pytest.approx(second.scores.miou_200 - first.scores.miou_200)


def random_matches(seed: int) -> list[SceneMatches]:
    rng = np.random.default_rng(seed)
    matches = []
    for _ in range(4):
        sizes = rng.integers(80, 260, 9)
        labels = np.repeat(rng.choice([-1, WALL, CHAIR, CHAIR, TABLE], 9), sizes)
        instances = np.repeat(np.arange(1, 10), sizes)
        starts = rng.integers(0, len(labels), 12)
        rows = [np.arange(s, min(len(labels), s + rng.integers(100, 300))) for s in starts]
        classes = rng.choice([CHAIR, TABLE], 12).tolist()
        predicted = PredictedInstances.from_rows(rows, classes, (rng.integers(1, 6, 12) / 5).tolist())
        matches.append(match_scene(labels, instances, predicted, scored=SCORED))
    return matches


@pytest.mark.parametrize("seed", range(10))
def test_the_ap_of_a_bootstrap_sample_is_that_of_the_drawn_scenes(seed: int) -> None:
    matches = random_matches(seed)
    weights = scene_weights(len(matches), resamples=20, seed=seed)
    found = resampled_precisions(matches, VOCABULARY, weights)
    for k, row in enumerate(weights.astype(int)):
        scores = score_instances([m for m, n in zip(matches, row, strict=True) for _ in range(n)], VOCABULARY)
        for metric in found:
            for group in ("head", "tail", "all"):
                expected = scores.mean(metric, group)
                assert found[metric][group][k] == pytest.approx(expected, abs=1e-6, nan_ok=True)  # float32 counts


def test_tables_have_one_row_per_metric_and_name_the_submission_if_there_are_several(
    store: SceneStore, tmp_path: Path
) -> None:
    good, bad = write_labels(tmp_path / "good.zip", store), write_labels(tmp_path / "bad.zip", store, half_wall)
    settings = ScoreSettings(predictions=(good,), store=store.path, jobs=1, resamples=100)
    table = score_table(score(settings, Progress()))
    assert table.header == ["", "Head", "Common", "Tail", "All"]
    assert [row[0] for row in table.rows][:3] == [
        "vertices, miou_200: mIoU",
        "vertices, miou_200: Precision",
        "vertices, miou_200: Recall",
    ]
    assert table.rows[3] == ["vertices, miou_present: mIoU", "100.00 [100.00, 100.00]", "-", "-", table.rows[3][1]]
    report = score(ScoreSettings(predictions=(good, bad), store=store.path, jobs=1, resamples=100), Progress())
    assert score_table(report).rows[0][0] == "good: vertices, miou_200: mIoU"
    assert [row[0] for row in difference_table(report).rows] == ["bad: mIoU"]
    assert {row[0] for row in class_table(report).rows} == {"good", "bad"}
    objects = write_objects(tmp_path / "i.zip", store)
    report = score(ScoreSettings(predictions=(objects,), store=store.path, jobs=1, resamples=100), Progress())
    assert [row[0] for row in score_table(report).rows] == ["AP", "AP50", "AP25"]
    assert "chair" in [row[0] for row in class_table(report).rows]


def test_ids_outside_the_vocabulary_are_counted_in_a_warning(store: SceneStore, tmp_path: Path) -> None:
    warnings: list[str] = []
    progress = Progress()
    progress.warn = warnings.append  # type: ignore[method-assign]
    path = write_labels(tmp_path / "s.zip", store, lambda scene: np.full(len(scene.label), -1))
    score(ScoreSettings(predictions=(path,), store=store.path, jobs=1, resamples=100), progress)
    labelled = sum(int((store.read(scene_id).label >= 0).sum()) for scene_id in store.scene_ids("val"))
    assert warnings == [f"s: {labelled} vertices count as missed, because their class ids are not in scannet200"]


def spoil(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def test_bad_predictions_are_one_clear_line(store: SceneStore, tmp_path: Path) -> None:
    scene_id, other = store.scene_ids("val")
    labels = write_labels(tmp_path / "s.zip", store)
    objects = write_objects(tmp_path / "i.zip", store)
    num_vertices = store.entry(scene_id).num_points

    def fails(path: Path, message: str, **options: object) -> None:
        with pytest.raises(Lg3dError, match=message) as caught:
            run(store, path, **options)
        assert "\n" not in str(caught.value)

    for number, (text, message) in enumerate(
        [
            ("1\n" * 7, f"{scene_id}.txt has 7 values, the scene has {num_vertices} vertices"),
            ("1\n" * (num_vertices - 1) + "-1\n", f"the class id -1 for vertex {num_vertices - 1}: expected 0 or more"),
            ("1\n" * (num_vertices - 1) + "1.0\n", "expected integers, without decimals"),
            ("", "has 0 values"),
        ]
    ):
        folder = shutil.copytree(unpack(labels), tmp_path / f"bad{number}")
        spoil(folder, f"{scene_id}.txt", text)
        fails(folder, message)
    mask = f"predicted_masks/{scene_id}_000.txt"
    for number, (line, message) in enumerate(
        [
            (f"{mask} 2 nan", f"{scene_id}.txt, line 1: expected a finite confidence, got nan"),
            (f"{mask} -2 0.5", "the class id -2 is negative"),
            ("../secret.txt 2 0.5", "the mask '../secret.txt' is outside the submission"),
            ("/etc/passwd 2 0.5", "the mask '/etc/passwd' is outside the submission"),
            ("predicted_masks/none.txt 2 0.5", "has no predicted_masks/none.txt"),
            (f"{mask.replace(scene_id, other)} 2 0.5", f"the scene has {num_vertices} vertices"),
        ]
    ):
        folder = shutil.copytree(unpack(objects), tmp_path / f"bad-objects{number}")
        spoil(folder, f"{scene_id}.txt", line)
        if other in line:
            spoil(folder, mask.replace(scene_id, other), "1\n0\n")
        fails(folder, message)
    lacking = shutil.copytree(unpack(labels), tmp_path / "lacking")
    (lacking / f"{scene_id}.txt").unlink()
    fails(lacking, f"lacks 1 of 2 scenes, such as {scene_id}: expected {scene_id}.txt at the root")
    fails(write_labels(tmp_path / "t.zip", store, split="test"), "has scenes of the split test: pass --split test")
    fails(
        write_labels(tmp_path / "test.zip", store, split="test"),
        "none of the 1 scenes .* has ground truth",
        split="test",
    )
    inside = tmp_path / "inside" / "top"
    shutil.copytree(unpack(labels), inside)
    fails(inside.parent, "its files are in a folder: put them at the root")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "has no files")
    (tmp_path / "no.zip").write_bytes(b"not a zip file\x00")
    fails(tmp_path / "no.zip", "as a zip file or folder of predictions")
    (tmp_path / "seven.zip").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(40))
    fails(tmp_path / "seven.zip", "is a 7z archive: unpack it first")
    fails(tmp_path / "nowhere", "no predictions at")
    fails(labels, "has predictions of the semantic task, expected instance", task="instance")
    with pytest.raises(DataError, match="different tasks"):
        run(store, labels, objects)
    with pytest.raises(UsageError, match="PREDICTIONS"):
        ScoreSettings.resolve(predictions=())


@pytest.mark.parametrize("zipped", [False, True])
def test_links_are_refused(store: SceneStore, tmp_path: Path, zipped: bool) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("1\n")
    folder = unpack(write_labels(tmp_path / "s.zip", store))
    scene_id = store.scene_ids("val")[0]
    (folder / f"{scene_id}.txt").unlink()
    path = folder
    if zipped:
        path = tmp_path / "linked.zip"
        with zipfile.ZipFile(path, "w") as archive:
            entry = zipfile.ZipInfo(f"{scene_id}.txt")
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, str(secret))
    else:
        (folder / f"{scene_id}.txt").symlink_to(secret)
    with pytest.raises(DataError, match=f"symbolic link '?{scene_id}.txt"):
        run(store, path)


def test_a_link_to_a_folder_inside_a_submission_is_refused(store: SceneStore, tmp_path: Path) -> None:
    folder = unpack(write_objects(tmp_path / "s.zip", store))
    (folder / "predicted_masks").rename(tmp_path / "elsewhere")
    (folder / "predicted_masks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="symbolic link predicted_masks"):
        run(store, folder)


def test_a_store_without_objects_cannot_score_instances(raw_rooms: Path, tmp_path: Path) -> None:
    prepare(PrepareSettings(raw=raw_rooms, store=tmp_path / "data", jobs=1), Progress())
    store = SceneStore(tmp_path / "data")
    objects = write_objects(tmp_path / "i.zip", store)
    with pytest.MonkeyPatch.context() as patch:
        read = SceneStore.read
        patch.setattr(
            SceneStore,
            "read",
            lambda self, scene_id, **options: (s := read(self, scene_id, **options))._replace(
                instance=np.zeros_like(s.instance)
            ),
        )
        with pytest.raises(DataError, match=r"no scene of the split val .* has annotated objects"):
            run(store, objects)


def problems_of(store: SceneStore, path: Path, **options: object) -> list[str]:
    settings = ScoreSettings(predictions=(path,), store=store.path, jobs=1, check=True, **options)
    return check(settings, Progress()).lines


def test_a_written_submission_has_no_problems(store: SceneStore, tmp_path: Path) -> None:
    for split in ("val", "test"):
        assert (
            problems_of(
                store, write_labels(tmp_path / f"{split}.zip", store, lambda s: s.label * 0, split), split=split
            )
            == []
        )
    objects = write_objects(tmp_path / "i.zip", store, lambda _: PredictedInstances.from_rows([[1, 2]], [CHAIR], [1]))
    assert problems_of(store, objects) == []
    assert problems_of(store, unpack(objects), task="instance") == []


def test_a_check_lists_every_kind_of_problem(store: SceneStore, tmp_path: Path) -> None:
    scene_id, other = store.scene_ids("val")
    n = store.entry(scene_id).num_points
    folder = tmp_path / "bad"
    (folder / "masks").mkdir(parents=True)
    spoil(folder, "masks/a.txt", "1\n0\n" * (n // 2) + "1\n" * (n % 2))
    for name in ("b", "c"):
        spoil(folder, f"masks/{name}.txt", "1\n" * n)
    spoil(folder, "masks/two.txt", "2\n" * n)
    spoil(folder, "masks/short.txt", "1\n")
    spoil(folder, "masks/unused.txt", "1\n")
    spoil(folder, "root.txt", "1\n" * n)
    lines = [
        "masks/a.txt 2 0.5",
        "masks/b.txt 1 0.5",
        "masks/c.txt 9999 0.5",
        "masks/a.txt 2 nan",
        "masks/a.txt -2 0.5",
        "masks/a.txt 2",
        "/masks/a.txt 2 0.5",
        "../a.txt 2 0.5",
        "masks/none.txt 2 0.5",
        "masks/two.txt 2 0.5",
        "masks/short.txt 2 0.5",
        "root.txt 2 0.5",
    ]
    spoil(folder, f"{scene_id}.txt", "\n".join(lines))
    found = problems_of(store, folder, task="instance")
    assert found == [
        f"{other}.txt is missing",
        "masks/unused.txt is not expected",
        f"{scene_id}: {scene_id}.txt, line 4: expected a finite confidence, got nan",
        f"{scene_id}: {scene_id}.txt, line 5: the class id -2 is negative: expected an id of the vocabulary",
        f"{scene_id}: line 6: expected a mask path, a class id and a confidence with one space between them, got "
        "'masks/a.txt 2'",
        f"{scene_id}: {scene_id}.txt, line 7: the mask '/masks/a.txt' is outside the submission: expected a path such "
        f"as predicted_masks/{scene_id}_000.txt",
        f"{scene_id}: {scene_id}.txt, line 8: the mask '../a.txt' is outside the submission: expected a path such "
        f"as predicted_masks/{scene_id}_000.txt",
        f"{scene_id}: has no masks/none.txt",
        f"{scene_id}: masks/two.txt has values other than 0 and 1",
        f"{scene_id}: masks/short.txt has 1 values, the scene has {n} vertices: expected one per vertex of "
        "<scene>_vh_clean_2.ply, in its order",
        f"{scene_id}: line 12: the mask root.txt is at the root: expected a path like predicted_masks/root.txt",
        f"{scene_id}: class ids that the benchmark does not have: 1, 9999",
    ]


def test_a_check_of_labels_lists_unknown_ids_and_additional_files(store: SceneStore, tmp_path: Path) -> None:
    folder = unpack(write_labels(tmp_path / "s.zip", store, lambda scene: scene.label * 0))
    scene_id = store.scene_ids("val")[0]
    n = store.entry(scene_id).num_points
    spoil(folder, f"{scene_id}.txt", "0\n-1\n" + "2\n" * (n - 2))
    spoil(folder, ".DS_Store", "")
    assert problems_of(store, folder) == [
        ".DS_Store is not expected",
        f"{scene_id}: class ids that the benchmark does not have: -1, 0",
    ]


def test_a_check_needs_no_store_but_a_list_of_scenes(store: SceneStore, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "s.zip", store, lambda scene: scene.label * 0)
    scenes = tmp_path / "scenes.txt"
    first, second = store.scene_ids("val")
    nowhere = tmp_path / "no-store"

    def lines(text: str) -> list[str]:
        scenes.write_text(text)
        settings = ScoreSettings(predictions=(labels,), store=nowhere, jobs=1, check=True, scene_list=scenes)
        return check(settings, Progress()).lines

    assert lines(f"{first}\n{second}\n") == []
    assert lines(f"{first}\t{store.entry(first).num_points}\n\n{second} 3000\n") == [
        f"{second}: {second}.txt has {store.entry(second).num_points} values, the scene has 3000 vertices: expected "
        "one per vertex of <scene>_vh_clean_2.ply, in its order"
    ]
    assert lines(f"{first}\nscene0707_00\n") == ["scene0707_00.txt is missing", f"{second}.txt is not expected"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no scenes"),
        ("scene0000_00 many\n", "line 1: expected a new scene id"),
        ("scene0000_00 1 2\n", "line 1: expected a new scene id"),
        (f"scene0000_00 {5000 * '9'}\n", "line 1: expected a new scene id"),
        ("scene0000_00\nscene0000_00\n", "line 2: expected a new scene id"),
        ("../scene0000_00\n", "line 1: expected a new scene id"),
    ],
)
def test_a_malformed_list_of_scenes_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scenes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_scenes(tmp_path / "scenes.txt")


def test_a_list_of_scenes_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "scenes.txt").write_bytes(b"\xef\xbb\xbfscene0000_00 12\r\n")
    assert read_scenes(tmp_path / "scenes.txt") == {"scene0000_00": 12}


def test_a_missing_list_of_scenes_is_reported_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: pass another --scene-list"):
        read_scenes(tmp_path / "none.txt")


def test_a_check_explains_files_that_are_no_submission(store: SceneStore, tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("text")
    (found,) = problems_of(store, tmp_path / "no.zip")
    assert "as a zip file" in found or "text file" in found
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../scene.txt", "1\n")
    (found,) = problems_of(store, tmp_path / "up.zip")
    assert "'../scene.txt' that points outside it" in found
    test = write_labels(tmp_path / "test.zip", store, split="test")
    assert problems_of(store, test)[-1] == "its scenes are those of the split test: pass --split test"


def test_the_command_prints_problems_on_stdout_and_exits_with_1(store: SceneStore, tmp_path: Path) -> None:
    good = write_labels(tmp_path / "good.zip", store, lambda scene: scene.label * 0)
    bad = shutil.copytree(unpack(good), tmp_path / "bad")
    (bad / f"{store.scene_ids('val')[0]}.txt").unlink()
    words = ["--store", str(store.path), "--jobs", "1"]
    done = lg3d("score", str(bad), str(good), "--check", *words)
    assert (done.returncode, done.stdout) == (1, f"bad: {store.scene_ids('val')[0]}.txt is missing\n")
    done = lg3d("score", str(good), "--check", *words)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no problems in 2 scenes (good: semantic" in done.stderr
    done = lg3d("score", str(good), "--check", "--json", *words)
    assert json.loads(done.stdout)["predictions"][0]["problems"] == []
    done = lg3d("score", str(good), "--json", "--resamples", "100", *words)
    assert json.loads(done.stdout)["predictions"][0]["vertex"]["num_classes"] == 200
    done = lg3d("score", str(bad), *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = lg3d("score", str(good), "--scene-list", "x.txt", *words)
    assert done.returncode == 2
    assert "--scene-list requires --check" in done.stderr


def lg3d(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lg3d_cli", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )


def test_the_benchmark_scores_a_zip_file_as_the_predictions_in_memory() -> None:
    words = ["benchmarks/score.py", "--scenes", "2", "--vertices", "20000", "--jobs", "1"]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert 0 < record["ap"] < record["ap50"]
    assert record["command"]["cpu_seconds"] > 0
