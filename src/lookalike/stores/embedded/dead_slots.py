"""Slots whose rows were removed, as bits: which rows exist is known without reading them."""

from __future__ import annotations

import sqlite3

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 15
"""Slots of a block, whose bits are one value of the database (4 KiB)."""

SCHEMA = ("CREATE TABLE dead (block INTEGER PRIMARY KEY, bits BLOB NOT NULL)",)
"""The bits of a block, that of its first slot first; blocks without dead slots are left out."""


def mark_dead(connection: sqlite3.Connection, slots: NDArray[np.int64]) -> None:
    """Record that the rows of slots were removed.

    Raises:
        sqlite3.Error: that failed.
    """
    blocks = slots // BLOCK
    for block in np.unique(blocks).tolist():
        bits = np.zeros(BLOCK, np.bool_)
        row = connection.execute("SELECT bits FROM dead WHERE block = ?", (block,)).fetchone()
        if row is not None:
            bits = _unpack(row[0])
        bits[slots[blocks == block] - block * BLOCK] = True
        connection.execute("INSERT OR REPLACE INTO dead VALUES (?, ?)", (block, _pack(bits)))


def clear_dead(connection: sqlite3.Connection) -> None:
    """Record that no slot is dead.

    Raises:
        sqlite3.Error: that failed.
    """
    connection.execute("DELETE FROM dead")


def dead_mask(connection: sqlite3.Connection, slots: int) -> NDArray[np.bool_]:
    """Return which of the first slots are dead.

    Raises:
        sqlite3.Error: that cannot be read, or is damaged.
    """
    mask = np.zeros(slots, np.bool_)
    for block, data in connection.execute("SELECT block, bits FROM dead"):
        bits = _unpack(data)
        start = block * BLOCK
        part = mask[max(0, start) : max(0, start + BLOCK)]
        if start < 0 or bits[len(part) :].any():
            raise sqlite3.DatabaseError(f"the dead slots of block {block} are damaged")
        part[:] = bits[: len(part)]
    return mask


def _pack(bits: NDArray[np.bool_]) -> bytes:
    return np.packbits(bits).tobytes()


def _unpack(data: object) -> NDArray[np.bool_]:
    if not isinstance(data, bytes) or len(data) != BLOCK // 8:
        raise sqlite3.DatabaseError("the dead slots are damaged")
    return np.unpackbits(np.frombuffer(data, np.uint8)).astype(np.bool_)
