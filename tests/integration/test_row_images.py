"""The image of a row is decoded everywhere as when it was indexed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import Gallery
from lookalike.encoders.registry import open_encoder
from lookalike.explore.comparison import read_thumbnails
from lookalike.sources import SourceOptions, open_items, open_source

WINDOW = (0.0, 4000.0)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Two deep ramps, the brightest values of which are far below the end of the window."""
    folder = tmp_path_factory.mktemp("deep")
    for name, top in (("dark", 500), ("bright", 2000)):
        ramp = np.linspace(0, top, 64 * 64).astype(np.uint16).reshape(64, 64)
        (folder / "scans").mkdir(exist_ok=True)
        Image.fromarray(ramp).save(folder / "scans" / f"{name}.png")
    made = Gallery.create(
        folder / "gallery", encoder=open_encoder("color", [np.zeros((9, 9, 3), np.uint8)])
    )
    options = SourceOptions.from_dict({"window": list(WINDOW)})
    made.sync(open_source(folder / "scans", options=options))
    return Gallery.open(folder / "gallery")


def test_rows_are_read_with_the_window_of_their_source(gallery: Gallery) -> None:
    records = list(gallery.store.records())
    images = gallery.read_images(records)
    assert [image is not None and int(image.max()) for image in images] == [128, 32]
    assert [int(item.image().max()) for item in gallery.items()] == [128, 32]
    by_default = [int(item.image().max()) for item in open_items([r.uri for r in records])]
    assert by_default == [255, 255]


def test_a_whole_box_of_a_row_is_the_row(gallery: Gallery) -> None:
    row_id = gallery.store.ids()[1]
    stored = gallery.store.get([row_id]).embeddings
    (item,) = gallery.open_rows(gallery.store.get([row_id]).records())
    np.testing.assert_allclose(gallery.encoder.encode([item.image()]), stored, atol=1e-6)
    plain = gallery.search(id=row_id)
    boxed = gallery.search(id=row_id, box=(0, 0, 64, 64))
    assert [hit.id for hit in boxed] == [hit.id for hit in plain]
    assert boxed[0].distance == pytest.approx(plain[0].distance, abs=1e-6)


def test_thumbnails_and_duplicates_use_it(gallery: Gallery) -> None:
    row = gallery.store.get([gallery.store.ids()[0]])
    assert gallery.open_rows(row.records())[0].options.window == WINDOW
    vectors = read_thumbnails(gallery, list(gallery.store.records()), range(2))
    assert all(isinstance(vector, np.ndarray) for vector in vectors.values())


def test_the_location_of_a_row_is_a_query_however_its_file_is_named(tmp_path: Path) -> None:
    names = (b"\\xff.png", b"\xff.png", b"a\nb.png")
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        file = tmp_path / "p" / os.fsdecode(name)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    made = Gallery.create(tmp_path / "g", encoder=open_encoder("color", [pixels]))
    made.sync(tmp_path / "p")
    for record in made.store.records():
        assert made.search(record.uri, k=1)[0].id == record.id
