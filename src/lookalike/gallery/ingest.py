"""Ingest: read, decode, encode and upsert the items of a source, in batches.

Each thread reads, decodes and encodes chunks of items on its own, so that all cores are busy and
only one chunk per thread is held decoded. An interrupted ingest repeats at most one batch: items
whose content the store already has are not encoded again.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, InputError, LookalikeError
from lookalike.gallery.archive import ColumnArchive
from lookalike.gallery.edits import EDITED, merge_written, source_metadata, written_values
from lookalike.gallery.lookup import records_of
from lookalike.images.decode import content_hash
from lookalike.images.exif import EXIF_COLUMNS, GPS_COLUMNS
from lookalike.images.header import read_header
from lookalike.metadata import storable_metadata
from lookalike.sources import Item, Source
from lookalike.sources.base import NO_FAILURES, failure_reason
from lookalike.sources.options import pixels_key
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
    LEFT_OUT = auto()
    FAILED = auto()


@dataclass(slots=True)
class IngestSummary:
    """Items per change, and what is told of some of them.

    Args:
        counts: items per change.
        moved: former ids of moved items.
        left_out: content hashes by id of items that were removed from the gallery before.
        failed: items that could not be indexed.
        notes: on decoded images.
    """

    counts: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    moved: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, result: ItemResult) -> None:
        """Count one item. Of several copies of a removed row the first has moved."""
        change = result.change
        if change is Change.MOVED and result.row_id is not None:
            change = Change.ADDED if result.row_id in self.moved else Change.MOVED
            self.moved.add(result.row_id)
        elif change is Change.LEFT_OUT:
            self.left_out[result.id] = result.content_hash
        elif change is Change.FAILED:
            self.failed.append(Failure(result.uri, result.reason))
        self.counts[change] += 1
        self.notes.update(result.notes)

    def refuse(self, result: ItemResult, failure: ItemResult) -> None:
        """Count an item as failed that was counted as written: the store has refused it."""
        change = result.change
        if change is Change.MOVED and self.counts[change] == 0:
            change = Change.ADDED
        self.counts[change] -= 1
        self.add(failure)


@dataclass(frozen=True, slots=True)
class ExistingRows:
    """The rows that a store has of a source.

    Args:
        rows: by id.
        moved_from: ids of rows that the source no longer has, by content hash.
        removed: content hashes by id of images that were removed while their files stayed.
        removed_contents: of those of them whose files are gone since; a new file of that content
            is the moved one.
        written: metadata columns that come from no source; they stay with an image while its
            content stays the same.
        archive: values of these columns from former rows and from these, by content hash; a new
            file of that content has them again, also where two files are swapped.
        rehash: read items again whose signature is unchanged.
    """

    rows: Mapping[str, Record] = field(default_factory=dict)
    moved_from: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    removed_contents: Set[str] = frozenset()
    written: Set[str] = frozenset()
    archive: Mapping[str, Metadata] = field(default_factory=dict)
    rehash: bool = False

    def metadata(self, item: Item, row: Record) -> Metadata:
        """Return the new metadata of a row whose content equals that of an item."""
        return merge_written(item.metadata, written_values(row.metadata, self.written))

    def restore(self, item: Item, digest: str) -> Metadata:
        """Return the metadata of a new content, with what was written for it before."""
        return merge_written(item.metadata, self.archive.get(digest, {}))


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
        notes: of decoding, see :class:`lookalike.images.decode.DecodedImage`.
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
    notes: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether its row has to be written."""
        return not self.written and (self.embedding is not None or self.row_id is not None)


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """Compares items with existing rows and encodes new and changed ones.

    Without an encoder, items are only compared. Whatever goes wrong with one item is its failure.
    ``columns`` of the metadata come from the header of each file, unless the source has its own.
    """

    existing: ExistingRows
    encoder: Encoder | None
    columns: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item]) -> list[ItemResult]:
        """Process a chunk of items."""
        results: list[ItemResult] = []
        decoded: list[tuple[ItemResult, ImageArray]] = []
        size = 0
        for item in items:
            try:
                result, pixels = self._read(item)
            except NO_FAILURES:
                raise
            except BaseException as error:  # noqa: BLE001 - one item must not end the others
                expected = isinstance(error, LookalikeError)
                reason = error if expected else f"cannot be read ({failure_reason(error)})"
                results.append(failed(item.id, item.uri, reason))
                continue
            if pixels is None:
                results.append(result)
                continue
            decoded.append((result, pixels))
            size += pixels.nbytes
            if size >= _ENCODE_BYTES:
                results += _encode(decoded, self.encoder)
                decoded, size = [], 0
        if decoded:
            results += _encode(decoded, self.encoder)
        return results

    def _read(self, item: Item) -> tuple[ItemResult, ImageArray | None]:
        """Return the result of an item, and its image if that has to be encoded.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        metadata, notes = storable_metadata(item.metadata)
        metadata.pop(EDITED, None)  # of an exported gallery
        item = replace(item, metadata=metadata)
        with item.in_memory():
            result, content = _compare(item, self.existing, self.columns)
            if notes or item.notes:
                result = replace(result, notes=(*item.notes, *notes))
            if content is None or self.encoder is None:
                return result, None
            image = item.decode(content)
            return replace(result, notes=(*result.notes, *image.notes)), image.pixels


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
class Turn:
    """What a writer needs of a gallery while no other one writes.

    Args:
        store: the rows.
        archive: what was written of former contents.
        written: metadata columns that come from no source.
    """

    store: VectorStore
    archive: ColumnArchive
    written: Set[str]


@dataclass(frozen=True, slots=True)
class IngestTarget:
    """The gallery that rows are written to.

    Args:
        encoder: of its rows.
        store: its rows, for runners that write them.
        turn: waits until no other process writes, and lets none write during the block.
    """

    encoder: Encoder
    store: VectorStore
    turn: Callable[[], AbstractContextManager[Turn]]


def ingest(
    source: Source,
    target: IngestTarget,
    existing: ExistingRows,
    on_progress: ProgressCallback = ignore_progress,
    runner: Runner | None = None,
) -> IngestSummary:
    """Add and update the rows of a source; nothing is deleted.

    An item is unchanged if its signature is, or else its content hash. A new item with the content
    of a removed row has moved and takes over its embedding. Before a row's content is replaced,
    what was written for it goes to the archive. Other processes may write between batches; what
    they write about rows of the source is kept.

    Args:
        source: the items.
        target: written to, with one commit per batch.
        existing: the rows that it has of the source.
        on_progress: called after every chunk.
        runner: where items are encoded; threads of this process by default.
    """
    runner = runner or ThreadRunner()
    task = EncodeTask(existing, target.encoder, source.options.header_columns)
    chunks = runner.run(task, _chunks(source, runner.chunk_size), target.store)
    summary = IngestSummary()
    pending: list[ItemResult] = []
    committed = time.monotonic()
    for results in _count_results(chunks, summary, len(source), on_progress):
        pending += [result for result in results if result.pending]
        due = time.monotonic() - committed > BATCH_SECONDS
        if len(pending) >= BATCH_IMAGES or (pending and due):
            _archive_and_commit(pending, target, existing, summary)
            pending, committed = [], time.monotonic()
    if pending:
        _archive_and_commit(pending, target, existing, summary)
    return summary


def _archive_and_commit(
    results: Sequence[ItemResult],
    target: IngestTarget,
    existing: ExistingRows,
    summary: IngestSummary,
) -> None:
    """Write the rows of a batch, after what was written for the contents that they replace."""
    with target.turn() as turn:
        sources = {result.row_id or result.id for result in results}
        known = records_of(turn.store, sorted(sources & existing.rows.keys()))
        now = {record.id: record for record in known}
        replaced = (
            now[result.id]
            for result in results
            if result.embedding is not None and result.id in now
        )
        turn.archive.keep(replaced, turn.written)
        before, written = existing.rows.keys(), turn.written
        current = [_as_of_now(result, now, before, written) for result in results]
        refused = commit_each([result for result in current if result is not None], turn.store)
    for result, failure in refused:
        summary.refuse(result, failure)


def _as_of_now(
    result: ItemResult, now: Mapping[str, Record], before: Set[str], written: Set[str]
) -> ItemResult | None:
    """Return a result with what was written for its row since the sync began.

    None if the row was removed since.

    Args:
        result: of an item.
        now: the rows as they are now, by id.
        before: ids of the rows when the sync began.
        written: metadata columns that come from no source.
    """
    known = result.row_id or result.id
    row = now.get(known)
    if row is None:
        return None if known in before else result
    if row.content_hash != result.content_hash:
        return result if result.row_id is None else None
    values = written_values(row.metadata, written)
    return replace(result, metadata=merge_written(source_metadata(result.metadata), values))


def count_changes(
    source: Source, existing: ExistingRows, on_progress: ProgressCallback = ignore_progress
) -> IngestSummary:
    """Count what :func:`ingest` would do. Nothing is decoded or written."""
    runner, summary = ThreadRunner(), IngestSummary()
    task = EncodeTask(existing, None, source.options.header_columns)
    chunks = runner.run(task, _chunks(source, runner.chunk_size), None)
    for _ in _count_results(chunks, summary, len(source), on_progress):
        pass
    return summary


def failed(row_id: str, uri: str, reason: BaseException | str) -> ItemResult:
    """Return the result of an item that could not be indexed."""
    return ItemResult(row_id, uri, {}, Change.FAILED, reason=str(reason).removeprefix(f"{uri}: "))


def commit_each(
    results: Sequence[ItemResult], store: VectorStore
) -> list[tuple[ItemResult, ItemResult]]:
    """Write the rows of a batch; return those that the store refuses, each with its failure.

    A store may allow less than others, such as shorter metadata.
    """
    try:
        commit(results, store)
    except InputError as error:
        if len(results) == 1:
            [result] = results
            reason = str(error).removeprefix(f"{result.id}: ")
            return [(result, failed(result.id, result.uri, reason))]
        middle = len(results) // 2
        return commit_each(results[:middle], store) + commit_each(results[middle:], store)
    return []


def commit(results: Sequence[ItemResult], store: VectorStore) -> None:
    """Write the rows of a batch; embeddings of known contents come from the store."""
    if not results:
        return
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


def _count_results(
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


def _compare(
    item: Item, existing: ExistingRows, columns: tuple[str, ...]
) -> tuple[ItemResult, bytes | ImageArray | None]:
    """Return the result of an item, and its content if that has to be encoded.

    A row's signature also says how its image was decoded, where that is not the default, and which
    columns of its metadata are from its header.

    Raises:
        ImageError: the item cannot be read.
    """
    row = existing.rows.get(item.id)
    if row is None and item.id in existing.removed:
        digest = existing.removed[item.id]
        return ItemResult(item.id, item.uri, {}, Change.LEFT_OUT, digest), None
    cheap, pixels = item.signature(), pixels_key(item.options)
    signature = " ".join((cheap, *filter(None, (pixels, _columns_key(item, columns)))))
    if row is not None and cheap and signature == row.signature and not existing.rehash:
        known = source_metadata(row.metadata)
        own = {name: known[name] for name in columns if name in known}
        item = replace(item, metadata={**own, **item.metadata})
        return _same_content(item, row, signature, existing), None
    content = item.content()
    item = _with_header(item, content, columns)
    digest = item_hash(item, content)
    if row is not None and row.content_hash == digest:
        result = _same_content(item, row, signature, existing)
        if _decoding_key(row) == pixels:
            return result, None
        return replace(result, change=Change.UPDATED, row_id=None), content
    former = existing.rows[existing.moved_from[digest]] if digest in existing.moved_from else None
    if row is None and former is not None and _decoding_key(former) == pixels:
        metadata = existing.metadata(item, former)
        fields = (item.id, item.uri, metadata, Change.MOVED, digest, signature)
        return ItemResult(*fields, row_id=former.id), None
    if row is None and digest in existing.removed_contents:
        return ItemResult(item.id, item.uri, {}, Change.LEFT_OUT, digest), None
    change = Change.ADDED if row is None else Change.UPDATED
    metadata = existing.restore(item, digest)
    return ItemResult(item.id, item.uri, metadata, change, digest, signature), content


def item_hash(item: Item, content: bytes | ImageArray) -> str:
    """Return the content hash of an item; pages of one file differ."""
    digest = content_hash(content)
    if not item.page:
        return digest
    return hashlib.sha256(f"{digest}#{item.page + 1}".encode()).hexdigest()


def _decoding_key(row: Record) -> str:
    """Return how the image of a row was decoded, see :func:`pixels_key`."""
    _, *keys = row.signature.split(" ")
    return " ".join(key for key in keys if not key.startswith(_COLUMNS))


_COLUMNS = "columns="


def _columns_key(item: Item, columns: tuple[str, ...]) -> str:
    """Return a text that differs if other columns of an item are from its header; none: empty."""
    if not columns:
        return ""
    groups = {"exif": EXIF_COLUMNS, "gps": GPS_COLUMNS}
    names = [name for name, each in groups.items() if each[0] in columns]
    names += [f"-{name}" for name in columns if name in item.metadata]
    return _COLUMNS + ",".join(names)


def _with_header(item: Item, content: bytes | ImageArray, columns: tuple[str, ...]) -> Item:
    """Return an item with columns of its header; those that it has itself win."""
    if not columns or not isinstance(content, bytes):
        return item
    try:
        values = read_header(content, name=item.uri).columns
    except ImageError:  # decoding says what is wrong
        return item
    own = {name: values[name] for name in columns if name in values}
    return replace(item, metadata=storable_metadata({**own, **item.metadata})[0])


def _same_content(item: Item, row: Record, signature: str, existing: ExistingRows) -> ItemResult:
    """Return the result of an item with the content of its row; other columns may differ."""
    metadata = existing.metadata(item, row)
    same = (item.uri, signature) == (row.uri, row.signature) and metadata == row.metadata
    change = Change.UNCHANGED if metadata == row.metadata else Change.UPDATED
    fields = (item.id, item.uri, metadata, change, row.content_hash, signature)
    return ItemResult(*fields, row_id=None if same else row.id)


def _encode(
    decoded: Sequence[tuple[ItemResult, ImageArray]], encoder: Encoder | None
) -> list[ItemResult]:
    """Encode images together; if that fails, one by one, so that only the cause fails."""
    assert encoder is not None
    try:
        rows = encoder.encode_batch([image for _, image in decoded])
        return [
            replace(result, embedding=row) for (result, _), row in zip(decoded, rows, strict=True)
        ]
    except NO_FAILURES:
        raise
    except BaseException as error:  # noqa: BLE001 - one image must not end a batch
        if len(decoded) > 1:
            return [result for pair in decoded for result in _encode([pair], encoder)]
        result = decoded[0][0]
        expected = isinstance(error, ImageError)
        reason = error if expected else f"cannot be encoded ({failure_reason(error)})"
        return [failed(result.id, result.uri, reason)]
