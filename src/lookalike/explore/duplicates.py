"""Duplicates: files that are the same, and images that look like copies of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ImageError, InputError, SettingError, SourceError, UnknownNameError
from lookalike.explore.copy_threshold import Threshold, small, threshold
from lookalike.explore.range_search import Pairs, pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_items
from lookalike.sources.sampling import each_in_threads
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
VISUAL = "visual"

SAMPLE = 200
"""Images that copies are made of, to learn what a copy is."""

_BATCH = 256
_PAIRS = 4_096


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An image that is like the one of its group that is kept.

    ``kind`` is exact (the same file, or the same pixels where there is none) or visual, and
    ``distance`` the Euclidean distance of their embeddings, of unit length where the metric is
    cosine. ``likeness`` is the correlation of their small versions, 1 of exact ones.
    """

    id: str
    kind: str
    distance: float
    likeness: float


@dataclass(frozen=True, slots=True)
class Group:
    """The id that is kept, and what is like it."""

    keep: str
    others: tuple[Duplicate, ...]

    @property
    def kind(self) -> str:
        """Exact if all are."""
        return EXACT if all(other.kind == EXACT for other in self.others) else VISUAL


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups, the largest first; ``unread`` ids were near another image but could not be read."""

    images: int
    rule: str
    threshold: Threshold | None
    groups: tuple[Group, ...]
    unread: tuple[str, ...] = ()

    @property
    def spare(self) -> tuple[str, ...]:
        """The ids that the rule would not keep, in order."""
        return tuple(sorted(other.id for group in self.groups for other in group.others))

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a row of the CSV for each image in a group, that which is kept first."""
        for number, group in enumerate(self.groups, 1):
            yield {"group": str(number), "kind": group.kind, "keep": "yes", "id": group.keep}
            for other in group.others:
                yield {
                    "group": str(number),
                    "kind": other.kind,
                    "keep": "no",
                    "id": other.id,
                    "distance": f"{other.distance:.6f}",
                    "likeness": f"{other.likeness:.4f}",
                }

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike explore duplicates --json``."""
        limit = self.threshold
        return {
            "images": self.images,
            "rule": self.rule,
            "threshold": None
            if limit is None
            else {
                "distance": limit.distance,
                "likeness": limit.likeness,
                "copies": limit.copies,
                "found": limit.found,
                "explained": limit.explained(),
            },
            "groups": [
                {
                    "kind": group.kind,
                    "keep": group.keep,
                    "others": [
                        {
                            "id": other.id,
                            "kind": other.kind,
                            "distance": other.distance,
                            "likeness": other.likeness,
                        }
                        for other in group.others
                    ],
                }
                for group in self.groups
            ],
            "spare": list(self.spare),
            "unread": list(self.unread),
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image as it was read: its small version and its pixels' number."""

    small: NDArray[np.float32]
    pixels: int


Near = dict[int, dict[int, tuple[float, float]]]
"""Of each image those alike, with distance and likeness."""

RULES: Mapping[str, str] = {
    "largest": "the image of most pixels; of equal ones the first id",
    "first": "the first id, in the order of ids",
    "last": "the last id, in the order of ids",
}
"""Which image of a group is kept, by name."""


