"""The embedded store: what is written is safe, in whatever way it is opened, killed or damaged."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import (
    ArtifactError,
    BusyError,
    CancelledError,
    FormatVersionError,
    InputError,
    StorageError,
)
from lookalike.progress import reporting
from lookalike.stores.base import Rows
from lookalike.stores.embedded import compaction, connections, database, dead_slots, vector_files
from lookalike.stores.embedded.database import is_remote, open_database
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
from lookalike.types import Metric, Progress
from tests.conftest import Require

DIM = 5
BLOCK = 4_096


def matrix(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "x.gallery" / "store"


@pytest.fixture
def store(folder: Path) -> EmbeddedStore:
    folder.parent.mkdir()
    return EmbeddedStore.create(folder, DIM)


def end(store: EmbeddedStore) -> None:
    """Close the connections of a store that is not used any more, as its finalizer does."""
    store._pool._finalizer()


def contents(reader: Any) -> dict[str, tuple[object, ...]]:
    """Return all rows by id."""
    return {
        record.id: (record.uri, record.content_hash, record.metadata, tuple(embedding.tolist()))
        for batch in reader.rows(1_000)
        for record, embedding in zip(batch.records(), batch.embeddings, strict=True)
    }


def expected(*batches: Rows) -> dict[str, tuple[object, ...]]:
    return {
        record.id: (record.uri, record.content_hash, record.metadata, tuple(embedding.tolist()))
        for batch in batches
        for record, embedding in zip(batch.records(), batch.embeddings, strict=True)
    }


class TestOpening:
    @pytest.mark.parametrize("name", ["rows.db", "rows.db-wal", "vectors-1.f32", "codes-1.i8"])
    def test_links_are_refused(self, store: EmbeddedStore, folder: Path, name: str) -> None:
        store.upsert(rows(matrix(3)))
        secret = folder.parent / "other"
        if (folder / name).exists():
            (folder / name).rename(secret)
        secret.touch()
        (folder / name).symlink_to(secret)
        with pytest.raises(ArtifactError, match="is a link, but a gallery has files of its own"):
            EmbeddedStore.open(folder)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
    @pytest.mark.parametrize("name", ["rows.db", "rows.db-wal", "vectors-1.f32", "scales-1.f32"])
    def test_pipes_are_refused_without_waiting(
        self, store: EmbeddedStore, folder: Path, name: str
    ) -> None:
        end(store)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        with pytest.raises(ArtifactError, match="not a regular file; delete it"):
            EmbeddedStore.open(folder)

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE VIEW spy AS SELECT 1",
            "CREATE TRIGGER spy AFTER INSERT ON rows BEGIN DELETE FROM dead; END",
            "CREATE TABLE other (x)",
            "DROP TABLE dead",
        ],
    )
    def test_other_tables_views_and_triggers_are_refused(
        self, store: EmbeddedStore, folder: Path, statement: str
    ) -> None:
        del store
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(ArtifactError, match=r"other tables than those of a gallery.*doctor"):
            EmbeddedStore.open(folder)

    def test_a_newer_version_is_named(self, store: EmbeddedStore, folder: Path) -> None:
        del store
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute("PRAGMA user_version = 7")
        connection.close()
        with pytest.raises(FormatVersionError, match=r"format 7, .* up to 1; upgrade"):
            EmbeddedStore.open(folder)

    def test_a_database_of_another_program_is_refused(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with pytest.raises(ArtifactError, match="missing or broken"):
            EmbeddedStore.open(folder)
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute("CREATE TABLE rows (id)")
        connection.close()
        with pytest.raises(ArtifactError, match="no database of lookalike"):
            EmbeddedStore.open(folder)
        (folder / "rows.db").write_bytes(b"SQLite" * 1000)
        with pytest.raises(ArtifactError, match="not a database"):
            EmbeddedStore.open(folder)

    @pytest.mark.parametrize("name", ["vectors-1.f32", "codes-1.i8", "scales-1.f32"])
    def test_a_missing_or_short_file_is_named(
        self, store: EmbeddedStore, folder: Path, name: str
    ) -> None:
        store.upsert(rows(matrix(BLOCK + 1)))
        del store
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(ArtifactError, match=f"{name}.*lookalike doctor"):
            EmbeddedStore.open(folder)
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{name}.*lookalike doctor"):
            EmbeddedStore.open(folder)

    def test_damaged_facts_are_refused(self, store: EmbeddedStore, folder: Path) -> None:
        store.upsert(rows(matrix(3)))
        del store
        for change in (
            "rows = 9",
            "slots = 1e300",
            "dim = -1",
            "identity = ''",
            "revision = x'00'",
        ):
            copy = folder.with_name("copy")
            shutil.copytree(folder, copy)
            with sqlite3.connect(copy / "rows.db") as connection:
                connection.execute(f"UPDATE store SET {change}")
            connection.close()
            with pytest.raises(ArtifactError, match="damaged"):
                EmbeddedStore.open(copy)
            shutil.rmtree(copy)

    def test_an_old_sqlite_is_refused(
        self, store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del store
        monkeypatch.setattr(database, "OLDEST_SQLITE", (99, 0, 0))
        database._check_sqlite.cache_clear()
        with pytest.raises(StorageError, match=r"need SQLite 99\.0\.0 or newer, but this Python"):
            EmbeddedStore.open(folder)
        monkeypatch.undo()
        assert EmbeddedStore.open(folder).count() == 0

    def test_a_sqlite_that_lacks_something_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.parent.mkdir()
        for statement in ("CREATE VIRTUAL TABLE words USING fts99(word)", "SELECT json_none('')"):
            monkeypatch.setattr(database, "_NEEDED", (statement,))
            database._check_sqlite.cache_clear()
            with pytest.raises(StorageError, match=r"with FTS5 and JSON.*without \(no such"):
                EmbeddedStore.create(folder, DIM)
            shutil.rmtree(folder, ignore_errors=True)


_READ = """
import sys
from pathlib import Path
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.errors import StorageError
from lookalike.testing import rows
import numpy as np
store = EmbeddedStore.open(Path(sys.argv[1]))
print(store.count(), store.get(["r0001"]).ids, len(store.ids()))
try:
    store.upsert(rows(np.ones((1, 5), np.float32), "new"))
