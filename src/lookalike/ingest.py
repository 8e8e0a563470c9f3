"""Read, decode, encode, upsert: items of a source into a store, in batches committed as they come.

Killed at any point and run again, it redoes at most one batch: items whose content the store
already has are read but neither decoded nor encoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.catalog import SAMPLE
from lookalike.errors import ImageError, SourceError
from lookalike.images import content_hash, decode, within
from lookalike.sources import Item, Source
from lookalike.stores.base import Rows, VectorStore
from lookalike.types import Embeddings, ImageArray, Progress, ProgressCallback, ignore_progress

BATCH_IMAGES = 4096
BATCH_BYTES = 128 << 20
"""A batch ends at this many images or, all but its last piece, this many bytes of pixels."""

ENCODE_BATCH = 1024
"""As many images at most are held decoded where they are only encoded."""

_PIECE = 8
"""Images a thread reads at a time; as many for each thread, and one more, are held decoded."""

_SAMPLE_SIDE = 128

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be indexed, and why."""

    uri: str
    reason: str


@dataclass(slots=True)
class Outcome:
    """What became of every item, by id, and the images that failed."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Read:
    item: Item
    content_hash: str = ""
    image: ImageArray | None = None
    reason: str = ""


def ingest(
    source: Source,
    encoder: Encoder,
    store: VectorStore,
    known: Mapping[str, str],
    on_progress: ProgressCallback = ignore_progress,
) -> Outcome:
    """Bring a store up to date with a source; nothing is deleted.

    Args:
        source: the items.
        encoder: whose embeddings the store holds.
        store: written to, one commit a batch.
        known: id to content hash of the source's rows that the store has.
        on_progress: told after every batch.
    """
    outcome = Outcome()
    done = 0
    on_progress(Progress("index", done, len(source), "images"))
    for batch in _batches(source, known):
        _store(batch, encoder, store, known, outcome)
        done += len(batch)
        note = f"{len(outcome.failed)} failed" if outcome.failed else ""
        on_progress(Progress("index", done, len(source), "images", note))
    return outcome


@dataclass(frozen=True, slots=True)
class Sampled:
    """An item and its image, perhaps made smaller."""

    item: Item
    image: ImageArray


def sample_images(source: Source, count: int = SAMPLE) -> list[ImageArray]:
    """Return the images of :func:`read_sample`, for an encoder to be fitted to.

    Raises:
        SourceError: none can be decoded; the first one's reason is given.
    """
    return [sampled.image for sampled in read_sample(source, count)]


def read_sample(source: Source, count: int, named: Set[str] = frozenset()) -> list[Sampled]:
    """Return at most ``count`` images, evenly spread over a source, and those ``named`` by id.

    Images that cannot be decoded are left out; those of more than 128 pixels a side are made
    smaller, so that a sample of large photographs fits into memory.

    Raises:
        SourceError: none can be decoded; the first one's reason is given.
    """
    every = max(1, -(-len(source) // count))
    chosen = [source[index] for index in range(0, len(source), every)]
    if named:
        drawn = {item.id for item in chosen}
        chosen += [item for item in source if item.id in named and item.id not in drawn]
    reads = list(_in_threads(_read_small, chosen))
    sample = [Sampled(read.item, read.image) for read in reads if read.image is not None]
    if not sample:
        first = f"{reads[0].item.uri}: {reads[0].reason}"
        raise SourceError(f"{source.spec}: not one image can be read; the first, {first}")
    return sample


def _read_small(item: Item) -> _Read:
    read = _read(item, None)
    return read if read.image is None else replace(read, image=within(read.image, _SAMPLE_SIDE))


def first_image(source: Source, encoder: Encoder) -> None:
    """See that an encoder takes the first image of a source that can be decoded.

    Raises:
        SourceError: none can be decoded.
        ImageError: the encoder refuses it; the image is named.
    """
    reason = ""
    for item in source:
        read = _read(item, None)
        if read.image is None:
            reason = reason or f"{item.uri}: {read.reason}"
            continue
        try:
            encoder.encode([read.image])
        except ImageError as error:
            raise ImageError(f"{item.uri}: {error}") from error
        return
    raise SourceError(f"{source.spec}: not one image can be read; the first, {reason}")


def encode_items(
    encoder: Encoder, items: Sequence[Item], report: Callable[[int], None] = lambda _: None
) -> Iterator[Embeddings]:
    """Yield embeddings ``(n, dim)`` of items in their order, a batch at a time.

    ``report`` is told how many are done.

    Raises:
        ImageError: an image cannot be decoded or the encoder refuses it; it is named.
    """
    images: list[ImageArray] = []
    size = 0
    for done, image in enumerate(_in_threads(Item.image, items), 1):
        images.append(image)
        size += images[-1].nbytes
        if len(images) == ENCODE_BATCH or size >= BATCH_BYTES or done == len(items):
            try:
                yield encoder.encode(images)
            except ImageError as error:
                refused = _first_refused(encoder, items[done - len(images) : done])
                raise ImageError(f"{refused}: {error}") from error
            report(done)
            images, size = [], 0


def _first_refused(encoder: Encoder, items: Sequence[Item]) -> str:
    for item in items:
        try:
            encoder.encode([item.image()])
        except ImageError:
            return item.uri
    return items[0].uri


def _batches(source: Source, known: Mapping[str, str]) -> Iterator[list[_Read]]:
    """Yield batches of read items, in the source's order."""
    batch: list[_Read] = []
    size = 0
    for read in _in_threads(lambda item: _read(item, known.get(item.id)), source):
        batch.append(read)
        size += 0 if read.image is None else read.image.nbytes
        if len(batch) == BATCH_IMAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _in_threads(work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
    """Yield ``work(item)`` in order; threads run a few pieces ahead of whoever asks."""
    threads = settings().threads
    waiting = iter(items)
    pieces = iter(lambda: list(islice(waiting, _PIECE)), [])

    def work_on(piece: list[Item]) -> list[T]:
        return [work(item) for item in piece]

    with ThreadPoolExecutor(threads, thread_name_prefix="lookalike-read") as pool:
        ahead: deque[Future[list[T]]] = deque()
        for piece in pieces:
            ahead.append(pool.submit(work_on, piece))
            if len(ahead) > threads:
                yield from ahead.popleft().result()
        for future in ahead:
            yield from future.result()


def _read(item: Item, known: str | None) -> _Read:
    try:
        data = item.read()
        found = content_hash(data)
        if found == known:
            return _Read(item, found)
        return _Read(item, found, decode(data, name=item.uri))
    except ImageError as error:
        return _Read(item, reason=str(error).removeprefix(f"{item.uri}: "))
    except OSError as error:
        return _Read(item, reason=f"cannot be read ({error.strerror or error})")


def _store(
    batch: Sequence[_Read],
    encoder: Encoder,
    store: VectorStore,
    known: Mapping[str, str],
    outcome: Outcome,
) -> None:
    outcome.failed += [Failure(read.item.uri, read.reason) for read in batch if read.reason]
    outcome.unchanged += [r.item.id for r in batch if r.image is None and not r.reason]
    kept, embeddings = _encode([r for r in batch if r.image is not None], encoder, outcome)
    if kept:
        store.upsert(
            Rows(
                ids=[read.item.id for read in kept],
                uris=[read.item.uri for read in kept],
                embeddings=embeddings,
                metadata=[read.item.metadata for read in kept],
                hashes=[read.content_hash for read in kept],
            )
        )
    for read in kept:
        (outcome.updated if read.item.id in known else outcome.added).append(read.item.id)
        outcome.hashes[read.item.id] = read.content_hash


def _encode(
    reads: Sequence[_Read], encoder: Encoder, outcome: Outcome
) -> tuple[list[_Read], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Encode a batch; where an image is refused, one by one, so that only it fails."""
    images = [read.image for read in reads if read.image is not None]
    try:
        return list(reads), encoder.encode(images)
    except ImageError:
        kept, rows = [], []
        for read, image in zip(reads, images, strict=True):
            try:
                rows.append(encoder.encode([image])[0])
                kept.append(read)
            except ImageError as error:
                outcome.failed.append(Failure(read.item.uri, str(error)))
        return kept, np.array(rows, np.float32).reshape(-1, encoder.dim)
