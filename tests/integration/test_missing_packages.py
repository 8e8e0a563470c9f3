"""Packages of extras that are not installed: functions and commands name the same install line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = (
    *("cv2", "fastapi", "openTSNE", "pandas", "pymilvus", "ray", "timm"),
    *("torch", "transformers", "watchfiles"),
)

CALLS = {
    "train": ("la.train('photos')", "train photos -o e"),
    "train an installed recipe": (
        "la.train('photos', recipe='report-conv', out='e')",
        "train photos -o e --recipe report-conv",
    ),
    "adapt with contrast": (
        "la.adapt('photos', encoder='pixels', options=la.AdaptOptions(contrast=True))",
        "adapt photos --encoder pixels -o e --contrast",
    ),
    "adapt a timm model": (
        "la.adapt('photos', encoder='timm:resnet10t')",
        "adapt photos --encoder timm:resnet10t -o e",
    ),
    "a transformers model": (
        "la.Gallery.create('new', encoder=la.open_encoder('transformers:x/y'))",
        "index new photos --encoder transformers:x/y",
    ),
    "map": ("la.map(la.Gallery.open('g'))", "explore map g -o map.html"),
    "re-ranking": (
        "la.Gallery.open('g').search('photos/3.png', rerank='geometric')",
        "search g photos/3.png --rerank geometric",
    ),
    "a Milvus server": ("la.Gallery.open('milvus://127.0.0.1:1/x')", "info milvus://127.0.0.1:1/x"),
    "Ray": (
        "la.Gallery.open('g').sync('photos', runner=ray_runner.RayRunner())",
        "index g photos --runner ray",
    ),
    "watch": (None, "index g photos --watch"),
    "serve": (None, "serve g --port 0"),
    "pandas": ("la.Gallery.open('g').search(id='photos:3.png').to_pandas()", None),
}
"""What needs each package: a function and a command, None where there is none."""

EXTRAS = {
    "train": "'torch': pip install 'lookalike[train]'",
    "train an installed recipe": "'torch': pip install 'lookalike[train]'",
    "adapt with contrast": "'torch': pip install 'lookalike[train]'",
    "adapt a timm model": "'torch': pip install 'lookalike[timm]'",
    "a transformers model": "'torch': pip install 'lookalike[transformers]'",
    "map": "'openTSNE': pip install 'lookalike[explore]'",
    "re-ranking": "'opencv-python-headless': pip install 'lookalike[geometric]'",
    "a Milvus server": "'pymilvus': pip install 'lookalike[milvus]'",
    "Ray": "'ray': pip install 'lookalike[scale]'",
    "watch": "'watchfiles': pip install 'lookalike[watch]'",
    "serve": "'fastapi': pip install 'lookalike[serve]'",
    "pandas": "'pandas': pip install 'lookalike[pandas]'",
}

PROGRAM = """
import contextlib, io, json, sys

from importlib.machinery import PathFinder

class Installed:
    def find_spec(self, name, path=None, target=None):
        blocked = name.partition(".")[0] in BLOCKED
        return None if blocked else PathFinder.find_spec(name, path, target)

sys.meta_path = [Installed() if each is PathFinder else each for each in sys.meta_path]

import numpy as np
from PIL import Image
from pathlib import Path
import lookalike as la
from lookalike.cli import main
from lookalike.errors import MissingDependencyError
from lookalike.gallery import ray_runner

Path("photos").mkdir()
for number in range(12):
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(f"photos/{number}.png")
gallery = la.Gallery.create("g", encoder=la.open_encoder("pixels", "photos"))
gallery.sync("photos", progress=False)

def called(code):
    try:
        eval(code)
    except MissingDependencyError as error:
        return str(error)
    except BaseException as error:
        return repr(error)

def run(command):
    sys.argv = ["lookalike", *command.split()]
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            main()
        except SystemExit as end:
            return [end.code, stderr.getvalue()]

results = {
    name: [code and called(code), command and run(command)] for name, (code, command) in CALLS
}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Each function's message, and each command's exit code and stderr."""
    folder = tmp_path_factory.mktemp("missing")
    code = f"BLOCKED = {BLOCKED!r}\nCALLS = {[*CALLS.items()]!r}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path(folder).iterdir()) == ["g", "photos"]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", CALLS)
def test_functions_and_commands_name_the_package_and_its_extra(
    name: str, results: dict[str, list[object]]
) -> None:
    message, command = results[name]
    assert isinstance(message or "", str)
    if command is not None:
        assert isinstance(command, list)
        code, stderr = command
        message = message or stderr.removeprefix("lookalike: error: ").strip()
        assert (code, stderr) == (2, f"lookalike: error: {message}\n")
    assert str(message).endswith(f" needs the package {EXTRAS[name]}")
