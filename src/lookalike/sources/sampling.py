"""Read and decode images of a source in threads; draw evenly spaced samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
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
"""As many images of a collection are enough for an encoder that learns from them."""

SAMPLE_SIDE = 128
"""Pixels on the longer side that are enough for most."""


_FEW = 8

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Sampled:
    """An item and its image, perhaps made smaller."""

    item: Item
    image: ImageArray


def sample_images(source: Source, count: int = SAMPLE, side: int = SAMPLE_SIDE) -> list[ImageArray]:
    """Return the images of :func:`read_sample`, for an encoder to be fitted to.

    Raises:
        SourceError: none can be decoded; the first one's reason is given.
    """
    return [sampled.image for sampled in read_sample(source, count, side=side)]


def read_sample(
    source: Source, count: int, named: Set[str] = frozenset(), side: int = SAMPLE_SIDE
) -> list[Sampled]:
    """Return at most ``count`` images, evenly spread over a source, and those ``named`` by id.

    Images that cannot be decoded are left out; those of more than ``side`` pixels a side are made
    smaller, so that a sample of large photographs fits into memory.

    Raises:
        SourceError: none can be decoded; the first one's reason is given.
    """
    every = max(1, -(-len(source) // count))
    chosen = [source[index] for index in range(0, len(source), every)]
    if named:
        drawn = {item.id for item in chosen}
        chosen += [item for item in source if item.id in named and item.id not in drawn]
    reads = list(each_in_threads(partial(_read_small, side=side), chosen))
    sample = [Sampled(item, read) for item, read in reads if not isinstance(read, str)]
    if not sample:
        item, reason = reads[0]
        raise SourceError(
            f"{source.spec}: not one image can be read; the first, {item.uri}: {reason}"
        )
    return sample


def _read_small(item: Item, side: int) -> tuple[Item, ImageArray | str]:
    """Return an item and its image, made small, or the reason why it cannot be read."""
    try:
        return item, shrink_image(item.image(), side)
    except ImageError as error:
        return item, str(error).removeprefix(f"{item.uri}: ")


def in_threads(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Yield ``work(item)`` in order; threads run a few ahead of whoever asks."""
    threads = settings().threads
    with ThreadPoolExecutor(threads, thread_name_prefix="lookalike-read") as pool:
        ahead: deque[Future[U]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def each_in_threads(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Yield ``work(item)`` in order; threads take a few items at a time."""
    waiting = iter(items)
    pieces = iter(lambda: list(islice(waiting, _FEW)), [])
    for piece in in_threads(lambda few: [work(item) for item in few], pieces):
        yield from piece
