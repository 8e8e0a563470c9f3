"""Duplicates: identical files, and near-duplicates."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.arguments import checked
from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError
from lookalike.explore.comparison import NEAR, PIXELS, Comparison, Likeness, compare
from lookalike.explore.copy_threshold import CopyThreshold
from lookalike.explore.keep_rules import FileFacts, KeepOrder, matches, read_facts
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.notebook import SHOWN, Caption, images_html, table_html, text_html
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.sampling import thread_map
from lookalike.sources.tables import data_frame
from lookalike.stores.base import Record, without_metadata
from lookalike.types import ProgressCallback

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

EXACT = "exact"

_SHOWN_GROUPS = 8
"""Groups that are shown in a notebook."""

_SAME_BYTES = Likeness(EXACT, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A redundant image of a group.

    ``kind`` is ``exact`` (the same file content), ``pixels`` (blank images with the same pixels)
    or ``near``. ``distance`` is the Euclidean distance of its embedding to that of the kept image
    (of unit length where the metric is cosine), ``correlation`` that of their thumbnails; 0 and 1
    unless the kind is ``near``. The correlation is None if no image of the gallery could be read.
    ``decided_by`` is the criterion by which the other image is kept,
    one of :data:`lookalike.explore.keep_rules.CRITERIA`.
    """

    id: str
    kind: str
    distance: float
    correlation: float | None
    decided_by: str


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """The id of the image to ``keep``, and its duplicates."""

    keep: str
    duplicates: tuple[Duplicate, ...]

    @property
    def kind(self) -> str:
        """The kind of its least alike duplicate: ``near``, else ``pixels``, else ``exact``."""
        kinds = {each.kind for each in self.duplicates}
        return next(kind for kind in (NEAR, PIXELS, EXACT) if kind in kinds)

    @property
    def decided_by(self) -> tuple[str, ...]:
        """The criteria that decided which image is kept, each once."""
        return tuple(dict.fromkeys(each.decided_by for each in self.duplicates))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Duplicates:
    """Groups of duplicates, the largest first.

    ``keep`` is the name of the rule. ``threshold`` is None if only identical files were compared,
    or if no image has content to calibrate it on. The other fields list ids: ``unreadable`` are
    images with a neighbor within the distance, or with the hash of another, whose files cannot be
    read; ``changed`` those whose files are not what was indexed, which are in no group;
    ``same_file`` rows that show the same file as another row, which are not redundant;
    ``no_content``, among the images that were read, those that are blank or nearly of one color,
    and those with an embedding of zeros: they are duplicates only of images with equal bytes or
    pixels. ``embeddings_only``: no image could be read, so that near-duplicates were found by the
    distance of their embeddings alone.
    """

    images: int
    keep: str
    threshold: CopyThreshold | None
    groups: tuple[DuplicateGroup, ...]
    unreadable: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    same_file: tuple[str, ...] = ()
    no_content: tuple[str, ...] = ()
    embeddings_only: bool = False
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Duplicates among {format_count(self.images, 'image')}: {self.summary()}>"

    @property
    def redundant(self) -> tuple[str, ...]:
        """The ids that the rule does not keep, sorted."""
        return tuple(sorted(each.id for group in self.groups for each in group.duplicates))

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a CSV row for each image of a group, the one to keep first."""
        for number, group in enumerate(self.groups, 1):
            yield {
                "group": str(number),
                "kind": group.kind,
                "keep": "yes",
                "id": group.keep,
                "decided_by": ", ".join(group.decided_by),
            }
            for each in group.duplicates:
                yield {
                    "group": str(number),
                    "kind": each.kind,
                    "keep": "no",
                    "id": each.id,
                    "decided_by": each.decided_by,
                    "distance": f"{each.distance:.6f}",
                    "correlation": "" if each.correlation is None else f"{each.correlation:.4f}",
                }

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each image of a group, the one to keep first.

        Its columns are ``group`` (a number from 1), ``kind``, ``keep`` (bool), ``id``,
        ``decided_by``, and ``distance`` and ``correlation`` to the kept image (NaN for itself).

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows = list(self.rows())
        columns: dict[str, Any] = {
            "group": np.array([int(row["group"]) for row in rows], np.int64),
            "kind": [row["kind"] for row in rows],
            "keep": np.array([row["keep"] == "yes" for row in rows], np.bool_),
            "id": [row["id"] for row in rows],
            "decided_by": [row["decided_by"] for row in rows],
        }
        for name in ("distance", "correlation"):
            values = [row.get(name) or "nan" for row in rows]
            columns[name] = np.array([float(value) for value in values], np.float64)
        return data_frame("Duplicates.to_pandas", columns)

    def _repr_html_(self) -> str:
        """Return the largest groups for a notebook: thumbnails, or ids if none can be read."""
        parts = [f"<p>{text_html(self)}</p>"]
        groups = self.groups[:_SHOWN_GROUPS]
        for number, group in enumerate(groups, 1):
            kept = Caption(group.keep, f"{group.keep}\nkeep")
            others = [Caption(each.id, f"{each.id}\n{each.kind}") for each in group.duplicates]
            captions = [kept, *others][:SHOWN]
            rows = [(each.id, each.text.rpartition("\n")[2]) for each in captions]
            title = f"group {number}: {format_count(1 + len(others), 'image')}"
            shown = images_html(self.gallery, captions) or table_html(("id", ""), rows)
            parts.append(f"<p>{text_html(title)}</p>{shown}")
        if len(self.groups) > len(groups):
            parts.append(f"<p>{len(self.groups) - len(groups):,} more groups</p>")
        return "".join(parts)

    def summary(self) -> str:
        """Return the number of groups and redundant files as one line of text."""
        groups = format_count(len(self.groups), "duplicate group")
        files = format_count(len(self.redundant), "redundant file")
        return f"{groups}, {files} (kept: {self.keep})"

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each kind of images that were not compared like the others."""
        if self.embeddings_only:
            yield "no image can be read: near-duplicates by the distance of embeddings alone"
        if self.no_content:
            images = format_count(len(self.no_content), "image")
            yield (
                f"{images} without content (blank or nearly of one color): duplicates only of "
                "equal bytes or pixels"
            )
        for ids, reason in (
            (self.unreadable, "cannot be read: not compared by their pixels"),
            (self.changed, "changed since they were indexed: in no group; index again"),
            (self.same_file, "of the same file as another row: in no group"),
        ):
            if ids:
                yield f"{format_count(len(ids), 'row')} {reason}; the first: {ids[0]}"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike explore duplicates --json``."""
        return {
            "images": self.images,
            "keep": self.keep,
            "threshold": None if self.threshold is None else asdict(self.threshold),
            "groups": [
                {
                    "kind": group.kind,
                    "keep": group.keep,
                    "decided_by": list(group.decided_by),
                    "duplicates": [asdict(each) for each in group.duplicates],
                }
                for group in self.groups
            ],
            "redundant": list(self.redundant),
            "unreadable": list(self.unreadable),
            "changed": list(self.changed),
            "same_file": list(self.same_file),
            "no_content": list(self.no_content),
            "embeddings_only": self.embeddings_only,
        }


@checked
def find_duplicates(  # noqa: PLR0913 - keyword options of the public call
    gallery: Gallery,
    *,
    keep: str = "largest",
    prefer: Sequence[str] = (),
    max_distance: float | None = None,
    exact: bool = False,
    seed: int = 0,
    progress: ProgressOption = True,
) -> Duplicates:
    """Find groups of duplicates. Nothing is deleted or written.

    Exact duplicates have the same content hash. Near-duplicates have embeddings and thumbnails as
    similar as those of altered copies to their originals, calibrated on 200 images of the gallery
    (:mod:`lookalike.explore.copy_threshold`). Every image of a group is a duplicate of the kept
    one itself, so a chain of small differences does not join dissimilar images. Images without
    content are duplicates only if their bytes or pixels are equal.

    Which image is kept is decided by the header and the size of its file, read anew; an image that
    cannot be read is never kept instead of one that can. Where no image can be read, as of
    embeddings that were made elsewhere, near-duplicates need ``max_distance`` and are those within
    it. :meth:`Gallery.remove` deletes the ``redundant`` ones.

    Args:
        gallery: whose rows are compared.
        keep: which image of a group is kept, a name in
            :data:`~lookalike.explore.keep_rules.KEEP_RULES`.
        prefer: patterns of paths, folders or ids, with ``*`` and ``?``, of images to keep if
            nothing but their ids tells them apart, the most preferred first; ``!backup``
            prefers what is not in such a folder.
        max_distance: maximum Euclidean distance of embeddings (of unit length where the metric is
            cosine), instead of the calibrated one.
        exact: find identical files only; no image is decoded.
        seed: of the sample of images for the calibration.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        InputError: fewer than two rows, no readable image, or too many pairs within the distance.
        SettingError: ``max_distance`` is negative, or a pattern is empty.
        UnknownNameError: no such rule.
        ImageError: the encoder rejects an image.
    """
    order = KeepOrder(keep, (prefer,) if isinstance(prefer, str) else tuple(prefer))
    if max_distance is not None and not max_distance >= 0:
        raise SettingError("{max_distance} must be at least 0", max_distance=max_distance)
    view = as_gallery(gallery).snapshot()
    with reporting(progress) as on_progress:
        result = _find(view, order, max_distance, seed, on_progress, exact=exact)
    return replace(result, gallery=gallery)


def _find(
    gallery: Gallery,
    order: KeepOrder,
    max_distance: float | None,
    seed: int,
    on_progress: ProgressCallback,
    *,
    exact: bool,
) -> Duplicates:
    records = without_metadata(gallery.store.records())
    if len(records) < 2:
        size = "1 image" if records else "no images"
        raise InputError(f"{gallery.path}: has {size}; at least two are needed")
    for pattern in order.prefer:
        if not any(matches(record, pattern.removeprefix("!")) for record in records):
            log.warning("no image matches the preferred path %r", pattern.removeprefix("!"))
    files = _Files(records, order)
    files.read_identical()
    distinct = files.distinct()
    comparison = Comparison()
    if not exact and len(distinct) > 1:
        comparison = compare(
            gallery,
            [records[row] for row in distinct],
            max_distance=max_distance,
            seed=seed,
            on_progress=on_progress,
        )
    files.facts |= {distinct[place]: facts for place, facts in comparison.facts.items()}
    groups = files.groups(distinct, comparison)

    def ids(rows: Iterable[int], places: Iterable[int] = ()) -> tuple[str, ...]:
        numbers = {*rows, *(distinct[place] for place in places)}
        return tuple(records[row].id for row in sorted(numbers))

    return Duplicates(
        images=len(records),
        keep=order.rule,
        threshold=comparison.threshold,
        groups=tuple(sorted(groups, key=lambda group: (-len(group.duplicates), group.keep))),
        unreadable=ids(files.unreadable, comparison.unreadable),
        changed=ids(files.changed, comparison.changed),
        same_file=ids(files.same_file),
        no_content=ids((), comparison.no_content),
        embeddings_only=comparison.embeddings_only,
    )


@dataclass(slots=True)
class _Files:
    """The rows by content, with facts about the files of those that may be duplicates.

    ``identical`` are the row numbers with each content, the one to keep first.
    """

    records: Sequence[Record]
    order: KeepOrder
    identical: list[list[int]] = field(default_factory=list)
    facts: dict[int, FileFacts] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    same_file: set[int] = field(default_factory=set)

    def read_identical(self) -> None:
        """Group the rows by content, and look at the files of those that share it."""
        by_hash: dict[str, list[int]] = defaultdict(list)
        for row, record in enumerate(self.records):
            by_hash[record.content_hash or record.id].append(row)
        shared = [row for rows in by_hash.values() if len(rows) > 1 for row in rows]
        found = thread_map(read_facts, [self.records[row] for row in shared])
        for row, facts in zip(shared, found, strict=True):
            check_cancelled()
            if facts is None:
                self.unreadable.add(row)
            elif facts.changed:
                self.changed.add(row)
            else:
                self.facts[row] = facts
        for rows in by_hash.values():
            current = sorted((row for row in rows if row not in self.changed), key=self.key)
            paths: set[str] = set()
            for row in list(current):
                path = self.facts[row].path if row in self.facts else ""
                if path in paths:
                    self.same_file.add(row)
                    current.remove(row)
                paths |= {path} - {""}
            if current:
                self.identical.append(current)

    def key(self, row: int) -> tuple[object, ...]:
        """Return the key of a row in the order in which images are kept."""
        return self.order.key(self.records[row], row, self.facts.get(row))

    def distinct(self) -> list[int]:
        """Return the first row of each content, sorted."""
        self.identical.sort()
        return [rows[0] for rows in self.identical]

    def groups(self, distinct: Sequence[int], comparison: Comparison) -> Iterator[DuplicateGroup]:
        """Yield the groups of duplicates."""
        places = sorted(range(len(distinct)), key=lambda place: self.key(distinct[place]))
        for kept, others in _stars(places, comparison):
            check_cancelled()
            found = [(row, _SAME_BYTES) for row in self.identical[kept][1:]]
            for place in others:
                likeness = comparison.similar[kept][place]
                found += [(row, likeness) for row in self.identical[place]]
            if found:
                first = distinct[kept]
                yield DuplicateGroup(
                    self.records[first].id,
                    tuple(
                        Duplicate(
                            self.records[row].id,
                            *(likeness.kind, likeness.distance, likeness.correlation),
                            self.order.decision(self.key(first), self.key(row)),
                        )
                        for row, likeness in found
                    ),
                )


def _stars(order: Sequence[int], comparison: Comparison) -> Iterator[tuple[int, list[int]]]:
    """Yield each kept place, and its near-duplicates that no earlier one has taken."""
    taken: set[int] = set()
    for kept in order:
        if kept in taken:
            continue
        similar = comparison.similar.get(kept, {})
        nearest = sorted(
            (each.distance, -(each.correlation or 0), place)
            for place, each in similar.items()
            if place not in taken
        )
        places = [place for _, _, place in nearest]
        taken.update(places, (kept,))
        yield kept, places
