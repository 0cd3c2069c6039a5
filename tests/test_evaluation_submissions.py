import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.evaluation.checks import check_submission
from lg3d_core.evaluation.instances import PredictedInstances, match_masks, scored_classes
from lg3d_core.evaluation.submissions import MAX_PREDICTIONS, Submission, write_submission
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet200")
WALL, CHAIR, TABLE = (VOCABULARY.index_by_name[name] for name in ("wall", "chair", "table"))
CHAIR_ID = int(VOCABULARY.ids[CHAIR])
SCENES = {"scene0000_00": 4, "scene0001_00": 3}


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def unpack(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("unpacked", [False, True])
def test_labels_are_read_back_as_they_were_written(tmp_path: Path, unpacked: bool) -> None:
    labels = {"scene0000_00": np.array([CHAIR, -1, WALL, TABLE]), "scene0001_00": np.array([0, 199, 5])}
    with write_submission(tmp_path / "s.zip", VOCABULARY) as writer:
        for scene_id, values in labels.items():
            writer.add_labels(scene_id, values)
    path = unpack(tmp_path / "s.zip", tmp_path / "s") if unpacked else tmp_path / "s.zip"
    with Submission(path) as submission:
        assert submission.task == "semantic"
        for scene_id, values in labels.items():
            assert submission.read_labels(scene_id, VOCABULARY, num_vertices=len(values)).tolist() == values.tolist()


@pytest.mark.parametrize("unpacked", [False, True])
def test_instances_are_read_back_as_they_were_written(tmp_path: Path, unpacked: bool) -> None:
    predicted = PredictedInstances.from_rows([np.array([0, 2]), np.array([2, 3])], [CHAIR, TABLE], [0.25, 0.75])
    with write_submission(tmp_path / "s.zip", VOCABULARY) as writer:
        writer.add_instances("scene0000_00", predicted, num_vertices=4)
        writer.add_instances("scene0001_00", PredictedInstances.from_rows([], [], []), num_vertices=3)
    path = unpack(tmp_path / "s.zip", tmp_path / "s") if unpacked else tmp_path / "s.zip"
    with Submission(path) as submission:
        assert submission.task == "instance"
        assert check_submission(submission, SCENES, VOCABULARY, task="instance") == []
        found = submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)
        assert [rows.tolist() for rows in found.mask_rows()] == [[0, 2], [2, 3]]
        assert found.classes.tolist() == [CHAIR, TABLE]
        assert found.confidences.tolist() == [0.25, 0.75]
        assert len(submission.read_instances("scene0001_00", VOCABULARY, num_vertices=3)) == 0


def test_the_files_are_those_of_the_benchmark(tmp_path: Path) -> None:
    with write_submission(tmp_path / "s.zip", VOCABULARY) as writer:
        writer.add_labels("scene0001_00", np.array([CHAIR, -1, WALL]))
        predicted = PredictedInstances.from_rows([np.array([0, 2])], [CHAIR], [0.5])
        writer.add_instances("scene0000_00", predicted, num_vertices=4)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert files == {
        "scene0001_00.txt": "2\n0\n1\n",  # raw ids: chair 2, none 0, wall 1
        "predicted_masks/scene0000_00_000.txt": "1\n0\n1\n0\n",
        "scene0000_00.txt": "predicted_masks/scene0000_00_000.txt 2 0.5\n",
    }


@pytest.mark.parametrize("text", ["1 0\r\n0 1", "1\n0\n0\n1", " 1\n0\n0\n7\n\n"])
def test_masks_of_other_spacing_and_of_values_above_one_are_read(tmp_path: Path, text: str) -> None:
    files = {"scene0000_00.txt": f"predicted_masks/a b.txt  {CHAIR_ID}  1e-1\n\n", "predicted_masks/a b.txt": text}
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        found = submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)
    assert [rows.tolist() for rows in found.mask_rows()] == [[0, 3]]
    assert found.confidences.tolist() == [0.1]


