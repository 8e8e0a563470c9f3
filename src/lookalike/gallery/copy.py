"""A gallery copied to another place, from a folder to Milvus or back, and checked."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import ArtifactError, FingerprintError, InputError, SettingError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.recall import recall
from lookalike.gallery.storage import gallery_exists
from lookalike.stores.base import Record, Rows
from lookalike.stores.milvus.address import Address
from lookalike.types import Progress, ProgressCallback, ignore_progress

BATCH = 4_096
COMPARED = 500
"""Rows that are read from both places at the end, and compared."""

ASKED = 100
N = 10


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did, in rows.

    ``compared`` rows were read from both places, and were the same to the bit. ``recall`` is the
    share of the nearest 10 rows to ``asked`` of them, found by looking at all, that a search of
    the copy found.
    """

    added: int
    updated: int
    removed: int
    unchanged: int
    rows: int
    compared: int
    asked: int
    recall: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields = asdict(self)
        return {**fields, "seconds": round(self.seconds, 3)}


def copy(
    gallery: Gallery,
    target: str | Path,
    *,
    store: str | None = None,
    allow_removals: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> CopyReport:
    """Make another gallery have the same encoder, rows and sources.

    Rows go over in batches that are committed as they come. Interrupted and called again, it goes
    on; called again later, it brings the copy up to date. Images stay where they are.

    Args:
        gallery: what is copied.
        target: a folder or the address of a collection, made if not there.
        store: with a folder that is not there, the address where the rows go.
        allow_removals: delete rows of the target that the gallery has not.
        on_progress: told after every batch.

    Raises:
        InputError: the target is the gallery itself, or its rows are elsewhere than ``store``.
        FingerprintError: the target is a gallery of another encoder.
        ArtifactError: the target has rows that the gallery has not, or what was written is not
            what is read.
        UnreachableError: a server does not answer.
        StorageError: it could not be written.
    """
    start = time.perf_counter()
    made = not gallery_exists(target)
    if made:
        into = Gallery.create(target, encoder=gallery.encoder, metric=gallery.metric, store=store)
    else:
        into = Gallery.open(target)
        _check(gallery, into, target, store)
    there = {} if made else {record.id: _digest(record) for record in into.store.records()}
    extra = sorted(there.keys() - set(gallery.store.ids())) if there else []
    if extra and not allow_removals:
        raise ArtifactError(
            f"{target}: has {len(extra):,} rows that {gallery.path.name} has not, {extra[0]!r} the "
            "first; if they are to go, say --allow-removals. Nothing was changed"
        )
    counts = {"added": 0, "updated": 0, "unchanged": 0}
    changed = _changed(gallery, there, counts, on_progress)
    into.upsert(
        changed, fingerprint=gallery.fingerprint, sources=gallery.sources, written=gallery.written
    )
    removed = into.remove(extra) if extra else 0
    into.optimize()
    compared = _compare(gallery, into)
    asked, found = _recall(gallery, into)
    seconds = time.perf_counter() - start
    return CopyReport(
        **counts,
        removed=removed,
        rows=len(into),
        compared=compared,
        asked=asked,
        recall=found,
        seconds=seconds,
    )


def _check(gallery: Gallery, into: Gallery, target: str | Path, store: str | None) -> None:
    if store is not None and Address.parse(store) != into.address:
        raise SettingError(
            f"{target}: its rows are in {into.address or 'its folder'}, not in {store}; leave "
            "--store out"
        )
    same = gallery.path.resolve() == into.path.resolve()
    if same or (gallery.address is not None and gallery.address == into.address):
        raise InputError(f"{target}: is the gallery itself; name another place")
    if gallery.fingerprint != into.fingerprint:
        raise FingerprintError(
            f"{target}: is a gallery of another encoder ({into.fingerprint[:12]}, not "
            f"{gallery.fingerprint[:12]}); choose another place"
        )


def _changed(
    gallery: Gallery,
    there: Mapping[str, bytes],
    counts: dict[str, int],
    on_progress: ProgressCallback,
) -> Iterator[Rows]:
    """Yield the rows that the target has not, or has otherwise; count all."""
    total, done = len(gallery), 0
    on_progress(Progress("copy", 0, total, "rows"))
    for rows in gallery.store.rows(BATCH):
        columns = zip(rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, strict=True)
        had = [there.get(row_id) for row_id in rows.ids]
        other = [
            place
            for place, (fields, before) in enumerate(zip(columns, had, strict=True))
            if before != _digest(Record(*fields))
        ]
        counts["updated"] += sum(had[place] is not None for place in other)
        counts["added"] += sum(had[place] is None for place in other)
        counts["unchanged"] += len(rows) - len(other)
        if other:
            yield _some(rows, other)
        done += len(rows)
        on_progress(Progress("copy", done, total, "rows"))


def _some(rows: Rows, places: list[int]) -> Rows:
    """Return some of the rows."""
    if len(places) == len(rows):
        return rows
    texts = {
        name: [getattr(rows, name)[place] for place in places]
        for name in ("ids", "uris", "metadata", "hashes", "signatures")
    }
    return replace(rows, **texts, embeddings=rows.embeddings[places])


def _digest(record: Record) -> bytes:
    """Return what is another for a row with any other field; its image's hash is one of them."""
    text = json.dumps(
        [record.uri, dict(record.metadata), record.content_hash, record.signature], sort_keys=True
    )
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _compare(gallery: Gallery, into: Gallery) -> int:
    """Read some rows from both places, and return how many.

    Raises:
        ArtifactError: they are not the same, or not as many.
    """
    if len(gallery) != len(into):
        raise ArtifactError(
            f"{into.address or into.path}: has {len(into):,} rows after the copy, of "
            f"{len(gallery):,}; another process may have written, copy again"
        )
    ids = gallery.store.ids()
    drawn = ids[:: max(1, len(ids) // COMPARED)]
    one, other = gallery.store.get(drawn), into.store.get(drawn)
    same = (one.uris, one.metadata, one.hashes, one.signatures) == (
        *(other.uris, other.metadata, other.hashes, other.signatures),
    )
    if not same or not np.array_equal(one.embeddings, other.embeddings):
        raise ArtifactError(
            f"{into.address or into.path}: rows read there differ from those written; copy again"
        )
    return len(drawn)


def _recall(gallery: Gallery, into: Gallery) -> tuple[int, float]:
    """Return how many rows were searched with, and the recall of the copy's search."""
    ids = gallery.store.ids()
    if not ids:
        return 0, 1.0
    asked = gallery.store.get(ids[:: max(1, len(ids) // ASKED)]).embeddings
    exact = gallery if gallery.address is None else into
    true = exact.store.search(asked, N, gallery.metric, exact=True)
    return len(asked), recall(into.store.search(asked, N, gallery.metric), true)
