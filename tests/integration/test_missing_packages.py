"""Packages of extras that are not installed: functions and commands name the same install line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BLOCKED = (
    *("cv2", "fastapi", "lance", "matplotlib", "openTSNE", "pandas", "pyarrow", "pymilvus"),
    *(
        "ray",
        "scipy",
        "skimage",
        "sklearn",
        "timm",
        "torch",
        "transformers",
        "usearch",
        "watchfiles",
    ),
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
    "suggestions": ("la.suggest_labels(la.Gallery.open('g'), 3)", "label suggest g -k 3"),
    "label propagation": (
        "la.propagate_labels(la.Gallery.open('g'), {'photos:3.png': 'a', 'photos:4.png': 'b'})",
        "label propagate g --labels labels.csv -o all.csv",
    ),
    "a chart": ("la.figures", None),
    "a report": (None, "evaluate robustness g --report report.html"),
    "a saved report": (None, "evaluate g --synthetic-queries --save"),
    "a plot": (None, "choose photos --labels labels.csv --plot plot.png"),
    "digits": ("la.open_source('dataset:digits/train')", "index new dataset:digits/train"),
    "scenes": ("stamps.background_photos()", None),
    "a demo": (None, "demo digits"),
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
    "an approximate index": (None, "index g --ann"),
    "serve": (None, "serve g --port 0"),
    "a Parquet file": ("la.open_source('list.parquet')", "index new list.parquet"),
    "a labels file": (
        "la.evaluate(la.Gallery.open('g'), labels='list.parquet')",
        "evaluate g --labels list.parquet",
    ),
    "a Parquet export": ("la.Gallery.open('g').export('out')", "export g out"),
    "an export as clip-retrieval": (
        "la.Gallery.open('g').export('out', layout='npy')",
        "export g out --layout npy",
    ),
    "a Lance export": (
        "la.Gallery.open('g').export('out', layout='lance')",
        "export g out --layout lance",
    ),
    "an old gallery": ("copy('old', 'new')", "copy old new"),
    "Arrow": ("la.Gallery.open('g').search(id='photos:3.png').to_arrow()", None),
    "pandas": ("la.Gallery.open('g').search(id='photos:3.png').to_pandas()", None),
}
"""What needs each package: a function and a command, None where there is none."""

_OTHERWISE = "; layout=jsonl needs none"
EXTRAS = {
    "train": "'torch': pip install 'lookalike[train]'",
    "train an installed recipe": "'torch': pip install 'lookalike[train]'",
    "adapt with contrast": "'torch': pip install 'lookalike[train]'",
    "adapt a timm model": "'torch': pip install 'lookalike[timm]'",
    "a transformers model": "'torch': pip install 'lookalike[transformers]'",
    "map": "'openTSNE': pip install 'lookalike[explore]'",
    "suggestions": "'scikit-learn': pip install 'lookalike[label]'",
    "label propagation": "'scikit-learn': pip install 'lookalike[label]'",
    "a chart": "'matplotlib': pip install 'lookalike[report]'",
    "a report": "'matplotlib': pip install 'lookalike[report]'",
    "a saved report": "'matplotlib': pip install 'lookalike[report]'",
    "a plot": "'matplotlib': pip install 'lookalike[report]'",
    "digits": "'scikit-learn': pip install 'lookalike[digits]'",
    "scenes": "'scikit-image': pip install 'lookalike[stamps]'",
    "a demo": "'matplotlib': pip install 'lookalike[report]'",
    "re-ranking": "'opencv-python-headless': pip install 'lookalike[geometric]'",
    "a Milvus server": "'pymilvus': pip install 'lookalike[milvus]'",
    "Ray": "'ray': pip install 'lookalike[scale]'",
    "watch": "'watchfiles': pip install 'lookalike[watch]'",
    "an approximate index": "'usearch': pip install 'lookalike[ann]'",
    "serve": "'fastapi': pip install 'lookalike[serve]'",
    "a Parquet file": "'pyarrow': pip install 'lookalike[parquet]'",
    "a labels file": "'pyarrow': pip install 'lookalike[parquet]'",
    "a Parquet export": f"'pyarrow': pip install 'lookalike[parquet]'{_OTHERWISE}",
    "an export as clip-retrieval": f"'pyarrow': pip install 'lookalike[parquet]'{_OTHERWISE}",
    "a Lance export": f"'pylance': pip install 'lookalike[lance]'{_OTHERWISE}",
    "an old gallery": "'pylance': pip install 'lookalike[lance]'",
    "Arrow": "'pyarrow': pip install 'lookalike[parquet]'",
    "pandas": "'pandas': pip install 'lookalike[pandas]'",
}

PROGRAM = """
import contextlib, io, json, shutil, sys

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
from lookalike.datasets import stamps
from lookalike.errors import MissingDependencyError
from lookalike.gallery import ray_runner
from lookalike.gallery.copy import copy

