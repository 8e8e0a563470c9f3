"""An embedded store that is damaged, or was made by others: one error of lookalike, or right.

SQLite stores any value in any column, and a store may be a stranger's.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.store_faults import (
    Base,
    answers,
    as_rows,
    contents,
    differences,
    expected,
    write_number,
)

from lookalike.errors import ArtifactError, InputError, LookalikeError, StorageError
from lookalike.filters import as_filter
from lookalike.gallery.gallery import Gallery
from lookalike.stores.base import Rows
from lookalike.stores.embedded import compaction
from lookalike.stores.embedded.check import examine
from lookalike.stores.embedded.failures import writing_errors
from lookalike.stores.embedded.repair import repair
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
from lookalike.types import Metric

ODD_VALUES = (
    *("-1", "9223372036854775807", "-9223372036854775808", "1e300", "9e999"),
    *("''", "'x'", "x''", "x'ff'", "CAST(x'ff' AS TEXT)", "zeroblob(5000)"),
    "'²' || char(30) || '1'",
    "'99999999999999999999' || char(30) || '1'",
    "'{\"a\":' || replace(hex(zeroblob(3000)), '00', '[') || '}'",
    '\'{"a": NaN, "b": 1e999}\'',
)
COLUMNS = (
    *("rows.slot", "rows.id", "rows.uri", "rows.content_hash", "rows.signature", "rows.metadata"),
    *("rows.checksum", "uri_prefixes.prefix", "metadata_names.names", "dead.bits", "dead.block"),
    *("columns.name", "columns.number", "column_values.count", "column_values.size"),
    *("column_values.data", "column_codes.width", "column_codes.data", "column_codes.first"),
    *("column_state.mark", "column_state.next_number", "store.slots", "store.revision"),
    *("metadata_text_data.block", "name_text_docsize.sz", "metadata_text_config.v"),
    *("metadata_text_idx.pgno", "graphs.metric", "graphs.slots", "graphs.file"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("damage") / "base.gallery" / "store"
    return Base.make(folder, ("insert", "insert", "graph", "replace", "delete", "insert"))


@pytest.fixture(scope="module")
def right(base: Base) -> dict[str, object]:
    result = answers(base.folder)
    assert not [each for each in result.values() if isinstance(each, LookalikeError)]
    return result


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for readers: the errors that are compared keep theirs."""
    monkeypatch.setattr(compaction, "READERS_S", 0.01)


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> Path:
    return base.copy(tmp_path / "x.gallery" / "store")


def edit(folder: Path, statement: str) -> bool:
    """Change the database by SQL; return whether its constraints allowed it."""
    connection = sqlite3.connect(folder / "rows.db", isolation_level=None)
    with contextlib.closing(connection):
        try:
            connection.execute("PRAGMA writable_schema = ON")  # tables of FTS5, too
            connection.execute(statement)
        except sqlite3.Error:
            return False
    return True


def write_everything(folder: Path, base: Base) -> None:
    """Write in all ways; whatever is refused must be so by an error of lookalike."""
    some = sorted(base.model)[:3]
    writes: tuple[Callable[[EmbeddedStore], object], ...] = (
        lambda store: store.upsert(as_rows({row_id: base.model[row_id] for row_id in some})),
        lambda store: store.delete(some[:1]),
        lambda store: store.build_graph(Metric.L2),
        lambda store: store.optimize(Metric.L2, purge=True),
    )
    for write in writes:
        with contextlib.suppress(LookalikeError):
            write(EmbeddedStore.open(folder))
        gc.collect()


def check_edit(folder: Path, base: Base, right: dict[str, object], statement: str) -> None:
    """Check that damage is noticed or has no effect, and that it can be repaired."""
    if not edit(folder, statement):
        return
    results = answers(folder)
    problems = examine(folder, deep=True).problems
    refused = {name: each for name, each in results.items() if isinstance(each, LookalikeError)}
    wrong = [
        name
        for name, each in results.items()
        if name not in refused and name != "graph" and each != right[name]
    ]
    assert problems or not (refused or wrong), (statement, refused, wrong)
    for message in (*problems, *map(str, refused.values())):
        assert "\n" not in message
    write_everything(folder, base)
    with contextlib.suppress(LookalikeError):
        repair(folder)
        assert not examine(folder, deep=True).problems, statement


