"""Orders of rows by name, date, source and columns, in every store that needs no server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.errors import CancelledError, InputError, SettingError
from lookalike.filters import RowFilter, as_filter
from lookalike.gallery.gallery import Gallery
from lookalike.search import groups, ordering
from lookalike.search.groups import Group, group_rows
from lookalike.search.ordering import (
    SortKey,
    date_column,
    file_date,
    file_time_ns,
    is_ordered,
    name_of,
    order_rows,
    sort_keys,
    source_of,
)
from lookalike.stores.base import RowReader, Rows, VectorStore
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.memory import MemoryStore

NewStore = Callable[[], VectorStore]

ROWS: Mapping[str, Mapping[str, Any]] = {
    "b:x/IMG_10.jpg": {"year": 2001, "tag": "b", "mixed": "text"},
    "a:y/IMG_9.jpg": {"year": 2003.0, "tag": ["c", "a"], "mixed": 10},
    "a:y/img_2.jpg": {"year": 2001, "tag": "a", "mixed": True},
    "a:z/IMG_100.jpg": {"tag": "b", "mixed": 9.5},
    "b:IMG_1.jpg": {"year": 1999, "tag": [], "mixed": {"a": 1}},
    "c": {"year": 2001, "mixed": "Text", "id": 5, "-odd": 1},
}


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VectorStore:
    new: VectorStore = (
        MemoryStore(2)
        if request.param == "memory"
        else EmbeddedStore.create(tmp_path / "rows", dim=2)
    )
    fill(new, ROWS)
    return new


def fill(
    store: VectorStore, rows: Mapping[str, Mapping[str, Any]], signatures: Sequence[str] = ()
) -> None:
    count = len(rows)
    vectors = np.ones((count, 2), np.float32)
    uris, hashes = [""] * count, ["0" * 64] * count
    store.upsert(Rows([*rows], uris, vectors, [*rows.values()], hashes, signatures))


def ids(store: VectorStore, **options: Any) -> list[str]:
    view = store.snapshot()
    return view.ids_at(order_rows(view, **options))


def names(store: VectorStore, **options: Any) -> list[str]:
    return [name_of(row_id) for row_id in ids(store, **options)]


def test_by_id_and_by_name(store: VectorStore) -> None:
    """Names are ordered without case, and the numbers in them by value."""
    assert ids(store) == sorted(ROWS)
    assert ids(store, sort="-id") == sorted(ROWS, reverse=True)
    by_name = ["c", "IMG_1.jpg", "img_2.jpg", "IMG_9.jpg", "IMG_10.jpg", "IMG_100.jpg"]
    assert names(store, sort="name") == by_name
    assert names(store, sort="-name") == by_name[::-1]


def test_by_a_column_with_ties_by_id_and_missing_values_last(store: VectorStore) -> None:
    tied = ["a:y/img_2.jpg", "b:x/IMG_10.jpg", "c"]
    missing = "a:z/IMG_100.jpg"
    assert ids(store, sort="year") == ["b:IMG_1.jpg", *tied, "a:y/IMG_9.jpg", missing]
    assert ids(store, sort="-year") == ["a:y/IMG_9.jpg", *tied, "b:IMG_1.jpg", missing]
    assert ids(store, sort=["-year", "-id"])[1:4] == tied[::-1]


def test_kinds_of_values_are_apart_and_a_list_counts_as_its_first(store: VectorStore) -> None:
    assert ids(store, sort="mixed") == [
        "a:y/img_2.jpg",  # True
        "a:z/IMG_100.jpg",  # 9.5
        "a:y/IMG_9.jpg",  # 10
        "c",  # Text
        "b:x/IMG_10.jpg",  # text
        "b:IMG_1.jpg",  # an object has no order
    ]
    assert ids(store, sort="tag") == [
        "a:y/img_2.jpg",
        "a:z/IMG_100.jpg",
        "b:x/IMG_10.jpg",
        "a:y/IMG_9.jpg",  # c
        "b:IMG_1.jpg",  # an empty list
        "c",
    ]


def test_several_keys(store: VectorStore) -> None:
    assert ids(store, sort=["source", "-name"])[:3] == ["c", "a:z/IMG_100.jpg", "a:y/IMG_9.jpg"]
    assert ids(store, sort=["-source", "year"])[:2] == ["b:IMG_1.jpg", "b:x/IMG_10.jpg"]
    assert ids(store, sort=["id", "year"]) == sorted(ROWS)


def test_columns_that_are_called_like_facts(store: VectorStore) -> None:
    assert ids(store, sort="metadata.id")[0] == "c"
    assert ids(store, sort="metadata.-odd")[0] == "c"
    assert ids(store, sort="metadata.year") == ids(store, sort="year")


def test_filters_and_keywords_choose_rows(store: VectorStore) -> None:
    assert ids(store, where="year = 2001", sort="-id") == ["c", "b:x/IMG_10.jpg", "a:y/img_2.jpg"]
    assert ids(store, where={"tag": "a"}, sort="year") == ["a:y/img_2.jpg", "a:y/IMG_9.jpg"]
    assert ids(store, keywords="img jpg 2001") == ["a:y/img_2.jpg", "b:x/IMG_10.jpg"]
    assert ids(store, keywords='"img 10"') == ["b:x/IMG_10.jpg"]
    assert ids(store, keywords="img", where="year > 2001") == ["a:y/IMG_9.jpg"]
    assert ids(store, where="year > 3000") == []
    view = store.snapshot()
    rows = RowFilter(view.row_numbers(["c", "a:y/IMG_9.jpg"]), view.columns())
    assert view.ids_at(order_rows(view, where=rows)) == ["a:y/IMG_9.jpg", "c"]


def test_after_rows_were_deleted_and_written(store: VectorStore) -> None:
    """Row numbers and codes are others then; what was kept of the order before is not used."""
    before = store.snapshot()
    order = order_rows(before, sort="year")
    store.delete(["b:IMG_1.jpg", "a:y/img_2.jpg"])
    fill(store, {"d": {"year": 1000}, "c": {"year": 5000}})
    assert ids(store, sort="year") == [
        "d",
        "b:x/IMG_10.jpg",
        "a:y/IMG_9.jpg",
        "c",
        "a:z/IMG_100.jpg",
    ]
    assert before.ids_at(order)[0] == "b:IMG_1.jpg"
    assert order_rows(before, sort="year") is order


def test_an_order_is_kept_and_conditions_are_told_apart(store: VectorStore) -> None:
    view = store.snapshot()
    assert not is_ordered(view, sort="mixed")
    first = order_rows(view, sort="mixed")
    assert is_ordered(view, sort=["mixed"])
    assert order_rows(store.snapshot(), sort="mixed") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    assert len(order_rows(view, where={"mixed": True})) == 1
    assert len(order_rows(view, where={"mixed": 1})) == 0  # a number is no boolean


def test_an_empty_store(tmp_path: Path) -> None:
    for empty in (MemoryStore(2), EmbeddedStore.create(tmp_path / "rows", dim=2)):
        for sort in ("id", "name", "source", "date", "any column"):
            assert ids(empty, sort=sort) == []
        assert ids(empty, where="a = 1", keywords="b") == []


@pytest.mark.parametrize(
    ("options", "parameter", "message"),
    [
        ({"sort": "yaer"}, "sort", "did you mean 'year'"),
        ({"sort": ""}, "sort", "what to sort by"),
        ({"sort": "metadata."}, "sort", "what to sort by"),
        ({"sort": ["a", 5]}, "sort", "list of texts"),
        ({"sort": ["a"] * 4}, "sort", "more than 3"),
        ({"sort": "date"}, "sort", "no dates"),
        ({"where": "yaer = 1"}, "where", "yaer"),
        ({"where": "year = 'x' and"}, "where", "filter"),
        ({"where": {"year": {"lt": "x"}}}, "where", "year"),
        ({"keywords": "!"}, "keywords", "no word"),
    ],
)
def test_bad_arguments_are_named(
    store: VectorStore, options: Mapping[str, Any], parameter: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        ids(store, **options)
    assert parameter in raised.value.parameters


def test_by_date(tmp_path: Path) -> None:
    """The column that has dates, else the time of the files."""
    for new in (MemoryStore(2), EmbeddedStore.create(tmp_path / "rows", dim=2)):
        times = ["5-3000000000", "5-1000000000-7", "", "junk", "5-2000000000"]
        fill(new, {name: {} for name in "abcde"}, times)
        assert ids(new, sort="date") == ["b", "e", "a", "c", "d"]
        assert ids(new, sort="-date") == ["a", "e", "b", "c", "d"]
        fill(new, {"c": {"Taken_At": "2026-01-01"}, "d": {"Taken_At": "2025-01-01"}})
        assert ids(new, sort="date")[:2] == ["d", "c"]
        assert date_column(new.snapshot().columns()) == "Taken_At"


def test_the_date_of_a_file(tmp_path: Path) -> None:
    from lookalike.sources.folder import file_signature

    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    os.utime(file, ns=(0, 1_764_000_000_000_000_000))
    signature = file_signature(file)
    assert file_time_ns(signature) == 1_764_000_000_000_000_000
    assert file_date(signature) == "2025-11-24T16:00:00+00:00"
    for other in ("", "5", "5-", "a-b", "5-x", f"5-{'9' * 40}"):
        assert file_time_ns(other) is None
        assert file_date(other) is None
    assert file_date(f"5-{'9' * 20}") is not None


def test_parts_of_an_id() -> None:
    assert name_of("photos:cats/a:1.jpg") == "a:1.jpg"
    assert name_of("a/b.jpg") == "b.jpg"
    assert (name_of("x"), name_of("s:a/")) == ("x", "a/")
    assert (source_of("photos:cats/1.jpg"), source_of("x")) == ("photos", "")


def test_keys_as_text() -> None:
    keys = sort_keys(["-year", "metadata.name", "-id"])
    assert keys == (
        SortKey("year", is_column=True, descending=True),
        SortKey("name", is_column=True),
        SortKey("id", descending=True),
    )
    assert list(map(str, keys)) == ["-metadata.year", "metadata.name", "-id"]
    assert sort_keys(["id", "year"]) == (SortKey("id"),)  # no two rows have the same one
    with pytest.raises(SettingError, match="3"):
        sort_keys([*"abcd"])


def test_sorting_can_be_cancelled(store: VectorStore) -> None:
    from lookalike.cancellation import Cancellation, cancellable

    cancellation = Cancellation()
    cancellation.cancel()
    with cancellable(cancellation), pytest.raises(CancelledError):
        order_rows(store.snapshot(), sort="tag")


def test_random_columns_are_in_the_order_of_a_plain_sort(store: VectorStore) -> None:
    """Against Python's own sort of the values, for several seeds, with gaps and deleted rows."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = {
            f"s{rng.integers(3)}:{number}": (
                {"n": float(rng.integers(9)) / 2} if rng.random() < 0.8 else {}
            )
            for number in rng.permutation(60).tolist()
        }
        store.delete(list(store.ids()))
        fill(store, rows)
        gone = sorted(rows)[:: int(rng.integers(3, 9))]
        store.delete(gone)
        rest = {row_id: row for row_id, row in rows.items() if row_id not in gone}
        for sign, key in ((1, "n"), (-1, "-n")):
            expected = sorted(
                rest, key=lambda row_id: (sign * rest[row_id].get("n", sign * np.inf), row_id)
            )
            assert ids(store, sort=key) == expected


