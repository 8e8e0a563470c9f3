"""Every verb on a gallery that may only be read: results are delivered, writing is one line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Require
from tests.integration.test_cli import run

DATA = Path(__file__).parents[1] / "data"


class Result(NamedTuple):
    code: int | None
    out: str
    err: str


_DRIVER = """
import json, sys
from tests.integration.test_cli import lookalike
for arguments in json.loads(sys.argv[1]):
    done = lookalike(*arguments)
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""

_SERVE = """
import sys
from pathlib import Path
from lookalike.gallery.gallery import Gallery
from lookalike.server.settings import LOOPBACK, ServeSettings
from tests.serving import serving
gallery = Gallery.open(sys.argv[1])
with serving({"photos": gallery}, ServeSettings(hosts=LOOPBACK)) as served:
    remote = served.client().gallery("photos")
    print(remote.search(Path(sys.argv[2]), k=1)[0].id, len(remote))
    for path in ("/readyz", "/g/photos", "/g/photos/map", "/v1/galleries/photos/item/thumbnail"):
        print(served.request("GET", path + "?id=photos:a/0.png")[0].status)
"""


def unprivileged(require: Require, code: str, *arguments: object, cwd: Path) -> str:
    """Run Python code for which permissions of files count, which they do not for root."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if os.geteuid() == 0:
        require(shutil.which("setpriv"), "root without setpriv may write everything")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    path = os.pathsep.join((str(DATA.parents[1]), *filter(None, sys.path)))
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verbs(require: Require, cwd: Path, *commands: list[str]) -> list[Result]:
    """Run commands one after another, unprivileged."""
    shown = unprivileged(require, _DRIVER, json.dumps(commands), cwd=cwd)
    return [Result(*json.loads(line)) for line in shown.splitlines()]


def make_readonly(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def make_writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readonly")
    for label, red in (("a", 200), ("b", 40)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(20):
            rng = np.random.default_rng([number, red])
            pixels = rng.integers(0, 80, (24, 24, 3), np.uint8)
            pixels[..., 0] += red - 40
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    run("index", "g.gallery", "photos", "--encoder", "color", cwd=folder)
    rows = "".join(
        f"photos:{label}/{number}.png,{label}\n" for label in "ab" for number in range(9)
    )
    (folder / "labels.csv").write_text("id,label\n" + rows)
    return folder


@pytest.fixture(autouse=True)
def _readonly(work: Path) -> object:
    make_readonly(work / "g.gallery")
    yield
    make_writable(work / "g.gallery")


@pytest.mark.slow
def test_reading_verbs_work(require: Require, work: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (work / "g.gallery").rglob("*")}
    query = "photos/a/0.png"
    commands = [
        ["info", "g.gallery"],
        ["search", "g.gallery", query, "-k", "3", "--image", "hits.png"],
        ["search", "g.gallery", "--keywords", "a"],
        ["search", "g.gallery", query, "--where", "label = 'a'"],
        ["evaluate", "g.gallery", "--report", "report.html"],
        ["evaluate", "robustness", "g.gallery"],
        ["explore", "duplicates", "g.gallery"],
        ["explore", "map", "g.gallery", "-o", "map.html", "--json"],
        ["explore", "clusters", "g.gallery", "-o", "clusters"],
        ["explore", "outliers", "g.gallery", "-k", "2"],
        ["label", "suggest", "g.gallery", "-k", "4"],
        ["label", "issues", "g.gallery"],
        ["label", "propagate", "g.gallery", "--labels", "labels.csv", "-o", "all.csv"],
        ["export", "g.gallery", "rows.parquet"],
        ["copy", "g.gallery", "copy.gallery"],
        ["index", "g.gallery", "photos", "--dry-run"],
    ]
    for arguments, done in zip(commands, verbs(require, work, *commands), strict=True):
        assert done.code in (0, None), (arguments, done)
        assert done.out, arguments
        if arguments[:2] in (["explore", "map"], ["explore", "clusters"]):
            assert "map not saved in the gallery" in done.err
            assert "Permission denied" in done.err
        if arguments[:2] == ["explore", "map"]:
            assert json.loads(done.out)["saved"] is False
    for name in ("hits.png", "report.html", "map.html", "clusters/clusters.csv", "rows.parquet"):
        assert (work / name).stat().st_size > 0, name
    assert {path: path.stat().st_mtime_ns for path in (work / "g.gallery").rglob("*")} == before


@pytest.mark.slow
def test_writing_verbs_end_with_one_line(require: Require, work: Path) -> None:
    (work / "photos" / "a" / "new.png").write_bytes((work / "photos/a/0.png").read_bytes())
    labels = ["--labels", "labels.csv", "-o", "all2.csv"]
    commands = [
        ["index", "g.gallery", "photos"],
        ["evaluate", "g.gallery", "--save"],
        ["label", "suggest", "g.gallery", "-k", "3", "--save"],
        ["label", "propagate", "g.gallery", *labels, "--write", "kind"],
        ["copy", "rows.gallery", "g.gallery"],
    ]
    make_writable(work / "g.gallery")
    shutil.copytree(work / "g.gallery", work / "rows.gallery")
    make_readonly(work / "g.gallery")
    for arguments, done in zip(commands, verbs(require, work, *commands), strict=True):
        assert done.code == 2, (arguments, done)
        problem = done.err.splitlines()[-1]
        assert problem.startswith("lookalike: error: g.gallery"), arguments
        assert problem.count("cannot be written") == 1, problem
        assert "Traceback" not in done.err
        if arguments[0] in ("evaluate", "label"):
            assert done.out, "what was computed is printed before saving fails"


def test_training_is_refused_before_it_begins(require: Require, work: Path) -> None:
    require(find_spec("torch"), "torch is not installed")
    commands = [
        ["train", "photos", "-o", "g.gallery/e", "--epochs", "1", "--no-evaluate"],
        ["adapt", "photos", "--encoder", "color", "-o", "g.gallery/e"],
    ]
    for done in verbs(require, work, *commands):
        assert done.code == 2
        assert done.err.startswith("lookalike: error: g.gallery/e")
        assert "cannot be written (Permission denied)" in done.err


@pytest.mark.slow
def test_the_service_reads_a_gallery_that_it_cannot_write(require: Require, work: Path) -> None:
    query = work / "photos" / "a" / "0.png"
    shown = unprivileged(require, _SERVE, "g.gallery", query, cwd=work)
    found, *statuses = shown.splitlines()
    assert found == "photos:a/0.png 40"
    assert statuses == ["200"] * 4


@pytest.mark.parametrize("number", [1, 2, 3])
def test_galleries_of_old_formats_name_the_migration_without_being_written(
    require: Require, tmp_path: Path, number: int
) -> None:
    gallery = shutil.copytree(DATA / f"format-{number}.gallery", tmp_path / "g.gallery")
    make_readonly(gallery)
    try:
        commands = [["info", "g.gallery"], ["search", "g.gallery", "--id", "x", "-k", "2"]]
        for done in verbs(require, tmp_path, *commands):
            assert done.code == 2, done
            assert "lookalike copy g.gallery g-2.gallery" in done.err
    finally:
        make_writable(gallery)
