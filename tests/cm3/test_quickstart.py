"""docs/quickstart.ipynb runs as it is shown, and shows pictures."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "committed without outputs: they are made here"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    data = [output.data for cell in code for output in cell.outputs if "data" in output]
    pages = [page for answer in data if "<figure" in (page := answer.get("text/html", ""))]
    assert len(pages) == 5
    for page in pages:
        sources = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
        assert len(sources) >= page.count("<figure") - 2, "nearly every item has its picture"
        assert all(Image.open(io.BytesIO(base64.b64decode(source))).width > 50 for source in sources)
    report = data[-1]["text/plain"].strip("'")
    assert Path(report).is_file()
