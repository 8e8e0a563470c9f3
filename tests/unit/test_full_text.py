"""Full text of names and metadata, in the embedded store's database and in memory."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import ArtifactError, CancelledError, InputError
from lookalike.metadata import parse_metadata
from lookalike.stores import full_text
from lookalike.stores.base import Rows, VectorStore
from lookalike.stores.embedded.database import FILE
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.full_text import text_search
from lookalike.stores.memory import MemoryStore
from lookalike.stores.same_columns import by_columns
from lookalike.stores.words import RowTexts, row_texts
from lookalike.types import Metadata, Metric

Make = Callable[[], VectorStore]

ROWS: list[Metadata] = [
    {"title": "Red shoe", "tags": ["leather", "summer"], "year": 2020},
    {"title": "red, red and red again", "color": "red"},
    {"title": "Blue shoes", "price": 12.5, "sale": True},
    {"title": "Châle Été", "color": None},
    {},
]


def texts_of(ids: list[str], uris: list[str], metadata: list[Metadata]) -> RowTexts:
    return row_texts(ids, uris, by_columns(metadata))


@pytest.fixture(params=["memory", "embedded"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Creates empty stores of one kind."""
    if request.param == "memory":
        return lambda: MemoryStore(2)
    numbers = iter(range(1_000_000))
    return lambda: EmbeddedStore.create(tmp_path / f"store-{next(numbers)}", 2)


def rows_of(
    ids: Sequence[str], metadata: Sequence[Metadata] | None = None, uris: Sequence[str] = ()
) -> Rows:
    vectors = np.arange(2 * len(ids), dtype=np.float32).reshape(len(ids), 2)
    return Rows(ids, uris or [*ids], vectors, metadata or [{}] * len(ids), ["h"] * len(ids))


def filled(make: Make, ids: Sequence[str], metadata: Sequence[Metadata] | None = None) -> Any:
    store = make()
    store.upsert(rows_of(ids, metadata))
    return store


def search(store: VectorStore, keywords: str) -> list[str]:
    """Return the ids of matching rows, best first."""
    return [row_id for row_id, _ in scored(store, keywords)]


def scored(store: VectorStore, keywords: str) -> list[tuple[str, float]]:
    snapshot = store.snapshot()
    index = text_search(snapshot)
    rows = index.matching(keywords)
    assert (np.diff(rows) > 0).all()
    scores = index.scores(keywords, rows)
    pairs = zip(snapshot.ids_at(rows), scores.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@pytest.fixture
def store(make: Make) -> VectorStore:
    return filled(make, [f"{number}" for number in range(5)], ROWS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", {0, 1}),
        ("RED", {0, 1}),
        ("shoe", {0, 2}),
        ('"red shoe"', {0}),
        ('"red sho"', set()),
        ("chale ete", {3}),
        ("leather", {0}),
        ("2020", {0}),
        ("12.5", {2}),
        ("red blue", {0, 1, 2}),
        ("nothing", set()),
        ('red OR NOT ( "', {0, 1}),
        ("title:red*", set()),
        ("true", set()),
        (" ".join([*(f"word{number}" for number in range(49)), "red"]), {0, 1}),
    ],
)
def test_keywords_match_ignoring_case_and_accents(
    store: VectorStore, text: str, expected: set[int]
) -> None:
    assert set(map(int, search(store, text))) == expected


def test_more_matching_keywords_rank_higher(store: VectorStore) -> None:
    assert search(store, "red shoe")[0] == "0"
    assert search(store, "red")[0] == "1"


@pytest.mark.parametrize("text", ["", "  ", "***", '""', "\0", "red\0"])
def test_queries_without_a_word_are_refused(store: VectorStore, text: str) -> None:
    with pytest.raises(InputError, match="has no word"):
        search(store, text)