@pytest.mark.parametrize("column", COLUMNS[::3])
def test_odd_values_are_noticed_and_never_a_bare_error(
    base: Base, right: dict[str, object], folder: Path, column: str
) -> None:
    table, _, name = column.partition(".")
    value = ODD_VALUES[COLUMNS.index(column) % len(ODD_VALUES)]  # see below for all
    check_edit(folder, base, right, f"UPDATE OR REPLACE {table} SET {name} = {value}")


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_every_odd_value(base: Base, right: dict[str, object], folder: Path, column: str) -> None:
    table, _, name = column.partition(".")
    for value in ODD_VALUES:
        base.copy(folder)
        check_edit(folder, base, right, f"UPDATE OR REPLACE {table} SET {name} = {value}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET slot = slot + 100000",
        "UPDATE rows SET slot = -slot - 1",
        "UPDATE rows SET id = id || 'x'",
        "INSERT OR REPLACE INTO dead VALUES (0, x'00')",
        "INSERT OR REPLACE INTO dead VALUES (-1, zeroblob(4096))",
        "INSERT OR REPLACE INTO dead VALUES (0, randomblob(4096))",
        "DELETE FROM name_text_docsize",
        "DELETE FROM column_codes",
        "DELETE FROM store",
    ],
)
def test_contradictions_are_noticed(
    base: Base, right: dict[str, object], folder: Path, statement: str
) -> None:
    assert edit(folder, statement)
    assert examine(folder, deep=True).problems
    base.copy(folder)
    check_edit(folder, base, right, statement)


def test_words_that_are_there_but_not_found_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "x.gallery" / "store"
    folder.parent.mkdir()
    store, count = EmbeddedStore.create(folder, 3), 2_000
    added = rows(np.ones((count, 3), np.float32))
    store.upsert(replace(added, metadata=[{"caption": f"word{i} more"} for i in range(count)]))
    assert len(store.snapshot().full_text().matching("word1500")) == 1
    del store
    gc.collect()
    assert examine(folder, deep=True).problems == ()
    assert edit(folder, "DELETE FROM metadata_text_idx")
    assert len(EmbeddedStore.open(folder).snapshot().full_text().matching("word1500")) == 0
    assert any("word" in each for each in examine(folder, deep=True).problems)


@pytest.mark.parametrize(
    "change",
    [
        "largest = 'x'",
        "error = NULL",
        "smallest = -1",
        "block = -5",
        "relative_error = zeroblob(9)",
    ],
)
def test_damaged_bounds_of_a_block_are_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "x.gallery" / "store"
    folder.parent.mkdir()
    store = EmbeddedStore.create(folder, 3)
    store.upsert(rows(np.random.default_rng(0).normal(size=(4_100, 3)).astype(np.float32)))
    del store
    gc.collect()
    if edit(folder, f"UPDATE blocks SET {change}"):
        with pytest.raises(ArtifactError, match=r"codes-1\.i8.*blocks"):
            EmbeddedStore.open(folder).search(np.ones((1, 3), np.float32), 2, Metric.L2)
        assert examine(folder, deep=True).problems


def test_a_view_stays_the_same_across_compaction_erasing_and_repair(
    base: Base, folder: Path
) -> None:
    store = EmbeddedStore.open(folder)
    view = EmbeddedStore.open(folder).snapshot()
    before, words = expected(base.model), as_filter("version > 0")
    store.optimize(Metric.L2)
    with contextlib.suppress(LookalikeError):  # the log has what the view reads
        store.optimize(Metric.L2, purge=True)
    del store
    gc.collect()
    repair(folder)
    assert contents(view) == before
    assert view.count(words) == EmbeddedStore.open(folder).count(words)
    assert contents(EmbeddedStore.open(folder)) == before


