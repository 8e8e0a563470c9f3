"""Read and decode images in threads, and draw evenly spaced samples of a source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
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

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class SampledImage:
    """An item and its image, possibly scaled down."""

    item: Item
    image: ImageArray


def sample_images(source: Source, count: int = SAMPLE, side: int = SAMPLE_SIDE) -> list[ImageArray]:
    """Return the images of :func:`read_sample`, for fitting an encoder.

    Raises:
        SourceError: none can be decoded; the message has the reason for the first.
    """
    return [sampled.image for sampled in read_sample(source, count, side=side)]


def read_sample(
    source: Source, count: int, ids: Set[str] = frozenset(), side: int = SAMPLE_SIDE
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
    results = list(thread_map(partial(_read_small, side=side), chosen))
    sample = [SampledImage(item, image) for item, image in results if not isinstance(image, str)]
    if not sample:
        item, reason = results[0]
        reason = str(reason).replace("allow_private_urls", "{allow_private_urls}")
        raise SourceError(
            f"{source.spec}: no image can be read; the first, {item.uri}: {reason}",
            allow_private_urls=None,
        )
    return sample


def _read_small(item: Item, side: int) -> tuple[Item, ImageArray | str]:
    """Return an item and its image, scaled down, or the reason why it cannot be read."""
    try:
        return item, shrink_image(item.image(), side)
    except ImageError as error:
        return item, str(error).removeprefix(f"{item.uri}: ")


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