except StorageError as error:
    print("refused:", str(error).splitlines()[0])
print(store.count())
"""

_WRITE_AND_END = """
import sys
from pathlib import Path
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
import numpy as np
store = EmbeddedStore.open(Path(sys.argv[1]))
view = store.snapshot()
store.upsert(rows(np.ones((3, 5), np.float32), "late"))
"""

_LIMITED = """
import resource, shutil, signal, sys
from pathlib import Path
import numpy as np
from lookalike.errors import StorageError
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
from lookalike.types import Metric
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = Path(sys.argv[1])
new = rows(np.random.default_rng(3).normal(size=(300, 5)), "new")
def read(store):
    parts = store.rows(999)
    return {id: row.tobytes() for part in parts for id, row in zip(part.ids, part.embeddings)}
before = read(EmbeddedStore.open(source))
refused = 0
actions = (lambda store: store.upsert(new), lambda store: store.optimize(Metric.L2, purge=True))
for place, limit in [(place, limit) for place in (0, 1) for limit in range(0, 900_000, 90_000)]:
    folder = source.with_name(f"{place}-{limit}")
    shutil.copytree(source, folder)
    store = EmbeddedStore.open(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        actions[place](store)
        done = True
    except StorageError:
        done = False
        refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rest = {id: row for id, row in read(store).items() if not id.startswith("new")}
    assert rest == before and store.count() == len(before) + 300 * (done and not place)
    store.upsert(new)
    assert EmbeddedStore.open(folder).count() == len(before) + 300
assert 5 < refused < 18, refused
"""

_WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
import numpy as np
store = EmbeddedStore.open(Path(sys.argv[1]))
store.upsert(rows(np.ones((3, 5), np.float32), "late"))
os._exit(9)
"""


_OPEN_COPY = """
import sys
from pathlib import Path
from lookalike.errors import ArtifactError
from lookalike.stores.embedded.store import EmbeddedStore
try:
    EmbeddedStore.open(Path(sys.argv[1]))
except ArtifactError as error:
    print(error)
"""


def unprivileged(require: Require, folder: Path, code: str = _READ) -> list[str]:
    """Read a store in a process for which permissions count, which they do not for root."""
    command = [sys.executable, "-c", code, str(folder)]
    if os.geteuid() == 0:
        require(shutil.which("setpriv"), "root without setpriv may write everything")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def python(code: str, folder: Path) -> int:
    """Run code in another process; return its exit status."""
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, env=environment, check=False).returncode


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
class TestReadOnlyFolders:
    @pytest.fixture
    def readonly(self) -> Iterator[Callable[[Path], None]]:
        changed: list[tuple[Path, int]] = []

        def protect(folder: Path) -> None:
            for path in (*folder.iterdir(), folder):
                changed.append((path, path.stat().st_mode))
                path.chmod(path.stat().st_mode & ~0o222)

        yield protect
        for path, mode in reversed(changed):
            path.chmod(mode)

    def test_after_a_clean_end(
        self,
        store: EmbeddedStore,
        folder: Path,
        require: Require,
        readonly: Callable[[Path], None],
    ) -> None:
        store.upsert(rows(matrix(7)))
        end(store)
        assert not (folder / "rows.db-wal").exists()
        assert python(_WRITE_AND_END, folder) == 0
        assert not (folder / "rows.db-wal").exists()
        readonly(folder)
        count, refused, after = unprivileged(require, folder)
        assert (count, after) == ("10 ['r0001'] 10", "10")
        assert refused.startswith("refused: ")
        assert "cannot be written" in refused

    def test_after_a_kill(
        self,
        store: EmbeddedStore,
        folder: Path,
        require: Require,
        readonly: Callable[[Path], None],
    ) -> None:
        store.upsert(rows(matrix(7)))
        end(store)
        assert python(_WRITE_AND_DIE, folder) == 9
        assert (folder / "rows.db-wal").stat().st_size > 0
        readonly(folder)
        count, refused, after = unprivileged(require, folder)
        assert (count, after) == ("10 ['r0001'] 10", "10")
        assert "cannot be written" in refused
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
        readonly(copy)
        assert (
            "copy the gallery to where it can be written"
            in unprivileged(require, copy, _OPEN_COPY)[0]
        )


