"""How the columns of the metadata are stored in the database.

A column has a number. Each of its values has a code, from 0, and each slot the code of its value or
none. A code keeps its meaning as long as the column has its number; a number is never used again.
Columns without rows stay until all are rebuilt.

The values are JSON in pieces of many, compressed but for the last one. The codes are in blocks of
16,384 slots, each with the smallest integers that hold its codes: either of all slots from
the first to the last one that has a value, or, if that is shorter, the places of these slots and
then their codes.

Every piece and block has a CRC-32, that of a piece over all values of the column up to its end. So
values that were read before are still those of the database if the next piece has its CRC.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.filters.encoded import Codes, Values, code_type
from lookalike.metadata import json_values
from lookalike.stores.embedded.columns import BLOCK

_OPEN_PIECE = 4_096
"""Bytes from which a piece of values is compressed, and the next values begin another one."""

_SHIFT = 32
_CODES = {np.dtype(kind).itemsize: np.dtype(kind) for kind in (np.int8, np.int16, np.int32)}
_PLACES = np.dtype("<u2")
_HEADER = struct.Struct("<qqq")


def place_of(number: int, within: int = 0) -> int:
    """Return the place of a block or of a piece of a column."""
    return number << _SHIFT | within


def within_column(place: int) -> int:
    """Return the block of a place, or the code of its first value."""
    return place & (1 << _SHIFT) - 1


class DamagedColumnError(sqlite3.DatabaseError):
    """What is stored of a column contradicts itself."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"the {what} of column {number} of the metadata are damaged")


@dataclass(frozen=True, slots=True)
class StoredValues:
    """The values of a column up to the end of a piece, and what the next piece is checked with.

    Args:
        values: by code.
        size: characters of all values as JSON.
        place: of the last piece, which may grow.
        text: of the last piece.
        before: checksum of the values before the last piece.
        checksum: of all values.
    """

    values: Values
    size: int
    place: int
    text: str
    before: int
    checksum: int


def read_values(
    connection: sqlite3.Connection, number: int, known: StoredValues | None = None
) -> StoredValues:
    """Read the values of a column.

    Args:
        connection: to the database.
        number: of the column.
        known: values that were read before, maybe of another commit; only newer ones are read, if
            these are still the first ones.

    Raises:
        sqlite3.Error: they cannot be read, or are damaged.
    """
    if known is not None and known.text:
        newer = _newer_values(connection, known)
        if newer is not None:
            return newer
    values: list[Any] = []
    size = before = checksum = 0
    place, text = place_of(number), ""
    for piece_place, count, data, stored_checksum in _pieces(connection, place, number):
        check_cancelled()
        place, text, before = piece_place, _text(data, number), checksum
        checksum = values_checksum(text, before, first=within_column(place))
        size += len(text)
        part = _parsed(text, number)
        if checksum != stored_checksum or len(part) != count or within_column(place) != len(values):
            raise DamagedColumnError(number, "values")
        values += part
    return StoredValues(Values(values), size, place, text, before, checksum)


def _newer_values(connection: sqlite3.Connection, known: StoredValues) -> StoredValues | None:
    """Return values with those after them; None if others are stored, or they are damaged."""
    number = known.place >> _SHIFT
    values, size, place = known.values, known.size, known.place
    text, before, checksum = known.text, known.before, known.before
    is_first = True
    for piece_place, count, data, stored_checksum in _pieces(connection, place, number):
        check_cancelled()
        piece = _text(data, number)
        if is_first:
            if piece_place != place or not f"{piece},".startswith(f"{text},"):
                return None
            addition = piece[len(text) + 1 :]
        else:
            place, before, addition = piece_place, checksum, piece
        text = piece
        checksum = values_checksum(piece, before, first=within_column(place))
        if addition:
            size += len(addition)
            values = values.extended(_parsed(addition, number))
        if checksum != stored_checksum or within_column(place) + count != len(values):
            return None
        is_first = False
    return None if is_first else StoredValues(values, size, place, text, before, checksum)


