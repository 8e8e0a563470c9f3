"""Robustness of an encoder: do corrupted images find their originals? No labels are needed.

The result measures what an encoder is invariant to, not search quality: it does not rank encoders
by precision, since it favors those trained with the same corruptions as augmentations
(``docs/experiments.md``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.batching import encode_items
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.evaluation.metrics import Correct, Estimate, QueryScores, columns_of, table_row
from lookalike.evaluation.trial import EncodedRows, SearchableRows, known_item
from lookalike.explore.copy_threshold import has_content
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.notebook import scores_html
from lookalike.images.corruptions import Corruption, find_corruptions
from lookalike.images.decode import content_hash, shrink_image
from lookalike.progress import ProgressOption, reporting
from lookalike.sources import Item
from lookalike.sources.tables import data_frame
from lookalike.stores.base import MAX_K, Record, without_metadata
from lookalike.types import (
    Embeddings,
    Failure,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)

if TYPE_CHECKING:
    import pandas as pd

MEANING = "invariance to corruptions, not search quality"
"""What the result measures; part of every output."""

ORIGINAL = "original"
"""The name of the unchanged image among the examples."""

MAX_SIDE = 1024
"""Larger images are shrunk to so many pixels before they are corrupted."""

_CHUNK = 64
"""Maximum number of decoded images in memory."""

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class CorruptionScores:
    """Scores of retrieving the originals under one corruption, over all queries.

    There is one relevant image, the original: mAP@k is the mean of 1 / rank, 0 beyond rank k.
    ``summary`` describes the corruption's strength.
    """

    summary: str
    map: Estimate
    recall_at_1: Estimate
    recall: Estimate

    @classmethod
    def of(cls, summary: str, correct: Correct) -> Self:
        """Average ``(q, k)``: whether the original has each rank."""
        scores = QueryScores.of(correct, np.ones(len(correct), np.int64))
        return cls(
            summary,
            Estimate.of(scores.average_precision),
            Estimate.of(scores.recall_at_1),
            Estimate.of(scores.recall),
        )

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The scores by name."""
        return {"map": self.map, "recall_at_1": self.recall_at_1, "recall": self.recall}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, intervals as ``NAME_interval: [low, high]``."""
        fields: dict[str, Any] = {"summary": self.summary}
        for name, estimate in self.estimates.items():
            fields[name] = estimate.value
            fields[f"{name}_interval"] = estimate.interval.as_list()
        return fields


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RobustnessResult:
    """The result of :func:`evaluate_robustness`; in a notebook, a table of the scores.

    ``gallery`` is its path, None for images outside a gallery. ``rows`` is the number of images
    searched, ``queries`` of those corrupted. ``no_content`` are the sampled images that are blank
    or nearly of one color: corrupted, they resemble each other, so they are in no score.
    ``scores`` are by name of the corruption. Each of ``examples`` is one query: the original and
    its corrupted versions, by name.
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
    no_content: tuple[str, ...] = ()

    def verdict(self) -> str:
        """Name the corruptions that the encoder is most and least robust to, in one sentence."""
        values = {name: f"{scores.map.value:.4f}" for name, scores in self.scores.items()}
        high, low = (
            f"{', '.join(name for name in values if values[name] == end)} (mAP@{self.k} {end})"
            for end in (max(values.values()), min(values.values()))
        )
        most = f"most robust to {high}, least to {low}"
        ranks = f"equally robust to {high}" if high == low else most
        return f"{self.encoder} is {ranks}; this measures {MEANING}"

    def __repr__(self) -> str:
        return f"RobustnessResult({self._title()};\n  {self.verdict()})"

    def _title(self) -> str:
        images = format_count(self.queries, "corrupted image")
        return f"{images} among {format_count(self.rows, 'row')}, {self.metric.value} distance"

    def _repr_html_(self) -> str:
        columns = ("corruption", f"mAP@{self.k}", "R@1", f"recall@{self.k}", "strength")
        rows = [
            (name, *map(str, (each.map, each.recall_at_1, each.recall)), each.summary)
            for name, each in self.scores.items()
        ]
        return scores_html(self._title(), columns, rows, self.verdict())

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a DataFrame, a row for each corruption.

        The columns are ``map``, ``recall_at_1`` and ``recall``, each with ``NAME_low`` and
        ``NAME_high``, the ends of its 95 % interval.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows = [
            {"corruption": name, **table_row(each.estimates)} for name, each in self.scores.items()
        ]
        return data_frame("RobustnessResult.to_pandas", columns_of(rows)).set_index("corruption")

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate robustness --json``."""
        return {
            "measures": MEANING,
            "k": self.k,
            "seed": self.seed,
            "queries": self.queries,
            "skipped": len(self.skipped),
            "no_content": len(self.no_content),
            "gallery": self.gallery,
            "rows": self.rows,
            "encoder": self.encoder,
            "metric": self.metric.value,
            "corruptions": {name: scores.as_dict() for name, scores in self.scores.items()},
        }


@checked
def evaluate_robustness(
    gallery: Gallery,
    *,
    k: int = 7,
    queries: int = 500,
    seed: int = 0,
    metric: Metric | str | None = None,
    progress: ProgressOption = True,
) -> RobustnessResult:
    """Corrupt images of a gallery and search for their originals.

    Measures invariance to corruptions, not search quality. No labels are needed. Images are read
    from their sources; those that cannot be read are skipped and listed.

    Rows with the same content as the original count as the original. Any other row at the same
    distance ranks before it, so an encoder with one embedding for all images scores 0. Images are
    shrunk to at most 1,024 pixels a side before they are corrupted.

    Images without content, blank or nearly of one color, are not corrupted but counted.

    Args:
        gallery: the gallery to search; labels are not used.
        k: hits per query.
        queries: maximum number of distinct images, drawn at random.
        seed: of the sample and the corruptions; galleries of the same images get the same queries
            whatever their encoder.
        metric: ``l2`` or ``cosine``; by default the gallery's own.
        progress: True shows it on a terminal or in a notebook, False does not; or a callback.

    Raises:
        InputError: fewer than two distinct images, or none that can be read and has content.
        SettingError: ``k`` or ``queries`` below 1, or ``seed`` below 0.
        SourceError: the source of a row is missing.
    """
    experiment = _Experiment.of(k, queries, seed)
    gallery = as_gallery(gallery).snapshot()
    target = _Target(
        name=str(gallery.path),
        encoder=gallery.encoder,
        rows=gallery.store,
        records=without_metadata(gallery.store.records()),
        metric=gallery.metric if metric is None else Metric(metric),
        open_items=gallery.open_rows,
    )
    with reporting(progress) as on_progress:
        return experiment.run(target, str(gallery.path), on_progress)


def evaluate_encoder_robustness(  # noqa: PLR0913 - keyword options
    encoder: Encoder,
    images: Sequence[ImageArray] | NDArray[np.uint8],
    *,
    k: int = 7,
    queries: int = 500,
    seed: int = 0,
    corruptions: Sequence[str] | None = None,
    embeddings: Embeddings | None = None,
) -> RobustnessResult:
    """Run :func:`evaluate_robustness` on images outside a gallery, with cosine distance.

    Args:
        encoder: the encoder to evaluate.
        images: each ``(H, W)`` or ``(H, W, 3)`` uint8; all are searched.
        k: hits per query.
        queries: maximum number of distinct images, drawn at random.
        seed: of the sample and the corruptions.
        corruptions: names in :data:`lookalike.images.corruptions.CORRUPTIONS`; by default, all.
        embeddings: ``(n, dim)`` of the images, if they have been encoded.

    Raises:
        InputError: fewer than two distinct images.
        ImageError: the encoder cannot encode one.
        UnknownNameError: no such corruption.
        SettingError: ``k`` or ``queries`` below 1, ``seed`` below 0, or ``corruptions`` empty.
    """
    experiment = _Experiment.of(k, queries, seed, corruptions)
    ids = [f"{number:09d}" for number in range(len(images))]
    items = {
        row_id: Item(row_id, f"image {number}", {}, partial(np.asarray, image))
        for number, (row_id, image) in enumerate(zip(ids, images, strict=True))
    }
    if embeddings is None:
        embeddings = encoder.encode_batch(images) if ids else np.empty((0, encoder.dim), np.float32)
    target = _Target(
        name="images",
        encoder=encoder,
        rows=EncodedRows(ids, embeddings),
        records=[
            Record(row_id, "", {}, content_hash(image))
            for row_id, image in zip(ids, images, strict=True)
        ],
        metric=Metric.COSINE,
        open_items=lambda records: [items[record.id] for record in records],
    )
    return experiment.run(target, None, ignore_progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Images to search, with their encoder; ``open_items`` opens the images of records."""

    name: str
    encoder: Encoder
    rows: SearchableRows
    records: Sequence[Record]
    metric: Metric
    open_items: Callable[[Sequence[Record]], Sequence[Item]]


