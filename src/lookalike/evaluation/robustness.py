"""Self-retrieval: corrupted images asked for their originals, without any labels.

It says what an encoder is invariant to, not how good it is: it was measured not to rank encoders
by the precision of their answers, since it favors the one that was trained on the corruptions it
is tried with.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.batching import encode_items
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.evaluation.metrics import (
    Correct,
    Estimate,
    average_precision_at_k,
    bootstrap_interval,
    recall_at_k,
)
from lookalike.gallery.gallery import Gallery
from lookalike.images.corruptions import Corruption, find_corruptions
from lookalike.images.decode import content_hash, shrink_image
from lookalike.sources import Item, open_items
from lookalike.stores.base import MAX_K, Record, Rows, VectorStore
from lookalike.stores.memory import MemoryStore
from lookalike.types import (
    Embeddings,
    Failure,
    Hit,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)

ORIGINAL = "original"
"""The name of the undistorted image among the examples."""

LARGEST_SIDE = 1024
"""Images of more pixels a side are made smaller before they are corrupted."""

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

    ``correct`` holds for each corruption ``(queries, k)``: whether the original came at each rank.
    ``examples`` are a few queries: the original and what each corruption made of it, by name.
    """

    rows: int
    correct: Mapping[str, Correct]
    skipped: tuple[Failure, ...]
    examples: tuple[Mapping[str, ImageArray], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked of a collection: at most ``queries`` distinct images, corrupted in each way."""

    k: int
    queries: int
    seed: int
    kinds: tuple[Corruption, ...]

    @classmethod
    def of(cls, k: int, queries: int, seed: int, kinds: Sequence[str] | None = None) -> Self:
        """Check the settings; without names of ``kinds``, take all.

        Raises:
            SettingError: ``k`` or ``queries`` below 1, ``seed`` below 0, or ``kinds`` empty.
            UnknownNameError: no such corruption.
        """
        for name, value, least in (("k", k, 1), ("queries", queries, 1), ("seed", seed, 0)):
            if value < least:
                raise SettingError(f"{name} = {value}: must be at least {least}")
        chosen = find_corruptions(kinds)
        if not chosen:
            raise SettingError("kinds = []: name at least one corruption, or leave it out for all")
        return cls(k, queries, seed, chosen)

    def run(self, collection: Collection, on_progress: ProgressCallback) -> Found:
        """Ask for the original of every query under every corruption.

        Raises:
            InputError: fewer than two distinct images, or none that can be read.
            ImageError: the encoder refuses one; it is named.
        """
        records = list(collection.store.records())
        drawn = self._draw(collection, records)
        ranks = _Ranks.among(records, collection, self.k)
        correct: dict[str, list[Correct]] = {kind.name: [] for kind in self.kinds}
        skipped: list[Failure] = []
        examples: list[_Query] = []
        done = 0
        on_progress(Progress("self-retrieval", done, len(drawn), "images"))
        for chunk in _read(drawn):
            queries = [read for read in chunk if isinstance(read, _Query)]
            skipped += [read for read in chunk if isinstance(read, Failure)]
            for kind in self.kinds if queries else ():
                corrupted = [query.item(kind, self.seed) for query in queries]
                embeddings = np.concatenate(list(encode_items(collection.encoder, corrupted)))
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
    """An image to be corrupted; its number decides how, whatever else is drawn."""

    number: int
    content: str
    uri: str
    image: ImageArray

    def corrupted(self, kind: Corruption, seed: int) -> ImageArray:
        rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), self.number])
        return kind.apply(self.image, rng)

    def item(self, kind: Corruption, seed: int) -> Item:
        return Item(self.uri, self.uri, {}, partial(self.corrupted, kind, seed))

    def example(self, kinds: Sequence[Corruption], seed: int) -> Mapping[str, ImageArray]:
        return {ORIGINAL: self.image, **{k.name: self.corrupted(k, seed) for k in kinds}}


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Finds the ranks of originals; ``contents`` holds each row's content by its id."""

    store: VectorStore
    metric: Metric
    k: int
    contents: Mapping[str, str]
    copies: Mapping[str, int]

    @classmethod
    def among(cls, records: Sequence[Record], collection: Collection, k: int) -> Self:
        contents = {record.id: _content(record) for record in records}
        return cls(collection.store, collection.metric, k, contents, Counter(contents.values()))

    def correct(self, embeddings: Embeddings, contents: Sequence[str]) -> Correct:
        """Return ``(q, k)``: whether the original of each of ``(q, dim)`` came at each rank."""
        correct = np.zeros((len(embeddings), self.k), np.bool_)
        # With as many hits more as there are copies, all ties of an original within n are seen.
        wanted = [max(self.k, min(self.k + self.copies[c], MAX_K)) for c in contents]
        for count in sorted(set(wanted)):
            chosen = [q for q, value in enumerate(wanted) if value == count]
            found = self.store.search(embeddings[chosen], count, self.metric)
            for q, hits in zip(chosen, found, strict=True):
                rank = self._rank(hits, contents[q])
                if rank is not None and rank <= self.k:
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
        image = shrink_image(drawn.item.image(), LARGEST_SIDE)
    except ImageError as error:
        return Failure(uri, str(error).removeprefix(f"{uri}: "))
    return _Query(drawn.number, drawn.content, uri, image)


MEANING = "what this encoder is invariant to, not how good it is"
"""What every output of it says."""


@dataclass(frozen=True, slots=True)
class CorruptionScores:
    """How the originals were found again under one corruption, over all queries.

    With one right answer, the original, mAP@k is the mean of 1 / rank, and of 0 where it is not
    among the k nearest; recall@1 and recall@k are the shares of originals that came first and
    among the k nearest.
    """

    summary: str
    map: Estimate
    recall_at_1: Estimate
    recall: Estimate

    @classmethod
    def of(cls, summary: str, correct: Correct) -> Self:
        """Sum up ``(q, k)``: whether the original came at each rank."""
        one = np.ones(len(correct), np.int64)
        return cls(
            summary,
            _estimate(average_precision_at_k(correct, one)),
            _estimate(recall_at_k(correct[:, :1], one)),
            _estimate(recall_at_k(correct, one)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, intervals as ``NAME_interval: [low, high]``."""
        fields: dict[str, Any] = {"summary": self.summary}
        for name in ("map", "recall_at_1", "recall"):
            estimate: Estimate = getattr(self, name)
            fields[name] = estimate.value
            fields[f"{name}_interval"] = [estimate.interval.low, estimate.interval.high]
        return fields


@dataclass(frozen=True, slots=True)
class RobustnessResult:
    """What :func:`evaluate_robustness` found: what an encoder is invariant to, not how good it is.

    ``gallery`` is its path (None for images that are in none), ``rows`` how many images were
    searched, ``queries`` how many were corrupted and asked. ``scores`` holds those of each
    corruption by its name. Each of ``examples`` is one of the queries: the original and what each
    corruption made of it, by name.
    """

    encoder: str
    metric: Metric
    k: int
    seed: int
    gallery: str | None
    rows: int
    queries: int
    skipped: tuple[Failure, ...]
    scores: Mapping[str, CorruptionScores]
    examples: tuple[Mapping[str, ImageArray], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --self --json``."""
        return {
            "measures": MEANING,
            "k": self.k,
            "seed": self.seed,
            "queries": self.queries,
            "skipped": len(self.skipped),
            "gallery": self.gallery,
            "rows": self.rows,
            "encoder": self.encoder,
            "metric": self.metric.value,
            "corruptions": {name: scores.as_dict() for name, scores in self.scores.items()},
        }


def evaluate_robustness(
    gallery: Gallery,
    *,
    k: int = 7,
    queries: int = 500,
    seed: int = 0,
    metric: Metric | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> RobustnessResult:
    """Distort images of a gallery and see whether each still finds its own row.

    Says what the encoder is invariant to, not how good it is. No labels are needed. The images
    are read again from where they lie; those that cannot be are skipped and listed.

    Rows with the same content as the original (the same bytes) are the original too; any other
    row that is as near counts as nearer, so that an encoder which gives all images one embedding
    finds nothing. Images of more than 1,024 pixels a side are made smaller before they are
    corrupted.

    Args:
        gallery: its rows need no labels.
        k: hits for each query.
        queries: as many distinct images, at most, are drawn and corrupted in every way.
        seed: of the draw and of the corruptions; with the same one, galleries of the same images
            are asked the same queries, whatever their encoder.
        metric: ``l2`` or ``cosine``; the gallery's own unless given.
        on_progress: told of each batch.

    Raises:
        InputError: fewer than two distinct images, or none that can be read.
        SettingError: ``k`` or ``queries`` below 1, or ``seed`` below 0.
        SourceError: a source that rows came from is gone.
    """
    trial = Trial.of(k, queries, seed)
    collection = Collection(
        name=str(gallery.path),
        encoder=gallery.encoder,
        store=gallery.store,
        metric=gallery.metric if metric is None else Metric(metric),
        open_items=lambda records: open_items([record.uri for record in records]),
    )
    return _summary(trial, collection, trial.run(collection, on_progress), str(gallery.path))


def evaluate_encoder_robustness(
    encoder: Encoder,
    images: Sequence[ImageArray] | NDArray[np.uint8],
    *,
    k: int = 7,
    queries: int = 500,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
) -> RobustnessResult:
    """Do as :func:`evaluate_robustness` does with images that are in no gallery, by cosine distance.

    Args:
        encoder: what is tried.
        images: each ``(H, W)`` or ``(H, W, 3)`` uint8; all of them are searched.
        k: hits for each query.
        queries: as many distinct images, at most, are drawn and corrupted.
        seed: of the draw and of the corruptions.
        kinds: names of corruptions; all of them unless given.

    Raises:
        InputError: fewer than two distinct images.
        ImageError: the encoder refuses one.
        UnknownNameError: no such corruption.
        SettingError: ``k`` or ``queries`` below 1, ``seed`` below 0, or ``kinds`` empty.
    """
    trial = Trial.of(k, queries, seed, kinds)
    ids = [f"{number:09d}" for number in range(len(images))]
    items = {
        row_id: Item(row_id, f"image {number}", {}, partial(np.asarray, image))
        for number, (row_id, image) in enumerate(zip(ids, images, strict=True))
    }
    store = MemoryStore(encoder.dim)
    if ids:
        embeddings = np.concatenate(list(encode_items(encoder, list(items.values()))))
        hashes = [content_hash(image) for image in images]
        store.upsert(Rows(ids, [""] * len(ids), embeddings, [{}] * len(ids), hashes))
    collection = Collection(
        name="these images",
        encoder=encoder,
        store=store,
        metric=Metric.COSINE,
        open_items=lambda records: [items[record.id] for record in records],
    )
    return _summary(trial, collection, trial.run(collection, ignore_progress), None)


def verdict(found: RobustnessResult) -> str:
    """Say in one sentence what the encoder is most and least invariant to."""
    values = {name: f"{scores.map.value:.4f}" for name, scores in found.scores.items()}
    most, least = (
        f"{', '.join(name for name in values if values[name] == end)} (mAP@{found.k} {end})"
        for end in (max(values.values()), min(values.values()))
    )
    said = f"alike to {most}" if most == least else f"most to {most}, least to {least}"
    return f"{found.encoder}: {MEANING}: {said}"


def _summary(
    trial: Trial, collection: Collection, found: Found, gallery: str | None
) -> RobustnessResult:
    correct = found.correct
    return RobustnessResult(
        encoder=collection.encoder.name,
        metric=collection.metric,
        k=trial.k,
        seed=trial.seed,
        gallery=gallery,
        rows=found.rows,
        queries=len(next(iter(correct.values()))),
        skipped=found.skipped,
        scores={k.name: CorruptionScores.of(k.summary, correct[k.name]) for k in trial.kinds},
        examples=found.examples,
    )


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), bootstrap_interval(values))