def test_too_many_keywords_are_refused(store: VectorStore) -> None:
    with pytest.raises(InputError, match="has 51 words, at most 50"):
        search(store, "red " * 51)
    with pytest.raises(InputError, match="2,001 characters, at most 2,000"):
        search(store, "x" * 2_001)


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
        ("photos", []),
        ("photos:flower/12", ["flower/12.jpg", "flower/120.jpg"]),
        ('"photos:flower/12"', ["flower/12.jpg"]),
        ("other:flower/12", []),
    ],
)
def test_names_are_split_into_words(make: Make, text: str, expected: list[str]) -> None:
    store = filled(make, [f"photos:{name}" for name in NAMES])
    names = [row_id.removeprefix("photos:") for row_id in search(store, text)]
    assert names[: len(expected)] == expected
    assert expected or not names


def test_sources_are_names_if_there_are_several(make: Make) -> None:
    store = filled(make, ["cats:1.jpg", "cats:2.jpg"])
    assert search(store, "cats") == []
    assert text_search(store.snapshot()).unmatched("cats") == {"cats": None}
    store.upsert(rows_of(["dogs:1.jpg"]))
    assert search(store, "cats") == ["cats:1.jpg", "cats:2.jpg"]
    assert search(store, "cats:1") == search(store, '"cats:1.jpg"') == ["cats:1.jpg"]
    assert text_search(store.snapshot()).unmatched("catz") == {"catz": "cats"}
    store.delete(["dogs:1.jpg"])
    assert search(store, "cats") == []


def test_scores_of_metadata_stay_where_no_name_matches(make: Make) -> None:
    alone = scored(filled(make, list("abcde"), ROWS), "red shoe leather")
    names = [f"{letter} with a longer name.jpg" for letter in "abcde"]
    with_names = scored(filled(make, names, ROWS), "red shoe leather")
    assert [score for _, score in alone] == [score for _, score in with_names]


def test_scores_of_names_and_metadata_add_up(make: Make) -> None:
    metadata: list[Metadata] = [{"color": "red"}, {"color": "blue"}, {"color": "red"}, {}, {}, {}]
    store = filled(make, ["a/shoe1", "a/shoe2", "b/hat1", "b/hat2", "b/hat3", "b/hat4"], metadata)
    scores = dict(scored(store, "red shoe"))
    assert [*scores] == ["a/shoe1", "a/shoe2", "b/hat1"]
    assert scores["a/shoe1"] == pytest.approx(scores["a/shoe2"] + scores["b/hat1"])
    index = text_search(store.snapshot())
    some = store.snapshot().row_numbers(["b/hat3", "a/shoe2"])
    assert index.scores("red shoe", some).tolist() == [0.0, scores["a/shoe2"]]


def test_scores_of_few_rows_are_those_of_all(make: Make) -> None:
    metadata: list[Metadata] = [
        {"caption": "red " * (number % 7 + 1) + "thing " * (number % 3)} for number in range(60)
    ]
    store = filled(make, [f"p:thing{number:02}" for number in range(60)], metadata)
    snapshot = store.snapshot()
    some = snapshot.row_numbers(["p:thing07", "p:thing31", "p:thing00"])
    few = text_search(snapshot).scores("red thing", some)
    again = text_search(snapshot).scores("red thing", some)
    every = dict(scored(store, "red thing"))
    expected = [every[row_id] for row_id in ("p:thing07", "p:thing31", "p:thing00")]
    assert few.tolist() == again.tolist() == expected
    assert len(set(expected)) == 3


def test_keywords_that_match_nothing_are_named_with_similar_words(store: VectorStore) -> None:
    index = text_search(store.snapshot())
    assert index.unmatched("red leathr qqqqq 1999") == {
        "leathr": "leather",
        "qqqqq": None,
        "1999": None,
    }
    assert index.unmatched("red leather") == {}
    assert len(index.unmatched(" ".join(f"leathr{'x' * i}" for i in range(40)))) == 40


@pytest.mark.parametrize(
    ("row_id", "uri", "expected"),
    [
        ("photos:a/1.jpg", "/x/a/1.jpg", ("a/1.jpg", "photos")),
        ("p:17", "https://example.org/img/red-shoe.jpg?w=9", ("17 red-shoe", "p")),
        ("p:18", "s.tar#18.jpg", ("18", "p")),
        ("digits/test:7", "dataset:digits/test#7", ("", "digits/test")),
        ("api:hat", f"g/images/{'0a' * 12}-{'b1' * 8}.png", ("hat", "api")),
        ("b", "/x/b.jpg", ("b", "")),
        ("b:", "/x/b.jpg", ("b:", "")),
        ("redBicycle:a:b", "a:b", ("a:b", "redBicycle red Bicycle")),
    ],
)
def test_names_are_keys_and_files(row_id: str, uri: str, expected: tuple[str, str]) -> None:
    assert texts_of([row_id], [uri], [{}]) == ([""], *([text] for text in expected))


