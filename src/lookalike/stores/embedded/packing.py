"""How rows are packed: what many of them share is stored once, as it is most of a row.

A URI is mostly a folder followed by what the id has after its source, and the metadata of most rows
have the same columns. So a row has the number of the folder, and that of the columns with the
values. The content hash is the 32 bytes of a SHA-256, where it is one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from json import JSONEncoder
from json.encoder import encode_basestring
from operator import add
from typing import Any, NamedTuple
from zlib import crc32

from lookalike.errors import InputError
from lookalike.stores.base import Rows
from lookalike.types import Embeddings

SCHEMA = (
    "CREATE TABLE uri_prefixes (number INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE)",
    "CREATE TABLE metadata_names (number INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE)",
)

URI = (
    "CASE typeof(uri) WHEN 'integer' THEN (SELECT prefix FROM uri_prefixes WHERE number = uri) || "
    "substr(id, instr(id, ':') + 1) ELSE uri END"
)
"""The expression of a row's URI."""

_SEPARATOR = "\x1e"
"""Between the parts of packed metadata; JSON has it only escaped."""

_MAX_SHARED = 1_000
"""Folders, and lists of columns, that are stored once; rows with others are not packed."""

_LONGEST_NAMES = 2_000
_ENCODER = JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DIGEST = 64

Names = Mapping[str, Sequence[str]]
"""The names of the columns of metadata by the number of their list, as JSON with a colon."""

Prefixes = Mapping[int, str]
"""The beginnings of URIs by their numbers."""


class CheckedRow(NamedTuple):
    """A row that can be stored.

    Args:
        id: its id.
        uri: where its image is.
        content_hash: packed.
        signature: as it is.
        checksum: see :func:`row_checksum`.
        metadata: as JSON.
        names: of the columns of the metadata, packed; empty if it cannot be packed.
        values: of the metadata, packed.
    """

    id: str
    uri: str
    content_hash: str | bytes
    signature: str
    checksum: int
    metadata: str
    names: str
    values: str


def checked_rows(rows: Rows, embeddings: Embeddings) -> list[CheckedRow]:
    """Return rows as they can be stored.

    Args:
        rows: to be stored.
        embeddings: theirs, ``(n, dim)`` float32, contiguous.

    Raises:
        InputError: a text has half of a surrogate pair, or metadata are no JSON.
    """
    size = embeddings.strides[0]
    data = embeddings.data.cast("B")
    columns = (rows.ids, rows.uris, rows.hashes, rows.signatures, rows.metadata)
    names_of: dict[tuple[str, ...], tuple[list[str], str]] = {}
    checked: list[CheckedRow] = []
    try:
        for row_id, uri, digest, signature, metadata in zip(*columns, strict=True):
            keys = tuple(metadata)
            if keys not in names_of:
                names = [f"{encode_basestring(key)}:" for key in keys]
                names_of[keys] = names, _SEPARATOR.join(names)
            names, packed_names = names_of[keys]
            values = list(map(_as_json, metadata.values()))
            text = f"{{{','.join(map(add, names, values))}}}"
            start = len(checked) * size
            fields = (row_id, uri, digest, signature, text)
            checksum = row_checksum(fields, data[start : start + size])
            checked.append(
                CheckedRow(
                    *(row_id, uri, pack_hash(digest), signature, checksum),
                    *(text, packed_names, _SEPARATOR.join(values)),
                )
            )
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the row with the id {rows.ids[len(checked)]!r} cannot be stored ({error})"
        ) from error
    return checked