def test_ids_outside_the_vocabulary_are_no_class(tmp_path: Path) -> None:
    files = {"scene0000_00.txt": "1\n99999\n201\n0\n", "scene0001_00.txt": "1\n1\n1\n"}
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        assert submission.read_labels("scene0000_00", VOCABULARY, num_vertices=4).tolist() == [WALL, -1, -1, -1]
        problems = check_submission(submission, SCENES, VOCABULARY, task="semantic")
    assert [problem.scene_id for problem in problems] == ["scene0000_00"]
    assert "0, 201, 99999" in problems[0].message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"scene0000_00.txt": "1\n1\n1\n"}, "3 values, the scene has 4 vertices"),
        ({"scene0000_00.txt": "1\n1\n1\n1\n1\n"}, "5 values, the scene has 4 vertices"),
        ({"scene0000_00.txt": "1\n1\n1\n1.5\n"}, "'1.5' as value 4: expected integers, without decimals"),
        ({"scene0000_00.txt": "1\n1\n1_0\n1\n"}, "'1_0' as value 3: expected integers, without decimals"),
        ({"scene0000_00.txt": "1\n1\n" + "1" * 40 + "\n1\n"}, "1' as value 3: expected integers"),
        ({"scene0000_00.txt": "1\nchair\n1\n1\n"}, "'chair' as value 2: expected integers"),
        ({"scene0000_00.txt": "1\n1\n1\n99999999999999999999\n"}, "'99999999999999999999' as value 4"),
        ({"scene0000_00.txt": "1\n1\n-3\n1\n"}, "the class id -3 for vertex 2: expected 0 or more"),
        ({"scene0000_00.txt": "1" * 200 + "\n"}, "bytes"),
        ({"scene0002_00.txt": "1\n"}, "no scene0000_00.txt"),
    ],
)
def test_invalid_labels_are_rejected(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with (
        Submission(write_zip(tmp_path / "s.zip", files)) as submission,
        pytest.raises(DataError, match=message),
    ):
        submission.read_labels("scene0000_00", VOCABULARY, num_vertices=4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predicted_masks/a.txt 2", "expected a mask path"),
        ("predicted_masks/a.txt chair 0.5", "expected a mask path"),
        ("predicted_masks/a.txt 2 nan", "finite confidence"),
        ("predicted_masks/a.txt 2 high", "finite confidence"),
        ("predicted_masks/b.txt 2 0.5", "no predicted_masks/b.txt"),
        ("../a.txt 2 0.5", "outside the submission"),
        ("/etc/passwd 2 0.5", "outside the submission"),
        ("predicted_masks/a.txt -2 0.5", "line 1: the class id -2 is negative"),
        ("predicted_masks/a.txt 2 -inf", "finite confidence"),
        ("predicted_masks/a.txt 2 1e999", "finite confidence"),
        ("predicted_masks/c.txt 2 0.5", "the value -1 for vertex 2"),
    ],
)
def test_invalid_instances_are_rejected(tmp_path: Path, line: str, message: str) -> None:
    files = {
        "scene0000_00.txt": line,
        "predicted_masks/a.txt": "1\n0\n0\n1\n",
        "predicted_masks/c.txt": "1\n0\n-1\n0\n",
    }
    with (
        Submission(write_zip(tmp_path / "s.zip", files)) as submission,
        pytest.raises(DataError, match=message),
    ):
        submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)


def test_a_scene_has_a_maximum_number_of_predictions(tmp_path: Path) -> None:
    names = [f"predicted_masks/{number}.txt" for number in range(MAX_PREDICTIONS)]
    lines = [f"{name} {CHAIR_ID} 0.5\n\n" for name in names]  # empty lines do not count
    files = {"scene0000_00.txt": "".join(lines), **dict.fromkeys(names, "1\n0\n0\n1\n")}
    with Submission(write_zip(tmp_path / "most.zip", files)) as submission:
        assert len(submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)) == MAX_PREDICTIONS
    files["scene0000_00.txt"] += lines[0]
    message = r"more.zip: scene0000_00.txt has more than 10,000 predictions: remove those of low confidence"
    with Submission(write_zip(tmp_path / "more.zip", files)) as submission:
        with pytest.raises(DataError, match=message):
            submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)
        problems = check_submission(submission, {"scene0000_00": 4}, VOCABULARY, task="instance")
    assert "scene0000_00.txt has more than 10,000 predictions: remove those of low confidence" in [
        problem.message for problem in problems
    ]


def test_many_large_masks_are_matched_one_at_a_time(tmp_path: Path) -> None:
    size, number = 50_000, 200
    names = [f"predicted_masks/{number}.txt" for number in range(number)]
    files = {
        "scene0000_00.txt": "".join(f"{name} {CHAIR_ID} 0.5\n" for name in names),
        **dict.fromkeys(names, "1\n" * size),
    }
    labels, instances = np.full(size, CHAIR), np.ones(size, dtype=np.int64)
    tracemalloc.start()
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        masks = submission.iterate_masks("scene0000_00", VOCABULARY, num_vertices=size)
        matches = match_masks(labels, instances, masks, scored=scored_classes(VOCABULARY))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert matches.pair_iou.tolist() == [1.0] * number
    assert peak < 0.2 * number * size * 8  # bytes of the rows of all masks


@pytest.mark.parametrize("name", ["../scene0000_00.txt", "/scene0000_00.txt", "a/../../b.txt", "C:\\a.txt"])
def test_entries_with_unsafe_paths_are_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="outside"):
        Submission(write_zip(tmp_path / "s.zip", {name: "1\n"}))


