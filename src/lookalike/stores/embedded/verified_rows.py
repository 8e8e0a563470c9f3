"""Rows by slot, verified by their checksums: what hits are made of.

A search reads few rows, but these are a good part of its time. So they are read by one statement,
what many of them share is read once for a commit, and their metadata are parsed together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lookalike.metadata import parse_metadata_rows
from lookalike.stores.embedded.failures import unreadable
from lookalike.stores.embedded.packing import (
    Names,
    Prefixes,
    metadata_names,
    row_checksum,
    unpack_hash,
    unpack_metadata,
    unpack_uri,
    uri_prefixes,
)
from lookalike.stores.embedded.reader import Reader
from lookalike.types import Metadata

_SELECT = (
    "SELECT slot, id, uri, content_hash, signature, metadata, checksum FROM rows WHERE slot IN (?)"
)


class VerifiedRow(NamedTuple):
    """A row that is as it was written; the fields are those of a record."""

    id: str
    uri: str
    metadata: Metadata
    content_hash: str
    signature: str


def read_verified(reader: Reader, slots: Iterable[int]) -> dict[int, VerifiedRow]:
    """Return rows by slot, after a comparison with their checksums.

    Raises:
        ArtifactError: one is missing or has changed since it was written.
    """
    wanted = sorted(set(slots))
    if not wanted:
        return {}
    embeddings = np.take(reader.mapped.vectors.view(np.ndarray), wanted, axis=0)
    size, data = embeddings.strides[0], embeddings.data.cast("B")
    starts = dict(zip(wanted, range(0, size * len(wanted), size), strict=True))
    names, prefixes = shared_names(reader), _shared_prefixes(reader)
    rows: list[tuple[int, str, str, str, str]] = []
    texts: list[str] = []
    for slot, row_id, packed_uri, digest, signature, packed, checksum in reader.select_many(
        _SELECT, wanted
    ):
        try:
            uri = unpack_uri(packed_uri, row_id, prefixes)
            content_hash, text = unpack_hash(digest), unpack_metadata(packed, names)
            start = starts[slot]
            fields = (row_id, uri, content_hash, signature, text)
            is_intact = checksum == row_checksum(fields, data[start : start + size])
        except (TypeError, AttributeError, sqlite3.DatabaseError):  # values of other types
            is_intact = False
        if not is_intact:
            raise unreadable(
                reader.database, f"the row {row_id!r} has changed since it was written"
            )
        rows.append((slot, row_id, uri, content_hash, signature))
        texts.append(text)
    if len(rows) < len(wanted):
        present = {slot for slot, *_ in rows}
        missing = next(slot for slot in wanted if slot not in present)
        raise unreadable(reader.database, f"there is no row in slot {missing}")
    return {
        slot: VerifiedRow(row_id, uri, metadata, content_hash, signature)
        for (slot, row_id, uri, content_hash, signature), metadata in zip(
            rows, parse_metadata_rows(texts), strict=True
        )
    }


def shared_names(reader: Reader) -> Names:
    """Return the names of columns that rows of a commit share."""
    return reader.cached("metadata names", lambda: reader.run(metadata_names))


def _shared_prefixes(reader: Reader) -> Prefixes:
    return reader.cached("uri prefixes", lambda: reader.run(uri_prefixes))
