"""What is imported when; the order of imports is held by ``lint-imports`` (pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lookalike.gallery.gallery import Gallery

HEAVY = (
    "cv2",
    "fastapi",
    "lance",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "pyarrow",
    "pymilvus",
    "ray",
    "scipy",
    "skimage",
    "sklearn",
    "starlette",
    "torch",
)


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['lookalike', *{arguments!r}]\n"
        "from lookalike.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "loaded = {n.split('.')[0] for n in sys.modules}\n"
        f"print('LOADED', sorted(loaded & set({HEAVY!r})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: lookalike" in run.stdout
    assert run.stdout.strip().endswith("LOADED []")


def test_evaluation_loads_scipy_stats_only_when_it_needs_it() -> None:
    modules = "metrics, human_judgements, agreement"
    code = (
        f"import sys\nfrom lookalike.evaluation import {modules}\n"
        "print('scipy.stats' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_tables_and_galleries_load_neither_arrow_nor_lance(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("path,label\na.png,x\n")
    code = (
        "import sys, numpy, lookalike\n"
        "from lookalike.sources import labels, manifest, shards, tables\n"
        "from lookalike.gallery import copy, export, migration\n"
        "tables.read_table(__import__('pathlib').Path('rows.csv'))\n"
        "lookalike.Gallery.from_embeddings(numpy.eye(3), path='g').search(id='1')\n"
        "print(sorted({'lance', 'pyarrow', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("work", "unused"),
    [
        ("", "PIL onnxruntime hashlib random email importlib.metadata numpy.ma lookalike.sources "
             "lookalike.images lookalike.encoders lookalike.search.search lookalike.filters"),
        (".search(id='1', k=2)", "PIL numpy.ma lookalike.images lookalike.sources "
                                 "lookalike.encoders"),
    ],
    ids=["open", "search by id"],
)  # fmt: skip
def test_a_gallery_loads_what_it_uses(work: str, unused: str, tmp_path: Path) -> None:
    path = tmp_path / "g.gallery"
    Gallery.from_embeddings(np.eye(8, dtype=np.float32), path=path)
    code = (
        f"import sys, lookalike\nlookalike.Gallery.open({str(path)!r}){work}\n"
        f"print(*(name for name in {unused.split()!r} if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