# ---- listings ------------------------------------------------------------------------------------


@pytest.fixture
def gallery() -> Gallery:
    vectors = np.arange(1, 2 * len(ROWS) + 1, dtype=np.float32).reshape(-1, 2)
    return Gallery.from_embeddings(vectors, ids=[*ROWS], metadata=[*ROWS.values()])


def test_a_listing_is_a_sequence_of_items(gallery: Gallery) -> None:
    listing = gallery.browse(sort="year")
    assert len(listing) == len(ROWS)
    assert listing[0].id == "b:IMG_1.jpg"
    assert listing[-1].id == "a:z/IMG_100.jpg"
    assert [item.id for item in listing[1:3]] == ["a:y/img_2.jpg", "b:x/IMG_10.jpg"]
    assert [item.id for item in listing] == listing.ids()
    assert (listing[0].embedding == gallery.embedding("b:IMG_1.jpg")).all()
    assert listing[0].metadata == ROWS["b:IMG_1.jpg"]
    assert listing[9:] == []
    assert list(gallery.browse(where="year > 3000")) == []
    assert repr(listing).endswith("6 rows>")
    with pytest.raises(IndexError):
        listing[6]


def test_a_listing_stays_when_rows_are_removed(gallery: Gallery) -> None:
    listing = gallery.browse(sort="name")
    gallery.remove("c")
    assert listing[0].id == "c"
    assert len(gallery.browse()) == len(ROWS) - 1
    assert listing.state != gallery.state


