"""Anchors in memory and on disk, their projection, and the bundled ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import DataError, SettingsError, ShapeError
from lg3d_core.language import (
    Anchors,
    load_anchors,
    load_bundled_anchors,
    project_anchors,
    require_vocabulary,
    save_anchors,
)
from lg3d_core.language.anchors import anchors, shuffle_anchors
from lg3d_core.language.anchors_file import FORMAT, describe_projection, removes_mean
from lg3d_core.language.prompts import fill_prompts
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary

METADATA = {"encoder": "e", "weights": "w", "prompt": "{}", "vocabulary_digest": "d", "projection": "none"}


def make(vectors, names=None):
    vectors = np.asarray(vectors, dtype=np.float32)
    return Anchors(vectors, tuple(names or (f"thing {i}" for i in range(len(vectors)))), dict(METADATA))


def cosines(vectors):
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return unit @ unit.T


def random_vectors(classes, width, seed=0):
    return np.random.default_rng(seed).normal(size=(classes, width)).astype(np.float32)


def write_vocabulary(path: Path, names) -> Vocabulary:
    path.write_text("id\tname\n" + "".join(f"{i + 1}\t{name}\n" for i, name in enumerate(names)), encoding="utf-8")
    return load_vocabulary(str(path))


# The file


def test_anchors_come_back_as_they_were_written(tmp_path):
    anchors = make(random_vectors(3, 5), ["chair", "Schränkchen\n☃", 'a "quoted" name'])
    save_anchors(tmp_path / "new folder" / "a.safetensors", anchors)
    read = load_anchors(tmp_path / "new folder" / "a.safetensors")
    assert np.array_equal(read.vectors, anchors.vectors)
    assert read.names == anchors.names
    assert read.metadata == anchors.metadata
    assert read.digest == anchors.digest


def test_writing_again_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.safetensors"
    save_anchors(path, make(np.eye(2)))
    save_anchors(path, make(np.eye(3)))
    assert load_anchors(path).digest == make(np.eye(3)).digest
    assert list(tmp_path.iterdir()) == [path]


def test_digest_changes_with_vectors_and_names_alone():
    anchors = make(np.eye(3))
    assert anchors.digest == make(np.eye(3)).digest
    assert anchors.digest != make(np.eye(3)[[1, 0, 2]]).digest
    assert anchors.digest != make(np.eye(3), ["a", "b", "c"]).digest
    assert anchors.digest == Anchors(anchors.vectors, anchors.names, {**METADATA, "weights": "other"}).digest


def test_a_folder_that_takes_no_file_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        save_anchors(tmp_path / "file" / "a.safetensors", make(np.eye(2)))


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_anchors(path, make(np.eye(2)))
    before = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        save_anchors(path, make(np.eye(3)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_anchors(path, make(np.eye(3)))
    data = path.read_bytes()
    for length in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="lg3d anchors"):
            load_anchors(path)


def raw_file(path, tensors, metadata):
    path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
    return path


def good_metadata(num_names):
    return {**METADATA, "format": FORMAT, "names": json.dumps([f"thing {i}" for i in range(num_names)])}


@pytest.mark.parametrize(
    ("tensors", "metadata", "needle"),
    [
        ({"anchors": np.eye(2)}, good_metadata(2), "of type F64, expected F32"),
        ({"anchors": np.eye(2, dtype=np.float32)}, good_metadata(3), "2 vectors for 3 names"),
        ({"anchors": np.ones((2, 2, 2), np.float32)}, good_metadata(2), r"\(classes, D\)"),
        ({"anchors": np.ones((0, 4), np.float32)}, good_metadata(0), r"\(classes, D\)"),
        ({"anchors": np.array([[1, 0], [np.nan, 1]], np.float32)}, good_metadata(2), "'thing 1' is not finite"),
        ({"anchors": np.array([[1, 0], [0, 0]], np.float32)}, good_metadata(2), "'thing 1' is all zero"),
        ({"weights": np.eye(2, dtype=np.float32)}, good_metadata(2), "not an anchors file"),
        ({"anchors": np.eye(2, dtype=np.float32)}, {}, "not an anchors file"),
        ({"anchors": np.eye(2, dtype=np.float32)}, {**good_metadata(2), "names": "7"}, "no list of class names"),
        ({"anchors": np.eye(2, dtype=np.float32)}, {**good_metadata(2), "names": "["}, "cannot be read"),
        ({"anchors": np.eye(2, dtype=np.float32)}, {"format": FORMAT, "names": '["a", "b"]'}, "lack the metadata"),
    ],
)
def test_a_file_of_wrong_content_is_refused(tmp_path, tensors, metadata, needle):
    path = raw_file(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(DataError, match=needle):
        load_anchors(path)


def test_a_missing_file_and_a_text_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="no anchors file"):
        load_anchors(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_text("anchors? what anchors?")
    with pytest.raises(DataError, match="cannot be read"):
        load_anchors(tmp_path / "a.safetensors")


def test_anchors_of_another_vocabulary_are_rejected(tmp_path):
    vocabulary = write_vocabulary(tmp_path / "v.tsv", ["chair", "table"])

    def anchors_of(*names, digest="another"):
        vectors = np.eye(len(names), dtype=np.float32)
        return Anchors(vectors, names, {**METADATA, "vocabulary_digest": digest})

    require_vocabulary(anchors_of("chair", "table", digest=vocabulary.digest), vocabulary)
    with pytest.raises(DataError, match="3 classes instead of 2"):
        require_vocabulary(anchors_of("chair", "table", "sink"), vocabulary)
    with pytest.raises(DataError, match="class 1 is 'sink' instead of 'table'"):
        require_vocabulary(anchors_of("chair", "sink"), vocabulary)
    with pytest.raises(DataError, match="ids differ"):
        require_vocabulary(anchors_of("chair", "table"), vocabulary)


# The projection


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 20), width=st.integers(2, 20), extra=st.integers(0, 9), seed=st.integers(0, 1000))
def test_cosines_stay_at_the_rank_and_above(classes, width, extra, seed):
    vectors = random_vectors(classes, width, seed)
    projected = project_anchors(vectors, min(classes, width) + extra)
    assert projected.shape == (classes, min(classes, width) + extra)
    assert projected.dtype == np.float32
    assert np.abs(cosines(projected) - cosines(vectors)).max() < 1e-6
    assert np.abs(np.linalg.norm(projected, axis=1) - 1).max() < 1e-6


def test_padding_only_adds_zeros():
    vectors = np.array([[3, 4], [1, 0]], dtype=np.float32)
    assert project_anchors(vectors, 4).tolist() == pytest.approx(
        np.array([[0.6, 0.8, 0, 0], [1, 0, 0, 0]], dtype=np.float32)
    )


def test_projection_by_hand():
    # Unit vectors at 0 and 2a degrees: the leading direction bisects them, the second is across. Both keep cos a along
    # the first, with equal sign; kept alone, it makes them one vector.
    angle = 0.3
    vectors = np.array([[1, 0], [np.cos(2 * angle), np.sin(2 * angle)]], dtype=np.float32)
    assert project_anchors(vectors, 1).tolist() == pytest.approx(np.array([[1.0], [1.0]]))


def test_projection_is_the_best_of_its_rank():
    """Eckart and Young: no rank-k matrix is nearer to the cosines than the squared tail of singular values says."""
    vectors = random_vectors(12, 8)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, singular, _ = np.linalg.svd(unit.astype(np.float64), full_matrices=False)
    for dim in (3, 5, 7):
        scores = left[:, :dim] * singular[:dim]
        error = np.linalg.norm(scores @ scores.T - cosines(vectors))
        assert error == pytest.approx(np.sqrt((singular[dim:] ** 4).sum()))
        # What the projection gives is these scores at unit length.
        assert np.abs(cosines(scores) - cosines(project_anchors(vectors, dim))).max() < 1e-6


def test_signs_do_not_depend_on_the_library():
    vectors = random_vectors(9, 6)
    projected = project_anchors(vectors, 4)
    scores = projected.astype(np.float64)
    # Mirroring the feature space flips the components that the library returns, and nothing in the outcome.
    mirrored = project_anchors(vectors * np.array([1, -1, 1, -1, -1, 1], np.float32), 4)
    assert np.abs(mirrored - projected).max() < 1e-6
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.linalg.norm(unit @ np.linalg.svd(unit.astype(np.float64))[2][:4].T, axis=1)
    raw = scores * lengths[:, None]
    assert (raw[np.abs(raw).argmax(axis=0), np.arange(4)] > 0).all()


def test_too_narrow_projections_are_refused():
    with pytest.raises(ShapeError, match="at least 1"):
        project_anchors(np.eye(3, dtype=np.float32), 0)
    with pytest.raises(ShapeError, match="too narrow"):  # two along x, one across it
        project_anchors(np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32), 1)


def test_centred_anchors_lose_what_they_share():
    # (1, 0) and (0.6, 0.8) have the mean (0.8, 0.4): what is left is (0.2, -0.4) and its opposite.
    vectors = np.array([[5, 0], [3, 4]], dtype=np.float32)
    centred = project_anchors(vectors, 2, centred=True)
    assert centred.tolist() == pytest.approx(np.array([[1, -2], [-1, 2]]) / np.sqrt(5))
    assert np.abs(project_anchors(vectors, 1, centred=True)).tolist() == pytest.approx(np.ones((2, 1)))
    many = random_vectors(40, 12) + 3
    kept = cosines(project_anchors(many, 12))[~np.eye(40, dtype=bool)].mean()
    assert kept > 0.8
    assert abs(cosines(project_anchors(many, 12, centred=True))[~np.eye(40, dtype=bool)].mean()) < 0.05


def test_shuffled_anchors_are_the_same_vectors_and_no_class_keeps_its_own():
    vectors = random_vectors(50, 4)
    shuffled = shuffle_anchors(vectors, seed=3)
    assert sorted(shuffled.tolist()) == sorted(vectors.tolist())
    assert not (shuffled == vectors).all(axis=1).any()
    assert np.array_equal(shuffle_anchors(vectors, seed=3), shuffled)
    assert not np.array_equal(shuffle_anchors(vectors, seed=4), shuffled)
    assert shuffle_anchors(vectors[:2], seed=0).tolist() == vectors[[1, 0]].tolist()
    assert shuffle_anchors(vectors[:1], seed=0).tolist() == vectors[:1].tolist()


def test_a_file_of_shuffled_anchors_has_the_projected_vectors_and_records_the_seed(tmp_path):
    options = {"encoder": "bundled", "dim": 96, "centred": True}
    plain, shuffled = (
        load_anchors(
            anchors(AnchorsSettings(anchors=tmp_path / f"{name}.safetensors", shuffled=seed, **options), Progress())
        )
        for name, seed in (("plain", None), ("shuffled", 5))
    )
    assert np.array_equal(shuffled.vectors, shuffle_anchors(plain.vectors, seed=5))
    assert shuffled.names == plain.names
    assert shuffled.metadata == {**plain.metadata, "shuffled": "5"}


def test_the_projection_is_described():
    assert describe_projection(200, 512, 96, centred=True) == "pca, mean removed, 512 -> 96"
    assert describe_projection(200, 512, 512, centred=True) == "mean removed"
    assert describe_projection(200, 384, 512, centred=True) == "mean removed, zero-padded 384 -> 512"
    assert describe_projection(200, 512, 512) == "none"
    assert describe_projection(200, 384, 512) == "zero-padded 384 -> 512"
    assert describe_projection(200, 512, 96) == "svd about the origin, 512 -> 96"
    assert describe_projection(20, 512, 96) == "svd about the origin, 512 -> 20, zero-padded -> 96"


@pytest.mark.parametrize(("classes", "width", "dim"), [(200, 384, 96), (200, 384, 384), (20, 384, 512), (20, 384, 96)])
@pytest.mark.parametrize("centred", [False, True])
def test_the_description_records_whether_the_mean_was_removed(classes, width, dim, centred):
    assert removes_mean(describe_projection(classes, width, dim, centred=centred)) is centred


def test_files_of_before_called_the_svd_pca():
    assert [removes_mean(text) for text in ("pca 384 -> 96", "centred, pca 384 -> 96", "centred")] == [
        False,
        True,
        True,
    ]


def test_centred_projection_is_the_principal_component_analysis_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors = random_vectors(30, 12) + 2
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = decomposition.PCA(n_components=5).fit_transform(unit.astype(np.float64))
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    ours = project_anchors(vectors, 5, centred=True)
    assert np.abs(ours) == pytest.approx(np.abs(scores), abs=1e-5)  # signs of components are free
    assert np.abs(cosines(ours) - cosines(scores)).max() < 1e-5


# The bundled anchors


def test_bundled_anchors_are_those_of_the_200_names():
    vocabulary = load_vocabulary("scannet200")
    anchors = load_bundled_anchors(vocabulary)
    require_vocabulary(anchors, vocabulary)
    assert anchors.vectors.shape == (200, 384)
    assert np.abs(np.linalg.norm(anchors.vectors, axis=1) - 1).max() < 1e-5
    assert "MiniLM" in anchors.metadata["encoder"]
    assert "Apache-2.0" in anchors.metadata["license"]


def test_bundled_anchors_know_what_words_mean():
    """Measured apart from the script: one text at a time, so without padding, and a plain mean over its tokens."""
    vocabulary = load_vocabulary("scannet200")
    between = cosines(load_bundled_anchors(vocabulary).vectors)
    row = vocabulary.index_by_name
    assert between[row["chair"], row["armchair"]] == pytest.approx(0.73, abs=0.005)
    assert between[row["armchair"], row["couch"]] == pytest.approx(0.62, abs=0.005)
    assert between[row["couch"], row["sink"]] == pytest.approx(0.275, abs=0.005)


def test_a_subset_gets_its_own_rows(tmp_path):
    vocabulary = write_vocabulary(tmp_path / "v.tsv", ["toilet", "chair"])
    anchors, every = load_bundled_anchors(vocabulary), load_bundled_anchors(load_vocabulary("scannet200"))
    require_vocabulary(anchors, vocabulary)
    assert anchors.names == ("toilet", "chair")
    assert np.array_equal(anchors.vectors[1], every.vectors[every.names.index("chair")])


def test_names_without_a_bundled_anchor_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"1 of the 2 names of v \('houseboat'\)"):
        load_bundled_anchors(write_vocabulary(tmp_path / "v.tsv", ["chair", "houseboat"]))
    many = write_vocabulary(tmp_path / "v.tsv", [f"gadget {i}" for i in range(12)])
    with pytest.raises(DataError, match=r"'gadget 9', \.\.\.\)"):
        load_bundled_anchors(many)


def test_bundled_anchors_are_made_and_read_without_torch():
    code = "import sys, lg3d_core.language, lg3d_core.language.anchors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Prompts


def test_prompts_take_the_name_and_leave_other_braces():
    assert fill_prompts(["a {b}", "c"], ["{}", "x {} {y}"]) == [["a {b}", "c"], ["x a {b} {y}", "x c {y}"]]


@pytest.mark.parametrize("prompts", [[], ["no place"], ["{} and {}"]])
def test_prompts_without_one_place_are_refused(prompts):
    with pytest.raises(SettingsError, match="--prompt"):
        fill_prompts(["chair"], prompts)


def test_padding_at_training_keeps_cosines_and_the_way_of_further_texts():
    bundled = load_bundled_anchors(load_vocabulary())
    padded = bundled.padded(512)
    assert padded.dim == 512
    np.testing.assert_array_equal(padded.vectors[:, :384], bundled.vectors)
    assert not padded.vectors[:, 384:].any()
    assert padded.metadata["projection"] == "zero-padded 384 -> 512"
    assert padded.projection is not None
    np.testing.assert_allclose(padded.projection.apply(bundled.vectors[:3]), padded.vectors[:3], atol=1e-6)
    again = bundled.padded(400).padded(512)
    np.testing.assert_array_equal(again.vectors, padded.vectors)
    assert again.projection is not None
    np.testing.assert_array_equal(again.projection.matrix, padded.projection.matrix)
    assert again.metadata["projection"] == "zero-padded 384 -> 400, zero-padded 400 -> 512"


def test_anchors_that_lost_dimensions_or_have_too_many_are_not_padded():
    bundled = load_bundled_anchors(load_vocabulary())
    assert bundled.padded(384) is bundled
    assert bundled.padded(96) is bundled
    for way in ("pca 400 -> 384", describe_projection(200, 400, 384), describe_projection(200, 400, 384, centred=True)):
        lost = Anchors(bundled.vectors, bundled.names, {**bundled.metadata, "projection": way})
        assert lost.padded(512) is lost


@pytest.mark.parametrize(
    ("encoder", "weights", "option"),
    [
        ("open_clip:ViT-B-32", "openai", ""),
        ("open_clip:ViT-L-14", "openai", " --encoder open_clip:ViT-L-14/openai"),
        ("open_clip:ViT-L-14", "openai from text.pt", " --encoder open_clip:ViT-L-14/openai"),
        ("open_clip:ViT-L-14", "unnamed from text.pt", " --encoder open_clip:ViT-L-14"),
        ("hf:bert-base-uncased, mean pooling", "x", " --encoder hf:bert-base-uncased"),
        ("sentence-transformers/all-MiniLM-L6-v2, mean pooling over tokens", "x", " --encoder bundled"),
        ("mine", "x", ""),
    ],
)
def test_the_encoder_option_follows_from_the_metadata(encoder, weights, option):
    bundled = load_bundled_anchors(load_vocabulary())
    made = Anchors(bundled.vectors, bundled.names, {**bundled.metadata, "encoder": encoder, "weights": weights})
    assert made.encoder_option == option
