"""Pillow's test images, including broken, malicious and rotated files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import decode
from lookalike.images.formats import supported_suffixes
from tests.integration.test_cli import lookalike


def images_in(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in supported_suffixes()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def test_indexing_gives_each_file_one_status(corpus: Path, tmp_path: Path) -> None:
    files = images_in(corpus)
    assert len(files) > 700
    arguments = ("index", "g", corpus, "--encoder", "color", "--json")
    process = lookalike(*arguments, cwd=tmp_path)
    assert process.returncode == 1, process.stderr[-500:]
    assert "Traceback" not in process.stderr
    report = json.loads(process.stdout)
    failed = Counter(failure["uri"] for failure in report["failed"])
    assert set(failed.values()) == {1}
    assert all(failure["reason"] for failure in report["failed"])
    ids = {record.uri for record in Gallery.open(tmp_path / "g").store.records()}
    statuses = ids | failed.keys()
    assert ids.isdisjoint(failed)
    without_suffix = {uri for uri in statuses if not Path(uri).suffix}
    assert statuses - without_suffix == {str(path) for path in files}
    assert len(ids) == report["added"] > 650
    second = json.loads(lookalike(*arguments, cwd=tmp_path).stdout)
    assert second["unchanged"] == report["added"]
    assert second["added"] == second["updated"] == second["removed"] == 0


def test_exif_orientations_have_equal_embeddings(corpus: Path, tmp_path: Path) -> None:
    folder = next(corpus.rglob("hopper_orientation_2.webp")).parent
    rotated = sorted(
        path for path in folder.glob("hopper_orientation_*") if path.suffix in (".jpg", ".webp")
    )
    assert len(rotated) == 14
    gallery = Gallery.create(
        tmp_path / "g", encoder=open_encoder("pixels", [decode(path) for path in rotated])
    )
    gallery.sync(folder)
    rows = gallery.store.get([f"images:{path.name}" for path in rotated]).embeddings
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for kind in (".jpg", ".webp"):
        of_kind = unit[[path.suffix == kind for path in rotated]]
        assert (of_kind @ of_kind.T).min() > 0.995
    for path in rotated:
        hits = gallery.search(path, k=8)
        assert hits[0].distance < 1e-6
        assert sum("hopper" in hit.id for hit in hits) == 8
