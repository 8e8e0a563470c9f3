"""Read, decode, encode, upsert: items of a source into a store, in batches committed as they come.

Each thread takes pieces of items through reading, decoding and encoding by itself, so that all
cores are busy and only a piece for each thread is held decoded. Killed at any point and run again,
it redoes at most one batch: items whose content the store already has are not encoded again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError
from lookalike.images import content_hash, decode
from lookalike.reading import in_threads
from lookalike.sources import Item, Source
from lookalike.stores.base import Record, Rows, VectorStore
from lookalike.types import (
    Failure,
    ImageArray,
    Metadata,
    Progress,
    ProgressCallback,
    ignore_progress,
)

BATCH_IMAGES = 4096
BATCH_SECONDS = 10.0
"""A batch is committed when it has this many images, or this long after the one before."""

_PIECE = 32
"""Items a thread takes at a time; as many for each thread, and one piece more, are under way."""

_PIECE_BYTES = 16 << 20
"""A thread encodes what it has decoded at this many bytes of pixels, or at the piece's end."""


class Change(Enum):
    """What became of an item."""

    ADDED = auto()
    UPDATED = auto()
    MOVED = auto()
    UNCHANGED = auto()
    FAILED = auto()


@dataclass(slots=True)
class Outcome:
    """How many items came to what, ids that items had before they moved, and what failed."""

    counts: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    moved: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)

    def note(self, done: _Done) -> None:
        """Count one item; of several copies of a row that is gone, the first has moved."""
        change = done.change
        if change is Change.MOVED and done.row is not None:
            change = Change.ADDED if done.row in self.moved else Change.MOVED
            self.moved.add(done.row)
        elif change is Change.FAILED:
            self.failed.append(Failure(done.item.uri, done.reason))
        self.counts[change] += 1


@dataclass(frozen=True, slots=True)
class Known:
    """What a store has of a source: its rows by id, and the ids of rows gone, by content hash.

    ``written`` are columns of metadata that the source knows nothing of: they stay with an image
    as long as its content does.
    """

    rows: Mapping[str, Record] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)
    written: Set[str] = frozenset()

    def metadata(self, item: Item, row: Record) -> Metadata:
        """Return the metadata of an item whose content is that of a row."""
        kept = {name: value for name, value in row.metadata.items() if name in self.written}
        return {**item.metadata, **kept} if kept else item.metadata


@dataclass(frozen=True, slots=True)
class _Done:
    """An item that went through: its new embedding, or the id of the row that has it."""

    item: Item
    change: Change
    content_hash: str = ""
    signature: str = ""
    embedding: NDArray[np.float32] | None = None
    row: str | None = None
    reason: str = ""
    metadata: Metadata | None = None


def ingest(
    source: Source,
    encoder: Encoder | None,
    store: VectorStore | None,
    known: Known,
    on_progress: ProgressCallback = ignore_progress,
) -> Outcome:
    """Bring a store up to date with a source; nothing is deleted.

    An item is unchanged if its signature is, or else its content hash. A new item with the content
    of a row that is gone has moved, and takes over its embedding.

    Args:
        source: the items.
        encoder: whose embeddings the store holds.
        store: written to, one commit a batch. Without encoder and store nothing is decoded or
            written, only counted.
        known: what the store has of the source.
        on_progress: told after every piece.
    """
    outcome = Outcome()
    pending: list[_Done] = []
    total, number = len(source), 0
    on_progress(Progress("index", 0, total, "images"))
    committed = time.monotonic()
    items = iter(source)
    pieces = iter(lambda: list(islice(items, _PIECE)), [])
    for piece in in_threads(partial(_through, known, encoder), pieces):
        for done in piece:
            outcome.note(done)
        number += len(piece)
        pending += [done for done in piece if done.embedding is not None or done.row is not None]
        waited = time.monotonic() - committed > BATCH_SECONDS
        if store is not None and (len(pending) >= BATCH_IMAGES or (pending and waited)):
            _commit(pending, store)
            pending, committed = [], time.monotonic()
        note = f"{len(outcome.failed)} failed" if outcome.failed else ""
        on_progress(Progress("index", number, total, "images", note))
    if store is not None and pending:
        _commit(pending, store)
    return outcome