@dataclass(frozen=True, slots=True)
class LastPiece:
    """The last piece of the values of a column.

    Args:
        place: where it is.
        count: its values.
        text: they as JSON; None if it is compressed, so that new values begin another piece.
        before: checksum of the values before it.
        checksum: of all values.
    """

    place: int
    count: int
    text: str | None
    before: int
    checksum: int

    @property
    def end(self) -> int:
        """The number of values of the column."""
        return within_column(self.place) + self.count

    @classmethod
    def none(cls, number: int) -> LastPiece:
        """Return that of a new column."""
        return cls(place_of(number), 0, "", 0, 0)

    @classmethod
    def read(cls, connection: sqlite3.Connection, number: int) -> LastPiece:
        """Read it.

        Raises:
            sqlite3.Error: it cannot be read, or is damaged.
        """
        last = connection.execute(
            "SELECT place, count, data, checksum FROM column_values "
            "WHERE place >= ? AND place < ? ORDER BY place DESC LIMIT 1",
            (place_of(number), place_of(number + 1)),
        ).fetchone()
        if last is None:
            return cls.none(number)
        place, count, data, checksum = last
        text = data if isinstance(data, str) else None
        before = 0
        if text is not None:
            previous = connection.execute(
                "SELECT checksum FROM column_values WHERE place >= ? AND place < ? "
                "ORDER BY place DESC LIMIT 1",
                (place_of(number), place),
            ).fetchone()
            before = 0 if previous is None else previous[0]
            if values_checksum(text, before, first=within_column(place)) != checksum:
                raise DamagedColumnError(number, "values")
        return cls(place, count, text, before, checksum)


Piece = tuple[int, int, int, str | bytes, int]
"""A piece of the values of a column, as it is stored."""


def with_values(stored: LastPiece, values: list[Any]) -> tuple[LastPiece, Piece]:
    """Return the last piece of a column after values were appended, and what must be stored."""
    addition = json.dumps(values, ensure_ascii=False, separators=(",", ":"))[1:-1]
    if stored.text is None:
        place = place_of(stored.place >> _SHIFT, stored.end)
        count, text, before = len(values), addition, stored.checksum
    else:
        place, count, before = stored.place, stored.count + len(values), stored.before
        text = f"{stored.text},{addition}" if stored.text else addition
    checksum = values_checksum(text, before, first=within_column(place))
    data: str | bytes = text
    if len(text) > _OPEN_PIECE:
        data = zlib.compress(text.encode(), 1)
    last = LastPiece(place, count, text if data is text else None, before, checksum)
    return last, (place, count, len(text), data, checksum)


def write_piece(connection: sqlite3.Connection, piece: Piece) -> None:
    """Store a piece of values.

    Raises:
        sqlite3.Error: that failed.
    """
    connection.execute("INSERT OR REPLACE INTO column_values VALUES (?, ?, ?, ?, ?)", piece)


def values_checksum(text: str, before: int, *, first: int) -> int:
    """Return the checksum of all values up to the end of a piece.

    Args:
        text: of the piece.
        before: checksum of the values before it.
        first: the code of its first value.
    """
    return zlib.crc32(f"{',' if first else ''}{text}".encode(), before)


def _pieces(connection: sqlite3.Connection, place: int, number: int) -> Iterator[Any]:
    return connection.execute(
        "SELECT place, count, data, checksum FROM column_values WHERE place >= ? AND place < ? "
        "ORDER BY place",
        (place, place_of(number + 1)),
    )


def _text(data: str | bytes, number: int) -> str:
    if isinstance(data, str):
        return data
    try:
        return zlib.decompress(data).decode()
    except (zlib.error, UnicodeDecodeError, TypeError) as error:
        raise DamagedColumnError(number, "values") from error


def _parsed(text: str, number: int) -> list[Any]:
    listed = f"[{text}]"
    try:
        try:
            values = json.loads(listed)
        except ValueError:  # an integer may have too many digits for json
            values = json_values(listed)
    except (ValueError, RecursionError) as error:
        raise DamagedColumnError(number, "values") from error
    return list(values)


