"""Near-duplicates among distinct files: the pairs of images with like embeddings and thumbnails.

An image without content (:func:`lookalike.explore.copy_threshold.thumbnail_vector`) resembles
every other one, so it never counts as a near-duplicate; only equal pixels make two of them one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.explore.copy_threshold import (
    CopyThreshold,
    calibrate_threshold,
    has_content,
    thumbnail_vector,
)
from lookalike.explore.keep_rules import FileFacts, read_facts
from lookalike.explore.range_search import Pairs, pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import content_hash, shrink_image, to_channels
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import Record
from lookalike.stores.row_index import RowIndex, row_index
from lookalike.types import (
    Embeddings,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)
from lookalike.vectors import VectorView, has_direction

SAMPLE = 200
"""Images of which altered copies are made to calibrate the threshold."""

NEAR = "near"
PIXELS = "pixels"

SAMPLED_SIDE = 2048
"""Longer side of the images of a sample, of which all are in memory."""

_BATCH = 256
_PAIRS_PER_BLOCK = 4_096


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two images are: ``kind`` is ``near``, or ``pixels`` for equal pixels.

    ``distance`` is the Euclidean distance of their embeddings (of unit length where the metric is
    cosine), ``correlation`` that of their thumbnails, None if these were not compared; 0 and 1
    where the pixels are equal.
    """

    kind: str
    distance: float
    correlation: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The duplicates among some rows, by their place in the list of these.

    ``facts`` are those of the files that were compared. ``similar`` maps a place to those of its
    duplicates. Not compared were the places in ``unreadable`` and ``changed``; ``no_content`` were
    compared by their pixels alone. ``embeddings_only``: no image can be read, so that nothing but
    embeddings was compared.
    """

    threshold: CopyThreshold | None = None
    facts: Mapping[int, FileFacts] = field(default_factory=dict)
    similar: Mapping[int, Mapping[int, Likeness]] = field(default_factory=dict)
    unreadable: Sequence[int] = ()
    changed: Sequence[int] = ()
    no_content: Sequence[int] = ()
    embeddings_only: bool = False


def compare(
    gallery: Gallery,
    records: Sequence[Record],
    *,
    max_distance: float | None,
    seed: int,
    on_progress: ProgressCallback,
) -> Comparison:
    """Find the near-duplicates among some rows of a gallery, and the blank images that are equal.

    Args:
        gallery: whose rows are compared.
        records: of the rows.
        max_distance: maximum distance of embeddings, instead of the calibrated one.
        seed: of the sample of images for the calibration.
        on_progress: called after each step.

    Raises:
        InputError: none of the sampled images can be read, or too many pairs are within the
            distance.
        ImageError: the encoder rejects an image.
    """
    rows = _ComparedRows.of(gallery, [record.id for record in records])
    embeddings, defined = rows.embeddings, rows.defined
    sample = np.random.default_rng(seed).permutation(len(records))[:SAMPLE].tolist()
    images = dict(zip(sample, _sampled(gallery, [records[p] for p in sample]), strict=True))
    readable = {place: image for place, image in images.items() if image is not None}
    if not readable and max_distance is not None:
        return _by_embeddings(embeddings, defined, max_distance, on_progress)
    if not readable:
        raise InputError(
            f"{gallery.path}: none of {len(images)} sampled images can be read, the first is "
            f"{records[sample[0]].uri or records[sample[0]].id}; pass {{max_distance}} to compare "
            "embeddings alone, or {exact} to find identical files",
            max_distance=None,
            exact=None,
        )
    encoder = gallery.encoder if gallery.encoder.is_available else None
    if encoder is None and max_distance is None:
        raise InputError(
            f"{gallery.path}: its encoder is not here to calibrate the distance of near-duplicates "
            "on altered copies; pass {max_distance}, or {exact} to find identical files",
            max_distance=None,
            exact=None,
        )
    threshold = calibrate_threshold(
        list(readable.values()),
        encoder,
        gallery.metric,
        rows.nearest_distances,
        max_distance,
    )
    blank = {place for place, image in readable.items() if not has_content(image)}
    read = partial(read_thumbnails, gallery, records, on_progress=on_progress)
    # A thousand blank pages have half a million pairs: they are left out before pairs are searched.
    limit = np.inf if threshold is None else threshold.distance
    suspects = _within(embeddings, [place for place in sorted(blank) if defined[place]], limit)
    thumbnails = read(np.flatnonzero(suspects | ~defined).tolist())
    pairs = Pairs.none()
    if threshold is not None:
        left_out = {place for place, vector in thumbnails.items() if vector is None}
        kept = np.array([place not in left_out for place in range(len(records))]) & defined
        places = np.flatnonzero(kept)
        pairs = pairs_within(embeddings.select(places), threshold.distance, on_progress)
        pairs = pairs.renumbered(places)
        paired = np.unique(np.concatenate([pairs.first, pairs.second])).tolist()
        thumbnails |= read([place for place in paired if place not in thumbnails])
    unreadable = {place for place, vector in thumbnails.items() if isinstance(vector, str)}
    blank |= {place for place, vector in thumbnails.items() if vector is None}
    blank |= {*np.flatnonzero(~defined).tolist()} - unreadable
    vectors = {place: each for place, each in thumbnails.items() if isinstance(each, np.ndarray)}
    similar = _correlated(pairs, vectors, len(records), threshold)
    involved = sorted(blank.union(similar))
    facts = _facts(records, involved)
    changed = {place for place, each in facts.items() if each.changed}
    similar |= _equal_pixels(
        gallery, records, [p for p in sorted(blank - changed) if p in facts], facts
    )

    def comparable(place: int, other: int) -> bool:
        """Whether neither has changed, and they are not pages of one file."""
        paths = [facts[each].path if each in facts else "" for each in (place, other)]
        return not changed & {place, other} and (paths[0] != paths[1] or not paths[0])

    return Comparison(
        threshold,
        facts,
        similar={
            place: {other: each for other, each in others.items() if comparable(place, other)}
            for place, others in similar.items()
        },
        unreadable=sorted(unreadable),
        changed=sorted(changed),
        no_content=sorted(blank),
    )


@dataclass(frozen=True, slots=True)
class _ComparedRows:
    """The embeddings of the rows that are compared.

    ``embeddings`` are of unit length where the metric is cosine; ``defined`` ``(n,)`` is false for
    those that are then zeros. ``numbers`` are the rows' in the ``index``.
    """

    index: RowIndex
    metric: Metric
    numbers: NDArray[np.int64]
    embeddings: VectorView
    defined: NDArray[np.bool_]

    @classmethod
    def of(cls, gallery: Gallery, ids: Sequence[str]) -> _ComparedRows:
        """Look up rows by id."""
        store, metric = gallery.store, gallery.metric
        index, numbers = row_index(store), store.row_numbers(ids)
        view = VectorView(index.at, numbers, store.dim)
        defined = np.ones(len(ids), np.bool_)
        if metric is Metric.COSINE:
            defined, view = has_direction(view), view.of_unit_length()
        return cls(index, metric, numbers, view, defined)

    def nearest_distances(self, queries: Embeddings, k: int) -> NDArray[np.float64]:
        """Return the Euclidean distances ``(q, k)`` of queries to the nearest rows."""
        subset = np.sort(self.numbers[self.defined])
        k = min(k, len(subset))
        nearest = self.index.search_with_ties(queries, k, self.metric, subset)
        distances = np.array([each.distances[:k] for each in nearest]).reshape(len(queries), k)
        if self.metric is Metric.COSINE:
            distances = np.sqrt(2 * np.maximum(distances, 0))
        return distances


def _sampled(gallery: Gallery, records: Sequence[Record]) -> Sequence[ImageArray | None]:
    """Return the images of some rows, None for those that cannot be read."""
    return gallery.read_images(records, reduce=partial(shrink_image, side=SAMPLED_SIDE))


def _by_embeddings(
    embeddings: VectorView,
    defined: NDArray[np.bool_],
    max_distance: float,
    on_progress: ProgressCallback,
) -> Comparison:
    """Compare rows whose images cannot be read: those within a distance are near-duplicates."""
    places = np.flatnonzero(defined)
    pairs = pairs_within(embeddings.select(places), max_distance, on_progress).renumbered(places)
    similar: dict[int, dict[int, Likeness]] = defaultdict(dict)
    for a, b, distance in zip(
        pairs.first.tolist(), pairs.second.tolist(), pairs.distances.tolist(), strict=True
    ):
        similar[a][b] = similar[b][a] = Likeness(NEAR, distance, None)
    zero = np.flatnonzero(~defined).tolist()
    return Comparison(similar=similar, no_content=zero, embeddings_only=True)


def _within(embeddings: VectorView, places: Sequence[int], limit: float) -> NDArray[np.bool_]:
    """Return which rows are about as near as ``limit`` to one of some places, themselves included.

    In float32: who is suspected is read and judged by the image.
    """
    suspects = np.zeros(len(embeddings), np.bool_)
    if not np.isfinite(limit):
        return ~suspects if places else suspects
    chosen = embeddings[list(places)]
    norms = np.einsum("nd,nd->n", chosen, chosen)
    for part, block in embeddings.blocks() if len(chosen) else ():
        squares = np.einsum("nd,nd->n", block, block)[:, None] - 2 * block @ chosen.T + norms
        suspects[part] = (squares <= limit**2).any(axis=1)
    suspects[list(places)] = True
    return suspects


def read_thumbnails(
    gallery: Gallery,
    records: Sequence[Record],
    places: Sequence[int],
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[int, NDArray[np.float32] | str | None]:
    """Return the thumbnail vectors of some places: None without content, a text if unreadable."""
    vectors: dict[int, NDArray[np.float32] | str | None] = {}
    for start in range(0, len(places), _BATCH):
        check_cancelled()
        part = places[start : start + _BATCH]
        read = thread_map(partial(_thumbnail, gallery), [records[place] for place in part])
        vectors |= zip(part, read, strict=True)
        on_progress(Progress("comparison", start + len(part), len(places), "images"))
    return vectors


def _correlated(
    pairs: Pairs,
    thumbnails: Mapping[int, NDArray[np.float32]],
    count: int,
    threshold: CopyThreshold | None,
) -> dict[int, dict[int, Likeness]]:
    """Return the pairs of correlated thumbnails, from both sides."""
    similar: dict[int, dict[int, Likeness]] = defaultdict(dict)
    if not thumbnails or threshold is None:
        return similar
    index = np.full(count, -1, np.int64)
    index[list(thumbnails)] = np.arange(len(thumbnails))
    vectors = np.stack(list(thumbnails.values()))
    for start in range(0, len(pairs), _PAIRS_PER_BLOCK):
        check_cancelled()
        block = pairs.select(np.arange(start, min(start + _PAIRS_PER_BLOCK, len(pairs))))
        block = block.select((index[block.first] >= 0) & (index[block.second] >= 0))
        first, second = vectors[index[block.first]], vectors[index[block.second]]
        correlations = np.einsum("pd,pd->p", first, second)
        for i in np.flatnonzero(correlations >= threshold.correlation):
            a, b = int(block.first[i]), int(block.second[i])
            likeness = Likeness(NEAR, float(block.distances[i]), float(correlations[i]))
            similar[a][b] = similar[b][a] = likeness
    return similar


def _facts(records: Sequence[Record], places: Sequence[int]) -> dict[int, FileFacts]:
    read = zip(places, thread_map(read_facts, [records[place] for place in places]), strict=True)
    return {place: facts for place, facts in read if facts is not None}


def _equal_pixels(
    gallery: Gallery,
    records: Sequence[Record],
    places: Sequence[int],
    facts: Mapping[int, FileFacts],
) -> dict[int, dict[int, Likeness]]:
    """Return the pairs of images with equal pixels, from both sides."""
    by_size = _grouped(places, (facts[place].pixels for place in places))
    read = [place for group in by_size for place in group]
    hashes = thread_map(partial(_pixel_hash, gallery), [records[place] for place in read])
    by_hash = _grouped(read, (each or place for each, place in zip(hashes, read, strict=True)))
    equal = Likeness(PIXELS, 0.0, 1.0)
    return {
        place: {other: equal for other in group if other != place}
        for group in by_hash
        for place in group
    }


def _grouped(places: Iterable[int], keys: Iterable[object]) -> Iterator[list[int]]:
    """Yield the places that share a key with another."""
    groups: dict[object, list[int]] = defaultdict(list)
    for place, key in zip(places, keys, strict=True):
        groups[key].append(place)
    return (group for group in groups.values() if len(group) > 1)


def _thumbnail(gallery: Gallery, record: Record) -> NDArray[np.float32] | str | None:
    image = gallery.read_image(record)
    return record.uri if image is None else thumbnail_vector(image)


def _pixel_hash(gallery: Gallery, record: Record) -> str | None:
    image = gallery.read_image(record, full_size=True)
    return None if image is None else content_hash(to_channels(image, 3))