def test_groups_follow_the_order(store: VectorStore) -> None:
    def groups(sort: str, key: str, by: str = "value") -> list[tuple[Any, int]]:
        rows = order_rows(store, sort=sort)
        parts = group_rows(store, rows, key, by)
        assert sum(each.count for each in parts) == len(rows)
        return [(each.value, each.count) for each in parts]

    assert groups("year", "year") == [(1999, 1), (2001, 3), (2003, 1), (None, 1)]
    assert groups("-year", "year") == [(2003, 1), (2001, 3), (1999, 1), (None, 1)]
    assert groups("tag", "metadata.tag") == [("a", 1), ("b", 2), ("c", 1), (None, 2)]
    assert groups("source", "source") == [("", 1), ("a", 3), ("b", 2)]
    assert groups("id", "source") == [("a", 3), ("b", 2), ("", 1)]
    assert [value for value, _ in groups("mixed", "mixed")][:3] == [True, 9.5, 10]
    assert group_rows(store, order_rows(store, where="year > 3000"), "year") == []
    with pytest.raises(SettingError, match="by"):
        groups("year", "year", "week")
    for key in ("name", "id"):
        with pytest.raises(InputError, match="key"):
            groups("id", key)
    with pytest.raises(InputError, match="year"):
        groups("id", "yaer")