@dataclass(frozen=True, slots=True)
class _Experiment:
    """Settings: at most ``queries`` distinct images, each with all ``corruptions``."""

    k: int
    queries: int
    seed: int
    corruptions: tuple[Corruption, ...]

    @classmethod
    def of(cls, k: int, queries: int, seed: int, names: Sequence[str] | None = None) -> Self:
        """Check the settings; without ``names``, take all corruptions.

        Raises:
            SettingError: a number is out of range, or ``names`` is empty.
            UnknownNameError: no such corruption.
        """
        if k < 1:
            raise SettingError("{k} must be at least 1", k=k)
        if k > MAX_K:
            raise SettingError(f"{{k}} must be at most {MAX_K:,}", k=k)
        if queries < 1:
            raise SettingError("{queries} must be at least 1", queries=queries)
        if seed < 0:
            raise SettingError("{seed} must be at least 0", seed=seed)
        corruptions = find_corruptions(names)
        if not corruptions:
            raise SettingError("{corruptions} must name at least one", corruptions=names)
        return cls(k, queries, seed, corruptions)

    def run(
        self, target: _Target, gallery: str | None, on_progress: ProgressCallback
    ) -> RobustnessResult:
        """Search for the original of each query under each corruption.

        Raises:
            InputError: fewer than two distinct images, or none that can be read.
            ImageError: the encoder cannot encode one.
        """
        records = target.records
        sample = self._draw(target, records)
        copies = _copies(records)
        correct: dict[str, list[Correct]] = {each.name: [] for each in self.corruptions}
        skipped: list[Failure] = []
        blank: list[str] = []
        examples: list[_Query] = []
        done = 0
        on_progress(Progress("robustness", done, len(sample), "images"))
        for chunk in _read(sample):
            read = [each for each in chunk if isinstance(each, _Query)]
            queries = [each for each in read if has_content(each.image)]
            blank += [each.uri for each in read if not has_content(each.image)]
            skipped += [each for each in chunk if isinstance(each, Failure)]
            for corruption in self.corruptions if queries else ():
                items = [query.item(corruption, self.seed) for query in queries]
                embeddings = np.concatenate(list(encode_items(target.encoder, items)))
                originals = [copies[query.content] for query in queries]
                correct[corruption.name].append(
                    known_item(target.rows, originals, embeddings, k=self.k, metric=target.metric)
                )
            for place, query in enumerate(queries, done):
                if place * _EXAMPLES >= len(examples) * len(sample):  # evenly spread
                    examples.append(query)
            done += len(chunk)
            on_progress(Progress("robustness", done, len(sample), "images"))
        if not examples and not skipped:
            raise InputError(
                f"{target.name}: none of the {format_count(len(sample), 'sampled image')} has "
                f"content; all are blank or nearly of one color, the first is {blank[0]}"
            )
        if not examples:
            raise InputError(
                f"{target.name}: none of the {len(sample):,} sampled images can be read; the "
                f"first, {skipped[0].uri}: {skipped[0].reason}"
            )
        return RobustnessResult(
            encoder=target.encoder.name,
            metric=target.metric,
            k=self.k,
            seed=self.seed,
            gallery=gallery,
            rows=len(records),
            queries=len(sample) - len(skipped) - len(blank),
            skipped=tuple(skipped),
            no_content=tuple(blank),
            scores={
                each.name: CorruptionScores.of(each.summary, np.concatenate(correct[each.name]))
                for each in self.corruptions
            },
            examples=tuple(query.example(self.corruptions, self.seed) for query in examples),
        )

    def _draw(self, target: _Target, records: Sequence[Record]) -> list[_SampledItem]:
        """Draw distinct images, in order of id."""
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(_content(record), record)
        if len(first) < 2:
            raise InputError(
                f"{target.name}: robustness needs at least 2 distinct images, not {len(first)}; "
                "index more images"
            )
        rng = np.random.default_rng(self.seed)
        numbers = sorted(rng.permutation(len(first))[: self.queries].tolist())
        contents = list(first)
        items = target.open_items([first[contents[number]] for number in numbers])
        return [_SampledItem(n, contents[n], item) for n, item in zip(numbers, items, strict=True)]