def test_a_clock_that_jumps_changes_nothing(
    base: Base, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter([0.0, 4e9, -1e6, 1e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    store, model, revisions = EmbeddedStore.open(folder), base.model, []
    for number, kind in enumerate(("insert", "replace", "delete", "optimize", "metadata"), 50):
        write = write_number(number, 1, model, kind)
        write.run(store)
        model = write.apply(model)
        revisions.append(int(store.revision.partition("-")[0]))
    assert revisions == sorted(set(revisions))
    assert differences(folder, model, 0) == []


def test_differences_are_found(base: Base, folder: Path) -> None:
    """What the rounds of ``benchmarks/store_faults.py`` compare by finds a lost row."""
    assert differences(folder, base.model, 0) == []
    EmbeddedStore.open(folder).delete([min(base.model)])
    assert differences(folder, base.model, 0) == ["the rows are others"]


class TestBadInput:
    """What nobody should write; what was there before stays."""

    def write(self, folder: Path, **changes: object) -> None:
        store = EmbeddedStore.open(folder)
        store.upsert(replace(rows(np.ones((2, store.dim), np.float32)), **changes))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"embeddings": np.ones((2, 3), np.float32)}, "8"),
            ({"embeddings": np.full((2, 8), np.nan, np.float32)}, "NaN|finite"),
            ({"embeddings": np.full((2, 8), np.inf, np.float32)}, "Inf|finite"),
            ({"ids": ["same", "same"]}, "same"),
            ({"ids": ["a", "half \ud800"]}, "cannot be stored"),
            ({"metadata": [{}, {"a": {1, 2}}]}, "cannot be stored"),
        ],
    )
    def test_is_refused(
        self, base: Base, folder: Path, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            self.write(folder, **changes)
        assert contents(EmbeddedStore.open(folder)) == expected(base.model)

    def test_long_ids_and_values_of_mixed_types_are_stored(self, folder: Path) -> None:
        long = "s:" + "x" * 10_000
        values = [1, "1", 1.5, True, None, [1], {"a": 1}, 10**30, "", -0.0, 2**63]
        added = Rows(
            ids=[long, *(f"s:{i}" for i in range(len(values) - 1))],
            uris=[long] * len(values),
            embeddings=np.eye(len(values), 8, dtype=np.float32),
            metadata=[{"value": value} for value in values],
            hashes=["h"] * len(values),
        )
        store = EmbeddedStore.open(folder)
        store.upsert(added)
        assert [dict(each) for each in store.get(added.ids).metadata] == added.metadata
        assert store.count(as_filter("value = 1")) >= 1
        (hit,) = store.search(added.embeddings[:1], 1, Metric.L2)[0]
        assert hit.id == long
        del store
        gc.collect()
        assert examine(folder, deep=True).problems == ()

    @pytest.mark.slow
    def test_a_hundred_thousand_columns_of_metadata(self, base: Base, folder: Path) -> None:
        store = EmbeddedStore.open(folder)
        for start in range(0, 200, 50):
            count = 50
            store.upsert(
                Rows(
                    ids=[f"s:c{start + i}" for i in range(count)],
                    uris=["/x"] * count,
                    embeddings=np.ones((count, 8), np.float32),
                    metadata=[
                        {f"c{(start + i) * 500 + j}": j for j in range(500)} for i in range(count)
                    ],
                    hashes=["h"] * count,
                )
            )
        assert len(store.columns().names) > 100_000
        assert store.count(as_filter("c99999 = 499")) == 1
        store.delete([f"s:c{i}" for i in range(200)])
        store.optimize(Metric.L2, purge=True)
        assert contents(store) == expected(base.model)


@pytest.mark.parametrize("name", ["gallery.json", "encoder", "store", "store/rows.db"])
def test_a_gallery_that_lacks_a_part_names_it(tmp_path: Path, name: str) -> None:
    import lookalike as la

    pixels = np.zeros((8, 8, 3), np.uint8)
    gallery = Gallery.create(tmp_path / "x.gallery", encoder=la.open_encoder("color", [pixels]))
    gallery.add([pixels], ids=["a"])
    path = gallery.path / name
    del gallery
    gc.collect()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(LookalikeError, match=r"x\.gallery") as caught:
        Gallery.open(tmp_path / "x.gallery").search(pixels)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_where_sqlite_names_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    for free, reason in ((0, "No space left on device"), (1 << 30, "disk I/O error")):
        usage = type(shutil.disk_usage(tmp_path))(1 << 40, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        with (
            pytest.raises(StorageError, match=rf"cannot be written \({reason}\)"),
            writing_errors(tmp_path / "store" / "rows.db"),
        ):
            raise error