Path("photos").mkdir()
for number in range(12):
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(f"photos/{number}.png")
gallery = la.Gallery.create("g", encoder=la.open_encoder("pixels", "photos"))
gallery.sync("photos", progress=False)
Path("list.parquet").write_bytes(b"PAR1")
Path("list.csv").write_text("path,caption\\nphotos/0.png,red\\n")
shutil.copytree(OLD, "old")
Path("labels.csv").write_text("id,label\\nphotos:3.png,a\\nphotos:4.png,b\\n")

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
written = sorted(path.name for path in Path().iterdir())
working = {command: run(command) for command in WORKING}
print("\\n" + json.dumps([results, written, working]))
"""

WORKING = (
    "search g photos/3.png --image hits.png",
    "search g photos/3.png --foreground",
    "search g photos/3.png --multi-crop",
    "evaluate g --synthetic-queries --baselines",
    "evaluate robustness g",
    "explore duplicates g -o duplicates",
    "explore outliers g",
    "index second photos --encoder hog-fine",
    "index third list.csv --encoder color",
    "search third --keywords red",
    "search g photos/3.png --json",
    "export g rows --layout jsonl",
    "copy g g-2",
    "doctor g",
)
"""Commands that a plain installation has."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Message, exit code and stderr of what needs a package; the files left; what works."""
    values = {
        "OLD": str(Path(__file__).parents[1] / "data" / "format-4.gallery"),
        "BLOCKED": BLOCKED,
        "CALLS": [*CALLS.items()],
        "WORKING": WORKING,
    }
    code = "\n".join([*(f"{name} = {value!r}" for name, value in values.items()), PROGRAM])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("missing"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results, written, working = json.loads(done.stdout.splitlines()[-1])
    return results, written, working


@pytest.mark.parametrize("name", CALLS)
def test_functions_and_commands_name_the_package_and_its_extra(
    name: str, outcome: tuple[Any, Any, Any]
) -> None:
    message, command = outcome[0][name]
    assert isinstance(message or "", str)
    expected = f" needs the package {EXTRAS[name]}"
    assert message is None or message.endswith(expected)
    if command is not None:
        code, stderr = command
        assert code == 2
        assert stderr.startswith("lookalike: error: ")
        assert stderr.endswith(f"{expected.replace('layout=', '--layout ')}\n")
        if message is not None:
            same = message.replace("layout=", "--layout ")
            assert stderr == f"lookalike: error: {same}\n"


def test_nothing_is_written_by_what_lacks_a_package(outcome: tuple[Any, Any, Any]) -> None:
    assert outcome[1] == ["g", "labels.csv", "list.csv", "list.parquet", "old", "photos"]


@pytest.mark.parametrize("command", WORKING)
def test_a_plain_installation_has(command: str, outcome: tuple[Any, Any, Any]) -> None:
    code, stderr = outcome[2][command] or (0, "")
    assert code in (None, 0), stderr