def read_codes(connection: sqlite3.Connection, number: int, slots: int) -> Codes:
    """Return the codes of a column ``(slots,)``, -1 for none.

    Raises:
        sqlite3.Error: they cannot be read, or are damaged.
    """
    blocks = connection.execute(
        "SELECT place, first, width, data, checksum FROM column_codes "
        "WHERE place >= ? AND place < ? ORDER BY place",
        (place_of(number), place_of(number + 1)),
    ).fetchall()
    widths = {row[2] for row in blocks}
    if not widths <= _CODES.keys():
        raise DamagedColumnError(number, "codes")
    codes = np.full(slots, -1, _CODES[max(widths, default=1)])
    for place, *block in blocks:
        start = within_column(place) * BLOCK
        _unpack(codes[start : start + BLOCK], place, block)
    return codes


def slots_with_codes(connection: sqlite3.Connection, number: int) -> int:
    """Return the number of slots up to the end of the last block of a column.

    Raises:
        sqlite3.Error: that failed.
    """
    (last,) = connection.execute(
        "SELECT max(place) FROM column_codes WHERE place >= ? AND place < ?",
        (place_of(number), place_of(number + 1)),
    ).fetchone()
    return 0 if last is None else (within_column(last) + 1) * BLOCK


def read_block(connection: sqlite3.Connection, place: int) -> NDArray[np.int32]:
    """Return the codes of a block ``(BLOCK,)``, -1 for none.

    Raises:
        sqlite3.Error: they cannot be read, or are damaged.
    """
    codes = np.full(BLOCK, -1, np.int32)
    block = connection.execute(
        "SELECT first, width, data, checksum FROM column_codes WHERE place = ?", (place,)
    ).fetchone()
    if block is not None:
        _unpack(codes, place, block)
    return codes


PackedBlock = tuple[int, int | None, int, bytes, int]
"""A block of codes as it is stored; without data if it has none."""


def packed_block(place: int, codes: NDArray[np.int32]) -> PackedBlock:
    """Return the codes of a block as they are stored."""
    places = np.flatnonzero(codes >= 0)
    if not len(places):
        return place, None, 0, b"", 0
    dtype = np.dtype(code_type(int(codes.max()) + 1)).newbyteorder("<")
    start, end = int(places[0]), int(places[-1]) + 1
    first: int | None = start
    if len(places) * (_PLACES.itemsize + dtype.itemsize) < (end - start) * dtype.itemsize:
        first = None
        data = places.astype(_PLACES).tobytes() + codes[places].astype(dtype).tobytes()
    else:
        data = codes[start:end].astype(dtype).tobytes()
    return place, first, dtype.itemsize, data, _codes_checksum(place, first, dtype.itemsize, data)


def write_block(connection: sqlite3.Connection, block: PackedBlock) -> None:
    """Store the codes of a block.

    Raises:
        sqlite3.Error: that failed.
    """
    place, _, _, data, _ = block
    if data:
        connection.execute("INSERT OR REPLACE INTO column_codes VALUES (?, ?, ?, ?, ?)", block)
    else:
        connection.execute("DELETE FROM column_codes WHERE place = ?", (place,))


def _unpack(codes: Codes, place: int, block: Any) -> None:
    """Write the codes of a block as it is stored into an array."""
    first, width, data, checksum = block
    try:
        if _codes_checksum(place, first, width, data) != checksum:
            raise ValueError
        dtype = _CODES[width].newbyteorder("<")
        if first is None:
            count = len(data) // (_PLACES.itemsize + width)
            places = np.frombuffer(data, _PLACES, count)
            codes[places] = np.frombuffer(data, dtype, count, count * _PLACES.itemsize)
        else:
            part = np.frombuffer(data, dtype)
            codes[first : first + len(part)] = part
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise DamagedColumnError(place >> _SHIFT, "codes") from error


def _codes_checksum(place: int, first: int | None, width: int, data: bytes) -> int:
    header = _HEADER.pack(place, -1 if first is None else first, width)
    return zlib.crc32(data, zlib.crc32(header))
