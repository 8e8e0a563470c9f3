"""The vector files of a store: append-only, mapped into memory, shared by all who read them."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.stores.embedded.failures import unreadable
from lookalike.stores.quantized import BLOCK, RUNS, QuantizedBlocks
from lookalike.types import Embeddings

_FLOAT = np.dtype("<f4")

_NAME = re.compile(r"(?:vectors|codes|scales)-([0-9]{1,18})\.(?:f32|i8)")

_SELECT = (
    "SELECT block, error, relative_error, smallest, largest FROM blocks "
    "WHERE generation = ? AND block < ? ORDER BY block"
)
_INSERT = "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


BlockRecord = tuple[float, ...]
"""Generation and number of a block, its bounds, and the checksums of its vectors and codes."""


class MappedVectors(NamedTuple):
    """What a store's files have, read-only.

    Args:
        vectors: ``(slots, dim)`` float32.
        codes: those of whole blocks of vectors.
    """

    vectors: Embeddings
    codes: QuantizedBlocks


class VectorFiles:
    """The files of one generation of a store.

    ``vectors-G.f32`` has the embeddings in the order of their slots. ``codes-G.i8`` and
    ``scales-G.f32`` have what :class:`QuantizedBlocks` describes of each whole block of them; the
    bounds and checksums of the blocks are in the table ``blocks`` of the database.

    Args:
        folder: of the store.
        generation: number in their names.
        dim: length of an embedding.
    """

    def __init__(self, folder: Path, generation: int, dim: int) -> None:
        self._dim = dim
        self._generation = generation
        self._vectors = folder / f"vectors-{generation}.f32"
        self._codes = folder / f"codes-{generation}.i8"
        self._scales = folder / f"scales-{generation}.f32"

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self._vectors, self._codes, self._scales]

    def create(self) -> None:
        """Create the empty files.

        Raises:
            OSError: they cannot be written.
        """
        for path in self.paths:
            path.touch(exist_ok=False)

    def append(self, slots: int, embeddings: Embeddings) -> list[BlockRecord]:
        """Write embeddings ``(n, dim)`` behind the first ``slots``; they are on the disk then.

        The blocks that they complete are quantized.

        Returns:
            What must be recorded about these blocks, see :meth:`record`.

        Raises:
            OSError: they cannot be written.
        """
        embeddings = np.ascontiguousarray(embeddings, _FLOAT)
        records = []
        with (
            self._vectors.open("r+b") as vectors,
            self._codes.open("r+b") as codes,
            self._scales.open("r+b") as scales,
        ):
            vectors.seek(slots * self._dim * _FLOAT.itemsize)
            vectors.write(embeddings.data.cast("B") if embeddings.size else b"")
            vectors.flush()
            _sync(vectors.fileno())  # the codes are a quarter as long, and take the processor
            blocks = range(slots // BLOCK, (slots + len(embeddings)) // BLOCK)
            for block in blocks:
                check_cancelled()
                start = block * BLOCK
                rows = embeddings[start - slots : start - slots + BLOCK]
                if start < slots:
                    vectors.seek(start * self._dim * _FLOAT.itemsize)
                    rows = np.frombuffer(
                        vectors.read(BLOCK * self._dim * _FLOAT.itemsize), _FLOAT
                    ).reshape(BLOCK, self._dim)
                records.append(self._append_block(block, rows, codes, scales))
            for file in (codes, scales) if blocks else ():
                file.flush()
                _sync(file.fileno())
        return records

    @staticmethod
    def record(connection: sqlite3.Connection, blocks: Sequence[BlockRecord]) -> None:
        """Record blocks that were appended, in the connection's transaction.

        Raises:
            sqlite3.Error: that failed.
        """
        connection.executemany(_INSERT, blocks)

    def _append_block(
        self, block: int, rows: Embeddings, codes: BinaryIO, scales: BinaryIO
    ) -> BlockRecord:
        """Write the codes of a block."""
        quantized = QuantizedBlocks.empty(1, self._dim, BLOCK)
        quantized.fill(0, rows)
        parts = [quantized.codes.data.cast("B"), quantized.scales.astype(_FLOAT).data.cast("B")]
        for file, part in zip((codes, scales), parts, strict=True):
            file.seek(block * len(part))
            file.write(part)
        checksums = zlib.crc32(rows.data.cast("B")), zlib.crc32(parts[1], zlib.crc32(parts[0]))
        return self._generation, block, *quantized.bounds[0].tolist(), *checksums

    def truncate(self, slots: int) -> None:
        """Cut off what an interrupted write left behind the first ``slots``.

        Raises:
            OSError: the files cannot be written.
        """
        blocks = slots // BLOCK
        sizes = (slots * self._dim, blocks * self._dim * BLOCK, blocks * RUNS * BLOCK)
        for path, size, item in zip(self.paths, sizes, (4, 1, 4), strict=True):
            if path.stat().st_size > size * item:
                os.truncate(path, size * item)
                with path.open("r+b") as file:
                    _sync(file.fileno())

    def map(self, slots: int, connection: sqlite3.Connection) -> MappedVectors:
        """Map the vectors of the first slots and the codes of their whole blocks.

        Raises:
            ArtifactError: a file is missing or too short, or a block is not recorded.
            sqlite3.Error: the database cannot be read.
        """
        count = slots // BLOCK
        bounds = self._bounds(count, connection)
        return MappedVectors(
            _map(self._vectors, _FLOAT, (slots, self._dim)),
            QuantizedBlocks(
                _map(self._codes, np.dtype(np.int8), (count, self._dim, BLOCK)),
                _map(self._scales, _FLOAT, (count, RUNS, BLOCK)),
                bounds,
            ),
        )

    def _bounds(self, count: int, connection: sqlite3.Connection) -> NDArray[np.float64]:
        """Return what is recorded about the first blocks, ``(count, 4)``.

        Raises:
            ArtifactError: a block is not recorded, or what is recorded makes no sense.
            sqlite3.Error: the database cannot be read.
        """
        recorded = connection.execute(_SELECT, (self._generation, count)).fetchall()
        if [block for block, *_ in recorded] != list(range(count)):
            raise unreadable(
                self._codes, ValueError(f"{len(recorded)} of its {count} blocks are recorded")
            )
        if not all(
            isinstance(value, float) and value >= 0 for _, *row in recorded for value in row
        ):
            raise unreadable(self._codes, ValueError("the bounds of its blocks are damaged"))
        return np.array([row for _, *row in recorded], np.float64).reshape(count, 4)


def remove_other_files(folder: Path, generation: int) -> None:
    """Delete the files of all generations but one; those that are in use on Windows stay."""
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None and int(match[1]) != generation:
            with contextlib.suppress(OSError):
                path.unlink()


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Map the beginning of a file.

    Raises:
        ArtifactError: it is missing or too short.
    """
    try:
        if math.prod(shape):
            return np.memmap(path, dtype, "r", shape=shape)
        path.stat()
    except OSError as error:
        raise unreadable(path, error.strerror or error) from error
    except ValueError as error:  # of mmap
        raise unreadable(path, "it is shorter than what is recorded") from error
    return np.empty(shape, dtype)