def duplicates(
    gallery: Gallery,
    *,
    keep: str = "largest",
    within: float | None = None,
    visual: bool = True,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> Duplicates:
    """Find groups of duplicates. Nothing is deleted or written.

    Exact ones have one content hash. For visual ones copies of 200 images of the collection are
    made (:data:`lookalike.explore.copy_threshold.COPIES`); two images are duplicates if their
    embeddings and their small versions are as near as 95 % of copies are to their originals. Each
    image of a group is so near to the one that is kept, so that no chain joins what is not alike.

    Args:
        gallery: whose rows are compared.
        keep: a name in :data:`RULES`.
        within: the distance of embeddings, in place of that of the copies.
        visual: look for visual ones too.
        seed: of the draw of images that copies are made of.
        on_progress: told after each piece.

    Raises:
        InputError: fewer than two rows, or so many pairs that the distance tells nothing.
        SettingError: ``within`` is negative.
        UnknownNameError: no such rule.
        ImageError: the encoder refuses an image.
    """
    if keep not in RULES:
        raise UnknownNameError("rule", keep, RULES)
    if within is not None and not within >= 0:
        raise SettingError(f"--within {within:g}: must be at least 0")
    records = list(gallery.store.records())
    if len(records) < 2:
        raise InputError(f"{gallery.path}: has {len(records)} rows; at least two are needed")
    ids = [record.id for record in records]
    same: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        same[record.content_hash or record.id].append(row)
    # Of exact copies one stands for all; their pixels are as many.
    copies = {rows[-1 if keep == "last" else 0]: rows for rows in same.values()}
    stands = np.array(sorted(copies), np.int64)
    limit: Threshold | None = None
    seen: dict[int, _Seen] = {}
    near: Near = {}
    unread: tuple[str, ...] = ()
    if visual and len(stands) > 1:
        uris = [records[row].uri for row in stands]
        embeddings = gallery.store.get([ids[row] for row in stands]).embeddings
        if gallery.metric is Metric.COSINE:
            embeddings = unit_rows(embeddings)
        limit = _limit(gallery, uris, embeddings, within, seed)
        pairs = pairs_within(embeddings, limit.distance, on_progress)
        seen, near = _looked_at(uris, pairs, limit.likeness, on_progress)
        missing = {*pairs.first.tolist(), *pairs.second.tolist()} - seen.keys()
        unread = tuple(ids[stands[place]] for place in sorted(missing))
    order = list(range(len(stands)))
    if keep == "largest":
        order.sort(key=lambda place: -seen[place].pixels if place in seen else 0)
    elif keep == "last":
        order.reverse()
    groups = []
    for kept, places in _stars(order, near):
        others = [
            Duplicate(ids[row], EXACT, 0.0, 1.0)
            for row in copies[stands[kept]]
            if row != stands[kept]
        ]
        for place in places:
            distance, alike = near[kept][place]
            others += [
                Duplicate(ids[row], VISUAL, distance, alike) for row in copies[stands[place]]
            ]
        if others:
            groups.append(Group(ids[stands[kept]], tuple(others)))
    groups.sort(key=lambda group: (-len(group.others), group.keep))
    return Duplicates(len(ids), keep, limit, tuple(groups), unread)


def _stars(order: Sequence[int], near: Near) -> Iterator[tuple[int, list[int]]]:
    """Yield each image that is kept, in an order, and those alike that no other kept one has."""
    taken: set[int] = set()
    for kept in order:
        if kept in taken:
            continue
        around = near.get(kept, {})
        others = sorted((each for each in around if each not in taken), key=around.__getitem__)
        taken.update(others, (kept,))
        yield kept, others


def _limit(
    gallery: Gallery, uris: Sequence[str], embeddings: Embeddings, within: float | None, seed: int
) -> Threshold:
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(uris))[:SAMPLE]
    read = each_in_threads(_image, [uris[row] for row in drawn])
    images = [image for image in read if image is not None]
    if not images:
        raise InputError(
            f"{gallery.path}: none of {len(drawn)} images drawn can be read; the first is "
            f"{uris[drawn[0]]}. Duplicate files are found all the same with --exact"
        )
    return threshold(images, gallery.encoder, embeddings, gallery.metric, within)


def _looked_at(
    uris: Sequence[str], pairs: Pairs, least: float, on_progress: ProgressCallback
) -> tuple[dict[int, _Seen], Near]:
    """Read the images of pairs; return them, and of each row those alike: distance, likeness."""
    wanted = np.unique(np.concatenate([pairs.first, pairs.second]))
    seen: dict[int, _Seen] = {}
    for start in range(0, len(wanted), _BATCH):
        part = wanted[start : start + _BATCH]
        for row, found in zip(
            part, each_in_threads(_see, [uris[row] for row in part]), strict=True
        ):
            if found is not None:
                seen[int(row)] = found
        done = min(start + _BATCH, len(wanted))
        on_progress(Progress("comparison", done, len(wanted), "images"))
    near: Near = defaultdict(dict)
    if not seen:
        return seen, near
    place = np.full(len(uris), -1, np.int64)
    place[list(seen)] = np.arange(len(seen))
    every = np.stack([each.small for each in seen.values()])
    for start in range(0, len(pairs), _PAIRS):
        some = pairs.at(np.arange(start, min(start + _PAIRS, len(pairs))))
        some = some.at((place[some.first] >= 0) & (place[some.second] >= 0))
        alike = np.einsum("pd,pd->p", every[place[some.first]], every[place[some.second]])
        for i in np.flatnonzero(alike >= least):
            a, b = int(some.first[i]), int(some.second[i])
            near[a][b] = near[b][a] = float(some.distances[i]), float(alike[i])
    return seen, near


def _see(uri: str) -> _Seen | None:
    image = _image(uri)
    return None if image is None else _Seen(small(image), image.shape[0] * image.shape[1])


def _image(uri: str) -> ImageArray | None:
    try:
        return open_items([uri])[0].image()
    except (ImageError, SourceError, OSError):
        return None
