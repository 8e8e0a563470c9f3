"""The demo on a folder of photographs, run twice."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lookalike.gallery.gallery import Gallery
from tests.integration.test_cli import lookalike, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("demo")
    done = lookalike("demo", "photos", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "\n   1 moved, " in done.stderr
    assert "unchanged (not read again)" in done.stderr
    assert "$ lookalike index demo/photos/photos.gallery demo/photos/pieces" in done.stderr
    assert "demo/photos/report.html" in done.stdout
    commands = re.findall(r"^  lookalike (.*)$", done.stdout, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert run(*shlex.split(command), cwd=home)
    return home / "demo" / "photos"


def test_pieces_of_a_photograph_are_each_others_results(finished: Path) -> None:
    gallery = Gallery.open(finished / "photos.gallery")
    assert len(gallery) >= 40
    assert gallery.encoder.name in ("efficientnet-lite0", "hog-fine+color")
    hits = gallery.search(finished / "pieces" / "flower" / "12.jpg", k=5)
    assert hits[0].id == "pieces:flower/12.jpg"
    assert sum(hit.metadata["label"] == "flower" for hit in hits) >= 4
    others = gallery.search(finished / "pieces" / "flower" / "12.jpg", where="label != 'flower'")
    assert len(others) == 7
    assert {"row", "column", "kind", "label"} == set(others[0].metadata)
    for name in ("report.html", "hits.png"):
        assert (finished / name).stat().st_size > 10_000


def test_a_second_run_adds_nothing(finished: Path) -> None:
    before = len(Gallery.open(finished / "photos.gallery"))
    done = lookalike("demo", "photos", cwd=finished.parents[1])
    assert done.returncode == 0, done.stderr
    assert "0 added" in done.stderr
    assert "another name.jpg to china/21.jpg" in done.stderr
    assert "\n   1 moved, " in done.stderr
    assert len(Gallery.open(finished / "photos.gallery")) == before