def _through(known: Known, encoder: Encoder | None, items: Sequence[Item]) -> list[_Done]:
    """Take a piece of items through reading, decoding and encoding."""
    found: list[_Done] = []
    waiting: list[tuple[_Done, ImageArray]] = []
    size = 0
    for item in items:
        done = _looked_at(item, known)
        if isinstance(done, _Done):
            found.append(done)
            continue
        data, done = done
        if encoder is None:
            found.append(done)
            continue
        try:
            image = decode(data, name=item.uri)
        except ImageError as error:
            found.append(_failed(item, error))
            continue
        waiting.append((done, image))
        size += image.nbytes
        if size >= _PIECE_BYTES:
            found += _encoded(waiting, encoder)
            waiting, size = [], 0
    if waiting and encoder is not None:
        found += _encoded(waiting, encoder)
    return found


def _looked_at(item: Item, known: Known) -> _Done | tuple[bytes | ImageArray, _Done]:
    """Return what became of an item, or its content and what becomes of it once it is encoded."""
    row = known.rows.get(item.id)
    signature = item.signature()
    if row is not None and signature and signature == row.signature:
        return _kept(item, row, signature, known)
    try:
        data = item.read()
    except ImageError as error:
        return _failed(item, error)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        return _Done(item, Change.FAILED, reason=reason)
    found = content_hash(data)
    if row is not None and row.content_hash == found:
        return _kept(item, row, signature, known)
    if row is None and found in known.gone:
        before = known.rows[known.gone[found]]
        metadata = known.metadata(item, before)
        return _Done(item, Change.MOVED, found, signature, row=before.id, metadata=metadata)
    change = Change.ADDED if row is None else Change.UPDATED
    return data, _Done(item, change, found, signature)


def _kept(item: Item, row: Record, signature: str, known: Known) -> _Done:
    """Return an item whose content is that of its row; other columns may have changed."""
    metadata = known.metadata(item, row)
    if (item.uri, signature) == (row.uri, row.signature) and metadata == row.metadata:
        return _Done(item, Change.UNCHANGED)
    change = Change.UNCHANGED if metadata == row.metadata else Change.UPDATED
    return _Done(item, change, row.content_hash, signature, row=row.id, metadata=metadata)


def _failed(item: Item, error: ImageError) -> _Done:
    return _Done(item, Change.FAILED, reason=str(error).removeprefix(f"{item.uri}: "))


def _encoded(waiting: Sequence[tuple[_Done, ImageArray]], encoder: Encoder) -> list[_Done]:
    """Encode images together; where one is refused, one by one, so that only it fails."""
    try:
        rows = encoder.encode([image for _, image in waiting])
        return [replace(done, embedding=row) for (done, _), row in zip(waiting, rows, strict=True)]
    except ImageError as error:
        if len(waiting) == 1:
            return [_failed(waiting[0][0].item, error)]
        return [done for each in waiting for done in _encoded([each], encoder)]


def _commit(done: Sequence[_Done], store: VectorStore) -> None:
    """Write a batch of rows; those whose content the store has take their embeddings from it."""
    had = [each for each in done if each.row is not None]
    rows = store.get([each.row for each in had if each.row is not None])
    embeddings = dict(zip([each.item.id for each in had], rows.embeddings, strict=True))
    store.upsert(
        Rows(
            ids=[each.item.id for each in done],
            uris=[each.item.uri for each in done],
            embeddings=np.stack(
                [embeddings[d.item.id] if d.embedding is None else d.embedding for d in done]
            ),
            metadata=[d.item.metadata if d.metadata is None else d.metadata for d in done],
            hashes=[each.content_hash for each in done],
            signatures=[each.signature for each in done],
        )
    )
