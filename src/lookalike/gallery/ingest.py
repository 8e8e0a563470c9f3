"""Ingest: read, decode, encode and upsert the items of a source, in batches.

Each thread reads, decodes and encodes chunks of items on its own, so that all cores are busy and
only one chunk per thread is held decoded. An interrupted ingest repeats at most one batch: items
whose content the store already has are not encoded again.
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
from lookalike.sources.sampling import thread_map
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
"""A batch is committed when it has this many images, or this long after the previous one."""

_ENCODE_BYTES = 16 << 20
"""A thread encodes its decoded images when they reach this size, or at the end of the chunk."""


class Change(Enum):
    """What an ingest does with an item."""

    ADDED = auto()
    UPDATED = auto()
    MOVED = auto()
    UNCHANGED = auto()
    FAILED = auto()


@dataclass(slots=True)
class IngestSummary:
    """Items per change, the former ids of moved items, and failures."""

    counts: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    moved: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)

    def add(self, result: ItemResult) -> None:
        """Count one item. Of several copies of a removed row the first has moved."""
        change = result.change
        if change is Change.MOVED and result.row_id is not None:
            change = Change.ADDED if result.row_id in self.moved else Change.MOVED
            self.moved.add(result.row_id)
        elif change is Change.FAILED:
            self.failed.append(Failure(result.uri, result.reason))
        self.counts[change] += 1


@dataclass(frozen=True, slots=True)
class ExistingRows:
    """The rows that a store has of a source.

    Args:
        rows: by id.
        moved_from: ids of rows that the source no longer has, by content hash.
        written: metadata columns that come from no source; they stay with an image while its
            content stays the same.
    """

    rows: Mapping[str, Record] = field(default_factory=dict)
    moved_from: Mapping[str, str] = field(default_factory=dict)
    written: Set[str] = frozenset()

    def metadata(self, item: Item, row: Record) -> Metadata:
        """Return the new metadata of a row whose content equals that of an item."""
        written = {name: value for name, value in row.metadata.items() if name in self.written}
        return {**item.metadata, **written} if written else item.metadata


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What happens to an item: its new embedding, or the row whose embedding it takes over.

    Args:
        id: of its row.
        uri: where its image is.
        metadata: new metadata of its row.
        change: what is done.
        content_hash: of its image.
        signature: cheap fingerprint of its content.
        embedding: ``(dim,)`` float32, if it was encoded.
        row_id: the row with the same content, if there is one.
        reason: why it failed.
        written: its row is already in the store.
    """

    id: str
    uri: str
    metadata: Metadata
    change: Change
    content_hash: str = ""
    signature: str = ""
    embedding: NDArray[np.float32] | None = None
    row_id: str | None = None
    reason: str = ""
    written: bool = False

    @property
    def pending(self) -> bool:
        """Whether its row has to be written."""
        return not self.written and (self.embedding is not None or self.row_id is not None)


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """Compares items with existing rows and encodes new and changed ones.

    Without an encoder, items are only compared.
    """

    existing: ExistingRows
    encoder: Encoder | None

    def __call__(self, items: Sequence[Item]) -> list[ItemResult]:
        """Process a chunk of items."""
        results: list[ItemResult] = []
        decoded: list[tuple[ItemResult, ImageArray]] = []
        size = 0
        for item in items:
            result, data = _compare(item, self.existing)
            if data is None or self.encoder is None:
                results.append(result)
                continue
            try:
                image = decode(data, name=item.uri)
            except ImageError as error:
                results.append(failed(item.id, item.uri, error))
                continue
            decoded.append((result, image))
            size += image.nbytes
            if size >= _ENCODE_BYTES:
                results += _encode(decoded, self.encoder)
                decoded, size = [], 0
        if decoded and self.encoder is not None:
            results += _encode(decoded, self.encoder)
        return results


