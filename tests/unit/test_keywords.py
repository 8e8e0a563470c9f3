"""Keyword search in names and metadata, and its fusion with the image ranking."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.search.keywords import fuse_rankings, keywords_of_text, with_text
from lookalike.sources import open_source
from tests.unit.test_explore import scene


def test_rank_fusion_gives_equal_scores_one_rank() -> None:
    by_image = ["a", "b", "c", "d"]
    assert fuse_rankings(by_image, []) == by_image
    assert fuse_rankings(by_image, [("d", 2.0), ("c", 2.0)]) == ["c", "d", "a", "b"]
    assert fuse_rankings(by_image, [("d", 3.0), ("c", 1.0)])[0] == "d"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    from lookalike.encoders.registry import open_encoder
    from lookalike.sources.sampling import sample_images

    folder: Path = tmp_path_factory.mktemp("words") / "things"
    folder.mkdir()
    lines = ["path,kind,year"]
    for seed in range(40):
        scene(seed, 24).save(folder / f"{seed:02d}.png")
        lines.append(f"{seed:02d}.png,{'red thing' if seed % 4 == 1 else 'thing'},{2000 + seed}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    source = open_source(folder)
    created = Gallery.create(
        folder.parent / "g.gallery", encoder=open_encoder("pixels", sample_images(source))
    )
    created.sync(source)
    return created


def test_images_that_match_both_rankings_are_first(gallery: Gallery) -> None:
    row_id = gallery.store.ids()[0]
    every = list(gallery.search(id=row_id, k=39))
    red = [hit.id for hit in every if hit.metadata["kind"] == "red thing"]
    hits = gallery.search(id=row_id, keywords="red", k=39)
    assert [hit.id for hit in hits][: len(red)] == red
    assert {hit.id for hit in hits} == {hit.id for hit in every}
    near = {hit.id: hit.distance for hit in every}
    assert all(hit.distance == pytest.approx(near[hit.id]) for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, 40))
    assert row_id not in [hit.id for hit in hits]


def test_keywords_alone(gallery: Gallery) -> None:
    hits = gallery.search(keywords="red", k=5)
    assert len(hits) == 5
    assert all(hit.metadata["kind"] == "red thing" for hit in hits)
    assert hits.query == "red"
    assert hits[0].distance == 0
    assert len(gallery.search(keywords="red", k=40)) == 10
    assert len(gallery.search(keywords="nobody", k=5)) == 0


def test_filters_apply_to_keywords(gallery: Gallery) -> None:
    hits = gallery.search(keywords="red", where="year >= 2020", k=40)
    assert {hit.metadata["year"] for hit in hits} == {2021, 2025, 2029, 2033, 2037}
    row_id = gallery.store.ids()[0]
    both = gallery.search(id=row_id, keywords="red", where="year < 2010", k=40)
    assert [hit.metadata["kind"] for hit in both[:3]] == ["red thing"] * 3
    assert all(hit.metadata["year"] < 2010 for hit in both)


def test_keywords_find_distant_rows(gallery: Gallery) -> None:
    row_id = gallery.store.ids()[0]
    every = [hit.id for hit in gallery.search(id=row_id, k=39)]
    last = gallery.store.get([every[-1]]).metadata[0]["year"]
    assert every[-1] in [hit.id for hit in gallery.search(id=row_id, keywords=str(last), k=3)]


def test_regions_without_an_image_are_refused(gallery: Gallery) -> None:
    with pytest.raises(InputError, match="keywords alone"):
        gallery.search(keywords="red", multi_crop=True)
    with pytest.raises(InputError, match="query and id exclude each other"):
        gallery.search(np.zeros((24, 24, 3), np.uint8), id="things:00.png", keywords="red")


def test_texts_are_searched_without_their_stop_words() -> None:
    assert keywords_of_text('a photo of "the" red bicycle, in a garden') == (
        "photo red bicycle garden"
    )
    assert keywords_of_text("the") == "the"
    assert keywords_of_text("red\0car") == keywords_of_text("red,car;") == "red car"
    assert len(keywords_of_text(" ".join(map(str, range(99)))).split()) == 50
    assert with_text("a", None) == with_text(None, "a") == with_text("", "a") == "a"
    assert with_text('"red car" b', "c d") == '"red car" b c d'
    words = keywords_of_text(" ".join(map(str, range(99))))
    assert with_text("a b", words).split() == ["a", "b", *words.split()[:48]]
    assert len(with_text("a" * 1990, "b" * 9 + " c")) == 2000
    assert with_text("a" * 1991, "b" * 9 + " c") == "a" * 1991
    for text in ("", " \t", "?!", '""'):
        name = re.escape(text if text.strip() else repr(text))
        with pytest.raises(InputError, match=f"^text={name} has no word to search for"):
            keywords_of_text(text)