def test_writes_change_what_matches(make: Make) -> None:
    store = filled(make, ["a", "b", "c"], [{"t": "red"}, {"t": "red"}, {"t": "blue"}])
    before = store.snapshot()
    store.upsert(rows_of(["b"], [{"t": "green"}]))
    store.delete(["a"])
    store.upsert(rows_of(["d"], [{"t": "red"}]))
    assert search(store, "red") == ["d"]
    assert search(store, "green blue") == ["b", "c"]
    assert text_search(store.snapshot()).unmatched("a b") == {"a": None}
    index = text_search(before)
    assert before.ids_at(index.matching("red")) == ["a", "b"]
    assert index.unmatched("green red") == {"green": None}


def test_a_search_that_waits_can_be_cancelled(store: VectorStore) -> None:
    snapshot = store.snapshot()
    index = text_search(snapshot)
    assert len(index.matching("red")) == 2
    reader = getattr(snapshot, "_reader", None)
    lock = full_text._tables[snapshot.columns()]._lock if reader is None else reader.lock
    cancellation = Cancellation()
    cancellation.cancel()
    with lock, cancellable(cancellation), pytest.raises(CancelledError):
        index.matching("blue")
    assert len(index.matching("blue")) == 1


def test_sqlite_is_interrupted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.stores.full_text._INSTRUCTIONS", 10)
    monkeypatch.setattr("lookalike.stores.embedded.reader._INSTRUCTIONS", 10)
    store = filled(make, [f"{number}" for number in range(500)], [{"word": "all"}] * 500)
    index = text_search(store.snapshot())
    assert len(index.matching("all")) == 500  # what is built is built
    cancellation = Cancellation()

    def read(connection: sqlite3.Connection) -> int:
        cancellation.cancel()  # after the checks that come before
        query = "SELECT rowid FROM metadata_text WHERE metadata_text MATCH ?"
        return len(connection.execute(query, ('"al"*',)).fetchall())

    run = index._run  # type: ignore[attr-defined]
    with cancellable(cancellation), pytest.raises(CancelledError):
        run(read)
    assert len(index.matching("al")) == 500


def test_building_goes_on_where_it_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.stores.full_text._STEP", 10)
    ids = [f"{number:03}" for number in range(95)]
    store = filled(lambda: MemoryStore(2), ids, [{"word": f"token{each}"} for each in ids])
    snapshot, cancelled = store.snapshot(), 0
    snapshot.columns()
    while True:
        cancellation = Cancellation()
        checks = iter(range(5))

        def check(
            cancellation: Cancellation = cancellation, checks: Iterator[int] = checks
        ) -> None:
            if next(checks, None) is None:
                raise CancelledError("enough")

        cancellation.check = check  # type: ignore[method-assign]
        try:
            with cancellable(cancellation):
                rows = text_search(snapshot).matching("token094 token007").tolist()
            break
        except CancelledError:
            cancelled += 1
    assert rows == [7, 94]
    assert 2 <= cancelled <= 8
    assert text_search(snapshot).matching("token").tolist() == list(range(95))


def test_tables_in_memory_are_built_once() -> None:
    store = filled(lambda: MemoryStore(2), ["a", "b"])
    text_search(store.snapshot()).matching("a")
    tables = full_text._tables[store.columns()]
    text_search(store.snapshot()).matching("b")
    assert full_text._tables[store.columns()] is tables
    store.delete(["a"])
    assert search(store, "a") == []
    assert full_text._tables[store.columns()] is not tables


