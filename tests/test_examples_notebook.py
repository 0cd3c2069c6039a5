"""The notebook in examples/ runs from top to bottom."""

from pathlib import Path

import pytest
import torch

from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "label_a_scan.ipynb"
VOCABULARY = load_vocabulary("scannet200")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    torch.manual_seed(0)
    info = CheckpointInfo(
        kind="finetune",
        network="14A",
        num_classes=200,
        voxel_size=0.1,
        vocabulary=VOCABULARY.name,
        vocabulary_digest=VOCABULARY.digest,
        offset_head=True,
    )
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, MinkUNet("14A", num_classes=200, offset_head=True), info)
    monkeypatch.setenv("LG3D_CHECKPOINT", str(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    text = "\n".join(outputs)
    assert "14A, voxels of 10 cm" in text
    assert "vertices, mean probability" in text
    assert "no longer aligned with text" in text  # this checkpoint is not language-grounded


def test_the_notebook_is_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
