"""How rows are packed: what many of them share is stored once, as it is most of a row.

A URI is mostly a folder followed by what the id has after its source, and the metadata of most rows
have the same columns. So a row has the number of the folder, and that of the columns with the
values. The content hash is the 32 bytes of a SHA-256, where it is one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import count, repeat
from json import JSONEncoder
from json.encoder import encode_basestring
from operator import add
from typing import Any, NamedTuple
from zlib import crc32

from lookalike.errors import InputError
from lookalike.stores.base import Rows
from lookalike.stores.embedded.failures import odd_values
from lookalike.stores.same_columns import SameColumns, by_columns
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


class CheckedRows(NamedTuple):
    """Rows that can be stored, by column.

    Args:
        ids: their ids.
        uris: where their images are.
        hashes: of their contents.
        signatures: as they are.
        encoded: what the checksum of each is of, beside its embedding.
        metadata: as JSON.
        names: of the columns of the metadata, packed; empty if they cannot be packed.
        values: of the metadata, packed.
        columns: the metadata as they are, by columns.
    """

    ids: Sequence[str]
    uris: Sequence[str]
    hashes: Sequence[str]
    signatures: Sequence[str]
    encoded: Sequence[bytes]
    metadata: Sequence[str]
    names: Sequence[str]
    values: Sequence[str]
    columns: Sequence[SameColumns]


_UNSTORABLE = (UnicodeEncodeError, TypeError, ValueError, RecursionError)


def checked_rows(rows: Rows) -> CheckedRows:
    """Return rows as they can be stored.

    Raises:
        InputError: a text has half of a surrogate pair, or metadata are no JSON.
    """
    try:
        return _checked(rows)
    except _UNSTORABLE as error:
        row_id, reason = _first_unstorable(rows) or (rows.ids[0], error)
        raise InputError(f"the row with the id {row_id!r} cannot be stored ({reason})") from reason


def _first_unstorable(rows: Rows) -> tuple[str, Exception] | None:
    for place, row_id in enumerate(rows.ids):
        try:
            _checked(rows.take([place]))
        except _UNSTORABLE as error:
            return row_id, error
    return None


def _checked(rows: Rows) -> CheckedRows:
    texts, names, values = ([""] * len(rows) for _ in range(3))
    groups = by_columns(rows.metadata)
    for group in groups:
        keys = [f"{encode_basestring(name)}:" for name in group.names]
        packed_names = _SEPARATOR.join(keys)
        form = "{" + ",".join(f"{key.replace('%', '%%')}%s" for key in keys) + "}"
        columns = map(_as_json, group.values)
        parts = zip(*columns, strict=True) if keys else repeat((), len(group.places))
        for place, part in zip(group.places, parts, strict=True):
            texts[place] = form % part
            values[place] = _SEPARATOR.join(part)
            names[place] = packed_names
    fields = zip(rows.ids, rows.uris, rows.hashes, rows.signatures, texts, strict=True)
    encoded = [*map(_encoded, fields)]
    return CheckedRows(
        *(rows.ids, rows.uris, rows.hashes, rows.signatures, encoded),
        *(texts, names, values, groups),
    )


def _as_json(values: list[Any]) -> list[str]:
    """Return the values of a column as JSON."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return [*map(encode_basestring, values)]
    if kinds == {int}:
        return [*map(repr, values)]
    return [_value_as_json(value) for value in values]


def _value_as_json(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    return repr(value) if kind is int else _ENCODER.encode(value)


PackedRow = tuple[int, str | int, str, str | bytes, str, str, int]
"""The slot, URI, id, content hash, signature, metadata and checksum of a row, as it is stored."""


class Sharing:
    """What rows share: read in the transaction of a write, and stored there after packing.

    Raises:
        sqlite3.Error: it cannot be read.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        with odd_values():
            self._prefixes = _Numbers(connection, "uri_prefixes", "prefix")
            self._names = _Numbers(connection, "metadata_names", "names")

    def store(self, connection: sqlite3.Connection) -> None:
        """Store what is new.

        Raises:
            sqlite3.Error: that failed.
        """
        with odd_values():
            self._prefixes.store(connection)
            self._names.store(connection)

    def packed_rows(
        self, slots: Sequence[int], rows: CheckedRows, embeddings: Embeddings
    ) -> list[PackedRow]:
        """Return rows as they are stored.

        Args:
            slots: theirs.
            rows: as they were checked.
            embeddings: theirs, ``(n, dim)`` float32, contiguous.
        """
        data, size = embeddings.data.cast("B"), embeddings.strides[0]
        checksums = [
            _checksum(encoded, data[start : start + size])
            for encoded, start in zip(rows.encoded, count(0, size))
        ]
        uris, metadata = self._pack_uris(rows), self._pack_metadata(rows)
        hashes = _pack_hashes(rows.hashes)
        columns = (slots, uris, rows.ids, hashes, rows.signatures, metadata, checksums)
        return [*zip(*columns, strict=True)]

    def _pack_uris(self, rows: CheckedRows) -> list[str | int]:
        uris: list[str | int] = []
        numbers = self._prefixes
        for row_id, uri in zip(rows.ids, rows.uris, strict=True):
            key = row_id[row_id.find(":") + 1 :]
            if not key or not uri.endswith(key) or "\0" in row_id:
                uris.append(uri)
                continue
            number = numbers[uri[: -len(key)]]
            uris.append(uri if number is None else number)
        return uris

    def _pack_metadata(self, rows: CheckedRows) -> list[str]:
        prefixes = {}
        for names in dict.fromkeys(rows.names):
            number = self._names[names] if 0 < len(names) < _LONGEST_NAMES else None
            if number is not None:
                prefixes[names] = f"{number}{_SEPARATOR}"
        return [
            prefixes[names] + values if names in prefixes else text
            for names, values, text in zip(rows.names, rows.values, rows.metadata, strict=True)
        ]


class _Numbers(dict[str, int | None]):
    """The numbers of texts that rows share; a new text gets one as long as there are few."""

    def __init__(self, connection: sqlite3.Connection, table: str, column: str) -> None:
        super().__init__(connection.execute(f"SELECT {column}, number FROM {table}"))
        self._insert = f"INSERT INTO {table} ({column}, number) VALUES (?, ?)"
        self._next = 1 + max((number for number in self.values() if number is not None), default=0)
        self._new: list[tuple[str, int]] = []

    def __missing__(self, text: str) -> int | None:
        if len(self) >= _MAX_SHARED:
            return None
        number, self._next = self._next, self._next + 1
        self[text] = number
        self._new.append((text, number))
        return number

    def store(self, connection: sqlite3.Connection) -> None:
        """Store those that are new."""
        connection.executemany(self._insert, self._new)
        self._new = []


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


def _pack_hashes(texts: Sequence[str]) -> Sequence[str | bytes]:
    """Return content hashes as they are stored."""
    size = _DIGEST // 2
    try:
        data = bytes.fromhex("".join(texts))
    except ValueError:
        data = b""
    if set(map(len, texts)) == {_DIGEST} and data.hex() == "".join(texts):
        return [data[start : start + size] for start in range(0, len(data), size)]
    return [*map(_pack_hash, texts)]


def _pack_hash(text: str) -> str | bytes:
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
    return _checksum(_encoded(fields), embedding)


def _encoded(fields: Sequence[str]) -> bytes:
    return "\0".join(fields).encode()


def _checksum(encoded: bytes, embedding: bytes | memoryview) -> int:
    value = crc32(embedding, crc32(encoded))
    return value - (value >> 31 << 32)  # signed, which takes fewer bytes in the database