class Runner(Protocol):
    """Where tasks run: in the threads of this process, or elsewhere."""

    @property
    def chunk_size(self) -> int:
        """Items per chunk."""
        ...

    def run(
        self, task: EncodeTask, chunks: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield the results of each chunk, in order.

        A runner may write rows into ``store`` itself; their results say so.
        """
        ...


class ThreadRunner:
    """Runs tasks in threads of this process; each thread holds one chunk."""

    chunk_size = 32

    def run(
        self, task: EncodeTask, chunks: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield the results of each chunk, in order."""
        del store
        return thread_map(task, chunks, batch_size=1)


@dataclass(frozen=True, slots=True)
class IngestTarget:
    """The store that rows are written to, and its encoder."""

    encoder: Encoder
    store: VectorStore


def ingest(
    source: Source,
    target: IngestTarget,
    existing: ExistingRows,
    on_progress: ProgressCallback = ignore_progress,
    runner: Runner | None = None,
) -> IngestSummary:
    """Add and update the rows of a source; nothing is deleted.

    An item is unchanged if its signature is, or else its content hash. A new item with the content
    of a removed row has moved and takes over its embedding.

    Args:
        source: the items.
        target: written to, with one commit per batch.
        existing: the rows that it has of the source.
        on_progress: called after every chunk.
        runner: where items are encoded; threads of this process by default.
    """
    runner = runner or ThreadRunner()
    task = EncodeTask(existing, target.encoder)
    chunks = runner.run(task, _chunks(source, runner.chunk_size), target.store)
    summary = IngestSummary()
    pending: list[ItemResult] = []
    committed = time.monotonic()
    for results in _counted(chunks, summary, len(source), on_progress):
        pending += [result for result in results if result.pending]
        due = time.monotonic() - committed > BATCH_SECONDS
        if len(pending) >= BATCH_IMAGES or (pending and due):
            commit(pending, target.store)
            pending, committed = [], time.monotonic()
    if pending:
        commit(pending, target.store)
    return summary


def count_changes(
    source: Source, existing: ExistingRows, on_progress: ProgressCallback = ignore_progress
) -> IngestSummary:
    """Count what :func:`ingest` would do. Nothing is decoded or written."""
    runner, summary = ThreadRunner(), IngestSummary()
    chunks = runner.run(EncodeTask(existing, None), _chunks(source, runner.chunk_size), None)
    for _ in _counted(chunks, summary, len(source), on_progress):
        pass
    return summary


def failed(row_id: str, uri: str, reason: Exception | str) -> ItemResult:
    """Return the result of an item that could not be indexed."""
    return ItemResult(row_id, uri, {}, Change.FAILED, reason=str(reason).removeprefix(f"{uri}: "))


def commit(results: Sequence[ItemResult], store: VectorStore) -> None:
    """Write the rows of a batch; embeddings of known contents come from the store."""
    known = [result for result in results if result.row_id is not None]
    rows = store.get([result.row_id for result in known if result.row_id is not None])
    embeddings = dict(zip([result.id for result in known], rows.embeddings, strict=True))
    store.upsert(
        Rows(
            ids=[result.id for result in results],
            uris=[result.uri for result in results],
            embeddings=np.stack(
                [embeddings[r.id] if r.embedding is None else r.embedding for r in results]
            ),
            metadata=[result.metadata for result in results],
            hashes=[result.content_hash for result in results],
            signatures=[result.signature for result in results],
        )
    )


def _chunks(source: Source, size: int) -> Iterator[list[Item]]:
    items = iter(source)
    return iter(lambda: list(islice(items, size)), [])


def _counted(
    chunks: Iterable[list[ItemResult]],
    summary: IngestSummary,
    total: int,
    on_progress: ProgressCallback,
) -> Iterator[list[ItemResult]]:
    """Yield the results of chunks, counted; progress is reported when a chunk is dealt with."""
    done = 0
    on_progress(Progress("index", 0, total, "images"))
    for results in chunks:
        for result in results:
            summary.add(result)
        yield results
        done += len(results)
        note = f"{len(summary.failed)} failed" if summary.failed else ""
        on_progress(Progress("index", done, total, "images", note))


def _compare(item: Item, existing: ExistingRows) -> tuple[ItemResult, bytes | ImageArray | None]:
    """Return the result of an item, and its content if that has to be encoded."""
    row = existing.rows.get(item.id)
    signature = item.signature()
    if row is not None and signature and signature == row.signature:
        return _same_content(item, row, signature, existing), None
    try:
        data = item.read()
    except ImageError as error:
        return failed(item.id, item.uri, error), None
    except OSError as error:
        return failed(item.id, item.uri, f"cannot be read ({error.strerror or error})"), None
    digest = content_hash(data)
    if row is not None and row.content_hash == digest:
        return _same_content(item, row, signature, existing), None
    if row is None and digest in existing.moved_from:
        former = existing.rows[existing.moved_from[digest]]
        metadata = existing.metadata(item, former)
        fields = (item.id, item.uri, metadata, Change.MOVED, digest, signature)
        return ItemResult(*fields, row_id=former.id), None
    change = Change.ADDED if row is None else Change.UPDATED
    return ItemResult(item.id, item.uri, item.metadata, change, digest, signature), data


def _same_content(item: Item, row: Record, signature: str, existing: ExistingRows) -> ItemResult:
    """Return the result of an item with the content of its row; other columns may differ."""
    metadata = existing.metadata(item, row)
    if (item.uri, signature) == (row.uri, row.signature) and metadata == row.metadata:
        return ItemResult(item.id, item.uri, metadata, Change.UNCHANGED)
    change = Change.UNCHANGED if metadata == row.metadata else Change.UPDATED
    fields = (item.id, item.uri, metadata, change, row.content_hash, signature)
    return ItemResult(*fields, row_id=row.id)


def _encode(decoded: Sequence[tuple[ItemResult, ImageArray]], encoder: Encoder) -> list[ItemResult]:
    """Encode images together; if one is refused, one by one, so that only that one fails."""
    try:
        rows = encoder.encode([image for _, image in decoded])
        return [
            replace(result, embedding=row) for (result, _), row in zip(decoded, rows, strict=True)
        ]
    except ImageError as error:
        if len(decoded) == 1:
            result = decoded[0][0]
            return [failed(result.id, result.uri, error)]
        return [result for pair in decoded for result in _encode([pair], encoder)]
