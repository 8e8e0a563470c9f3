"""The story of a folder of photographs, told twice."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lookalike.gallery.gallery import Gallery
from tests.integration.test_cli import lookalike, run


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("story")
    done = lookalike("demo", "photos", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "moved: 1 moved, " in done.stderr
    assert "unchanged and not read" in done.stderr
    assert "demo/photos/report.html" in done.stdout
    commands = re.findall(r"^  lookalike (.*)$", done.stdout, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert run(*shlex.split(command), cwd=home)
    return home / "demo" / "photos"


def test_pieces_of_one_photograph_look_alike(told: Path) -> None:
    gallery = Gallery.open(told / "photos.gallery")
    assert len(gallery) >= 40
    assert gallery.encoder.name in ("efficientnet-lite0", "hog-fine+color")
    hits = gallery.search(told / "pieces" / "flower" / "12.jpg", k=5)
    assert hits[0].id == "pieces:flower/12.jpg"
    assert sum(hit.metadata["label"] == "flower" for hit in hits) >= 4
    others = gallery.search(told / "pieces" / "flower" / "12.jpg", where="label != 'flower'")
    assert len(others) == 7
    assert {"row", "column", "kind", "label"} == set(others[0].metadata)
    for name in ("report.html", "hits.png"):
        assert (told / name).stat().st_size > 10_000


def test_told_again_it_uses_what_is_there(told: Path) -> None:
    before = len(Gallery.open(told / "photos.gallery"))
    done = lookalike("demo", "photos", cwd=told.parents[1])
    assert done.returncode == 0, done.stderr
    assert "0 added" in done.stderr
    assert "another name.jpg was moved: 1 moved" in done.stderr
    assert len(Gallery.open(told / "photos.gallery")) == before
