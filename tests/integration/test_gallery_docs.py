"""The Python examples of docs/labeling.md and docs/exploring.md, on a gallery of small images."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from tests.integration.test_readme import ROOT, blocks

COUNT = 110


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a gallery of 110 images of three colors, and a copy of one of them."""
    folder = tmp_path_factory.mktemp("docs")
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        small = rng.integers(0, 120, (6, 6, 3), np.uint8)
        small[..., number % 3] += 120
        name = string.ascii_lowercase[number] if number < 4 else f"{number:03d}"
        image = Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC)
        image.save(photos / f"{name}.jpg")
    (photos / "copy.jpg").write_bytes((photos / "a.jpg").read_bytes())
    gallery = la.Gallery.create(folder / "photos.gallery", encoder=la.open_encoder("color", photos))
    gallery.sync(photos, progress=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", ["labeling", "exploring"])
def test_the_examples_work(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    (block,) = blocks((ROOT / "docs" / f"{page}.md").read_text(), "python")
    exec(block, names)
    gallery = names["gallery"]
    if page == "labeling":
        assert gallery["photos:d.jpg"].metadata["kind_status"] == "propagated"
        assert len(names["first"]) == 100
    else:
        assert names["duplicates"].redundant == ("photos:copy.jpg",)
        assert "photos:copy.jpg" not in gallery
        assert Path("map.html").stat().st_size > 10_000
