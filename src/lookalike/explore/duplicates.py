"""Duplicates: identical files, and near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ImageError, InputError, SettingError, SourceError, UnknownNameError
from lookalike.explore.copy_threshold import CopyThreshold, calibrate_threshold, thumbnail_vector
from lookalike.explore.range_search import Pairs, pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_items
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import Rows
from lookalike.types import (
    Embeddings,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)
from lookalike.vectors import unit_rows

EXACT = "exact"
NEAR = "near"

SAMPLE = 200
"""Images of which altered copies are made to calibrate the threshold."""

_BATCH = 256
_PAIRS_PER_BLOCK = 4_096

KEEP_RULES: Mapping[str, str] = {
    "largest": "most pixels; the first id among equals",
    "first": "first id in alphabetical order",
    "last": "last id in alphabetical order",
}
"""Rules for the image of a group that is kept, by name."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A redundant image of a group.

    ``kind`` is ``exact`` (the same file content) or ``near``. ``distance`` is the Euclidean
    distance of its embedding to that of the kept image (of unit length where the metric is
    cosine), ``correlation`` that of their thumbnails; 0 and 1 for exact duplicates.
    """

    id: str
    kind: str
    distance: float
    correlation: float


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """The id of the image to ``keep``, and its duplicates."""

    keep: str
    duplicates: tuple[Duplicate, ...]

    @property
    def kind(self) -> str:
        """``exact`` if all duplicates are exact, else ``near``."""
        return EXACT if all(each.kind == EXACT for each in self.duplicates) else NEAR


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of duplicates, the largest first.

    ``keep`` is the name of the rule, ``threshold`` None if only identical files were compared.
    ``unreadable`` lists images with a neighbor within the distance whose files cannot be read.
    """

    images: int
    keep: str
    threshold: CopyThreshold | None
    groups: tuple[DuplicateGroup, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def redundant(self) -> tuple[str, ...]:
        """The ids that the rule does not keep, sorted."""
        return tuple(sorted(each.id for group in self.groups for each in group.duplicates))

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a CSV row for each image of a group, the one to keep first."""
        for number, group in enumerate(self.groups, 1):
            yield {"group": str(number), "kind": group.kind, "keep": "yes", "id": group.keep}
            for each in group.duplicates:
                yield {
                    "group": str(number),
                    "kind": each.kind,
                    "keep": "no",
                    "id": each.id,
                    "distance": f"{each.distance:.6f}",
                    "correlation": f"{each.correlation:.4f}",
                }

    def summary(self) -> str:
        """Return the number of groups and redundant files as one line of text."""
        groups = (
            "1 duplicate group"
            if len(self.groups) == 1
            else (f"{len(self.groups):,} duplicate groups")
        )
        redundant = len(self.redundant)
        files = "1 redundant file" if redundant == 1 else f"{redundant:,} redundant files"
        return f"{groups}, {files} (kept: {self.keep})"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike explore duplicates --json``."""
        threshold = self.threshold
        return {
            "images": self.images,
            "keep": self.keep,
            "threshold": None
            if threshold is None
            else {
                "distance": threshold.distance,
                "correlation": threshold.correlation,
                "images": threshold.images,
                "copies": threshold.copies,
                "recall": threshold.recall,
            },
            "groups": [
                {
                    "kind": group.kind,
                    "keep": group.keep,
                    "duplicates": [
                        {
                            "id": each.id,
                            "kind": each.kind,
                            "distance": each.distance,
                            "correlation": each.correlation,
                        }
                        for each in group.duplicates
                    ],
                }
                for group in self.groups
            ],
            "redundant": list(self.redundant),
            "unreadable": list(self.unreadable),
        }


@dataclass(frozen=True, slots=True)
class _Thumbnail:
    """The thumbnail vector of an image, and the number of its pixels."""

    vector: NDArray[np.float32]
    pixels: int


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Near-duplicates among distinct files, by their place in the list of these.

    ``similar`` maps a place to those of its near-duplicates, with distance and correlation.
    """

    threshold: CopyThreshold | None = None
    pixels: Mapping[int, int] = field(default_factory=dict)
    similar: Mapping[int, Mapping[int, tuple[float, float]]] = field(default_factory=dict)
    unreadable: tuple[int, ...] = ()


def find_duplicates(
    gallery: Gallery,
    *,
    keep: str = "largest",
    max_distance: float | None = None,
    exact: bool = False,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> Duplicates:
    """Find groups of duplicates. Nothing is deleted or written.

    Exact duplicates have the same content hash. Near-duplicates have embeddings and thumbnails as
    similar as those of altered copies to their originals, calibrated on 200 images of the gallery
    (:mod:`lookalike.explore.copy_threshold`). Every image of a group is a duplicate of the kept
    one itself, so a chain of small differences does not join dissimilar images.

    Args:
        gallery: whose rows are compared.
        keep: which image of a group is kept, a name in :data:`KEEP_RULES`.
        max_distance: maximum distance of embeddings, instead of the calibrated one.
        exact: find identical files only; no image is read.
        seed: of the sample of images for the calibration.
        on_progress: called after each step.

    Raises:
        InputError: fewer than two rows, no readable image, or too many pairs within the distance.
        SettingError: ``max_distance`` is negative.
        UnknownNameError: no such rule.
        ImageError: the encoder rejects an image.
    """
    if keep not in KEEP_RULES:
        raise UnknownNameError("keep rule", keep, KEEP_RULES)
    if max_distance is not None and not max_distance >= 0:
        raise SettingError("{max_distance} must be at least 0", max_distance=max_distance)
    records = list(gallery.store.records())
    if len(records) < 2:
        size = "1 image" if records else "no images"
        raise InputError(f"{gallery.path}: has {size}; at least two are needed")
    ids = [record.id for record in records]
    by_hash: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        by_hash[record.content_hash or record.id].append(row)
    # One of identical files represents all of them: they have the same pixels.
    identical = {rows[-1 if keep == "last" else 0]: rows for rows in by_hash.values()}
    distinct = sorted(identical)
    comparison = _Comparison()
    if not exact and len(distinct) > 1:
        rows = gallery.store.get([ids[row] for row in distinct])
        comparison = _compare(gallery, rows, max_distance, seed, on_progress)
    groups = []
    for representative, places in _stars(
        _keep_order(len(distinct), keep, comparison.pixels), comparison
    ):
        duplicates = [
            Duplicate(ids[row], EXACT, 0.0, 1.0)
            for row in identical[distinct[representative]]
            if row != distinct[representative]
        ]
        for place in places:
            duplicates += [
                Duplicate(ids[row], NEAR, *comparison.similar[representative][place])
                for row in identical[distinct[place]]
            ]
        if duplicates:
            groups.append(DuplicateGroup(ids[distinct[representative]], tuple(duplicates)))
    groups.sort(key=lambda group: (-len(group.duplicates), group.keep))
    unreadable = tuple(ids[distinct[place]] for place in comparison.unreadable)
    return Duplicates(len(ids), keep, comparison.threshold, tuple(groups), unreadable)


def _keep_order(count: int, keep: str, pixels: Mapping[int, int]) -> list[int]:
    """Return the places of distinct files in the order in which a rule prefers them."""
    places = list(range(count))
    if keep == "largest":
        places.sort(key=lambda place: -pixels.get(place, 0))
    elif keep == "last":
        places.reverse()
    return places


def _stars(order: Sequence[int], comparison: _Comparison) -> Iterator[tuple[int, list[int]]]:
    """Yield each kept place, and its near-duplicates that no earlier one has taken."""
    taken: set[int] = set()
    for representative in order:
        if representative in taken:
            continue
        similar = comparison.similar.get(representative, {})
        places = sorted((place for place in similar if place not in taken), key=similar.__getitem__)
        taken.update(places, (representative,))
        yield representative, places


def _calibrated(
    gallery: Gallery,
    uris: Sequence[str],
    embeddings: Embeddings,
    max_distance: float | None,
    seed: int,
) -> CopyThreshold:
    sample = np.random.default_rng(seed).permutation(len(uris))[:SAMPLE]
    loaded = thread_map(_image, [uris[place] for place in sample])
    images = [image for image in loaded if image is not None]
    if not images:
        raise InputError(
            f"{gallery.path}: none of {len(sample)} sampled images can be read, the first is "
            f"{uris[sample[0]]}; identical files are found without reading images: "
            f"lookalike explore duplicates {gallery.path} --exact"
        )
    return calibrate_threshold(images, gallery.encoder, embeddings, gallery.metric, max_distance)


def _compare(
    gallery: Gallery,
    rows: Rows,
    max_distance: float | None,
    seed: int,
    on_progress: ProgressCallback,
) -> _Comparison:
    """Find the pairs of rows within the distance, and compare their thumbnails."""
    uris, embeddings = rows.uris, rows.embeddings
    if gallery.metric is Metric.COSINE:
        embeddings = unit_rows(embeddings)
    threshold = _calibrated(gallery, uris, embeddings, max_distance, seed)
    pairs = pairs_within(embeddings, threshold.distance, on_progress)
    paired = np.unique(np.concatenate([pairs.first, pairs.second]))
    thumbnails: dict[int, _Thumbnail] = {}
    for start in range(0, len(paired), _BATCH):
        part = paired[start : start + _BATCH].tolist()
        loaded = thread_map(_thumbnail, [uris[place] for place in part])
        thumbnails |= {
            place: thumbnail
            for place, thumbnail in zip(part, loaded, strict=True)
            if thumbnail is not None
        }
        on_progress(Progress("comparison", start + len(part), len(paired), "images"))
    return _Comparison(
        threshold,
        pixels={place: thumbnail.pixels for place, thumbnail in thumbnails.items()},
        similar=_correlated(pairs, thumbnails, len(uris), threshold.correlation),
        unreadable=tuple(place for place in paired.tolist() if place not in thumbnails),
    )


def _correlated(
    pairs: Pairs, thumbnails: Mapping[int, _Thumbnail], count: int, min_correlation: float
) -> Mapping[int, Mapping[int, tuple[float, float]]]:
    """Return the pairs of correlated thumbnails: of both sides, distance and correlation."""
    similar: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
    if not thumbnails:
        return similar
    index = np.full(count, -1, np.int64)
    index[list(thumbnails)] = np.arange(len(thumbnails))
    vectors = np.stack([thumbnail.vector for thumbnail in thumbnails.values()])
    for start in range(0, len(pairs), _PAIRS_PER_BLOCK):
        block = pairs.select(np.arange(start, min(start + _PAIRS_PER_BLOCK, len(pairs))))
        block = block.select((index[block.first] >= 0) & (index[block.second] >= 0))
        first, second = vectors[index[block.first]], vectors[index[block.second]]
        correlations = np.einsum("pd,pd->p", first, second)
        for i in np.flatnonzero(correlations >= min_correlation):
            a, b = int(block.first[i]), int(block.second[i])
            similar[a][b] = similar[b][a] = float(block.distances[i]), float(correlations[i])
    return similar


def _thumbnail(uri: str) -> _Thumbnail | None:
    image = _image(uri)
    if image is None:
        return None
    return _Thumbnail(thumbnail_vector(image), image.shape[0] * image.shape[1])


def _image(uri: str) -> ImageArray | None:
    try:
        return open_items([uri])[0].image()
    except (ImageError, SourceError, OSError):
        return None
