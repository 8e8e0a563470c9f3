"""Galleries end to end in Python: create, sync, search, and errors."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.handcrafted import Pixels
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    FormatVersionError,
    InputError,
    SettingError,
    SourceError,
)
from lookalike.gallery.copy import copy
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.recall import measure_recall
from lookalike.images.decode import ImageInput
from lookalike.sources import Source, open_items, open_source
from lookalike.sources.sampling import sample_images
from lookalike.stores.base import Rows
from lookalike.types import Progress
from tests.integration.test_cli import run


@pytest.fixture
def shapes(folder: Path) -> Gallery:
    source = open_source(folder)
    encoder = open_encoder("color", sample_images(source))
    gallery = Gallery.create(folder.parent / "shapes.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


def test_a_query_from_the_gallery_is_its_own_nearest_neighbor(gallery: Gallery) -> None:
    [item] = open_items(["dataset:digits/train#17"])
    image = item.image()
    hits = gallery.search(image, k=3)
    assert hits[0].id == "digits/train:17"
    assert hits[0].distance == pytest.approx(0, abs=1e-6)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert all(a.distance <= b.distance for a, b in itertools.pairwise(hits))
    by_item, by_id = gallery.search(item, k=3), gallery.search(id="digits/train:17", k=3)
    assert [h.id for h in by_item] == [h.id for h in by_id]
    assert "digits/train:17" not in [h.id for h in by_id]
    assert [h.id for h in by_id[:2]] == [h.id for h in hits[1:]]


def test_distances_follow_the_metric(gallery: Gallery) -> None:
    image = open_items(["dataset:digits/test#5"])[0].image()
    for metric in la.Metric:
        hit = gallery.search(image, metric=metric)[0]
        row = open_items([hit.uri])[0].image().ravel() / 255
        query = image.ravel() / 255
        if metric is la.Metric.L2:
            expected = np.linalg.norm(row - query)
        else:
            expected = 1 - row @ query / np.linalg.norm(row) / np.linalg.norm(query)
        assert hit.distance == pytest.approx(expected, abs=1e-6)


def test_a_query_may_be_path_bytes_pil_or_array(shapes: Gallery, folder: Path) -> None:
    path = folder / "red" / "1.png"
    with Image.open(path) as opened:
        opened.load()
        queries: list[ImageInput] = [path, str(path), path.read_bytes(), opened, np.asarray(opened)]
    results = [shapes.search(query, k=12) for query in queries]
    assert {hits[0].id for hits in results} == {"shapes:red/1.png"}
    assert [hit.metadata["label"] for hit in results[0][:4]] == ["red"] * 4
    assert len(results[0]) == 12


def test_sync_counts_new_changed_moved_and_removed_images(shapes: Gallery, folder: Path) -> None:
    assert shapes.sync(folder).as_dict() == {
        "added": 0,
        "updated": 0,
        "moved": 0,
        "removed": 0,
        "unchanged": 12,
        "kept": 0,
        "failed": [],
        "skipped": {},
        "skipped_examples": [],
        "notes": {},
        "seconds": pytest.approx(0, abs=60),
    }
    shutil.copy(folder / "red" / "0.png", folder / "red" / "copy.png")
    shutil.copy(folder / "blue" / "0.png", folder / "green" / "0.png")
    (folder / "red" / "3.png").rename(folder / "blue" / "was-red.png")
    (folder / "blue" / "1.png").unlink()
    (folder / "blue" / "broken.png").write_bytes(b"no image")
    report = shapes.sync(folder)
    counts = (report.added, report.updated, report.moved, report.removed, report.unchanged)
    assert counts == (1, 1, 1, 1, 9)
    [failure] = report.failed
    assert failure.uri.endswith("blue/broken.png")
    assert failure.reason.startswith("unsupported image format")
    reopened = Gallery.open(shapes.path)
    assert len(reopened) == 12
    assert reopened.search(id="shapes:green/0.png", k=1)[0].metadata["label"] == "blue"
    assert reopened.info()["rows"] == json.loads((shapes.path / "gallery.json").read_text())["rows"]


def test_an_interrupted_sync_resumes(
    tmp_path: Path, digits: Source, pixels: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.gallery.ingest.BATCH_IMAGES", 100)
    monkeypatch.setattr("lookalike.gallery.ingest.ThreadRunner.chunk_size", 50)
    gallery = Gallery.create(tmp_path / "i.gallery", encoder=pixels)

    def interrupt(p: Progress) -> None:
        if p.done == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.sync(digits, progress=interrupt)
    again = Gallery.open(tmp_path / "i.gallery")
    assert len(again) == 200
    report = again.sync(digits)
    assert (report.added, report.unchanged) == (200, 200)
    whole = Gallery.create(tmp_path / "w.gallery", encoder=pixels)
    whole.sync(digits)
    assert list(again.store.records()) == list(whole.store.records())


def test_removing_most_of_a_source_needs_allow_removals(shapes: Gallery, folder: Path) -> None:
    shutil.rmtree(folder / "red")
    shutil.rmtree(folder / "green")
    with pytest.raises(SourceError, match=r"8 of 12 .* allow_removals"):
        shapes.sync(folder)
    assert len(shapes) == 12
    assert shapes.sync(folder, allow_removals=True).removed == 8
    assert len(Gallery.open(shapes.path)) == 4


def test_sources_are_independent(shapes: Gallery, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "red", other / "red")
    assert shapes.sync(other).added == 4
    assert len(shapes) == 16
    shutil.copytree(folder, tmp_path / "elsewhere" / "shapes")
    with pytest.raises(SourceError, match="already has a source 'shapes'"):
        shapes.sync(tmp_path / "elsewhere" / "shapes")


def test_vectors_of_another_encoder_are_refused(gallery: Gallery, digits: Source) -> None:
    hog = open_encoder("hog", sample_images(digits))
    with pytest.raises(FingerprintError, match=r"its encoder is 'pixels' .*, not 'hog'"):
        gallery.check_fingerprint(hog)
    rows = Rows(["x"], [""], np.zeros((1, 64), np.float32), [{}], [""])
    with pytest.raises(FingerprintError, match="cannot be mixed"):
        gallery.upsert(rows, fingerprint=hog.fingerprint)
    gallery.upsert(rows, fingerprint=gallery.encoder.fingerprint)
    assert len(gallery) == 401


def test_an_encoder_replaced_on_disk_is_refused(gallery: Gallery, digits: Source) -> None:
    shutil.rmtree(gallery.path / "encoder")
    save_encoder(open_encoder("hog", sample_images(digits)), gallery.path / "encoder")
    with pytest.raises(FingerprintError):
        Gallery.open(gallery.path).search(id="digits/train:1") and Gallery.open(
            gallery.path
        ).encoder.encode([])


def test_missing_or_changed_weights_are_refused(tmp_path: Path, digits: Source) -> None:
    encoder = open_encoder("pca", sample_images(digits))
    save_encoder(encoder, tmp_path / "e")
    assert load_encoder(tmp_path / "e").fingerprint == encoder.fingerprint
    weights = tmp_path / "e" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"its file model\.safetensors has changed"):
        load_encoder(tmp_path / "e")
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be read"):
        load_encoder(tmp_path / "e")


@pytest.mark.parametrize("name", ["pixels", "pca", "hog", "color-pyramid", "untrained"])
def test_encoders_are_unchanged_by_saving(name: str, tmp_path: Path, digits: Source) -> None:
    images = sample_images(digits)
    encoder: Encoder = open_encoder(name, images)
    save_encoder(encoder, str(tmp_path / "e"))
    loaded = load_encoder(str(tmp_path / "e"))
    np.testing.assert_array_equal(loaded.encode(images[:9]), encoder.encode(images[:9]))
    assert (loaded.fingerprint, loaded.dim, loaded.name) == (encoder.fingerprint, encoder.dim, name)


def test_folders_that_are_not_galleries_are_refused(
    gallery: Gallery, tmp_path: Path, pixels: Encoder
) -> None:
    with pytest.raises(ArtifactError, match="there is no such folder"):
        Gallery.open(tmp_path / "none")
    with pytest.raises(
        ArtifactError, match=r"not a gallery \(has no gallery.json\); create one: lookalike index"
    ):
        Gallery.open(tmp_path)
    with pytest.raises(ArtifactError, match=r"is a gallery already; open it with Gallery\.open"):
        Gallery.create(gallery.path, encoder=pixels)
    manifest = gallery.path / "gallery.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "format": 99}))
    with pytest.raises(FormatVersionError, match="written in format 99"):
        Gallery.open(gallery.path)
    manifest.write_text(json.dumps({"format": 1}))
    with pytest.raises(ArtifactError, match="field 'metric' is missing"):
        Gallery.open(gallery.path)
    manifest.write_text(json.dumps(fields))
    shutil.rmtree(gallery.path / "store")
    with pytest.raises(ArtifactError, match="missing or broken"):
        Gallery.open(gallery.path)


def test_invalid_queries_are_refused(gallery: Gallery) -> None:
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises(SettingError, match="k=0 must be at least 1"):
        gallery.search(image, k=0)
    with pytest.raises(SettingError, match="metric=l1 must be l2 or cosine"):
        gallery.search(image, metric="l1")
    with pytest.raises(
        InputError, match="no query: pass an image, id, text, vector, like, keywords or where"
    ):
        gallery.search()
    with pytest.raises(InputError, match="no row with the id 'nobody'"):
        gallery.search(id="nobody")
    with pytest.raises(InputError, match="an array of float64 needs value_range"):
        gallery.search(image.astype(float))
    assert len(gallery.search(image, k=1000)) == 400


def test_a_source_of_unreadable_images_is_an_error(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"x")
    with pytest.raises(SourceError, match="no image could be indexed"):
        gallery.sync(tmp_path / "bad")


def test_images_of_another_size_than_the_encoders_fail_individually(tmp_path: Path) -> None:
    encoder = Pixels("pixels", Preprocessing(8, 8, 1, exact=True))
    (tmp_path / "mixed").mkdir()
    for i, size in enumerate([(8, 8), (9, 8), (8, 8)]):
        Image.new("L", size, 50 * i).save(tmp_path / "mixed" / f"{i}.png")
    gallery = Gallery.create(tmp_path / "m.gallery", encoder=encoder)
    report = gallery.sync(tmp_path / "mixed")
    assert report.added == 2
    assert [failure.uri.rpartition("/")[2] for failure in report.failed] == ["1.png"]
    reason = report.failed[0].reason
    assert reason.startswith("the image is 9x8 pixels, but the encoder accepts only 8x8")


def test_evaluation_excludes_the_query_itself(gallery: Gallery) -> None:
    evaluation = la.evaluate(gallery, k=1, baselines=True)
    assert len(evaluation.examples) == 400
    assert all(example.hits[0].uri != example.uri for example in evaluation.examples)
    # Without the exclusion a 1-nearest-neighbor search of its own rows would score 1.
    assert 0.9 < evaluation.scores.precision.value < 1
    assert evaluation.scores.precision.value == pytest.approx(
        evaluation.baselines["pixels"].precision.value
    )
    assert evaluation.confusion.sum() == 400
    assert evaluation.confusion.trace() / 400 == pytest.approx(evaluation.scores.precision.value)


def test_precision_matches_a_manual_count(gallery: Gallery) -> None:
    queries = open_source("dataset:digits/test[:40]")
    evaluation = la.evaluate(gallery, queries, k=5, first=10, metric="l2")
    correct = []
    for item in queries:
        hits = gallery.search(item.image(), k=5, metric="l2")
        correct.append([hit.metadata["label"] == item.metadata["label"] for hit in hits])
    assert evaluation.scores.precision.value == pytest.approx(np.mean(correct))
    assert evaluation.scores.first.precision == pytest.approx(np.mean(correct[:10]))


def test_unlabeled_queries_and_galleries_are_refused(
    gallery: Gallery, pixels: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "a.png")
    with pytest.raises(InputError, match="no labeled query among 1 image;"):
        la.evaluate(gallery, tmp_path / "flat")
    unlabeled = Gallery.create(tmp_path / "u.gallery", encoder=pixels)
    unlabeled.sync(tmp_path / "flat")
    with pytest.raises(InputError, match="no labels among 1 row"):
        la.evaluate(unlabeled, "dataset:digits/test")


def test_the_recall_of_a_gallery_without_rows_is_undefined(tmp_path: Path) -> None:
    encoder = open_encoder("color", [np.zeros((8, 8, 3), np.uint8)])
    gallery = Gallery.create(tmp_path / "empty.gallery", encoder=encoder)
    facts = measure_recall(gallery)
    assert facts == {"queries": 0, "recall@10": None, "p50_ms": None, "p50_ms_exact": None}
    report = copy(gallery, tmp_path / "copy.gallery")
    assert (report.queries, report.recall) == (0, None)
    shown = run("copy", "empty.gallery", "copy.gallery", cwd=tmp_path)
    assert "verified: 0 rows compared\n" in shown
    assert "search recall@10         -" in run("info", "empty.gallery", "--recall", cwd=tmp_path)