def _as_json(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    return repr(value) if kind is int else _ENCODER.encode(value)


def pack_uris(connection: sqlite3.Connection, rows: Iterable[CheckedRow]) -> list[str | int]:
    """Return URIs as they are stored, in a transaction that may add folders.

    Raises:
        sqlite3.Error: that failed.
    """
    numbers = dict(connection.execute("SELECT prefix, number FROM uri_prefixes"))
    uris: list[str | int] = []
    for row in rows:
        uri, key = row.uri, row.id[row.id.find(":") + 1 :]
        if not key or not uri.endswith(key) or "\0" in row.id:
            uris.append(uri)
            continue
        prefix = uri[: -len(key)]
        number = numbers.get(prefix)
        if number is None and len(numbers) < _MAX_SHARED:
            query = "INSERT INTO uri_prefixes (prefix) VALUES (?)"
            numbers[prefix] = number = connection.execute(query, (prefix,)).lastrowid
        uris.append(uri if number is None else number)
    return uris


def pack_metadata(connection: sqlite3.Connection, rows: Iterable[CheckedRow]) -> list[str]:
    """Return metadata as they are stored, in a transaction that may add lists of columns.

    Raises:
        sqlite3.Error: that failed.
    """
    numbers = dict(connection.execute("SELECT names, number FROM metadata_names"))
    packed = []
    for row in rows:
        names = row.names
        number = numbers.get(names)
        if number is None and 0 < len(names) < _LONGEST_NAMES and len(numbers) < _MAX_SHARED:
            query = "INSERT INTO metadata_names (names) VALUES (?)"
            numbers[names] = number = connection.execute(query, (names,)).lastrowid
        text = row.metadata if number is None else f"{number}{_SEPARATOR}{row.values}"
        packed.append(text)
    return packed


def metadata_names(connection: sqlite3.Connection) -> Names:
    """Return the names that :func:`unpack_metadata` needs.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    query = "SELECT number, names FROM metadata_names"
    return {
        str(number): str(names).split(_SEPARATOR) for number, names in connection.execute(query)
    }


def uri_prefixes(connection: sqlite3.Connection) -> Prefixes:
    """Return the beginnings of URIs that :func:`unpack_uri` needs.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    return dict(connection.execute("SELECT number, prefix FROM uri_prefixes"))


def unpack_uri(uri: str | int, row_id: str, prefixes: Prefixes) -> str:
    """Return a row's URI as :data:`URI` does, without a query for each row.

    Raises:
        sqlite3.DatabaseError: there is no such prefix.
        TypeError, AttributeError: the values are of other types.
    """
    if type(uri) is not int:
        return uri  # type: ignore[return-value]
    prefix = prefixes.get(uri)
    if prefix is None:
        raise sqlite3.DatabaseError("the URI of a row is damaged")
    return prefix + row_id[row_id.find(":") + 1 :]


def unpack_metadata(text: object, names_of: Names) -> str:
    """Return metadata that were stored, as JSON.

    Raises:
        sqlite3.DatabaseError: they are damaged.
    """
    if not isinstance(text, str):
        raise sqlite3.DatabaseError("the metadata of a row are damaged")
    if text.startswith("{"):
        return text
    number, *values = text.split(_SEPARATOR)
    names = names_of.get(number, ())
    if len(names) != len(values) or not values:
        raise sqlite3.DatabaseError("the metadata of a row are damaged")
    return f"{{{','.join(map(add, names, values))}}}"


def remove_unused(connection: sqlite3.Connection) -> None:
    """Delete folders and lists of columns that only removed rows had; all rows are read for it.

    Raises:
        sqlite3.Error: that failed.
    """
    connection.execute(
        "DELETE FROM uri_prefixes WHERE number NOT IN "
        "(SELECT DISTINCT uri FROM rows WHERE typeof(uri) = 'integer')"
    )
    connection.execute(
        "DELETE FROM metadata_names WHERE number NOT IN "
        "(SELECT DISTINCT CAST(metadata AS INTEGER) FROM rows)"
    )


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


def unpack_hash(value: object) -> str:
    """Return a content hash that was stored.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    if isinstance(value, bytes):
        return value.hex()
    if not isinstance(value, str):
        raise sqlite3.DatabaseError("the content hash of a row is damaged")
    return value


def row_checksum(fields: Sequence[str], embedding: bytes | memoryview) -> int:
    """Return the CRC-32 of a row, as a signed number.

    Args:
        fields: its id, URI, content hash, signature and metadata as JSON, all of them as texts.
        embedding: its bytes.

    Raises:
        UnicodeEncodeError: a text has lone surrogates.
    """
    value = crc32(embedding, crc32("\0".join(fields).encode()))
    return value - (value >> 31 << 32)  # signed, which takes fewer bytes in the database
