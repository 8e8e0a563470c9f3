"""Columns of the metadata in the embedded store, against the metadata of its rows."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike.errors import ArtifactError, InputError, StorageError
from lookalike.filters import Filter, MetadataColumns, as_filter
from lookalike.filters.facets import facets
from lookalike.metadata import parse_metadata
from lookalike.stores.base import Rows, VectorStore, matching_rows
from lookalike.stores.embedded import column_writer, columns
from lookalike.stores.embedded.column_tables import read_values
from lookalike.stores.embedded.columns import BLOCK
from lookalike.stores.embedded.rows import RowBatch, StoredRow
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric
from tests.unit.test_filters import FILTERS, VALUES
from tests.unit.test_filters import oracle as matches

Metadata = dict[str, Any]

JSON = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(("year", "tag", "price", "ü", "a`b", ""))
LONG = st.sampled_from(("a" * 70, "b" * 70))
METADATA = st.dictionaries(NAMES, st.one_of(JSON, LONG), max_size=4).map(
    lambda fields: parse_metadata(json.dumps(fields))  # as galleries store them
)
IDS = st.sampled_from("abcdefgh")
BATCHES = st.dictionaries(IDS, st.tuples(METADATA, st.integers(0, 2)), min_size=1, max_size=5)
WRITES = st.lists(
    st.one_of(BATCHES, st.lists(IDS, max_size=3), st.sampled_from(("purge", "optimize"))),
    min_size=1,
    max_size=5,
)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore.create(tmp_path / "store", 2)


def write(store: VectorStore, metadata: Mapping[str, Metadata], vector: float = 1) -> None:
    """Store rows by id; rows with the same vector keep their slots."""
    ids = [*metadata]
    vectors = np.full((len(ids), 2), vector, np.float32)
    store.upsert(Rows(ids, ids, vectors, [*metadata.values()], ids))


def metadata_by_number(store: EmbeddedStore) -> list[Metadata]:
    view = store.snapshot()
    ids = view.ids_at(np.arange(view.count()))
    by_id = {row.id: dict(row.metadata) for row in view.records()}
    return [by_id[row_id] for row_id in ids]


def database(store: EmbeddedStore) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(store._database, isolation_level=None))


def check(store: EmbeddedStore) -> None:
    """Compare the columns with those that are made of the rows."""
    rows = metadata_by_number(store)
    expected, actual = MetadataColumns(rows), store.columns()
    assert len(actual) == len(rows)
    assert set(actual.names) >= set(expected.names)
    assert list(actual.names) == sorted(actual.names)
    for name in actual.names:
        column = actual.encoded(name)
        values = [None if code < 0 else column.values[code] for code in column.codes.tolist()]
        assert [(type(value), value) for value in values] == [
            (type(row.get(name)), row.get(name)) for row in rows
        ]
    if rows:
        described = {facet.column: facet for facet in store.facets()}
        assert described == {facet.column: facet for facet in facets(expected)}
    with database(store) as connection:
        assert columns.verify(connection, deep=True) == []
        assert columns.verify(connection) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(WRITES, st.booleans())
def test_columns_equal_those_made_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, writes: list[Any], remember: bool
) -> None:
    store = EmbeddedStore.create(tmp_path_factory.mktemp("columns") / "store", 2)
    with pytest.MonkeyPatch.context() as patch:
        if not remember:
            patch.setattr(column_writer, "_FEW", 2)
        for each in writes:
            if isinstance(each, dict):
                ids = [*each]
                vectors = np.array([[vector, 1] for _, vector in each.values()], np.float32)
                store.upsert(Rows(ids, ids, vectors, [fields for fields, _ in each.values()], ids))
            elif isinstance(each, list):
                store.delete(each)
            else:
                store.optimize(Metric.COSINE, purge=each == "purge")
            check(store)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(METADATA, min_size=1, max_size=8), FILTERS)
def test_filters_match_a_row_by_row_oracle(
    shared: Callable[[list[Metadata]], EmbeddedStore], rows: list[Metadata], where: Filter
) -> None:
    store = shared(rows)
    stored = metadata_by_number(store)
    try:
        numbers = matching_rows(where, store.columns())
    except InputError:  # a column exists if any row had it
        with pytest.raises(InputError, match=r"no column|cannot be compared"):
            where.mask(MetadataColumns(stored))
        return
    expected = [number for number, row in enumerate(stored) if matches(where, row)]
    assert numbers is not None
    assert numbers.tolist() == expected
    assert store.count(where) == len(expected)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[list[Metadata]], EmbeddedStore]]:
    """A store whose rows are replaced, so that its columns have values of rows that are gone."""
    store = EmbeddedStore.create(tmp_path_factory.mktemp("shared") / "store", 2)

    def replace_rows(rows: list[Metadata]) -> EmbeddedStore:
        store.delete(store.ids())
        write(store, {f"r{number}": fields for number, fields in enumerate(rows)})
        return store

    yield replace_rows
    with database(store) as connection:
        assert columns.verify(connection, deep=True) == []


def test_snapshots_keep_their_codes_while_others_write(store: EmbeddedStore) -> None:
    write(store, {"a": {"tag": "x"}, "b": {"tag": "y"}})
    view = store.snapshot()
    other = EmbeddedStore.open(store._folder)
    for round_ in range(3):
        write(other, {"a": {"tag": f"new {round_}"}, f"c{round_}": {"tag": "x"}})
        other.delete(["b"])
        assert store.count(as_filter(f"tag = 'new {round_}'")) == 1
        assert store.count(as_filter("tag = 'x'")) == round_ + 1
        assert view.count(as_filter("tag = 'x'")) == 1 == view.count(as_filter("tag = 'y'"))
    other.optimize(Metric.COSINE, purge=False)
    assert view.columns().encoded("tag").codes.tolist() == [0, 1]
    check(other)
    check(store)


def test_values_are_read_once_and_later_ones_appended(store: EmbeddedStore) -> None:
    write(store, {f"r{number}": {"name": f"file {number}", "n": number} for number in range(3_000)})
    first = store.columns().encoded("name").values
    write(store, {"new": {"name": "another", "n": "text"}})
    second = store.columns().encoded("name").values
    assert len(second) == len(first) + 1
    assert second[-1] == "another"
    assert second._parts[0].values[0] is first._parts[0].values[0]
    check(store)
    store.optimize(Metric.COSINE, purge=True)
    check(store)


def test_values_of_a_store_that_was_put_back_are_not_mixed_up(store: EmbeddedStore) -> None:
    def connection_with(values: Sequence[str]) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        for statement in columns.SCHEMA:
            connection.execute(statement)
        writer = column_writer.ColumnWriter()
        for slot, value in enumerate(values):
            writer.update(connection, (), RowBatch.of([StoredRow(slot, "", "", {"tag": value})]))
        return connection

    known = read_values(connection_with(["a", "b", "c"]), 1)
    for others in (["a", "x", "c", "d"], ["a", "b"], ["a", "b", "cc"], ["a", "b", "c", "d"], []):
        assert [*read_values(connection_with(others), 1, known).values] == others


def test_rows_of_one_write_may_have_different_columns(store: EmbeddedStore) -> None:
    kinds: list[Metadata] = [{"tag": "a"}, {"year": 1, "tag": "b"}, {"tag": None}, {}]
    write(store, {f"{i:04}": {**kinds[i % 4], "number": i} for i in range(1_200)})
    check(store)
    write(store, {f"{i:04}": {**kinds[i % 3], "number": -i} for i in range(0, 1_200, 5)})
    check(store)


def test_a_store_may_have_many_columns_with_bounded_space(store: EmbeddedStore) -> None:
    for start in (0, 2_000):
        rows = {
            f"r{row}": {f"column {row + place}": place for place in range(1_000)}
            for row in range(start, start + 2_000, 1_000)
        }
        write(store, rows)
    assert len(store.columns().names) == 4_000
    assert store.count(as_filter("`column 3007` = 7")) == 1
    with pytest.raises(InputError, match=r"no column 'column x'.* and 3,980 more"):
        store.count(as_filter("`column x` = 7"))
    with database(store) as connection:
        assert columns.verify(connection, deep=True) == []
        sizes = dict(connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"))
    assert sum(size for name, size in sizes.items() if "column" in name) < 4_000 * 200
    assert len(store.facets()) == 1_000


def test_columns_with_few_values_take_little_space(store: EmbeddedStore) -> None:
    for start in range(0, 3 * BLOCK, BLOCK):
        rows: dict[str, Metadata] = {f"r{row:05}": {} for row in range(start, start + BLOCK)}
        for row in range(start, start + BLOCK, 1_000):
            rows[f"r{row:05}"] = {"note": f"note {row}", "rare": True}
        write(store, rows)
    with database(store) as connection:
        (size,) = connection.execute("SELECT sum(length(data)) FROM column_codes").fetchone()
    assert size <= 3 * 17 * (3 + 3)
    assert store.count(as_filter("rare = true")) == 3 * 17
    assert store.count(as_filter("note = 'note 1000'")) == 1


def test_codes_become_wider_with_more_values(store: EmbeddedStore) -> None:
    for count, width in ((100, 1), (128, 1), (129, 2), (32_769, 4)):
        write(store, {f"r{row:05}": {"n": f"value {row}"} for row in range(count)})
        column = store.columns().encoded("n")
        assert column.codes.dtype.itemsize == width
        assert store.count(as_filter(f"n = 'value {count - 1}'")) == 1
        assert store.count(as_filter("n in ('value 5', 'value 99', 'no value')")) == 2
        assert store.count(as_filter("not (n like '%1%')")) == sum(
            "1" not in str(row) for row in range(count)
        )
    store.delete([f"r{row:05}" for row in range(0, 32_769, 2)])
    assert store.count(as_filter("n like 'value %5'")) == 3_277


def test_a_column_whose_values_always_change_does_not_grow_forever(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_writer, "_FEW", 50)
    monkeypatch.setattr(column_writer, "BLOCK", 8)
    monkeypatch.setattr("lookalike.stores.embedded.column_tables.BLOCK", 8)
    monkeypatch.setattr("lookalike.stores.embedded.column_check.BLOCK", 8)
    monkeypatch.setattr("lookalike.stores.embedded.columns.BLOCK", 8)
    for round_ in range(30):
        write(store, {f"r{row}": {"views": 100 * round_ + row, "same": row} for row in range(10)})
        assert len(store.columns().encoded("views").values) <= 50 + 2 * 16 + 10
    check(store)
    assert store.count(as_filter("views >= 2905")) == 5


def test_large_values_and_long_lists(store: EmbeddedStore) -> None:
    texts = [character * 90_000 for character in "abcab"]
    lists = [[*range(count)] for count in (5_000, 1, 0, 5_000, 2)]
    rows = {
        f"r{row}": {"text": text, "list": values, "deep": {"k": values[:2]}, "huge": 10**300 + row}
        for row, (text, values) in enumerate(zip(texts, lists, strict=True))
    }
    write(store, rows)
    check(store)
    assert len(store.columns().encoded("text").values) == 3
    assert store.count(as_filter("text like 'a%'")) == 2
    assert store.count(as_filter("list = 4999")) == 2
    assert store.count(as_filter(f"huge > {10**300 + 2}")) == 2
    assert store.count(as_filter(f"huge = '{10**300 + 2}'")) == 1


def test_nothing_of_removed_metadata_is_left_after_a_purge(store: EmbeddedStore) -> None:
    write(store, {"a": {"secret-column": "secret-value"}, "b": {"tag": "x"}})
    write(store, {"a": {"tag": "y"}})  # in the same slot
    assert "secret-column" in store.columns().names
    store.optimize(Metric.COSINE, purge=True)
    assert list(store.columns().names) == ["tag"]
    assert b"secret" not in store._database.read_bytes()
    check(store)


DAMAGE = {
    "codes": "UPDATE column_codes SET data = x'07'",
    "another block": "UPDATE column_codes SET place = place + 1",
    "width": "UPDATE column_codes SET width = 3",
    "values": 'UPDATE column_values SET data = \'"x","z"\'',
    "fewer values": "UPDATE column_values SET count = 1",
    "compressed values": "UPDATE column_values SET data = x'0102'",
    "no values": "DELETE FROM column_values",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_noticed(store: EmbeddedStore, statement: str) -> None:
    write(store, {"a": {"tag": "x"}, "b": {"tag": "y"}})
    with database(store) as connection:
        connection.execute(statement)
        assert columns.verify(connection, deep=True)
        assert columns.verify(connection) or "another" in statement or "place" in statement
    again = EmbeddedStore.open(store._folder)
    with pytest.raises(ArtifactError, match=r"damaged.*lookalike doctor"):
        again.count(as_filter("tag = 'x'"))
    if "place" not in statement:
        with pytest.raises(StorageError, match="damaged"):
            write(again, {"a": {"tag": "z"}})
    with database(store) as connection:
        connection.execute("BEGIN")
        columns.rebuild(connection)
        connection.execute("COMMIT")
        assert columns.verify(connection, deep=True) == []
    assert EmbeddedStore.open(store._folder).count(as_filter("tag = 'x'")) == 1


def test_a_filter_reads_only_the_columns_that_it_names(store: EmbeddedStore) -> None:
    write(store, {"a": {"tag": "x", "n": 1}, "b": {"tag": "y", "n": 2}})
    with database(store) as connection:
        (number,) = connection.execute("SELECT number FROM columns WHERE name = 'n'").fetchone()
        for table in ("column_codes", "column_values"):
            connection.execute(f"UPDATE {table} SET data = '' WHERE place >> 32 = ?", (number,))
    again = EmbeddedStore.open(store._folder)
    assert again.count(as_filter("tag = 'x'")) == 1
    with pytest.raises(ArtifactError, match="damaged"):
        again.count(as_filter("n = 1"))


def test_verify_names_the_columns_that_differ_from_the_rows(store: EmbeddedStore) -> None:
    write(store, {"a": {"tag": "x", "n": 1}, "b": {"tag": "y", "n": 1.5}})
    with database(store) as connection:
        connection.execute("""UPDATE rows SET metadata = '{"tag":"y","n":true}' WHERE id = 'a'""")
        connection.execute("""UPDATE rows SET metadata = '{"tag":"y","new":1}' WHERE id = 'b'""")
        assert sorted(columns.verify(connection, deep=True)) == [
            "column 'n' of the metadata differs from 2 rows",
            "column 'new' of the metadata is missing",
            "column 'tag' of the metadata differs from 1 rows",
        ]