WORDS = st.sampled_from(
    ["red", "Red", "redBicycle12", "châle", "夜景", "東京タワー", 'q"uote', "a\0b", "12", "x" * 300]
)
VALUES = st.recursive(
    st.one_of(
        WORDS,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.integers(-(10**6), 10**6),
        st.floats(),
        st.booleans(),
        st.none(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=6,
)
METADATA = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)


@given(METADATA)
def test_texts_of_rows_that_were_stored_stay_the_same(metadata: Metadata) -> None:
    stored = parse_metadata(json.dumps(dict(metadata), ensure_ascii=False))
    assert texts_of(["s:a"], ["a"], [metadata]) == texts_of(["s:a"], ["a"], [stored])


@given(st.lists(METADATA, min_size=1, max_size=6))
def test_texts_of_many_rows_are_those_of_each(metadata: list[Metadata]) -> None:
    ids = [f"s:{number}" for number in range(len(metadata))]
    every = [texts_of([row_id], [row_id], [row]) for row_id, row in zip(ids, metadata, strict=True)]
    parts = zip(*every, strict=True)
    assert texts_of(ids, ids, metadata) == tuple([text for [text] in part] for part in parts)


@pytest.mark.parametrize("limit", [("_WRITTEN", 3), ("_CHARACTERS", 40)])
def test_many_texts_are_added_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    monkeypatch.setattr(full_text, *limit)
    store = EmbeddedStore.create(tmp_path / "store", 2)
    titles = ["red", "", "blue " * 30, "", "green", *("shoe" for _ in range(11))]
    store.upsert(rows_of([f"s:{i}" for i in range(16)], [{"title": each} for each in titles]))
    assert len(search(store, "shoe")) == 11
    assert search(store, "blue") == ["s:2"]
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / FILE)) as connection:
        assert full_text.verify(connection, deep=True) == []
        for table, texts in (("metadata_text", 14), ("name_text", 16)):
            query = f"SELECT count(*) FROM {table}_docsize"
            assert connection.execute(query).fetchone() == (texts,)


def test_texts_of_extreme_values_stay_the_same_when_stored() -> None:
    deep: Any = "word"
    for _ in range(25):
        deep = [deep]
    metadata = {"deep": deep, "long": "y" * 400, "huge": 10**999, "endless": 1e400, "nul": "a\0b"}
    stored = parse_metadata(json.dumps(metadata))
    assert texts_of(["s:a"], ["a"], [metadata]) == texts_of(["s:a"], ["a"], [stored])


IDS = st.sampled_from(["s:redBicycle12.jpg", "s:a/1.png", "s:7", "t:夜景", "t:b", "plain", "s:c"])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.dictionaries(IDS, METADATA, min_size=1, max_size=4)),
        st.tuples(st.just("metadata"), st.dictionaries(IDS, METADATA, min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.lists(IDS, max_size=3)),
        st.tuples(st.just("purge"), st.none()),
    ),
    max_size=8,
)
QUERIES = ("red", "redbicycle", '"red bicycle"', "chale", "夜景", "quote", "1", "s", "t:b", "b c")


