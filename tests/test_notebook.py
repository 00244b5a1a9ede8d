"""examples/quickstart.ipynb runs from its first cell to its last, and holds no outputs."""

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import REPO

pytestmark = pytest.mark.process
PATH = REPO / "examples" / "quickstart.ipynb"
FEW = "data.num_train=100 data.num_test=10 trainer.max_epochs=1 network_scale=0.03 pca.n_components=20 iw_samples=2"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_holds_no_outputs(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.filterwarnings("ignore")  # Jupyter's own
def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTART_SETTINGS", FEW)
    monkeypatch.setenv("PYTHONPATH", str(REPO / "src"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in code]
    assert texts[3].count("bits/dim") == 2
    assert "torch.Size([8, 3, 32, 32])" in texts[4]
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
