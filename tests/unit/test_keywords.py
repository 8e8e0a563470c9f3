"""Keyword search in metadata, and its fusion with the image ranking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, InputError
from lookalike.filters import MetadataColumns
from lookalike.gallery.gallery import Gallery
from lookalike.search.keywords import KeywordIndex, fuse_rankings, keyword_index
from lookalike.sources import open_source
from lookalike.types import Metadata
from tests.unit.test_explore import scene

ROWS: list[Metadata] = [
    {"title": "Red shoe", "tags": ["leather", "summer"], "year": 2020},
    {"title": "red, red and red again", "color": "red"},
    {"title": "Blue shoes", "price": 12.5, "sale": True},
    {"title": "Châle Été", "color": None},
    {},
]


def rows(text: str) -> list[int]:
    return KeywordIndex(MetadataColumns(ROWS)).search(text)[0].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", {0, 1}),
        ("RED", {0, 1}),
        ("shoe", {0, 2}),
        ('"red shoe"', {0}),
        ("chale ete", {3}),
        ("leather", {0}),
        ("2020", {0}),
        ("12.5", {2}),
        ("red blue", {0, 1, 2}),
        ("nothing", set()),
        ('red OR NOT ( "', {0, 1}),
        ("title:red*", set()),
        ("true", set()),
    ],
)
def test_keywords_match_ignoring_case_and_accents(text: str, expected: set[int]) -> None:
    assert set(rows(text)) == expected


def test_more_matching_keywords_rank_higher() -> None:
    assert rows("red shoe")[0] == 0
    assert rows("red")[0] == 1


@pytest.mark.parametrize("text", ["", "  ", "***", '""', "\0"])
def test_queries_without_a_word_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="has no word"):
        rows(text)


def test_too_many_keywords_are_refused() -> None:
    with pytest.raises(InputError, match="has 51 words, at most 50"):
        rows("red " * 51)


def test_the_index_is_built_once_per_metadata() -> None:
    columns = MetadataColumns(ROWS)
    assert keyword_index(columns) is keyword_index(columns)
    assert keyword_index(MetadataColumns(ROWS)) is not keyword_index(columns)


def test_a_cancelled_index_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.search.keywords._STEP", 10)
    index = KeywordIndex(MetadataColumns([{"word": f"token{i:03}"} for i in range(95)]))
    cancelled = 0
    while True:
        cancellation = Cancellation()
        checks = iter(range(3))

        def check(
            cancellation: Cancellation = cancellation, checks: Iterator[int] = checks
        ) -> None:
            if next(checks, None) is None:
                raise CancelledError("enough")

        cancellation.check = check  # type: ignore[method-assign]
        try:
            with cancellable(cancellation):
                rows = index.search("token094 token007")[0].tolist()
            break
        except CancelledError:
            cancelled += 1
    assert rows == [7, 94]
    assert 2 <= cancelled <= 5
    assert index.search("token")[0].tolist() == list(range(95))


def test_sqlite_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.search.keywords._INSTRUCTIONS", 10)
    index = KeywordIndex(MetadataColumns([{"word": "all"}] * 3_000))
    assert len(index.search("all")[0]) == 3_000  # it is built
    cancellation = Cancellation()
    cancellation.cancel()
    monkeypatch.setattr(KeywordIndex, "_build", lambda *_: None)
    with cancellable(cancellation), pytest.raises(CancelledError):
        index.search("al")
    assert len(index.search("al")[0]) == 3_000


def test_a_search_that_waits_for_the_index_can_be_cancelled() -> None:
    index = KeywordIndex(MetadataColumns(ROWS))
    cancellation = Cancellation()
    cancellation.cancel()
    with index._lock, cancellable(cancellation), pytest.raises(CancelledError):
        index.search("red")
    assert len(index.search("red")[0]) == 2


def test_texts_that_are_no_unicode_are_searched() -> None:
    index = KeywordIndex(MetadataColumns([{"word": "caf\ud800 noir"}, {"word": "blanc"}]))
    assert index.search("noir")[0].tolist() == [0]
    assert index.search("blanc\ud800x noir")[0].tolist() == [0]
    with pytest.raises(InputError, match="2,001 characters, at most 2,000"):
        index.search("x" * 2_001)


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