def apply(store: EmbeddedStore, action: str, value: Any, number: int) -> None:
    if action == "delete":
        store.delete(value)
    elif action == "purge":
        store.optimize(Metric.L2, purge=True)
    else:
        ids = [*value]
        written = rows_of(ids, [*value.values()], [f"/x/{row_id}#7" for row_id in ids])
        shift = number if action == "upsert" else 0
        vectors = np.array([[len(row_id), shift] for row_id in ids], np.float32)
        store.upsert(Rows(ids, written.uris, vectors, written.metadata, written.hashes))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_answers_are_those_of_an_index_built_afresh(
    tmp_path_factory: pytest.TempPathFactory, actions: Sequence[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("text") / "store"
    store = EmbeddedStore.create(folder, 2)
    for number, (action, value) in enumerate(actions, 1):
        apply(store, action, value, number)
    fresh = MemoryStore(2)
    everything = store.get(store.ids())
    fresh.upsert(everything)
    for query in QUERIES:
        assert scored(store, query) == scored(fresh, query)
        ours, others = (text_search(each.snapshot()).unmatched(query) for each in (store, fresh))
        assert ours == others
    with connected(folder) as connection:
        assert full_text.verify(connection) == full_text.verify(connection, deep=True) == []
        connection.execute("INSERT INTO metadata_text (metadata_text) VALUES ('integrity-check')")
        connection.execute("INSERT INTO name_text (name_text) VALUES ('integrity-check')")
        full_text.rebuild(connection)
        assert full_text.verify(connection, deep=True) == []


@contextlib.contextmanager
def connected(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 1000")
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of 200 rows."""
    store = EmbeddedStore.create(tmp_path / "damaged", 2)
    ids = [f"s:image{number:03}.jpg" for number in range(200)]
    store.upsert(rows_of(ids, [{"caption": f"red thing{number}"} for number in range(200)]))
    return tmp_path / "damaged"


@pytest.mark.parametrize(
    ("damage", "deep"),
    [
        ("INSERT INTO name_text (name_text, rowid, name) VALUES ('delete', 7, 'jpg')", False),
        ("INSERT INTO metadata_text (rowid, text) VALUES (990, 'red')", False),
        ("DELETE FROM name_text_docsize WHERE id = 3", False),
        ("UPDATE metadata_text_docsize SET sz = x'09' WHERE id = 3", True),
        ("UPDATE name_text_data SET block = x'0000' WHERE id = 1", True),
        ("UPDATE metadata_text_data SET block = zeroblob(40) WHERE id > 10", False),
        ("DELETE FROM metadata_text_data WHERE id > 10", False),
        ("UPDATE name_text_data SET block = x'ff' WHERE id = 10", False),
        ("DELETE FROM metadata_text_config", False),
        (
            "UPDATE name_text_data SET block = "
            "CAST(substr(block, 1, length(block) - 1) || x'7f' AS BLOB) WHERE id > 10",
            True,
        ),
    ],
)
def test_damage_is_noticed_and_repaired(folder: Path, damage: str, deep: bool) -> None:
    with connected(folder) as connection:
        assert full_text.verify(connection) == full_text.verify(connection, deep=True) == []
        connection.execute(damage)
    with connected(folder) as connection:
        connection.execute("PRAGMA query_only = ON")
        problems = full_text.verify(connection, deep=deep)
        assert problems
        assert all(problem.startswith("full text: ") for problem in problems)
        assert full_text.verify(connection, deep=True)
    with connected(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        full_text.rebuild(connection)
        connection.execute("COMMIT")
        assert full_text.verify(connection) == full_text.verify(connection, deep=True) == []
    assert len(search(EmbeddedStore.open(folder), "red")) == 200


def test_damaged_tables_give_a_clear_error(folder: Path) -> None:
    with connected(folder) as connection:
        connection.execute("DELETE FROM metadata_text_data WHERE id > 10")
    index = text_search(EmbeddedStore.open(folder).snapshot())
    with pytest.raises(ArtifactError, match=r"rows\.db: .*lookalike doctor"):
        index.matching("red")


def test_words_of_rows_that_do_not_exist_give_a_clear_error(folder: Path) -> None:
    with connected(folder) as connection:
        connection.execute("INSERT INTO metadata_text (rowid, text) VALUES (990, 'stranger')")
    index = text_search(EmbeddedStore.open(folder).snapshot())
    with pytest.raises(ArtifactError, match=r"rows\.db: .*lookalike doctor"):
        index.matching("stranger")


def test_a_store_that_cannot_be_written_is_searched(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        index = text_search(EmbeddedStore.open(folder).snapshot())
        assert len(index.matching("red")) == 200
        assert index.unmatched("thng7 red") == {"thng7": None}
        assert index.unmatched("thing7 re imagee") == {"imagee": "image"}
    finally:
        folder.chmod(0o700)


def test_unchanged_texts_are_not_written(folder: Path) -> None:
    store = EmbeddedStore.open(folder)
    rows = store.get(store.ids())

    def blocks(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
        return connection.execute(f"SELECT id, block FROM {table}_data").fetchall()

    with connected(folder) as connection:
        names, metadata = blocks(connection, "name_text"), blocks(connection, "metadata_text")
        labelled = [{**each, "label": "good"} for each in rows.metadata]
        columns = (rows.ids, rows.uris, rows.embeddings, labelled, rows.hashes)
        store.upsert(Rows(*columns))
        assert blocks(connection, "name_text") == names
        assert blocks(connection, "metadata_text") != metadata
    assert len(search(store, "good")) == 200
