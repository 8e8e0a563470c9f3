"""Decode images in threads, in batches; draw evenly spaced samples of a source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from lookalike.config import settings
from lookalike.errors import ImageError, SourceError
from lookalike.images.decode import shrink_image
from lookalike.sources import Item, Source
from lookalike.types import ImageArray

SAMPLE = 5_000
"""Default sample size for fitting an encoder."""

SAMPLE_SIDE = 128
"""Default longer side of sampled images, in pixels."""

_MAX_BATCH_IMAGES, _MAX_BATCH_BYTES = 1024, 128 << 20
"""Limits of a batch of decoded images."""

_MAX_CHUNK_IMAGES, _MAX_CHUNK_BYTES = 8, 2 << 20
"""Limits of what one thread decodes at a time, in images and bytes of their files."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class SampledImage:
    """An item and its image, possibly scaled down."""

    item: Item
    image: ImageArray


def sample_images(
    source: Source,
    count: int = SAMPLE,
    side: int = SAMPLE_SIDE,
    *,
    decoded: Mapping[str, ImageArray] | None = None,
) -> list[ImageArray]:
    """Return the images of :func:`read_sample`, for fitting an encoder.

    ``decoded`` are images by id that need not be read again.

    Raises:
        SourceError: none can be decoded; the message has the reason for the first.
    """
    sample = read_sample(source, count, side=side, decoded=decoded)
    return [sampled.image for sampled in sample]


def read_sample(
    source: Source,
    count: int,
    ids: Set[str] = frozenset(),
    side: int = SAMPLE_SIDE,
    *,
    decoded: Mapping[str, ImageArray] | None = None,
) -> list[SampledImage]:
    """Return at most ``count`` images, evenly spaced over a source, and those with the given ids.

    Images that cannot be decoded are left out. Larger ones are scaled down to ``side`` pixels on
    the longer side, so that a sample of large photographs fits into memory.

    Raises:
        SourceError: none can be decoded; the message has the reason for the first.
    """
    step = max(1, -(-len(source) // count))
    chosen = [source[index] for index in range(0, len(source), step)]
    if ids:
        drawn = {item.id for item in chosen}
        chosen += [item for item in source if item.id in ids and item.id not in drawn]
    results = list(thread_map(partial(_read_small, side=side, decoded=decoded or {}), chosen))
    sample = [SampledImage(item, image) for item, image in results if not isinstance(image, str)]
    if not sample:
        item, reason = results[0]
        reason = str(reason).replace("allow_private_urls", "{allow_private_urls}")
        raise SourceError(
            f"{source.spec}: no image can be read; the first, {item.uri}: {reason}",
            allow_private_urls=None,
        )
    return sample


def _read_small(
    item: Item, side: int, decoded: Mapping[str, ImageArray]
) -> tuple[Item, ImageArray | str]:
    """Return an item and its image, scaled down, or the reason why it cannot be read."""
    try:
        image = decoded[item.id] if item.id in decoded else item.image()
        return item, shrink_image(image, side)
    except ImageError as error:
        return item, str(error).removeprefix(f"{item.uri}: ")


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Some of a list of items, decoded: ``images[i]`` is that of the item ``places[i]``.

    ``failures`` are the reasons of items that cannot be decoded, by place. ``done`` items of the
    list have been decoded so far.
    """

    done: int
    places: Sequence[int]
    images: Sequence[ImageArray]
    failures: Mapping[int, ImageError]


def decode_batches(items: Sequence[Item]) -> Iterator[DecodedBatch]:
    """Decode each item once, in order, and yield batches of at most 1,024 images and 128 MiB.

    Threads decode ahead of what was yielded: a few images, of large ones one each.
    """
    places: list[int] = []
    images: list[ImageArray] = []
    failures: dict[int, ImageError] = {}
    size = done = 0
    for decoded in thread_map(_decode_all, _chunks(items), batch_size=1):
        for image in decoded:
            if isinstance(image, ImageError):
                failures[done] = image
            else:
                places.append(done)
                images.append(image)
                size += image.nbytes
            done += 1
            if len(images) == _MAX_BATCH_IMAGES or size >= _MAX_BATCH_BYTES or done == len(items):
                yield DecodedBatch(done, places, images, failures)
                places, images, failures, size = [], [], {}, 0


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield what one thread decodes at a time: several small files, or one large one."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        length = item.size()
        if chunk and (len(chunk) == _MAX_CHUNK_IMAGES or size + length > _MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += length
    if chunk:
        yield chunk


def _decode_all(items: Sequence[Item]) -> list[ImageArray | ImageError]:
    decoded: list[ImageArray | ImageError] = []
    for item in items:
        try:
            decoded.append(item.image())
        except ImageError as error:
            decoded.append(error)
    return decoded


def thread_map(
    function: Callable[[T], U], items: Iterable[T], *, batch_size: int = 8
) -> Iterator[U]:
    """Yield ``function(item)`` in order; threads work a few batches of items ahead.

    The threads are cancelled with the work that called this (:mod:`lookalike.cancellation`).
    """
    threads = settings().threads
    remaining = iter(items)
    batches = iter(lambda: list(islice(remaining, batch_size)), [])

    def work(batch: list[T]) -> list[U]:
        return [function(item) for item in batch]

    with ThreadPoolExecutor(threads, thread_name_prefix="lookalike-read") as pool:
        pending: deque[Future[list[U]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(copy_context().run, work, batch))
                if len(pending) > threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
