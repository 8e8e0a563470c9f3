"""Read, decode, encode, upsert: items of a source into a store, in batches committed as they come.

Each thread takes pieces of items through reading, decoding and encoding by itself, so that all
cores are busy and only a piece for each thread is held decoded. Killed at any point and run again,
it redoes at most one batch: items whose content the store already has are not encoded again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError
from lookalike.images.decode import content_hash, decode
from lookalike.sources import Item, Source
from lookalike.sources.sampling import in_threads
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
class IngestSummary:
    """How many items came to what, ids that items had before they moved, and what failed."""

    counts: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    moved: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)

    def note(self, done: ItemResult) -> None:
        """Count one item; of several copies of a row that is gone, the first has moved."""
        change = done.change
        if change is Change.MOVED and done.row is not None:
            change = Change.ADDED if done.row in self.moved else Change.MOVED
            self.moved.add(done.row)
        elif change is Change.FAILED:
            self.failed.append(Failure(done.uri, done.reason))
        self.counts[change] += 1


@dataclass(frozen=True, slots=True)
class ExistingRows:
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
class ItemResult:
    """An item that went through: its new embedding, or the id of the row that has it.

    ``metadata`` is what its row is to have; ``written``, that it is in the store already.
    """

    id: str
    uri: str
    metadata: Metadata
    change: Change
    content_hash: str = ""
    signature: str = ""
    embedding: NDArray[np.float32] | None = None
    row: str | None = None
    reason: str = ""
    written: bool = False

    @property
    def pending(self) -> bool:
        """Whether its row is yet to be written."""
        return not self.written and (self.embedding is not None or self.row is not None)


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """What is done with pieces of a source, wherever it is done; without encoder, only counted."""

    known: ExistingRows
    encoder: Encoder | None

    def __call__(self, items: Sequence[Item]) -> list[ItemResult]:
        """Take items through reading, decoding and encoding."""
        found: list[ItemResult] = []
        waiting: list[tuple[ItemResult, ImageArray]] = []
        size = 0
        for item in items:
            done = _looked_at(item, self.known)
            if isinstance(done, ItemResult):
                found.append(done)
                continue
            data, done = done
            if self.encoder is None:
                found.append(done)
                continue
            try:
                image = decode(data, name=item.uri)
            except ImageError as error:
                found.append(failed(item.id, item.uri, error))
                continue
            waiting.append((done, image))
            size += image.nbytes
            if size >= _PIECE_BYTES:
                found += _encoded(waiting, self.encoder)
                waiting, size = [], 0
        if waiting and self.encoder is not None:
            found += _encoded(waiting, self.encoder)
        return found


class Runner(Protocol):
    """Where work is done: on this machine's threads, or elsewhere."""

    @property
    def piece(self) -> int:
        """Items that are handed out at a time."""
        ...

    def run(
        self, work: EncodeTask, pieces: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield what became of each piece, in their order.

        They may have been written into ``store`` already, which is said of each.
        """
        ...


class ThreadRunner:
    """The threads of this process."""

    piece = 32
    """As many items for each thread, and one piece more, are under way."""

    def run(
        self, work: EncodeTask, pieces: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield what became of each piece, in their order."""
        del store
        return in_threads(work, pieces)


def ingest(
    source: Source,
    encoder: Encoder | None,
    store: VectorStore | None,
    known: ExistingRows,
    on_progress: ProgressCallback = ignore_progress,
    runner: Runner | None = None,
) -> IngestSummary:
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
        runner: where the work is done; by threads unless given.
    """
    runner = runner or ThreadRunner()
    outcome = IngestSummary()
    pending: list[ItemResult] = []
    total, number = len(source), 0
    on_progress(Progress("index", 0, total, "images"))
    committed = time.monotonic()
    items = iter(source)
    pieces = iter(lambda: list(islice(items, runner.piece)), [])
    for piece in runner.run(EncodeTask(known, encoder), pieces, store):
        for done in piece:
            outcome.note(done)
        number += len(piece)
        pending += [done for done in piece if done.pending]
        waited = time.monotonic() - committed > BATCH_SECONDS
        if store is not None and (len(pending) >= BATCH_IMAGES or (pending and waited)):
            commit(pending, store)
            pending, committed = [], time.monotonic()
        note = f"{len(outcome.failed)} failed" if outcome.failed else ""
        on_progress(Progress("index", number, total, "images", note))
    if store is not None and pending:
        commit(pending, store)
    return outcome


def _looked_at(
    item: Item, known: ExistingRows
) -> ItemResult | tuple[bytes | ImageArray, ItemResult]:
    """Return what became of an item, or its content and what becomes of it once it is encoded."""
    row = known.rows.get(item.id)
    signature = item.signature()
    if row is not None and signature and signature == row.signature:
        return _kept(item, row, signature, known)
    try:
        data = item.read()
    except ImageError as error:
        return failed(item.id, item.uri, error)
    except OSError as error:
        return failed(item.id, item.uri, f"cannot be read ({error.strerror or error})")
    found = content_hash(data)
    if row is not None and row.content_hash == found:
        return _kept(item, row, signature, known)
    if row is None and found in known.gone:
        before = known.rows[known.gone[found]]
        metadata = known.metadata(item, before)
        return ItemResult(
            item.id, item.uri, metadata, Change.MOVED, found, signature, row=before.id
        )
    change = Change.ADDED if row is None else Change.UPDATED
    return data, ItemResult(item.id, item.uri, item.metadata, change, found, signature)


def _kept(item: Item, row: Record, signature: str, known: ExistingRows) -> ItemResult:
    """Return an item whose content is that of its row; other columns may have changed."""
    metadata = known.metadata(item, row)
    if (item.uri, signature) == (row.uri, row.signature) and metadata == row.metadata:
        return ItemResult(item.id, item.uri, metadata, Change.UNCHANGED)
    change = Change.UNCHANGED if metadata == row.metadata else Change.UPDATED
    return ItemResult(item.id, item.uri, metadata, change, row.content_hash, signature, row=row.id)


def failed(row_id: str, uri: str, reason: Exception | str) -> ItemResult:
    """Return what became of an item that could not be indexed, and why."""
    said = str(reason).removeprefix(f"{uri}: ")
    return ItemResult(row_id, uri, {}, Change.FAILED, reason=said)


def _encoded(
    waiting: Sequence[tuple[ItemResult, ImageArray]], encoder: Encoder
) -> list[ItemResult]:
    """Encode images together; where one is refused, one by one, so that only it fails."""
    try:
        rows = encoder.encode([image for _, image in waiting])
        return [replace(done, embedding=row) for (done, _), row in zip(waiting, rows, strict=True)]
    except ImageError as error:
        if len(waiting) == 1:
            done = waiting[0][0]
            return [failed(done.id, done.uri, error)]
        return [done for each in waiting for done in _encoded([each], encoder)]


def commit(done: Sequence[ItemResult], store: VectorStore) -> None:
    """Write a batch of rows; those whose content the store has take their embeddings from it."""
    had = [each for each in done if each.row is not None]
    rows = store.get([each.row for each in had if each.row is not None])
    embeddings = dict(zip([each.id for each in had], rows.embeddings, strict=True))
    store.upsert(
        Rows(
            ids=[each.id for each in done],
            uris=[each.uri for each in done],
            embeddings=np.stack(
                [embeddings[d.id] if d.embedding is None else d.embedding for d in done]
            ),
            metadata=[each.metadata for each in done],
            hashes=[each.content_hash for each in done],
            signatures=[each.signature for each in done],
        )
    )
