"""What the database of a store records about its graph indexes, and their files."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import sole_writer
from lookalike.errors import SettingError, StorageError
from lookalike.files import open_regular
from lookalike.types import Metric

SCHEMA = (
    # One row per metric, also of an index whose generation is over, which is to be built again.
    "CREATE TABLE graphs (metric TEXT PRIMARY KEY, generation INTEGER NOT NULL, "
    "slots INTEGER NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, rows INTEGER NOT NULL, library TEXT NOT NULL, "
    "scale REAL NOT NULL, left_out BLOB NOT NULL)",
)

LOCK = "graph.lock"
"""Held while a graph is built."""

_NAME = re.compile(r"index-[0-9]{1,18}-[0-9]{1,18}-[0-9a-f]{8}\.usearch")
_PATTERN = "index-*.usearch*"
TEMPORARY = ".part"
"""End of the name of a file that is being written."""

_CHUNK = 1 << 26
_MAX_COUNT = 1 << 48


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """What the database records about a graph.

    Args:
        metric: that it searches by.
        generation: of the vector files.
        slots: it is of the rows in the slots below.
        file: name in the folder of the store.
        bytes: size of the file.
        checksum: CRC-32 of the file.
        rows: that it holds; some may be gone by now.
        library: version of usearch that wrote it.
        scale: that vectors were multiplied by, so that 16 bits hold them (Euclidean distance).
        left_out: slots of rows that it does not hold, since 16 bits do not hold their vectors;
            ascending int64.
    """

    metric: Metric
    generation: int
    slots: int
    file: str
    bytes: int
    checksum: int
    rows: int
    library: str
    scale: float
    left_out: NDArray[np.int64]

    @classmethod
    def read_all(cls, connection: sqlite3.Connection) -> dict[Metric, Self]:
        """Return what is recorded, by metric.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        query = (
            "SELECT metric, generation, slots, file, bytes, checksum, rows, library, scale, "
            "left_out FROM graphs"
        )
        records = {}
        for name, *fields, left_out in connection.execute(query):
            with contextlib.suppress(ValueError, TypeError, SettingError):  # damaged: as if missing
                metric = Metric(name)
                records[metric] = cls._checked(metric, fields, np.frombuffer(left_out, "<i8"))
        return records

    @classmethod
    def _checked(cls, metric: Metric, fields: Sequence[Any], left_out: NDArray[np.int64]) -> Self:
        """Return a record that may be damaged, or made by others.

        Raises:
            ValueError, TypeError: it is.
        """
        generation, slots, file, size, crc, rows, library, scale = fields
        numbers = (generation, slots, size, crc, rows)
        if not all(isinstance(number, int) and 0 <= number < _MAX_COUNT for number in numbers):
            raise ValueError("wrong numbers")
        if not (isinstance(library, str) and 0 < float(scale) < float("inf")):
            raise ValueError("wrong parameters")
        every = [-1, *left_out.tolist(), slots]
        if _NAME.fullmatch(file) is None or not (np.diff(every) > 0).all():
            raise ValueError("a wrong name or wrong slots")
        return cls(
            *(metric, generation, slots, file, size, crc, rows, library, float(scale), left_out)
        )

    def write(self, connection: sqlite3.Connection) -> None:
        """Record it in place of the one of the same metric."""
        connection.execute(
            "INSERT OR REPLACE INTO graphs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self.metric.value, self.generation, self.slots, self.file, self.bytes),
                *(self.checksum, self.rows, self.library, self.scale),
                self.left_out.astype("<i8").tobytes(),
            ),
        )


def checksum(data: mmap.mmap | bytes) -> int:
    """Return the CRC-32 of data."""
    result = 0
    with memoryview(data) as view:
        for start in range(0, len(view), _CHUNK):
            with view[start : start + _CHUNK] as part:
                result = zlib.crc32(part, result)
    return result


def remove_unused(folder: Path, connection: sqlite3.Connection, generation: int) -> None:
    """Delete graph files that nothing records, and those of other generations.

    Those that are mapped stay on Windows; and all while another process builds a graph, which
    calls this at its end.
    """
    with contextlib.suppress(StorageError):
        unused = _unused(folder, connection, generation)
        if unused:
            with sole_writer(folder / LOCK, what="the graph"):
                remove_files(folder, connection, generation)


def remove_files(folder: Path, connection: sqlite3.Connection, generation: int) -> None:
    """Do what :func:`remove_unused` does, for who holds the lock of graphs."""
    for path in _unused(folder, connection, generation):
        with contextlib.suppress(OSError):
            path.unlink()


def _unused(folder: Path, connection: sqlite3.Connection, generation: int) -> list[Path]:
    records = GraphRecord.read_all(connection).values()
    used = {record.file for record in records if record.generation == generation}
    return [path for path in folder.glob(_PATTERN) if path.name not in used]


def find_damage(folder: Path, record: GraphRecord, *, deep: bool) -> str | None:
    """Return what is wrong with a graph file; None if nothing is.

    Args:
        folder: of the store.
        record: of the graph.
        deep: also verify its checksum.
    """
    try:
        with open_regular(folder / record.file, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.bytes:
                return f"it has {size:,} bytes instead of {record.bytes:,}"
            if deep:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    if checksum(mapped) != record.checksum:
                        return "its checksum is wrong"
    except (OSError, ValueError) as error:
        return "it is missing" if isinstance(error, FileNotFoundError) else str(error)
    return None
