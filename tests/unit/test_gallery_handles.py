"""The galleries of a service: snapshots are kept for the next request, but not for ever."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import ArtifactError, ReplacedError
from lookalike.gallery.gallery import Gallery
from lookalike.server.handles import GalleryHandle
from lookalike.stores.base import Rows

DIM = 64


def write(path: Path, start: int) -> None:
    """Add rows to a gallery by a store of its own, which is closed then."""
    gallery = Gallery.open(path)
    count = 500
    ids = [f"x:{number:06}" for number in range(start, start + count)]
    vectors = np.random.default_rng(start).normal(size=(count, DIM)).astype(np.float32)
    rows = Rows(ids, ["/"] * count, vectors, [{}] * count, ["h"] * count)
    gallery.upsert(rows, fingerprint=gallery.fingerprint)
    del gallery
    gc.collect()


@pytest.fixture
def handle(tmp_path: Path) -> GalleryHandle:
    path = tmp_path / "g.gallery"
    Gallery.from_embeddings(np.eye(DIM, dtype=np.float32), path=path)
    return GalleryHandle("g", Gallery.open(path), 1)


def test_a_snapshot_is_kept_while_nothing_is_written(handle: GalleryHandle) -> None:
    opened = handle.open()
    handle.release_idle()
    assert handle.open() is opened
    write(handle.gallery.path, 0)
    assert len(handle.open().gallery) == DIM + 500
    assert len(opened.gallery) == DIM
    assert handle.facts.state == handle.open().state != opened.state
    assert handle.open().batcher is opened.batcher


def test_an_opened_gallery_has_what_was_written_since(handle: GalleryHandle) -> None:
    opened = handle.open()
    assert opened.now() is handle.last is opened
    write(handle.gallery.path, 0)
    assert handle.last is opened
    now = opened.now()
    assert (len(opened.gallery), len(now.gallery)) == (DIM, DIM + 500)
    assert handle.last is now
    handle.release_idle(0)
    assert handle.last is None
    assert opened.now().state == now.state


def test_another_gallery_in_its_place_is_not_the_opened_one_now(
    handle: GalleryHandle, tmp_path: Path
) -> None:
    opened = handle.open()
    path = handle.gallery.path
    shutil.move(path, tmp_path / "old.gallery")
    with pytest.raises(ArtifactError, match="gone"):
        opened.now()
    Gallery.from_embeddings(np.eye(DIM, dtype=np.float32), path=path)
    with pytest.raises(ReplacedError):
        opened.now()
    assert handle.open().now() is handle.last


def test_the_log_of_an_idle_service_is_emptied(handle: GalleryHandle) -> None:
    path = handle.gallery.path
    log = path / "store" / "rows.db-wal"
    write(path, 0)
    handle.open()
    sizes = []
    for number in range(1, 4):
        write(path, 500 * number)
        sizes.append(log.stat().st_size)
    assert 0 < sizes[0] < sizes[1] < sizes[2]  # the snapshot is of what is in it
    handle.release_idle(0)
    write(path, 2_000)
    assert not log.exists() or log.stat().st_size == 0
    opened = handle.open()
    assert len(opened.gallery) == DIM + 5 * 500
    handle.release_idle(0)
    write(path, 2_500)
    assert len(opened.gallery) == DIM + 5 * 500  # a request that takes longer
