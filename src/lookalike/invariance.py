"""Self-retrieval: distorted images asked for their originals, without any labels.

It says what an encoder is invariant to, not how good it is: it was measured not to rank encoders
by the precision of their answers, since it favours the one that was trained on the distortions it
is tried with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.gallery import Gallery
from lookalike.images import content_hash
from lookalike.metrics import (
    Correct,
    Estimate,
    average_precision_at_n,
    bootstrap_interval,
    recall_at_n,
)
from lookalike.originals import Collection, Found, Trial
from lookalike.reading import encode_items
from lookalike.sources import Item, open_items
from lookalike.stores.base import Rows
from lookalike.stores.memory import MemoryStore
from lookalike.types import Failure, ImageArray, Metric, ProgressCallback, ignore_progress

MEANING = "what this encoder is invariant to, not how good it is"
"""What every output of it says."""


@dataclass(frozen=True, slots=True)
class DistortionScores:
    """How the originals were found again under one distortion, over all queries.

    With one right answer, the original, mAP@n is the mean of 1 / rank, and of 0 where it is not
    among the n nearest; recall@1 and recall@n are the shares of originals that came first and
    among the n nearest.
    """

    summary: str
    map: Estimate
    recall_at_1: Estimate
    recall: Estimate

    @classmethod
    def of(cls, summary: str, correct: Correct) -> Self:
        """Sum up ``(q, n)``: whether the original came at each rank."""
        one = np.ones(len(correct), np.int64)
        return cls(
            summary,
            _estimate(average_precision_at_n(correct, one)),
            _estimate(recall_at_n(correct[:, :1], one)),
            _estimate(recall_at_n(correct, one)),
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
class SelfRetrieval:
    """What :func:`self_retrieval` found: what an encoder is invariant to, not how good it is.

    ``gallery`` is its path (None for images that are in none), ``rows`` how many images were
    searched, ``queries`` how many were distorted and asked. ``scores`` holds those of each
    distortion by its name. Each of ``examples`` is one of the queries: the original and what each
    distortion made of it, by name.
    """

    encoder: str
    metric: Metric
    n: int
    seed: int
    gallery: str | None
    rows: int
    queries: int
    skipped: tuple[Failure, ...]
    scores: Mapping[str, DistortionScores]
    examples: tuple[Mapping[str, ImageArray], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --self --json``."""
        return {
            "measures": MEANING,
            "n": self.n,
            "seed": self.seed,
            "queries": self.queries,
            "skipped": len(self.skipped),
            "gallery": self.gallery,
            "rows": self.rows,
            "encoder": self.encoder,
            "metric": self.metric.value,
            "distortions": {name: scores.as_dict() for name, scores in self.scores.items()},
        }


def self_retrieval(
    gallery: Gallery,
    *,
    n: int = 7,
    queries: int = 500,
    seed: int = 0,
    metric: Metric | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> SelfRetrieval:
    """Distort images of a gallery and see whether each still finds its own row.

    Says what the encoder is invariant to, not how good it is. No labels are needed. The images
    are read again from where they lie; those that cannot be are skipped and listed.

    Rows with the same content as the original (the same bytes) are the original too; any other
    row that is as near counts as nearer, so that an encoder which gives all images one embedding
    finds nothing. Images of more than 1,024 pixels a side are made smaller before they are
    distorted.

    Args:
        gallery: its rows need no labels.
        n: hits for each query.
        queries: as many distinct images, at most, are drawn and distorted in every way.
        seed: of the draw and of the distortions; with the same one, galleries of the same images
            are asked the same queries, whatever their encoder.
        metric: ``l2`` or ``cosine``; the gallery's own unless given.
        on_progress: told of each batch.

    Raises:
        InputError: fewer than two distinct images, or none that can be read.
        SettingError: ``n`` or ``queries`` below 1, or ``seed`` below 0.
        SourceError: a source that rows came from is gone.
    """
    trial = Trial.of(n, queries, seed)
    collection = Collection(
        name=str(gallery.path),
        encoder=gallery.encoder,
        store=gallery.store,
        metric=gallery.metric if metric is None else Metric(metric),
        open_items=lambda records: open_items([record.uri for record in records]),
    )
    return _summary(trial, collection, trial.run(collection, on_progress), str(gallery.path))


def self_retrieval_of(
    encoder: Encoder,
    images: Sequence[ImageArray] | NDArray[np.uint8],
    *,
    n: int = 7,
    queries: int = 500,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
) -> SelfRetrieval:
    """Do as :func:`self_retrieval` does with images that are in no gallery, by cosine distance.

    Args:
        encoder: what is tried.
        images: each ``(H, W)`` or ``(H, W, 3)`` uint8; all of them are searched.
        n: hits for each query.
        queries: as many distinct images, at most, are drawn and distorted.
        seed: of the draw and of the distortions.
        kinds: names of distortions; all of them unless given.

    Raises:
        InputError: fewer than two distinct images.
        ImageError: the encoder refuses one.
        UnknownNameError: no such distortion.
        SettingError: ``n`` or ``queries`` below 1, ``seed`` below 0, or ``kinds`` empty.
    """
    trial = Trial.of(n, queries, seed, kinds)
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


def verdict(found: SelfRetrieval) -> str:
    """Say in one sentence what the encoder is most and least invariant to."""
    values = {name: f"{scores.map.value:.4f}" for name, scores in found.scores.items()}
    most, least = (
        f"{', '.join(name for name in values if values[name] == end)} (mAP@{found.n} {end})"
        for end in (max(values.values()), min(values.values()))
    )
    said = f"alike to {most}" if most == least else f"most to {most}, least to {least}"
    return f"{found.encoder}: {MEANING}: {said}"


def _summary(
    trial: Trial, collection: Collection, found: Found, gallery: str | None
) -> SelfRetrieval:
    correct = found.correct
    return SelfRetrieval(
        encoder=collection.encoder.name,
        metric=collection.metric,
        n=trial.n,
        seed=trial.seed,
        gallery=gallery,
        rows=found.rows,
        queries=len(next(iter(correct.values()))),
        skipped=found.skipped,
        scores={k.name: DistortionScores.of(k.summary, correct[k.name]) for k in trial.kinds},
        examples=found.examples,
    )


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), bootstrap_interval(values))
