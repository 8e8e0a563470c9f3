"""Rows in the database: how they are stored, and their checksums.

Whatever is derived from them reads them by :func:`stored_rows` and :func:`all_rows`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from json import JSONEncoder
from typing import Any, NamedTuple
from zlib import crc32

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.metadata import parse_metadata
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, Metadata

SCHEMA = (
    # A row's slot is its place in the vector files. The URI is a text, or the number of a prefix
    # that is followed by the id without its source (see URI). The content hash is a BLOB of 32
    # bytes if it is a SHA-256 in hexadecimal, else the text.
    "CREATE TABLE rows (slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri BLOB NOT NULL, "
    "content_hash BLOB NOT NULL, signature TEXT NOT NULL, metadata TEXT NOT NULL, "
    "checksum INTEGER NOT NULL)",
    "CREATE TABLE uri_prefixes (number INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE)",
)

URI = (
    "CASE typeof(uri) WHEN 'integer' THEN (SELECT prefix FROM uri_prefixes WHERE number = uri) || "
    "substr(id, instr(id, ':') + 1) ELSE uri END"
)
"""The expression of a row's URI. Most are a folder followed by what the id has after its source, so
that they need not be stored twice."""

_MAX_PREFIXES = 1_000

INSERT = (
    "INSERT INTO rows (slot, uri, id, content_hash, signature, metadata, checksum) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
UPDATE = (
    "UPDATE rows SET uri = ?2, content_hash = ?4, signature = ?5, metadata = ?6, checksum = ?7 "
    "WHERE slot = ?1 AND id = ?3"
)
DELETE = "DELETE FROM rows WHERE slot = ?"

_MAX_VARIABLES = 500
_ENCODER = JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DIGEST = 64
_STEP = 1_000
"""Rows that are read between checks whether the work was cancelled."""


class StoredRow(NamedTuple):
    """The parts of a row that something is derived from.

    Args:
        slot: its place in the vector files.
        id: its id.
        uri: where its image is.
        metadata: JSON values by column.
    """

    slot: int
    id: str
    uri: str
    metadata: Metadata


def stored_rows(
    connection: sqlite3.Connection, column: str, values: Sequence[Any]
) -> list[StoredRow]:
    """Return rows by values of a column, in any order; values that none has are left out.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    query = f"SELECT slot, id, {URI}, metadata FROM rows WHERE {column} IN (?)"
    return [
        StoredRow(slot, row_id, uri, parse_metadata(metadata))
        for slot, row_id, uri, metadata in select_many(connection, query, values)
    ]


def all_rows(connection: sqlite3.Connection, first: int = 0) -> Iterator[StoredRow]:
    """Iterate over all rows by slot, from a first slot.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    query = f"SELECT slot, id, {URI}, metadata FROM rows WHERE slot >= ? ORDER BY slot"
    cursor = connection.execute(query, (first,))
    while rows := cursor.fetchmany(_STEP):
        check_cancelled()
        for slot, row_id, uri, metadata in rows:
            yield StoredRow(slot, row_id, uri, parse_metadata(metadata))


def select_many(
    connection: sqlite3.Connection, query: str, values: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query whose ``IN (?)`` stands for many values."""
    for start in range(0, len(values), _MAX_VARIABLES):
        check_cancelled()
        part = values[start : start + _MAX_VARIABLES]
        places = f"({','.join('?' * len(part))})"
        yield from connection.execute(query.replace("(?)", places), part).fetchall()


def packed_uris(connection: sqlite3.Connection, rows: Rows) -> list[str | int]:
    """Return the URIs of rows as they are stored, in a transaction that may add prefixes.

    Raises:
        sqlite3.Error: that failed.
    """
    numbers = dict(connection.execute("SELECT prefix, number FROM uri_prefixes"))
    uris: list[str | int] = []
    for row_id, uri in zip(rows.ids, rows.uris, strict=True):
        key = row_id[row_id.find(":") + 1 :]
        if not key or not uri.endswith(key) or "\0" in row_id:
            uris.append(uri)
            continue
        prefix = uri[: -len(key)]
        number = numbers.get(prefix)
        if number is None and len(numbers) < _MAX_PREFIXES:
            query = "INSERT INTO uri_prefixes (prefix) VALUES (?)"
            numbers[prefix] = number = connection.execute(query, (prefix,)).lastrowid
        uris.append(uri if number is None else number)
    return uris


def remove_unused_prefixes(connection: sqlite3.Connection) -> None:
    """Delete prefixes that only removed rows had; all rows are read for it.

    Raises:
        sqlite3.Error: that failed.
    """
    connection.execute(
        "DELETE FROM uri_prefixes WHERE number NOT IN "
        "(SELECT DISTINCT uri FROM rows WHERE typeof(uri) = 'integer')"
    )


PackedRow = tuple[str, str | bytes, str, str, int]
"""Id, content hash, signature, metadata and checksum of a row as they are stored."""


def packed_rows(rows: Rows, embeddings: Embeddings) -> list[PackedRow]:
    """Return rows as they are stored, but for their slots and URIs.

    Args:
        rows: to be stored.
        embeddings: theirs, ``(n, dim)`` float32, contiguous.

    Raises:
        InputError: a text has half of a surrogate pair, or metadata are no JSON.
    """
    size = embeddings.strides[0]
    data = embeddings.data.cast("B")
    columns = (rows.ids, rows.uris, rows.hashes, rows.signatures, rows.metadata)
    packed: list[PackedRow] = []
    try:
        for place, (row_id, uri, digest, signature, metadata) in enumerate(
            zip(*columns, strict=True)
        ):
            text = _ENCODER.encode(dict(metadata))
            checksum = row_checksum(
                (row_id, uri, digest, signature, text), data[place * size : (place + 1) * size]
            )
            packed.append((row_id, pack_hash(digest), signature, text, checksum))
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the row with the id {rows.ids[len(packed)]!r} cannot be stored ({error})"
        ) from error
    return packed


def pack_hash(text: str) -> str | bytes:
    """Return a content hash as it is stored."""
    if len(text) == _DIGEST:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            return text
        if data.hex() == text:
            return data
    return text


def unpack_hash(value: str | bytes) -> str:
    """Return a content hash that was stored."""
    return value if isinstance(value, str) else value.hex()


def row_checksum(fields: Sequence[str], embedding: bytes | memoryview) -> int:
    """Return the CRC-32 of a row, as a signed number.

    Args:
        fields: its id, URI, content hash, signature, and metadata as they are stored, as texts.
        embedding: its bytes.

    Raises:
        UnicodeEncodeError: a text has lone surrogates.
    """
    value = crc32(embedding, crc32("\0".join(fields).encode()))
    return value - (value >> 31 << 32)  # signed, which takes fewer bytes in the database
