"""Distorted images are asked for their originals among the rows of a store.

Rows with the same content as the original are the original too. Any other row that is as near to
the distorted image counts as nearer, so that an encoder which gives all images one embedding finds
nothing.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from lookalike.config import settings
from lookalike.distortions import Distortion, find_distortions
from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.images import within
from lookalike.metrics import Correct
from lookalike.reading import encode_items
from lookalike.sources import Item
from lookalike.stores.base import MAX_N, Record, VectorStore
from lookalike.types import Embeddings, Failure, Hit, ImageArray, Metric, Progress, ProgressCallback

ORIGINAL = "original"
"""The name of the undistorted image among the examples."""

LARGEST_SIDE = 1024
"""Images of more pixels a side are made smaller before they are distorted."""

_CHUNK = 64
"""As many images at most are held decoded."""

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Collection:
    """Images, encoded and searchable.

    ``name`` is what errors call it; ``open_items`` returns the images of records.
    """

    name: str
    encoder: Encoder
    store: VectorStore
    metric: Metric
    open_items: Callable[[Sequence[Record]], Sequence[Item]]


@dataclass(frozen=True, slots=True)
class Found:
    """Where the originals came.

    ``correct`` holds for each distortion ``(queries, n)``: whether the original came at each rank.
    ``examples`` are a few queries: the original and what each distortion made of it, by name.
    """

    rows: int
    correct: Mapping[str, Correct]
    skipped: tuple[Failure, ...]
    examples: tuple[Mapping[str, ImageArray], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked of a collection: at most ``queries`` distinct images, distorted in each way."""

    n: int
    queries: int
    seed: int
    kinds: tuple[Distortion, ...]

    @classmethod
    def of(cls, n: int, queries: int, seed: int, kinds: Sequence[str] | None = None) -> Self:
        """Check the settings; without names of ``kinds``, take all.

        Raises:
            SettingError: ``n`` or ``queries`` below 1, ``seed`` below 0, or ``kinds`` empty.
            UnknownNameError: no such distortion.
        """
        for name, value, least in (("n", n, 1), ("queries", queries, 1), ("seed", seed, 0)):
            if value < least:
                raise SettingError(f"{name} = {value}: must be at least {least}")
        chosen = find_distortions(kinds)
        if not chosen:
            raise SettingError("kinds = []: name at least one distortion, or leave it out for all")
        return cls(n, queries, seed, chosen)

    def run(self, collection: Collection, on_progress: ProgressCallback) -> Found:
        """Ask for the original of every query under every distortion.

        Raises:
            InputError: fewer than two distinct images, or none that can be read.
            ImageError: the encoder refuses one; it is named.
        """
        records = list(collection.store.records())
        drawn = self._draw(collection, records)
        ranks = _Ranks.among(records, collection, self.n)
        correct: dict[str, list[Correct]] = {kind.name: [] for kind in self.kinds}
        skipped: list[Failure] = []
        examples: list[_Query] = []
        done = 0
        on_progress(Progress("self-retrieval", done, len(drawn), "images"))
        for chunk in _read(drawn):
            queries = [read for read in chunk if isinstance(read, _Query)]
            skipped += [read for read in chunk if isinstance(read, Failure)]
            for kind in self.kinds if queries else ():
                distorted = [query.item(kind, self.seed) for query in queries]
                embeddings = np.concatenate(list(encode_items(collection.encoder, distorted)))
                contents = [query.content for query in queries]
                correct[kind.name].append(ranks.correct(embeddings, contents))
            for place, query in enumerate(queries, done):
                if place * _EXAMPLES >= len(examples) * len(drawn):  # evenly spread
                    examples.append(query)
            done += len(chunk)
            on_progress(Progress("self-retrieval", done, len(drawn), "images"))
        if not examples:
            raise InputError(
                f"{collection.name}: not one of the {len(drawn):,} images drawn can be read; the "
                f"first, {skipped[0].uri}: {skipped[0].reason}"
            )
        return Found(
            rows=len(records),
            correct={name: np.concatenate(parts) for name, parts in correct.items()},
            skipped=tuple(skipped),
            examples=tuple(query.example(self.kinds, self.seed) for query in examples),
        )

    def _draw(self, collection: Collection, records: Sequence[Record]) -> list[_Drawn]:
        """Draw distinct images, in order of id."""
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(_content(record), record)
        if len(first) < 2:
            raise InputError(
                f"{collection.name}: self-retrieval needs at least 2 distinct images, one alone is "
                f"always found; here {len(records):,} rows hold {len(first)}: index more images"
            )
        rng = np.random.default_rng(self.seed)
        numbers = sorted(rng.permutation(len(first))[: self.queries].tolist())
        contents = list(first)
        items = collection.open_items([first[contents[number]] for number in numbers])
        return [_Drawn(n, contents[n], item) for n, item in zip(numbers, items, strict=True)]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An image to be read: ``number`` is its place among the distinct ones."""

    number: int
    content: str
    item: Item


@dataclass(frozen=True, slots=True)
class _Query:
    """An image to be distorted; its number decides how, whatever else is drawn."""

    number: int
    content: str
    uri: str
    image: ImageArray

    def distorted(self, kind: Distortion, seed: int) -> ImageArray:
        rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), self.number])
        return kind.apply(self.image, rng)

    def item(self, kind: Distortion, seed: int) -> Item:
        return Item(self.uri, self.uri, {}, partial(self.distorted, kind, seed))

    def example(self, kinds: Sequence[Distortion], seed: int) -> Mapping[str, ImageArray]:
        return {ORIGINAL: self.image, **{k.name: self.distorted(k, seed) for k in kinds}}


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Finds the ranks of originals; ``contents`` holds each row's content by its id."""

    store: VectorStore
    metric: Metric
    n: int
    contents: Mapping[str, str]
    copies: Mapping[str, int]

    @classmethod
    def among(cls, records: Sequence[Record], collection: Collection, n: int) -> Self:
        contents = {record.id: _content(record) for record in records}
        return cls(collection.store, collection.metric, n, contents, Counter(contents.values()))

    def correct(self, embeddings: Embeddings, contents: Sequence[str]) -> Correct:
        """Return ``(q, n)``: whether the original of each of ``(q, dim)`` came at each rank."""
        correct = np.zeros((len(embeddings), self.n), np.bool_)
        # With as many hits more as there are copies, all ties of an original within n are seen.
        wanted = [max(self.n, min(self.n + self.copies[c], MAX_N)) for c in contents]
        for count in sorted(set(wanted)):
            chosen = [q for q, value in enumerate(wanted) if value == count]
            found = self.store.search(embeddings[chosen], count, self.metric)
            for q, hits in zip(chosen, found, strict=True):
                rank = self._rank(hits, contents[q])
                if rank is not None and rank <= self.n:
                    correct[q, rank - 1] = True
        return correct

    def _rank(self, hits: Sequence[Hit], content: str) -> int | None:
        """Return the original's rank, after every other row that is as near; None if not there."""
        own = [hit.distance for hit in hits if self.contents.get(hit.id) == content]
        if not own:
            return None
        others = [hit for hit in hits if self.contents.get(hit.id) != content]
        return 1 + sum(hit.distance <= own[0] for hit in others)


def _content(record: Record) -> str:
    """Return what rows of the same image share; a row whose content is not known is alone."""
    return record.content_hash or record.id


def _read(drawn: Sequence[_Drawn]) -> Iterator[list[_Query | Failure]]:
    """Yield the images, or why they cannot be read, a chunk at a time."""
    with ThreadPoolExecutor(settings().threads, thread_name_prefix="lookalike-read") as pool:
        for start in range(0, len(drawn), _CHUNK):
            yield list(pool.map(_read_one, drawn[start : start + _CHUNK]))


def _read_one(drawn: _Drawn) -> _Query | Failure:
    uri = drawn.item.uri
    try:
        image = within(drawn.item.image(), LARGEST_SIDE)
    except ImageError as error:
        return Failure(uri, str(error).removeprefix(f"{uri}: "))
    return _Query(drawn.number, drawn.content, uri, image)