def test_rows_written_where_only_reading_is_allowed_are_noticed(
    store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, in which the folder is mounted read-only, and others write it."""
    store.upsert(rows(matrix(7)))
    end(store)
    real = database._connect

    def immutable(path: Path, mode: str, write: bool) -> database.Connection:
        if mode != "immutable=1":
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        return real(path, mode, write)

    with monkeypatch.context() as patch:
        patch.setattr(database, "_connect", immutable)
        reader = EmbeddedStore.open(folder)
        view = reader.snapshot()
        assert len(view.get(["r0001"])) == 1
        patch.undo()
        writer = EmbeddedStore.open(folder)
        writer.upsert(rows(matrix(2), "new"))
        end(writer)
        with pytest.raises(ArtifactError, match="written by somebody else"):
            view.get(["r0001"])
        assert reader.count() == 9


class TestNetworkMounts:
    @pytest.fixture
    def remote(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> EmbeddedStore:
        folder.parent.mkdir()
        mounts = folder.parent / "mounts"
        mounts.write_text(f"a / ext4 rw 0 0\nserver:/x {folder.parent} nfs4 rw 0 0\n")
        monkeypatch.setattr(database, "_MOUNTS", mounts)
        monkeypatch.setattr(sys, "platform", "linux")
        return EmbeddedStore.create(folder, DIM)

    def test_they_are_recognized(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        place = tmp_path / "a b"
        place.mkdir()
        escaped = str(place).replace(" ", "\\040")
        mounts = tmp_path / "mounts"
        monkeypatch.setattr(database, "_MOUNTS", mounts)
        for kind, answer in [
            *(("nfs", True), ("cifs", True), ("fuse.sshfs", True), ("9p", True)),
            *(("ext4", False), ("fuseblk", False), ("overlay", False)),
        ]:
            mounts.write_text(f"root / {kind} rw\nx {tmp_path}/a xfs rw\ny {escaped} {kind} rw\n")
            assert is_remote(place) is answer, kind
        mounts.write_text(f"root / nfs rw\ny {tmp_path} btrfs rw\n")
        assert not is_remote(place)
        mounts.unlink()
        assert not is_remote(place)

    def test_a_rollback_journal_is_used(self, remote: EmbeddedStore, folder: Path) -> None:
        remote.upsert(rows(matrix(1_100)))
        view = remote.snapshot()
        before = contents(view)
        records = view.records()
        some = [next(records) for _ in range(2)]
        remote.upsert(rows(matrix(3), "new"))
        remote.delete(["r0001"])
        assert [record.id for record in [*some, *records]] == [*view.ids()]
        assert not (folder / "rows.db-wal").exists()
        assert contents(view) == before
        assert remote.count() == 1_102
        assert contents(EmbeddedStore.open(folder)) == contents(remote)

    def test_a_gallery_that_moves_is_changed_by_the_next_writer(
        self, remote: EmbeddedStore, folder: Path
    ) -> None:
        remote.upsert(rows(matrix(7)))
        end(remote)
        (folder.parent / "mounts").write_text("a / ext4 rw 0 0\n")
        local = EmbeddedStore.open(folder)
        local.upsert(rows(matrix(1), "new"))
        assert (folder / "rows.db-wal").exists()
        end(local)
        (folder.parent / "mounts").write_text("a / nfs rw 0 0\n")
        again = EmbeddedStore.open(folder)
        again.upsert(rows(matrix(2), "more"))
        assert not (folder / "rows.db-wal").exists()
        assert again.count() == 10


class TestWriting:
    def test_a_kept_embedding_keeps_its_slot(self, store: EmbeddedStore, folder: Path) -> None:
        stored = rows(matrix(10))
        store.upsert(stored)
        size = (folder / "vectors-1.f32").stat().st_size
        changed = replace(stored, metadata=[{"new": i} for i in range(10)])
        store.upsert(changed)
        assert (folder / "vectors-1.f32").stat().st_size == size
        assert store.snapshot()._slots is None
        assert contents(store) == expected(changed)
        mixed = replace(changed, embeddings=changed.embeddings.copy())
        mixed.embeddings[[2, 5]] *= -1
        mixed.embeddings[3, 0] = 0
        store.upsert(mixed)
        negative = replace(mixed, embeddings=mixed.embeddings.copy())
        negative.embeddings[3, 0] = -0.0
        store.upsert(negative)
        assert contents(store) == expected(negative)
        assert store.snapshot()._slots is not None
        assert np.signbit(store.get([negative.ids[3]]).embeddings[0, 0])

    @pytest.mark.parametrize("uri", ["/a/b/k/1.png", "k/1.png", "http://x/k/1.png?", "/a/1.png"])
    def test_uris_that_repeat_the_id_are_the_same(self, store: EmbeddedStore, uri: str) -> None:
        ids = ["s:k/1.png", "k/1.png", "s:", "", "a:b:k/1.png", "s:k\0/1.png"]
        batch = Rows(ids, [uri] * 6, matrix(6), [{}] * 6, [""] * 6)
        store.upsert(batch)
        assert contents(store) == expected(batch)
        assert [row.uri for row in store.records()] == [uri] * 6

    def test_many_folders_of_uris_and_columns_of_metadata(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lookalike.stores.embedded.packing._MAX_SHARED", 3)
        ids = [f"s:{i}.png" for i in range(8)]
        metadata = [
            {f"column {i}": i, "ü\x1e": ["\x1e", 1.5, None], "%s 100%": "%d"} for i in range(8)
        ]
        batch = Rows(ids, [f"/{i}/{i}.png" for i in range(8)], matrix(8), metadata, ids)
        store.upsert(batch)
        assert contents(store) == expected(batch)

    def test_numbers_of_what_rows_share_may_be_used_up(self, store: EmbeddedStore) -> None:
        store.upsert(rows(matrix(3)))
        with sqlite3.connect(store._database) as connection:
            connection.execute(f"INSERT INTO uri_prefixes VALUES ({2**63 - 1}, 'odd')")
        with pytest.raises(StorageError, match="cannot be written"):
            store.upsert(replace(rows(matrix(2), "new"), uris=["/a/new0000", "/b/new0001"]))
        assert store.count() == 3

    def test_strange_ids_and_long_ones(self, store: EmbeddedStore) -> None:
        ids = ["x" * 10_000, "it's", 'a"b', "a\nb", "a\0b", "a", "é", "", "\U0001f600"]
        hashes = ["F" * 64, "f" * 64, "g" * 64, "0" * 63, "", "ab", " " * 64, "é", "0" * 64]
        batch = Rows(ids, ids, matrix(9), [{"place": i} for i in range(9)], hashes)
        store.upsert(batch)
        assert contents(store) == expected(batch)
        assert list(store.ids()) == sorted(ids)
        assert store.delete(["a\0b", "x" * 10_000]) == 2
        assert store.count() == 7

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ids": ["ok", "b\udcff"]}, "id 'b\\\\udcff' cannot be stored"),
            ({"uris": ["/", "\ud800"]}, "id 'r0001' cannot be stored"),
            ({"metadata": [{}, {"a": "\ud800"}]}, "id 'r0001' cannot be stored"),
            ({"metadata": [{}, {"a": object()}]}, "id 'r0001' cannot be stored"),
        ],
    )
    def test_rows_that_cannot_be_stored_are_named(
        self, store: EmbeddedStore, change: dict[str, Any], message: str
    ) -> None:
        store.upsert(rows(matrix(1)))
        with pytest.raises(InputError, match=message):
            store.upsert(replace(rows(matrix(2)), **change))
        assert store.count() == 1

    @pytest.mark.slow
    def test_a_large_batch_and_one_row_per_batch(self, store: EmbeddedStore) -> None:
        large = rows(matrix(40_000))  # more than a statement of SQLite has parameters
        store.upsert(large)
        assert store.count() == 40_000
        for i in range(20):
            store.upsert(rows(matrix(1, i), f"single{i}"))
        assert store.count() == 40_020
        store.upsert(replace(large, embeddings=-large.embeddings))
        np.testing.assert_array_equal(store.embeddings(large.ids[::999]), -large.embeddings[::999])

    def test_an_error_beside_another_part_of_a_write_takes_it_back(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upsert(rows(matrix(3)))
        before, revision = contents(store), store.revision
        for place in ("full_text._add", "embedded.packing.Sharing.packed_rows"):
            with monkeypatch.context() as patch:
                error = sqlite3.OperationalError("disk I/O error")
                patch.setattr(f"lookalike.stores.{place}", _raise(error))
                with pytest.raises(StorageError, match="disk I/O error"):
                    store.upsert(rows(matrix(2_000), "new"))
            assert (contents(store), store.revision) == (before, revision)
        store.upsert(rows(matrix(2_000), "new"))
        assert store.count() == 2_003

    def test_an_interrupt_inside_a_write_takes_it_back(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upsert(rows(matrix(3)))
        before, revision = contents(store), store.revision
        for place in ("append", "update"):
            with monkeypatch.context() as patch:
                if place == "append":
                    patch.setattr(vector_files, "_sync", _raise(KeyboardInterrupt()))
                else:
                    name = "lookalike.stores.embedded.store.update_derived"
                    patch.setattr(name, _raise(KeyboardInterrupt()))
                with pytest.raises(KeyboardInterrupt):
                    store.upsert(rows(matrix(4), "new"))
            assert (contents(store), store.revision) == (before, revision)
        store.upsert(rows(matrix(4), "new"))
        assert store.count() == 7

    @pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES", "EIO"])
    def test_a_failing_system_call_writes_nothing(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, code: str
    ) -> None:
        import errno

        store.upsert(rows(matrix(3)))
        before = contents(store)
        error = OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        with monkeypatch.context() as patch:
            patch.setattr(vector_files, "_sync", _raise(error))
            with pytest.raises(StorageError, match="cannot be written"):
                store.upsert(rows(matrix(4), "new"))
        assert contents(store) == before
        store.upsert(rows(matrix(4), "new"))
        assert store.count() == 7

    def test_a_full_database_writes_nothing(self, store: EmbeddedStore) -> None:
        store.upsert(rows(matrix(3)))
        before = contents(store)
        with store._writing() as (connection, _):
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="full"):
            store.upsert(replace(rows(matrix(400), "new"), uris=["u" * 999] * 400))
        assert contents(store) == before
        store.upsert(rows(matrix(4), "new"))
        assert store.count() == 7

    @pytest.mark.skipif(os.name == "nt", reason="no limit of the size of files")
    def test_files_that_cannot_grow(self, store: EmbeddedStore, folder: Path) -> None:
        """As on a full disk, at every call that writes, in a process with a limit."""
        store.upsert(rows(matrix(400)))
        store.delete([f"r{i:04}" for i in range(200)])
        end(store)
        assert python(_LIMITED, folder) == 0

    def test_of_two_writers_the_second_waits_and_then_says_so(
        self, store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "WAIT_S", 0.1)
        monkeypatch.setattr(connections, "_CHECK_S", 0.02)
        other = EmbeddedStore.open(folder)
        with store._writing():
            with pytest.raises(BusyError, match=r"being written by another process.*; try again"):
                other.upsert(rows(matrix(1)))
            assert other.count() == 0
        monkeypatch.setattr(database, "WAIT_S", 60.0)
        is_writing = threading.Event()

        def write_slowly() -> None:
            with store._writing() as (connection, facts):
                is_writing.set()
                facts.write(connection)

        thread = threading.Thread(target=write_slowly)
        thread.start()
        is_writing.wait()
        other.upsert(rows(matrix(1)))
        thread.join()
        assert other.revision.startswith("2-")

    def test_waiting_can_be_cancelled(self, store: EmbeddedStore, folder: Path) -> None:
        other = EmbeddedStore.open(folder)
        cancellation = Cancellation()
        cancellation.cancel()
        with store._writing(), cancellable(cancellation), pytest.raises(CancelledError):
            other.upsert(rows(matrix(1)))

    def test_the_log_shrinks_when_readers_and_writers_end(self, folder: Path) -> None:
        log = folder / "rows.db-wal"
        folder.parent.mkdir()
        store = EmbeddedStore.create(folder, DIM)
        store.upsert(rows(matrix(3)))
        view = store.snapshot()
        before = contents(view)
        for seed in range(5):
            store.upsert(rows(matrix(500, seed), "new"))
        assert contents(view) == before
        assert log.stat().st_size > 100_000
        other = EmbeddedStore.open(folder)
        del store, view
        gc.collect()
        assert log.stat().st_size == 0
        assert other.count() == 503
        del other
        gc.collect()
        assert not log.exists()

    def test_idle_stores_do_not_keep_the_log(
        self, store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_CHECKPOINT_PAGES", 50)
        monkeypatch.setattr(database, "_LARGEST_LOG", 100_000)
        idle = EmbeddedStore.open(folder)
        idle.search(matrix(1), 3, Metric.L2)
        idle.columns()

        def write() -> int:
            for seed in range(30):
                store.upsert(rows(matrix(200, seed), "new"))
                idle.count()
            return (folder / "rows.db-wal").stat().st_size

        with_idle = write()
        view = idle.snapshot()
        assert write() > 3 * with_idle
        assert view.count() == 200
        del view
        write()
        assert write() < 3 * with_idle

    def test_a_replaced_store_is_not_written_although_its_connection_is_kept(
        self, store: EmbeddedStore, folder: Path
    ) -> None:
        store.upsert(rows(matrix(3)))
        folder.rename(folder.with_name("old"))
        new = EmbeddedStore.create(folder, DIM)
        with pytest.raises(ArtifactError, match="another gallery was put in its place"):
            store.upsert(rows(matrix(1), "new"))
        assert new.count() == 0
        shutil.rmtree(folder)
        for use in (store.count, lambda: store.delete(["r0001"])):
            with pytest.raises(ArtifactError, match="missing"):
                use()


def _raise(error: BaseException) -> Callable[..., Any]:
    def function(*arguments: object, **options: object) -> None:
        raise error

    return function


class TestPowerCuts:
    """What may be on a disk after a power cut, replayed: files that are written in part."""

    def states(self, before: Path, after: Path, name: str) -> Iterator[bytes]:
        """Yield a file that was written up to some place; what follows is as before, or zeros."""
        old = (before / name).read_bytes() if (before / name).exists() else b""
        new = (after / name).read_bytes() if (after / name).exists() else b""
        first = next(
            (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
            min(len(old), len(new)),
        )
        for cut in sorted({*np.linspace(first, len(new), 6).astype(int).tolist(), first + 1}):
            if cut >= len(new):
                continue
            yield new[:cut] + old[cut:]
            if cut > len(old):  # the size is recorded before the bytes
                yield new[:cut] + bytes(len(new) - cut)

    def opened(self, place: Path) -> dict[str, tuple[object, ...]]:
        reader = EmbeddedStore.open(place)
        rows_read = contents(reader)
        assert reader.count() == len(rows_read)
        reader.upsert(rows(matrix(3, 9), "later"))  # the next write works too
        assert len(contents(reader)) == len(rows_read) + 3
        del reader
        gc.collect()
        return rows_read

    def assemble(self, base: Path, target: Path, **files: bytes) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(base, target, ignore=shutil.ignore_patterns("*-shm"))
        for name, data in files.items():
            (target / name.replace("__", "-").replace("_dot_", ".")).write_bytes(data)
        return target

    @pytest.mark.parametrize("action", ["insert", "replace", "delete"])
    def test_every_prefix_of_a_write_opens_to_the_last_commit(
        self, store: EmbeddedStore, folder: Path, tmp_path: Path, action: str
    ) -> None:
        store.upsert(rows(matrix(60)))
        old = contents(store)
        before, after, cut = (tmp_path / name for name in ("before", "after", "cut"))
        shutil.copytree(folder, before)
        if action == "insert":
            store.upsert(rows(matrix(40, 1), "new"))
        elif action == "replace":
            store.upsert(rows(matrix(40, 1)))
        else:
            store.delete([f"r{i:04}" for i in range(0, 60, 7)])
        new = contents(store)
        shutil.copytree(folder, after)
        # Before the flush: any part of the vectors, and nothing in the log.
        for data in itertools.islice(self.states(before, after, "vectors-1.f32"), 0, None, 3):
            assert self.opened(self.assemble(before, cut, vectors__1_dot_f32=data)) == old
        # After it: all of them, and any part of the log.
        shutil.copyfile(after / "vectors-1.f32", before / "vectors-1.f32")
        logs = list(self.states(before, after, "rows.db-wal"))
        assert len(logs) > 6
        for data in logs:
            assert self.opened(self.assemble(before, cut, rows_dot_db__wal=data)) == old
        assert self.opened(self.assemble(after, cut)) == new

    def test_codes_of_a_block_that_were_written_in_part_are_written_again(
        self, store: EmbeddedStore, folder: Path, tmp_path: Path
    ) -> None:
        store.upsert(rows(matrix(BLOCK - 2)))
        old = contents(store)
        before, after, cut = (tmp_path / name for name in ("before", "after", "cut"))
        shutil.copytree(folder, before)
        store.upsert(rows(matrix(3, 9), "later"))
        shutil.copytree(folder, after)
        for name in ("codes-1.i8", "scales-1.f32"):
            data = (after / name).read_bytes()
            key = name.replace("-", "__").replace(".", "_dot_")
            for part in (data[: len(data) // 2], bytes(len(data)), b"x" * len(data) + b"more"):
                assert self.opened(self.assemble(before, cut, **{key: part})) == old
                assert (cut / name).read_bytes()[: len(data)] == data

    def test_every_prefix_of_a_checkpoint_opens_to_the_last_commit(
        self, store: EmbeddedStore, folder: Path, tmp_path: Path
    ) -> None:
        store.upsert(rows(matrix(300)))
        store.upsert(rows(matrix(100, 1)))
        last = contents(store)
        before, after, cut = (tmp_path / name for name in ("before", "after", "cut"))
        shutil.copytree(folder, before)
        end(store)
        shutil.copytree(folder, after)
        assert not (after / "rows.db-wal").exists()
        for data in self.states(before, after, "rows.db"):
            assert self.opened(self.assemble(before, cut, rows_dot_db=data)) == last
        assert self.opened(self.assemble(after, cut)) == last

    def test_a_log_that_is_overwritten_from_its_start(
        self, store: EmbeddedStore, folder: Path, tmp_path: Path
    ) -> None:
        store.upsert(rows(matrix(300)))
        with store._writing() as (connection, _):
            pass
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        old = contents(store)
        gc.collect()
        before, after, cut = (tmp_path / name for name in ("before", "after", "cut"))
        shutil.copytree(folder, before)
        store.upsert(rows(matrix(30, 1), "new"))
        shutil.copytree(folder, after)
        log = (before / "rows.db-wal").stat().st_size
        assert 0 < log == (after / "rows.db-wal").stat().st_size
        shutil.copyfile(after / "vectors-1.f32", before / "vectors-1.f32")
        same = (before / "rows.db").read_bytes() == (after / "rows.db").read_bytes()
        assert same
        new_log, old_log = ((place / "rows.db-wal").read_bytes() for place in (after, before))
        end = max(i for i in range(0, log, 512) if new_log[i : i + 512] != old_log[i : i + 512])
        for position in range(32, end, max(1, end // 6)):
            data = new_log[:position] + old_log[position:]
            assert self.opened(self.assemble(before, cut, rows_dot_db__wal=data)) == old
        assert len(self.opened(self.assemble(after, cut))) == len(old) + 30

    def test_vectors_are_flushed_before_rows_are_committed(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        real = vector_files._sync

        def sync(descriptor: int) -> None:
            events.append("flush")
            real(descriptor)

        store.upsert(rows(matrix(2)))
        monkeypatch.setattr(vector_files, "_sync", sync)
        with store._writing() as (connection, _):
            assert connection.execute("PRAGMA synchronous").fetchone()[0] >= 2
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.set_trace_callback(lambda text: events.append(" ".join(text.split()[:2])))
        store.upsert(rows(matrix(3), "new"))
        connection.set_trace_callback(None)
        assert events[-1] == "COMMIT"
        assert 0 < events.index("flush") < events.index("UPDATE store")  # the number of slots


class TestDeadSlots:
    def test_they_are_known_without_reading_rows(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dead_slots, "BLOCK", 16)
        stored = rows(matrix(100))
        store.upsert(stored)
        gone = [stored.ids[place] for place in (0, 15, 16, 17, 50, 99)]
        assert store.delete(gone) == 6
        store.upsert(replace(stored.take([3]), embeddings=-stored.embeddings[[3]]))
        view = store.snapshot()
        alive = [place for place in range(100) if place not in (0, 3, 15, 16, 17, 50, 99)]
        assert view._slots is not None
        assert view._slots.tolist() == [*alive, 100]
        assert view.ids_at(np.arange(94)) == [*(stored.ids[i] for i in alive), stored.ids[3]]

    @pytest.mark.parametrize("change", ["bits = x'00'", "bits = zeroblob(4096)", "block = 3"])
    def test_damage_is_noticed(self, store: EmbeddedStore, folder: Path, change: str) -> None:
        store.upsert(rows(matrix(100)))
        store.delete(["r0003"])
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute(f"UPDATE dead SET {change}")
        connection.close()
        with pytest.raises(ArtifactError, match=r"dead slots.*lookalike doctor"):
            EmbeddedStore.open(folder).search(matrix(1), 3, Metric.L2)


class TestChecksums:
    @pytest.mark.parametrize(
        "change",
        [
            *("uri = '/other'", "metadata = '{}'", "content_hash = ''", "signature = 'x'"),
            *("checksum = 5", "uri = 77", "content_hash = 3.5", "metadata = x'00'"),
            *("metadata = '1'", "metadata = replace(metadata, '1', '2')", "metadata = '9999'"),
        ],
    )
    def test_a_changed_row_is_named(self, store: EmbeddedStore, folder: Path, change: str) -> None:
        stored = rows(matrix(9))
        store.upsert(stored)
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute(f"UPDATE rows SET {change} WHERE id = 'r0003'")
        connection.close()
        reader = EmbeddedStore.open(folder)
        assert len(reader.get(["r0001"])) == 1
        for read in (
            lambda: reader.get(["r0003"]),
            lambda: list(reader.rows(4)),
            lambda: reader.search(stored.embeddings[3:4], 1, Metric.L2),
        ):
            with pytest.raises(ArtifactError, match=r"row 'r0003' has changed.*lookalike doctor"):
                read()

    def test_a_changed_vector_is_noticed(self, store: EmbeddedStore, folder: Path) -> None:
        stored = rows(matrix(9))
        store.upsert(stored)
        with (folder / "vectors-1.f32").open("r+b") as file:
            file.seek(3 * DIM * 4 + 1)
            file.write(b"\x55")
        with pytest.raises(ArtifactError, match=f"row '{stored.ids[3]}' has changed"):
            store.get([stored.ids[3]])
        assert len(store.get([stored.ids[4]])) == 1

    @pytest.mark.parametrize("count", [9, 4_200])
    @pytest.mark.parametrize("damage", [b"\xff\xff\xbf\xff", b"\x00\x00\x80\x7f"])
    def test_a_row_that_is_not_finite_any_more_is_not_left_out_of_a_search(
        self, store: EmbeddedStore, folder: Path, count: int, damage: bytes
    ) -> None:
        stored = rows(matrix(count))
        store.upsert(stored)
        with (folder / "vectors-1.f32").open("r+b") as file:
            file.seek(3 * DIM * 4)
            file.write(damage)  # a signaling NaN, and infinity
        queries = stored.embeddings[3:4]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for metric in Metric:
                for k in (1, count - 1, count):
                    for chosen in (queries, stored.embeddings[1:9]):
                        with pytest.raises(ArtifactError, match=r"not finite.*lookalike doctor"):
                            EmbeddedStore.open(folder).search(chosen, k, metric)
        with pytest.raises(ArtifactError, match=r"not finite.*--deep$"):
            store.snapshot().row_index().search_with_ties(queries, 2, Metric.L2)

    def test_an_index_of_ids_that_leads_to_other_rows_is_noticed(
        self, store: EmbeddedStore, folder: Path
    ) -> None:
        store.upsert(rows(matrix(9)))
        end(store)
        data = (folder / "rows.db").read_bytes()
        entries = [match.start() for match in re.finditer(b"r0003", data)]
        changed = [  # in the index, the slot follows the id
            data[: place + 5] + b"\x04" + data[place + 6 :]
            for place in entries
            if data[place + 5] == 3
        ]
        assert changed
        for damaged in changed:
            (folder / "rows.db").write_bytes(damaged)
            reader = EmbeddedStore.open(folder)
            for read in (reader.get, reader.embeddings):
                with pytest.raises(ArtifactError, match=r"index of ids is damaged.*doctor"):
                    read(["r0003"])
            end(reader)
        for place in entries:
            (folder / "rows.db").write_bytes(data[: place + 4] + b"8" + data[place + 5 :])
            reader = EmbeddedStore.open(folder)
            with pytest.raises(ArtifactError, match=r"index of ids is damaged|has changed"):
                _ = [list(reader.rows(9)), reader.ids()]
            end(reader)

    def test_a_schema_that_is_no_text_is_an_error(self, store: EmbeddedStore, folder: Path) -> None:
        end(store)
        data = (folder / "rows.db").read_bytes()
        assert b"CREATE TABLE rows" in data
        (folder / "rows.db").write_bytes(
            data.replace(b"CREATE TABLE rows", b"CREAT\xd9 TABLE rows")
        )
        with pytest.raises(ArtifactError, match="missing or broken"):
            EmbeddedStore.open(folder)

    def test_a_file_that_becomes_shorter_is_an_error_and_no_crash(
        self, store: EmbeddedStore, folder: Path
    ) -> None:
        store.upsert(rows(matrix(2_000)))
        view = store.snapshot()
        view.search(matrix(1), 3, Metric.L2)
        os.truncate(folder / "vectors-1.f32", 5_000)
        for read in (
            lambda: view.search(matrix(1), 3, Metric.L2),
            lambda: view.get(["r1999"]),
            lambda: view.embeddings(["r1999"]),
            view.vectors,
            lambda: next(view.rows(10)),
        ):
            with pytest.raises(ArtifactError, match="became shorter while it was open"):
                read()


class TestCompaction:
    def filled(self, store: EmbeddedStore, count: int = 60) -> dict[str, tuple[object, ...]]:
        stored = rows(matrix(count))
        store.upsert(stored)
        store.upsert(replace(stored.take(range(10)), embeddings=matrix(10, 5)))
        store.delete(stored.ids[20 : count // 2 + 10])
        return contents(store)

    def test_it_is_done_when_many_slots_are_dead(self, store: EmbeddedStore, folder: Path) -> None:
        stored = rows(matrix(100))
        store.upsert(stored)
        store.delete(stored.ids[:20])
        revision = store.revision
        store.optimize(Metric.L2)
        assert (folder / "vectors-1.f32").exists()
        assert store.revision == revision
        store.delete(stored.ids[20:40])
        view, before = store.snapshot(), contents(store)
        store.optimize(Metric.L2)
        assert not (folder / "vectors-1.f32").exists()
        assert (folder / "vectors-2.f32").stat().st_size == 60 * DIM * 4
        assert contents(store) == contents(view) == before
        assert store.snapshot()._slots is None
        hits = store.search(stored.embeddings[50:51], 1, Metric.L2, exact=True)
        assert hits[0][0].id == stored.ids[50]
        store.upsert(rows(matrix(5), "new"))
        assert contents(EmbeddedStore.open(folder)) == contents(store)

    def test_filters_and_full_text_are_those_of_the_rows(self, store: EmbeddedStore) -> None:
        from lookalike.filters import as_filter

        self.filled(store)
        before = [[*store.ids()], store.count(as_filter("label = 'a'")), store.facets()]
        store.optimize(Metric.L2, purge=True)
        assert [[*store.ids()], store.count(as_filter("label = 'a'")), store.facets()] == before

    @pytest.mark.parametrize("step", range(6))
    def test_interrupted_anywhere_the_old_files_are_intact(
        self,
        store: EmbeddedStore,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
    ) -> None:
        before = self.filled(store)
        places = (
            "flush",
            "_moves",
            "clear_dead",
            "rebuild_derived",
            "remove_unused",
        )
        with monkeypatch.context() as patch:
            if step < len(places):
                patch.setattr(compaction, places[step], _raise(KeyboardInterrupt()))
            else:
                patch.setattr(vector_files, "_sync", _raise(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                store.optimize(Metric.L2, purge=True)
        assert (folder / "vectors-2.f32").exists()
        assert contents(store) == contents(EmbeddedStore.open(folder)) == before
        EmbeddedStore.open(folder).upsert(rows(matrix(1), "new"))
        assert not (folder / "vectors-2.f32").exists()
        store.delete(["new0000"])
        store.optimize(Metric.L2, purge=True)
        assert contents(store) == before
        assert not (folder / "vectors-1.f32").exists()

    def test_it_can_be_cancelled_and_reports_progress(
        self, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "_BLOCKS", 1)
        store.upsert(rows(matrix(3 * BLOCK)))
        store.delete([f"r{i:04}" for i in range(BLOCK)])
        before = contents(store)
        seen: list[Progress] = []
        cancellation = Cancellation()

        def cancel(progress: Progress) -> None:
            seen.append(progress)
            if progress.done:
                cancellation.cancel()

        with reporting(cancel), cancellable(cancellation), pytest.raises(CancelledError):
            store.optimize(Metric.L2)
        assert contents(store) == before
        with reporting(seen.append):
            store.optimize(Metric.L2)
        assert seen[-1] == Progress("compact", 2 * BLOCK, 2 * BLOCK, "rows")
        assert contents(store) == before

    def test_purging_leaves_no_trace(self, store: EmbeddedStore, folder: Path) -> None:
        needle, vector = "xq7secretword", np.array([[1.5, 2.25, -3.125, 7, 9]], np.float32)
        stored = rows(matrix(50))
        store.upsert(stored)
        store.upsert(
            Rows([f"s:{needle}/i"], [f"/{needle}/x/{needle}/i"], vector, [{needle: needle}], [""])
        )
        store.upsert(replace(stored.take([4]), metadata=[{"was": needle}]))
        before = contents(store)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert any(needle.encode() in data for data in files.values())
        store.upsert(stored.take([4]))
        store.delete([f"s:{needle}/i"])
        store.optimize(Metric.L2, purge=True)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        for name, data in after.items():
            assert needle.encode() not in data, name
            assert vector.tobytes() not in data, name
        assert len(contents(store)) == len(before) - 1
        # Without a dead slot: metadata only.
        store.upsert(replace(stored.take([4]), metadata=[{"was": needle}]))
        store.upsert(stored.take([4]))
        store.optimize(Metric.L2, purge=True)
        for path in folder.iterdir():
            assert needle.encode() not in path.read_bytes(), path.name

    def test_purging_says_when_others_still_read(
        self, store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "READERS_S", 0.05)
        self.filled(store)
        view = EmbeddedStore.open(folder).snapshot()
        before = contents(view)
        with pytest.raises(BusyError, match="another process reads them"):
            store.optimize(Metric.L2, purge=True)
        assert contents(view) == contents(store) == before
        del view
        gc.collect()
        store.optimize(Metric.L2, purge=True)
        assert (folder / "rows.db-wal").stat().st_size == 0

    def test_what_an_interrupted_write_left_is_cut_off(
        self, store: EmbeddedStore, folder: Path
    ) -> None:
        store.upsert(rows(matrix(3)))
        with (folder / "vectors-1.f32").open("ab") as file:
            file.write(b"left over")
        store.optimize(Metric.L2, purge=True)
        assert (folder / "vectors-1.f32").stat().st_size == 3 * DIM * 4

    def test_a_reader_that_has_not_mapped_the_old_files_yet_takes_the_new_ones(
        self, store: EmbeddedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.filled(store)
        real = vector_files.VectorFiles.map
        compacted: list[bool] = []

        def mapped(files: Any, slots: int, connection: sqlite3.Connection) -> Any:
            if not compacted:
                compacted.append(True)
                store.optimize(Metric.L2, purge=False)
                with store._writing() as (write, facts):
                    compaction.compact(folder, write, facts, lambda _: None)
                vector_files.remove_other_files(folder, facts.generation + 1)
            return real(files, slots, connection)

        monkeypatch.setattr(vector_files.VectorFiles, "map", mapped)
        assert contents(EmbeddedStore.open(folder)) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files")
def test_open_and_close_cycles_leak_nothing(store: EmbeddedStore, folder: Path) -> None:
    store.upsert(rows(matrix(BLOCK + 5)))
    store.delete(["r0001"])

    def resources() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        return len(os.listdir("/proc/self/fd")), maps.count(str(folder))  # noqa: PTH208

    def cycle() -> None:
        reader = EmbeddedStore.open(folder)
        reader.search(matrix(1), 2, Metric.L2)
        reader.snapshot().columns()

    cycle()
    store.snapshot()
    before = resources()
    for _ in range(200):
        cycle()
    for _ in range(1_000):
        store.snapshot()
    assert resources() == before


def test_snapshots_are_used_by_several_threads_beside_a_writer(store: EmbeddedStore) -> None:
    base = rows(matrix(200))
    store.upsert(base)
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                view = store.snapshot()
                [hits] = view.search(base.embeddings[:1], 5, Metric.L2)
                assert hits[0].id == base.ids[0]
                assert view.count() == len(view.ids()) == len(view.columns())
        except BaseException as error:  # noqa: BLE001 - in a thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seed in range(1, 31):
        store.upsert(rows(matrix(10, seed), "new"))
        store.delete(["new0003"])
    store.optimize(Metric.L2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_fork_uses_connections_of_its_own(store: EmbeddedStore, folder: Path) -> None:
    """In a process of its own, since forks of one with threads are unsafe."""
    store.upsert(rows(matrix(20)))
    code = """
import os, sys
from pathlib import Path
import numpy as np
from lookalike.errors import ArtifactError
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
store = EmbeddedStore.open(Path(sys.argv[1]))
store.upsert(rows(np.ones((1, 5), np.float32), "parent"))
view = store.snapshot()
def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return os.waitpid(pid, 0)[1]
def write():
    assert len(view.ids()) == store.count() == 21
    store.upsert(rows(np.ones((1, 5), np.float32), "child"))
    assert store.count() == 22
def stale():
    try:
        view.ids()
    except ArtifactError as error:
        assert "since this process was forked" in str(error)
    else:
        raise AssertionError("read rows of another commit")
    assert store.count() == 22
print(child(write), child(stale))
assert (len(view.ids()), store.count()) == (21, 22)
store.upsert(rows(np.ones((1, 5), np.float32), "again"))
print(store.count())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["0", "0", "23"], "")
    assert store.count() == 23


def test_a_killed_writer_loses_nothing(store: EmbeddedStore, folder: Path) -> None:
    code = """
import json, os, sys
from pathlib import Path
import numpy as np
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.testing import rows
store = EmbeddedStore.open(Path(sys.argv[1]))
for turn in range(5):
    store.upsert(rows(np.full((3, 5), turn, np.float32), f"t{turn}-"))
    print(turn, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == list("01234")
    assert store.count() == 15
    assert len(EmbeddedStore.open(folder).ids()) == 15


def test_nothing_can_be_written_through_a_connection_for_reading(
    store: EmbeddedStore, folder: Path
) -> None:
    store.upsert(rows(matrix(3)))
    connection = open_database(folder / "rows.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM rows")
    assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    assert connection.execute("PRAGMA cell_size_check").fetchone() == (1,)
    connection.close()
    assert json.dumps(sorted(store.ids())) == json.dumps(["r0000", "r0001", "r0002"])