@dataclass(frozen=True, slots=True)
class _SampledItem:
    """An image to read; ``number`` is its position among the distinct ones."""

    number: int
    content: str
    item: Item


@dataclass(frozen=True, slots=True)
class _Query:
    """An image to corrupt; its number seeds the corruption, whatever else is in the sample."""

    number: int
    content: str
    uri: str
    image: ImageArray

    def corrupt(self, corruption: Corruption, seed: int) -> ImageArray:
        rng = np.random.default_rng([seed, zlib.crc32(corruption.name.encode()), self.number])
        return corruption.apply(self.image, rng)

    def item(self, corruption: Corruption, seed: int) -> Item:
        return Item(self.uri, self.uri, {}, partial(self.corrupt, corruption, seed))

    def example(self, corruptions: Sequence[Corruption], seed: int) -> Mapping[str, ImageArray]:
        return {
            ORIGINAL: self.image,
            **{each.name: self.corrupt(each, seed) for each in corruptions},
        }


def _copies(records: Sequence[Record]) -> dict[str, frozenset[str]]:
    """Return the ids of the rows of each image, by its content."""
    copies: dict[str, set[str]] = {}
    for record in records:
        copies.setdefault(_content(record), set()).add(record.id)
    return {content: frozenset(ids) for content, ids in copies.items()}


def _content(record: Record) -> str:
    """Return a key that rows of the same image share; the id if the content is unknown."""
    return record.content_hash or record.id


def _read(sample: Sequence[_SampledItem]) -> Iterator[list[_Query | Failure]]:
    """Yield chunks of images, or the reasons why they cannot be read."""
    with ThreadPoolExecutor(settings().threads, thread_name_prefix="lookalike-read") as pool:
        for start in range(0, len(sample), _CHUNK):
            yield list(pool.map(_read_one, sample[start : start + _CHUNK]))


def _read_one(sampled: _SampledItem) -> _Query | Failure:
    uri = sampled.item.uri
    try:
        image = shrink_image(sampled.item.image(), MAX_SIDE)
    except ImageError as error:
        return Failure(uri, str(error).removeprefix(f"{uri}: "))
    return _Query(sampled.number, sampled.content, uri, image)