def test_a_file_that_is_neither_zip_nor_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "s.zip").write_text("no zip")
    for path in (tmp_path / "s.zip", tmp_path / "none"):
        with pytest.raises(DataError, match=r"zip file"):
            Submission(path)
    with pytest.raises(DataError, match=r"\.zip"), write_submission(tmp_path / "s.tar", VOCABULARY):
        pass


def test_a_check_reports_missing_files_extra_files_and_a_top_level_folder(tmp_path: Path) -> None:
    files = {"mine/scene0000_00.txt": "1\n1\n1\n1\n", "scene0001_00.txt": "1\n1\n1\n", "notes.md": "-"}
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        messages = [problem.message for problem in check_submission(submission, SCENES, VOCABULARY, task="semantic")]
    assert messages == [
        "scene0000_00.txt is missing",
        "mine/scene0000_00.txt is not expected",
        "notes.md is not expected",
        "the files are in a folder: put them at the root of the zip file",
    ]


def test_a_check_reports_wrong_lengths_and_classes_without_instances(tmp_path: Path) -> None:
    files = {
        "scene0000_00.txt": f"predicted_masks/a.txt 1 0.5\npredicted_masks/b.txt {CHAIR_ID} 0.5\n",
        "predicted_masks/a.txt": "1\n0\n2\n0\n",
        "predicted_masks/b.txt": "1\n0\n2\n0\n",
        "scene0001_00.txt": f"predicted_masks/a.txt {CHAIR_ID} 0.5\n",
    }
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        problems = check_submission(submission, SCENES, VOCABULARY, task="instance")
    assert [(problem.scene_id, problem.message.split(":")[0]) for problem in problems] == [
        ("scene0000_00", "predicted_masks/a.txt has values other than 0 and 1"),
        ("scene0000_00", "predicted_masks/b.txt has values other than 0 and 1"),
        ("scene0000_00", "class ids that the benchmark does not have"),
        ("scene0001_00", "predicted_masks/a.txt has 4 values, the scene has 3 vertices"),
    ]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "s.zip", {"scene0000_00.txt": "1\n"})
    before = path.read_bytes()
    with pytest.raises(IndexError), write_submission(path, VOCABULARY) as writer:
        writer.add_instances("scene0000_00", PredictedInstances.from_rows([np.array([4])], [0], [1]), num_vertices=4)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["s.zip"]


def test_the_last_of_several_lines_with_one_mask_counts(tmp_path: Path) -> None:
    """The benchmark's reader stores predictions by the path of their mask."""
    files = {
        "scene0000_00.txt": (
            f"m/a.txt {CHAIR_ID} 0.9\nm/b.txt {CHAIR_ID}.0 0.8\nm/./a.txt {VOCABULARY.ids[TABLE]} 0.1\n"
        ),
        "m/a.txt": "1\n0\n0\n1\n",
        "m/b.txt": "0\n1\n0\n0\n",
        "scene0001_00.txt": "",
    }
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        found = submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)
        problems = check_submission(submission, SCENES, VOCABULARY, task="instance")
    assert [rows.tolist() for rows in found.mask_rows()] == [[0, 3], [1]]
    assert found.classes.tolist() == [TABLE, CHAIR]
    assert found.confidences.tolist() == [0.1, 0.8]
    assert [problem.message for problem in problems] == [
        "line 3: the mask m/a.txt is listed again: only its last line counts"
    ]


@pytest.mark.parametrize(
    ("lines", "mask", "message"),
    [
        (
            "m/a.txt\t2 0.5\n",
            "1\n0\n0\n1\n",
            "line 1: expected a mask path, a class id and a confidence with one space",
        ),
        (
            "m/a.txt 2  0.5\n",
            "1\n0\n0\n1\n",
            "line 1: expected a mask path, a class id and a confidence with one space",
        ),
        (
            "m/a.txt 2 0.5 \n",
            "1\n0\n0\n1\n",
            "line 1: expected a mask path, a class id and a confidence with one space",
        ),
        (
            "\nm/a.txt 2 0.5\n",
            "1\n0\n0\n1\n",
            "line 1: expected a mask path, a class id and a confidence with one space",
        ),
        ("m/a.txt 2 0.5\n", "1 0 0 1\n", "m/a.txt has 4 values in line 1: expected one per line"),
        ("m/a.txt 2 0.5\n", "1\n0\n\n0\n1\n", "m/a.txt has 0 values in line 3: expected one per line"),
    ],
)
def test_a_check_reports_spacing_that_the_benchmark_rejects(
    tmp_path: Path, lines: str, mask: str, message: str
) -> None:
    files = {"scene0000_00.txt": lines, "m/a.txt": mask, "scene0001_00.txt": ""}
    with Submission(write_zip(tmp_path / "s.zip", files)) as submission:
        assert len(submission.read_instances("scene0000_00", VOCABULARY, num_vertices=4)) == 1
        (problem,) = check_submission(submission, SCENES, VOCABULARY, task="instance")
    assert problem.message.startswith(message)
