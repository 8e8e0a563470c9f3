"""Queries that the gallery holds: found, reported beside the figures, and left out of rankings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, SettingError
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.summary import cautions
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_cli import run

LABELS = 4
PER_LABEL = 6


def picture(label: int, number: int) -> Image.Image:
    """Return colored blocks, a few of them as in the other images of the label."""
    shared = np.random.default_rng(label).integers(0, 256, (6, 6, 3))
    own = np.random.default_rng([label, number, 1]).integers(0, 256, (6, 6, 3))
    own[:2] = shared[:2]
    return Image.fromarray(own.astype(np.uint8)).resize((72, 72), Image.Resampling.BICUBIC)


def save(folder: Path, numbers: range, suffix: str = ".png") -> None:
    for label in range(LABELS):
        (folder / f"label{label}").mkdir(parents=True, exist_ok=True)
        for number in numbers:
            picture(label, number).save(folder / f"label{label}" / f"{number}{suffix}", quality=80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of labeled images; the same files, re-saved ones, and others as queries."""
    work = tmp_path_factory.mktemp("leakage")
    save(work / "photos", range(PER_LABEL))
    save(work / "copies", range(PER_LABEL))
    save(work / "saved", range(PER_LABEL), ".jpg")
    save(work / "others", range(10, 10 + PER_LABEL))
    source = open_source(work / "photos")
    gallery = Gallery.create(
        work / "photos.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    return work


@pytest.fixture(scope="module")
def gallery(folder: Path) -> Gallery:
    return Gallery.open(folder / "photos.gallery")


def counts(evaluation: Evaluation) -> tuple[int, int]:
    assert evaluation.leakage is not None
    return len(evaluation.leakage.exact), len(evaluation.leakage.near)


def test_identical_queries_are_reported_and_can_be_ignored(folder: Path, gallery: Gallery) -> None:
    copies = evaluate(gallery, folder / "copies", k=3)
    assert counts(copies) == (24, 0)
    assert copies.scores.recall_at_1.value == 1
    assert "24 of 24 queries are in the gallery (24 identical" in cautions(copies)[0]
    without = evaluate(gallery, folder / "copies", k=3, exclude_duplicates=True)
    own_rows = evaluate(gallery, k=3)
    assert counts(own_rows) == (0, 0)
    # Without its copy, a query ranks the other rows as the row itself does.
    assert without.scores.precision == own_rows.scores.precision
    assert without.scores.map == own_rows.scores.map
    assert without.scores.recall == own_rows.scores.recall
    assert [e.relevant for e in without.examples] == [PER_LABEL - 1] * 24
    assert "ignored in their ranking" in cautions(without)[0]
    document = json.loads(json.dumps(without.as_dict()))["leakage"]
    assert (document["exact"], document["near"], document["excluded"]) == (24, 0, True)
    assert document["examples"][0]["rows"] == ["photos:label0/0.png"]


@pytest.mark.slow
def test_near_duplicates_of_queries_are_reported_and_can_be_ignored(
    folder: Path, gallery: Gallery
) -> None:
    saved = evaluate(gallery, folder / "saved", k=3)
    exact, near = counts(saved)
    assert exact == 0
    assert near >= 22  # the threshold misses some copies
    assert saved.leakage is not None
    assert saved.leakage.threshold is not None
    (rows,) = {len(rows) for rows in saved.leakage.near.values()}
    assert rows == 1
    without = evaluate(gallery, folder / "saved", k=3, exclude_duplicates=True, baselines=True)
    assert without.scores.recall_at_1.value < saved.scores.recall_at_1.value
    assert without.baselines["chance"].precision.value < (PER_LABEL - 1) / (24 - 2)
    variant = evaluate(
        gallery, folder / "saved", k=3, exclude_duplicates=True, variants="foreground"
    ).variants["foreground"]
    assert variant.scores.recall_at_1.value < 1


def test_other_queries_leak_nothing(folder: Path, gallery: Gallery) -> None:
    others = evaluate(gallery, folder / "others", k=3)
    assert counts(others) == (0, 0)
    assert cautions(others) == [
        "leakage: no query has an identical or near-duplicate image in the gallery"
    ]


def test_copies_among_the_rows_themselves_are_reported(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save(photos, range(2))
    (photos / "label0" / "again.png").write_bytes((photos / "label0" / "0.png").read_bytes())
    source = open_source(photos)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    assert counts(evaluate(gallery)) == (2, 0)
    assert "2 of 9 queries are in the gallery" in cautions(evaluate(gallery))[0]


def test_queries_whose_relevant_rows_are_all_copies_are_in_no_figure(tmp_path: Path) -> None:
    save(tmp_path / "photos", range(1))
    save(tmp_path / "copies", range(1))
    picture(0, 5).save(tmp_path / "photos" / "label0" / "5.png")
    source = open_source(tmp_path / "photos")
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    result = evaluate(gallery, tmp_path / "copies", exclude_duplicates=True)
    assert (len(result.examples), result.without_relevant) == (1, 3)
    assert "its relevant rows are duplicates of it" in result.skipped[0].reason
    (tmp_path / "photos" / "label0" / "5.png").unlink()
    gallery.sync(open_source(tmp_path / "photos"))
    with pytest.raises(InputError, match="duplicates of it"):
        evaluate(gallery, tmp_path / "copies", exclude_duplicates=True)
    with pytest.raises(InputError, match="no query with a relevant row"):
        evaluate(gallery)


def test_queries_without_a_relevant_row_are_counted_and_in_no_figure(
    folder: Path, gallery: Gallery, tmp_path: Path
) -> None:
    save(tmp_path / "queries", range(10, 12))
    with_unknown = tmp_path / "queries" / "other"
    with_unknown.mkdir()
    picture(9, 0).save(with_unknown / "0.png")
    known = evaluate(gallery, folder / "others", k=3)
    result = evaluate(gallery, tmp_path / "queries", k=3)
    assert (len(result.examples), result.without_relevant) == (8, 1)
    assert result.scores.recall.value > 0.5 * known.scores.recall.value
    assert "1 query has no relevant row" in cautions(result)[-1]
    assert result.as_dict()["without_relevant"] == 1


def test_leakage_without_the_gallery_s_images_is_partly_unknown(
    folder: Path, tmp_path: Path
) -> None:
    save(tmp_path / "photos", range(2))
    source = open_source(tmp_path / "photos")
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    (tmp_path / "photos").rename(tmp_path / "away")
    leakage = evaluate(gallery, folder / "copies").leakage
    assert leakage is not None
    assert len(leakage.exact) == 8
    assert leakage.as_dict()["near"] is None
    assert "none of 8 images of the gallery can be read" in leakage.notes()[1]


def test_synthetic_queries_have_no_leakage_and_exclude_nothing(gallery: Gallery) -> None:
    with pytest.raises(SettingError, match="cannot be combined with exclude_duplicates"):
        evaluate(gallery, synthetic_queries=True, exclude_duplicates=True)


def test_a_query_with_an_embedding_of_zeros_has_no_hits(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder / "photos")
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("hog", sample_images(source))
    )
    gallery.sync(source)
    (tmp_path / "queries" / "label0").mkdir(parents=True)
    Image.new("RGB", (72, 72), "gray").save(tmp_path / "queries" / "label0" / "blank.png")
    picture(0, 10).save(tmp_path / "queries" / "label0" / "10.png")
    result = evaluate(gallery, tmp_path / "queries")
    assert result.zero_embeddings == 1
    # By id, the first rows would have been of its label.
    assert {Path(each.uri).name: len(each.hits) for each in result.examples} == {
        "10.png": 7,
        "blank.png": 0,
    }
    assert "1 query has an embedding of zeros: counted as without a hit" in cautions(result)


@pytest.mark.slow
def test_the_command_line_and_the_report_warn_of_leakage(folder: Path) -> None:
    text = run("evaluate", "photos.gallery", "copies", "--report", "r.html", cwd=folder)
    assert "leakage: 24 of 24 queries are in the gallery (24 identical, 0 near-duplicate)" in text
    assert "--exclude-duplicates" in text
    assert "24 of 24 queries are in the gallery" in text.partition("\n* color: ")[2].splitlines()[0]
    page = (folder / "r.html").read_text()
    assert "Leakage: 24 of 24 queries are in the gallery" in page
    arguments = ("evaluate", "photos.gallery", "copies", "--exclude-duplicates", "--json")
    document = json.loads(run(*arguments, cwd=folder))
    assert document["leakage"]["excluded"]
    assert document["recall_at_1"] < 1