def test_groups_by_date(tmp_path: Path) -> None:
    dates = ["2024-05-01", "2024-05-31T10:00:00", "2024:06:02 08:00:00", "soon", "2024-1", None]
    rows = {f"{i}": {} if date is None else {"date": date} for i, date in enumerate(dates)}
    store = MemoryStore(2)
    fill(store, rows)
    order = order_rows(store, sort="date")
    by_month = group_rows(store, order, "date", "month")
    assert [(each.value, each.count) for each in by_month] == [
        ("2024-05", 2),
        ("2024-1", 1),
        ("2024-06", 1),
        ("soon", 1),
        (None, 1),
    ]
    assert group_rows(store, order, "date", "year")[0] == Group("2024", 2)
    files = MemoryStore(2)
    signatures = [f"10-{time * 10**9}" for time in (1_700_000_000, 1_700_000_001, 1_600_000_000)]
    fill(files, {"a": {}, "b": {}, "c": {}}, signatures)
    order = order_rows(files, sort="date")
    by_year = group_rows(files, order, "date", "year")
    assert [(each.value, each.count) for each in by_year] == [("2020", 1), ("2023", 2)]


def test_too_many_groups_name_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_GROUPS", 2)
    store = MemoryStore(2)
    fill(store, {f"{i}": {"n": i} for i in range(3)})
    with pytest.raises(InputError, match="3 groups by value, more than 2"):
        group_rows(store, order_rows(store), "n")


def test_facets_of_a_listing(gallery: Gallery) -> None:
    listing = gallery.browse(where="year is not null")
    [year] = listing.facets(["year"])
    assert (year.kind, year.rows, year.values) == ("number", 5, {2001: 3, 1999: 1, 2003.0: 1})
    assert (year.low, year.high) == (1999, 2003)
    assert listing.facets(["year"], most_frequent=1)[0].values == {2001: 3}
    assert [each.column for each in listing.facets()] == ["-odd", "id", "mixed", "tag", "year"]
    only = gallery.browse(where="year = 1999")
    assert [each.column for each in only.facets()] == ["year"]
    with pytest.raises(InputError, match="yaer"):
        listing.facets(["yaer"])
    with pytest.raises(SettingError, match="most_frequent"):
        listing.facets(most_frequent=0)
    with pytest.raises(InputError, match="list of names"):
        listing.facets("year")


def test_wrong_types_are_named(gallery: Gallery) -> None:
    options: Any
    for options, name in (({"sort": 5}, "sort"), ({"keywords": 5}, "keywords")):
        with pytest.raises(InputError, match=name):
            gallery.browse(**options)
    with pytest.raises(InputError, match="where"):
        gallery.browse(where=5)  # type: ignore[arg-type]


def test_orders_that_are_kept_are_bounded(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookalike.filters.columns import Recent

    monkeypatch.setattr(ordering, "_orders", Recent(100))
    view: RowReader = store.snapshot()
    for year in range(20):
        order_rows(view, where=as_filter(f"year > {year}"))
    assert len(ordering._orders) <= 2
