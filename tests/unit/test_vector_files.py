"""The files of vectors: whole blocks have codes, and interrupted writes leave nothing behind."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import ArtifactError
from lookalike.stores.embedded import vector_files
from lookalike.stores.embedded.database import SCHEMA
from lookalike.stores.embedded.vector_files import VectorFiles
from lookalike.stores.quantized import RUNS, QuantizedBlocks
from lookalike.types import Embeddings

DIM = 6
BLOCK = 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "BLOCK", BLOCK)


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        connection.execute(statement)
    return connection


@pytest.fixture
def files(tmp_path: Path) -> VectorFiles:
    files = VectorFiles(tmp_path, 3, DIM)
    files.create()
    return files


def vectors(seed: int, count: int) -> Embeddings:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def check(files: VectorFiles, connection: sqlite3.Connection, expected: Embeddings) -> None:
    mapped = files.map(len(expected), connection)
    np.testing.assert_array_equal(mapped.vectors, expected)
    blocks = QuantizedBlocks.empty(len(expected) // BLOCK, DIM, BLOCK)
    for block in range(len(blocks)):
        blocks.fill(block, expected[block * BLOCK : (block + 1) * BLOCK])
    np.testing.assert_array_equal(mapped.codes.codes, blocks.codes)
    np.testing.assert_array_equal(mapped.codes.scales, blocks.scales)
    np.testing.assert_array_equal(mapped.codes.bounds, blocks.bounds)
    recorded = connection.execute(
        "SELECT vectors_checksum, codes_checksum FROM blocks WHERE block < ? ORDER BY block",
        (len(blocks),),
    ).fetchall()
    for block, checksums in enumerate(recorded):
        rows = expected[block * BLOCK : (block + 1) * BLOCK].tobytes()
        codes = blocks.codes[block].tobytes() + blocks.scales[block].tobytes()
        assert checksums == (zlib.crc32(rows), zlib.crc32(codes))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.booleans()), max_size=8))
def test_committed_rows_are_there_whatever_was_interrupted(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bool]]
) -> None:
    """An interrupted write leaves bytes and no blocks; the next one replaces them."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        connection.execute(statement)
    files = VectorFiles(tmp_path_factory.mktemp("files"), 3, DIM)
    files.create()
    expected = vectors(0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_files, "BLOCK", BLOCK)
        for seed, (count, is_interrupted) in enumerate(writes):
            new = vectors(seed, count)
            connection.execute("BEGIN")
            files.record(connection, files.append(len(expected), new))
            connection.execute("ROLLBACK" if is_interrupted else "COMMIT")
            if not is_interrupted:
                expected = np.concatenate([expected, new])
            elif seed % 2:
                files.truncate(len(expected))
            check(files, connection, expected)


def test_truncation_keeps_what_is_in_use(
    files: VectorFiles, connection: sqlite3.Connection
) -> None:
    expected = vectors(0, 3 * BLOCK + 2)
    files.record(connection, files.append(0, expected))
    sizes = [path.stat().st_size for path in files.paths]
    files.record(connection, files.append(len(expected), vectors(1, 2 * BLOCK)))
    files.truncate(len(expected))
    assert [path.stat().st_size for path in files.paths] == sizes
    check(files, connection, expected)


@pytest.mark.parametrize("place", range(3))
def test_short_and_missing_files_are_refused(
    files: VectorFiles, connection: sqlite3.Connection, place: int
) -> None:
    files.record(connection, files.append(0, vectors(0, 2 * BLOCK)))
    path = files.paths[place]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(ArtifactError, match=rf"{path.name}: .*is shorter than .*lookalike doctor"):
        files.map(2 * BLOCK, connection)
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"{path.name}: .*lookalike doctor"):
        files.map(2 * BLOCK, connection)
    with pytest.raises(ArtifactError, match=path.name):
        files.map(0, connection)


def test_a_block_that_is_not_recorded_is_noticed(
    files: VectorFiles, connection: sqlite3.Connection
) -> None:
    files.record(connection, files.append(0, vectors(0, 3 * BLOCK)))
    connection.execute("DELETE FROM blocks WHERE block = 1")
    with pytest.raises(ArtifactError, match="2 of its 3 blocks are recorded"):
        files.map(3 * BLOCK, connection)


def test_blocks_of_another_generation_are_not_used(
    files: VectorFiles, connection: sqlite3.Connection, tmp_path: Path
) -> None:
    files.record(connection, files.append(0, vectors(0, 2 * BLOCK)))
    other = VectorFiles(tmp_path, 4, DIM)
    other.create()
    expected = vectors(5, 2 * BLOCK)
    other.record(connection, other.append(0, expected))
    mapped = other.map(len(expected), connection)
    np.testing.assert_array_equal(mapped.vectors, expected)
    assert mapped.codes.bounds.shape == (2, 4)
    assert mapped.codes.scales.shape == (2, RUNS, BLOCK)


def test_blocks_of_zeros_are_recorded(files: VectorFiles, connection: sqlite3.Connection) -> None:
    expected = np.zeros((BLOCK, DIM), np.float32)
    files.record(connection, files.append(0, expected))
    check(files, connection, expected)
