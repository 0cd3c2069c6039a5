"""The notebook in examples/ runs from top to bottom."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.random_checkpoint import save_random

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "label_a_scan.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_random(tmp_path / "checkpoint.safetensors", offset_head=True)
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
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
