"""A gallery pickles as its location, and is opened again where it is unpickled."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import ArtifactError, InputError
from lookalike.gallery.gallery import Gallery
from lookalike.stores.base import Rows


def _ids(gallery: Gallery) -> list[str]:
    return list(gallery.store.ids())


def test_a_gallery_is_opened_again(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gallery.path.parent)
    data = pickle.dumps(Gallery.open(gallery.path.name))
    monkeypatch.chdir("/")
    opened = pickle.loads(data)
    assert (_ids(opened), opened.state) == (_ids(gallery), gallery.state)
    row_id = _ids(gallery)[3]
    assert opened.search(id=row_id, k=5) == gallery.search(id=row_id, k=5)
    assert copy.deepcopy(gallery).state == gallery.state
    assert copy.copy(gallery)._opened is gallery._opened


def test_it_is_the_gallery_as_it_is_then(gallery: Gallery) -> None:
    data = pickle.dumps(gallery)
    embedding = np.ones((1, gallery.store.dim), np.float32)
    gallery.upsert(Rows(["new"], ["/"], embedding, [{}], ["h"]), fingerprint=gallery.fingerprint)
    assert "new" in _ids(pickle.loads(data))
    with pytest.raises(InputError, match="a snapshot cannot be pickled"):
        pickle.dumps(gallery.snapshot())


def test_a_gallery_that_is_gone_is_an_error(gallery: Gallery, tmp_path: Path) -> None:
    data = pickle.dumps(gallery)
    gallery.path.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="not a gallery"):
        pickle.loads(data)


@pytest.mark.slow
def test_worker_processes_get_galleries(gallery: Gallery) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_ids, (gallery,)) == _ids(gallery)
