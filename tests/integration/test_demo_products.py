"""The demo on a shop's images, from the data to the report."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from lookalike.demos import products
from lookalike.errors import FetchError, MissingDependencyError
from lookalike.evaluation.evaluate import evaluate
from lookalike.gallery.gallery import Gallery
from lookalike.sources import ItemSource, open_source
from tests.conftest import Require
from tests.integration.test_cli import lookalike

ITEMS = 100
"""Items of the shop, of 307; each has three street photographs."""


def test_adapting_improves_map(
    tmp_path: Path, require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("skimage", "onnxruntime"):
        require(find_spec(package), f"{package} is not installed")
    try:
        open_source(products.SHOP)
        open_source(products.STREET)
    except (FetchError, MissingDependencyError) as error:
        require(False, f"the images could not be downloaded: {error}")
    monkeypatch.setattr(products, "SHOP", f"{products.SHOP}[:{ITEMS}]")
    monkeypatch.setattr(products, "STREET", f"{products.STREET}[:{3 * ITEMS}]")
    monkeypatch.setattr(products, "_QUERY", 3 * ITEMS // 2)
    monkeypatch.setattr(products, "VIEWS_PER_IMAGE", 3)
    monkeypatch.setattr(products, "VARIANTS", ())
    done = lookalike("demo", "products", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "products"
    streets = open_source(products.STREET)
    queries = ItemSource(streets.name, streets.spec, list(streets)[::3])
    plain, adapted = (
        evaluate(Gallery.open(folder / f"{name}.gallery"), queries, match="item").scores.map
        for name in ("plain", "products")
    )
    assert adapted.value > plain.value + 0.03
    assert f"{adapted.value:.4f}" in done.stdout
    assert f"{plain.value:.4f}" in done.stdout
    assert "efficientnet-lite0, pretrained" in (folder / "report.html").read_text()
    with Image.open(io.BytesIO((folder / "hits.png").read_bytes())) as picture:
        assert min(picture.size) > 300
    assert len(list((folder / "street.encoder").iterdir())) > 1
    assert not (folder / "street.encoder" / "views").exists()
