"""The example package with an encoder and a store: installed, and used like built-in ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import ArtifactError, UnknownNameError
from lookalike.gallery.gallery import Gallery

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "lookalike-example-plugin"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package was installed into, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    target = folder / "site"
    command = (sys.executable, "-m", "pip", "install", *options, "--no-build-isolation")
    subprocess.run([*command, "--target", str(target), str(source)], check=True, timeout=120)
    return target


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Run:
    """Runs Python with the package."""
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "LOOKALIKE_DATA": str(tmp_path / "cache"),
    }

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        result = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of one color each; those of neighboring numbers are the most similar."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        color = np.array([20 * number, 255 - 20 * number, 128], np.uint8)
        image = np.broadcast_to(color, (40, 60, 3))
        Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{number:02}.png")
    return folder


COMMANDS = """
import contextlib, io, json, sys
from lookalike.cli import main

results = []
for arguments in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["lookalike", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code
    results.append((code, out.getvalue() + err.getvalue()))
print(json.dumps(results))
"""

SESSION = """
import json, sys
import lookalike as la

gallery = la.Gallery.open("photos.gallery")
again = la.Gallery.open(sys.argv[1])
hits = [g.search("photos/05.png", k=3, metric="l2").ids for g in (gallery, again)]
gallery.remove("photos:00.png")
other = la.Gallery.create("other.gallery", encoder="example-color-grid")
other.sync("photos", progress=False)
print(json.dumps({
    "hits": hits,
    "encoder": repr(gallery.encoder),
    "store": repr(gallery.store),
    "rows": [len(gallery), len(again)],
    "sample": again.store.sample(3).ids,
    "address": str(again.address),
    "other": la.Gallery.open("other.gallery").search("photos/05.png", k=1).ids,
}))
"""

REFUSED = """
import sys
import lookalike as la

try:
    la.Gallery.open("photos.gallery")
except la.ArtifactError as error:
    print("lookalike_example" in sys.modules, error)
"""


def test_the_package_is_used_through_the_commands_and_python(
    python: Run, photos: Path, tmp_path: Path
) -> None:
    address = f"sqlite://{tmp_path / 'rows' / 'photos.db'}"
    index = ("index", "photos.gallery", "photos")
    chosen = ("--encoder", "example-color-grid", "--metric", "l2")
    python("-m", "lookalike", *index, *chosen, "--store", address)
    handle = json.loads((tmp_path / "photos.gallery" / "gallery.json").read_text())
    assert handle["address"] == address
    assert not (tmp_path / "photos.gallery" / "store").exists()

    session = json.loads(python("-c", SESSION, address).stdout)
    nearest = ["photos:05.png", "photos:04.png", "photos:06.png"]
    assert session["hits"] == [nearest, nearest]
    assert "'example-color-grid' dim=48" in session["encoder"]
    assert session["store"] == f"SqliteStore({address!r}, dim=48)"
    assert session["rows"] == [11, 11]
    assert len(session["sample"]) == 3
    assert session["address"] == address
    assert session["other"] == nearest[:1]

    query = ("photos/05.png", "-k", "2", "--include-self", "--json")
    commands = (
        ("search", "photos.gallery", *query),
        ("search", address, *query),
        ("info", "photos.gallery", "--json"),
        ("encoders",),
        (*index, "--restore-removed"),
        (*index, "--store", "sqlite:///elsewhere.db"),
        ("index", "new.gallery", "photos", "--store", "sqlit:///x"),
    )
    results = json.loads(python("-c", COMMANDS, json.dumps(commands)).stdout)
    assert [code for code, _ in results] == [0, 0, 0, 0, 0, 2, 2]
    one, other, info, encoders, synced, elsewhere, unknown = (text for _, text in results)
    for found in (one, other):
        assert [hit["id"] for hit in json.loads(found)["hits"]] == nearest[:2]
    facts = json.loads(info)
    assert (facts["rows"], facts["store"]) == (11, address)
    assert facts["sqlite_bytes"] > 0
    assert "average color of a 4x4 grid" in encoders
    assert "1 added" in synced
    assert f"its rows are in {address}, not in sqlite:///elsewhere.db" in elsewhere
    assert "unknown store 'sqlit': did you mean 'sqlite'? available: milvus" in unknown
    assert not (tmp_path / "new.gallery").exists()


def test_a_gallery_of_somebody_else_leads_to_no_store(
    python: Run, photos: Path, tmp_path: Path
) -> None:
    address = f"sqlite://{tmp_path / 'photos.db'}"
    index = ("index", "photos.gallery", "photos", "--encoder", "example-color-grid")
    python("-m", "lookalike", *index, "--store", address)
    shutil.rmtree(tmp_path / "cache")  # as on the machine of another user
    refused = python("-c", REFUSED).stdout
    assert refused.startswith("False ")  # nothing of the package was loaded
    assert f"its rows are at {address}, which was not opened from here before" in refused
    assert f"open the gallery once by its address: lookalike info {address}" in refused
    commands = (("info", address), ("info", "photos.gallery"))
    results = json.loads(python("-c", COMMANDS, json.dumps(commands)).stdout)
    assert [code for code, _ in results] == [0, 0]

    with pytest.raises(UnknownNameError, match="unknown store 'sqlite'"):
        Gallery.open(address)  # here, where the package is not installed
    with pytest.raises(ArtifactError, match="unknown store 'sqlite'"):
        Gallery.open(tmp_path / "photos.gallery")


def test_the_store_passes_the_contract(python: Run, installed: Path) -> None:
    tests = installed.parent / "source"
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tests))
    result = python("-m", "pytest", *options, str(tests / "tests"))
    assert "46 passed" in result.stdout
