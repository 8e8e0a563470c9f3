"""Keyword search in metadata, and its fusion with the image ranking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, InputError
from lookalike.filters import MetadataColumns
from lookalike.gallery.gallery import Gallery
from lookalike.search.keywords import (
    KeywordIndex,
    fuse_rankings,
    keyword_index,
    keywords_of_text,
    names_of_rows,
    with_text,
)
from lookalike.sources import open_source
from lookalike.stores.base import Rows
from lookalike.stores.memory import MemoryStore
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


NAMES = [
    "IMG_2041.jpg",
    "flower/12.jpg",
    "flower/120.jpg",
    "holiday/red-bicycle.jpg",
    "redBicycle7.PNG",
    "XMLFile/DSC00042.jpg",
    "Été à Nîmes.jpg",
    "東京タワー夜景.jpg",
    "写真/京都.jpg",
]


def named(text: str) -> list[str]:
    index = KeywordIndex(MetadataColumns([{}] * len(NAMES)))
    return [NAMES[row] for row in index.search(text, lambda: NAMES)[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IMG_2041", ["IMG_2041.jpg"]),
        ("img2041", ["IMG_2041.jpg"]),
        ("2041", ["IMG_2041.jpg"]),
        ("flower/12", ["flower/12.jpg", "flower/120.jpg"]),
        ("flower/120.jpg", ["flower/120.jpg"]),
        ("red-bicycle.jpg", ["holiday/red-bicycle.jpg"]),
        ('"red bicycle"', ["holiday/red-bicycle.jpg", "redBicycle7.PNG"]),
        ("redbicycle", ["redBicycle7.PNG"]),
        ("RedBicycle", ["redBicycle7.PNG", "holiday/red-bicycle.jpg"]),
        ("bicycle 7", ["redBicycle7.PNG", "holiday/red-bicycle.jpg"]),
        ("xml", ["XMLFile/DSC00042.jpg"]),
        ("file", ["XMLFile/DSC00042.jpg"]),
        ("00042", ["XMLFile/DSC00042.jpg"]),
        ("ete nimes", ["Été à Nîmes.jpg"]),
        ("E\u0301te\u0301", ["Été à Nîmes.jpg"]),
        ("タワー", ["東京タワー夜景.jpg"]),
        ("東京 夜景", ["東京タワー夜景.jpg"]),
        ("京都", ["写真/京都.jpg"]),
        ("京", ["写真/京都.jpg", "東京タワー夜景.jpg"]),
        ("橋", []),
    ],
)
def test_names_are_split_into_words(text: str, expected: list[str]) -> None:
    assert named(text)[: len(expected)] == expected
    assert expected or not named(text)


def test_scores_of_metadata_stay_where_no_name_matches() -> None:
    columns = MetadataColumns(ROWS)
    alone = KeywordIndex(columns).search("red shoe leather")
    with_names = KeywordIndex(columns).search("red shoe leather", lambda: ["x/y z.jpg"] * 5)
    assert all(map(np.array_equal, alone, with_names))


def test_scores_of_names_and_metadata_add_up() -> None:
    columns = MetadataColumns([{"color": "red"}, {"color": "blue"}, {"color": "red"}, {}, {}, {}])
    names = ["shoe1", "shoe2", "hat", "hat", "hat", "hat"]
    rows, scores = KeywordIndex(columns).search("red shoe", lambda: names)
    assert rows.tolist()[0] == 0
    assert set(rows.tolist()) == {0, 1, 2}
    assert (np.diff(scores) <= 0).all()


def test_keywords_that_match_nothing_are_named_with_similar_words() -> None:
    index = KeywordIndex(MetadataColumns(ROWS))
    assert index.unmatched("red leathr qqqqq 1999") == {
        "leathr": "leather",
        "qqqqq": None,
        "1999": None,
    }
    assert index.unmatched("red leather") == {}
    assert len(index.unmatched(" ".join(f"leathr{'x' * i}" for i in range(40)))) == 40


def test_names_of_rows_are_keys_and_files() -> None:
    vectors = np.ones((3, 2), np.float32)

    def names(ids: list[str], uris: list[str]) -> list[str]:
        store = MemoryStore(2)
        store.upsert(Rows(ids, uris, vectors[: len(ids)], [{}] * len(ids), ids))
        return names_of_rows(store)

    assert names(["photos:a/1.jpg", "photos:b.jpg"], ["/x/a/1.jpg", "/x/b.jpg"]) == [
        "a/1.jpg",
        "b.jpg",
    ]
    assert names(["cats:1.jpg", "dogs:1.jpg"], ["/x/cats/1.jpg", "/x/dogs/1.jpg"]) == [
        "cats:1.jpg",
        "dogs:1.jpg",
    ]
    products = names(["p:17", "p:18"], ["https://example.org/img/red-shoe.jpg?w=9", "s.tar#18.jpg"])
    assert products == ["17 red-shoe", "18"]
    digits = ["dataset:digits/test#7", "dataset:digits/test#8"]
    assert names(["digits/test:7", "digits/test:8"], digits) == ["", ""]
    assert names(["digits/test:7", "p:8"], [digits[0], "https://example.org/hat.jpg"]) == [
        "digits/test",
        "p:8 hat",
    ]
    added = f"g/images/{'0a' * 12}-{'b1' * 8}.png"
    assert names(["api:hat", "api:shoe"], [added, added]) == ["hat", "shoe"]
    assert names([], []) == []


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
