"""Which categories lie by which, from Python and from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.language import Anchors, load_bundled_anchors, nearest_names, save_anchors
from lg3d_core.vocabulary import load_vocabulary

METADATA = {"encoder": "e", "weights": "w", "prompt": "{}", "vocabulary_digest": "d", "projection": "none"}
ROOT = Path(__file__).parents[1]


def make(vectors, names):
    return Anchors(np.asarray(vectors, dtype=np.float32), tuple(names), dict(METADATA))


# At 0, 60, 90 and 180 degrees, of different lengths.
FAN = make([[2, 0], [0.5, np.sqrt(0.75)], [0, 5], [-1, 0]], ["east", "sixty", "north", "west"])


def test_neighbours_are_ordered_by_cosine_and_never_the_category_itself():
    nearest = nearest_names(FAN, count=2)
    assert [(near.name, pytest.approx(near.cosine, abs=1e-6)) for near in nearest["east"]] == [
        ("sixty", 0.5),
        ("north", 0.0),
    ]
    assert [near.name for near in nearest["north"]] == ["sixty", "east"]  # west is as near; the vocabulary's order
    assert nearest["north"][0].cosine == pytest.approx(np.sqrt(0.75))


def test_few_categories_have_few_neighbours():
    assert [len(near) for near in nearest_names(FAN).values()] == [3, 3, 3, 3]
    assert nearest_names(make([[1, 0]], ["alone"])) == {"alone": []}


def test_the_bundled_armchair_is_near_the_chair():
    nearest = nearest_names(load_bundled_anchors(load_vocabulary("scannet200")))
    assert len(nearest) == 200
    assert [near.name for near in nearest["armchair"]][:2] == ["chair", "sofa chair"]


def show(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "lg3d_cli", "anchors", "--show", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_prints_a_table_and_json_and_writes_nothing(tmp_path):
    save_anchors(tmp_path / "anchors.safetensors", FAN)
    rows = show(tmp_path).stdout.splitlines()
    assert rows[0] == "class\tnearest 1\tnearest 2\tnearest 3"
    assert rows[1] == "east\tsixty 0.50\tnorth 0.00\twest -1.00"
    assert len(rows) == 5
    told = json.loads(show(tmp_path, "--json").stdout)
    assert (told["encoder"], told["dim"]) == ("e", 2)
    assert told["nearest"]["west"][0] == {"name": "north", "cosine": pytest.approx(0.0, abs=1e-6)}
    assert [path.name for path in tmp_path.iterdir()] == ["anchors.safetensors"]


def test_the_command_rejects_options_that_it_would_ignore(tmp_path):
    assert "no anchors file" in show(tmp_path, code=1).stderr
    done = show(tmp_path, "--encoder", "bundled", "--dim", "9", code=2)
    assert done.stderr == ("lg3d: error: --show reads the anchors file as it is: leave out --encoder, --dim\n")
