"""The report of a sync, where a source is, and the checks that refuse one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.errors import ImageError, SourceError
from lookalike.files import unescape_name
from lookalike.formatting import format_count, printable
from lookalike.gallery.ids import UPLOADS
from lookalike.gallery.ingest import Change, IngestSummary, item_hash
from lookalike.images.options import FURTHER_FRAMES, FURTHER_PAGES
from lookalike.sources import (
    DATASET_PREFIX,
    FolderSource,
    ManifestSource,
    ShardSource,
    Skipped,
    Source,
    skipping,
)
from lookalike.sources.opening import with_name
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import Record
from lookalike.types import Failure

_COMPARED = 100
"""Images that are read to recognize a source that has moved."""


@dataclass(frozen=True, slots=True, repr=False)
class SyncReport:
    """What a sync did, in images.

    Args:
        added: new images.
        updated: images whose content or metadata changed.
        moved: images that were recognized under a new id.
        removed: rows whose file is gone.
        unchanged: images that are as they were.
        failed: images that could not be read or encoded, and what could not be listed.
        seconds: duration.
        kept: rows whose file exists but is not read now.
        skipped: what the source has but does not take, by reason.
        notes: on images that were decoded, such as ``truncated``, with their number.
        relocated: where the source was before, if it has moved here.
    """

    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    failed: tuple[Failure, ...]
    seconds: float
    kept: int = 0
    skipped: tuple[Skipped, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    relocated: str = ""

    def __repr__(self) -> str:
        example = ""
        if self.failed:
            first = self.failed[0]
            more = f" (and {len(self.failed) - 1:,} more)" if len(self.failed) > 1 else ""
            example = f"\n  failed: {printable(first.uri)}: {printable(first.reason)[:200]}{more}"
        return f"<SyncReport: {self.summary()}{example}>"

    def summary(self) -> str:
        """Return the counts and the duration, for people."""
        return (
            f"{self.added:,} added, {self.updated:,} updated, {self.moved:,} moved, "
            f"{self.removed:,} removed, {self.unchanged:,} unchanged, {len(self.failed):,} failed, "
            f"{sum(each.count for each in self.skipped):,} skipped, in {self.seconds:.1f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        counts = {
            name: getattr(self, name)
            for name in ("added", "updated", "moved", "removed", "unchanged", "kept")
        }
        return {
            **counts,
            "failed": [{"uri": f.uri, "reason": f.reason} for f in self.failed],
            "skipped": {each.reason: each.count for each in self.skipped},
            "skipped_examples": [
                {"reason": each.reason, "example": each.example, "hint": each.hint}
                for each in self.skipped
            ],
            "notes": dict(self.notes),
            **({"relocated": self.relocated} if self.relocated else {}),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def of(
        cls, located: LocatedSource, summary: IngestSummary, missing: MissingRows, seconds: float
    ) -> SyncReport:
        """Make the report of an ingest."""
        source = located.source
        read = (FURTHER_PAGES, FURTHER_FRAMES) if source.options.pages == "all" else ()
        return cls(
            added=summary.counts[Change.ADDED],
            updated=summary.counts[Change.UPDATED],
            moved=summary.counts[Change.MOVED],
            removed=len(missing.removed - summary.moved),
            unchanged=summary.counts[Change.UNCHANGED],
            failed=(*source.problems, *summary.failed),
            seconds=seconds,
            kept=len(missing.kept),
            skipped=(*source.skipped, *_left_out(source, summary)),
            notes={note: count for note, count in summary.notes.most_common() if note not in read},
            relocated=located.moved_from,
        )


def _left_out(source: Source, summary: IngestSummary) -> tuple[Skipped, ...]:
    """Return what a source has and the gallery leaves out, since it was removed before."""
    if not summary.left_out:
        return ()
    example = next(iter(summary.left_out)).removeprefix(f"{source.name}:")
    hint = "to add them again: lookalike index GALLERY --restore-removed"
    return (Skipped(skipping.REMOVED, len(summary.left_out), example, hint),)


@dataclass(frozen=True, slots=True)
class LocatedSource:
    """A source under its name in the gallery, and where it was before if it has moved."""

    source: Source
    moved_from: str = ""


def locate_source(
    source: Source,
    sources: Mapping[str, str],
    records: Callable[[str], Iterable[Record]],
    *,
    relocate: bool,
) -> LocatedSource:
    """Return a source under the name that the gallery has for its location or its images.

    A source that is gone from its recorded location, and most of whose images are here, has moved:
    its rows stay, with all that was written about them.

    Args:
        source: to be indexed.
        sources: specifications of the gallery's sources, by name.
        records: returns the rows of an id prefix.
        relocate: this source has moved.

    Raises:
        SourceError: its name or location is taken, or it may be several sources that have moved.
    """
    chosen = isinstance(source, FolderSource | ManifestSource | ShardSource) and source.named
    renameable = isinstance(source, FolderSource | ManifestSource | ShardSource)
    if source.name not in sources and renameable and not chosen:
        same = [name for name, spec in sources.items() if _same(base_of(spec), source.base)]
        source = with_name(source, same[0]) if same else source
    recorded = sources.get(source.name)
    known = recorded is not None and _same(base_of(recorded), source.base)
    if not renameable or relocate or known or (recorded is not None and not is_gone(recorded)):
        check_source(source, sources, relocate=relocate)
        return LocatedSource(source)
    moved = _moved_names(source, sources, records)
    if len(moved) > 1 or (moved and chosen and source.name not in moved):
        raise SourceError(_ambiguous(source, sources, moved), relocate=True, name=moved[0])
    if moved:
        source = with_name(source, moved[0])
        check_source(source, sources, relocate=True)
        return LocatedSource(source, sources[moved[0]])
    check_source(source, sources, relocate=False)
    return LocatedSource(source)


def _ambiguous(source: Source, sources: Mapping[str, str], moved: Sequence[str]) -> str:
    listed = " and ".join(f"{name!r} ({sources[name]})" for name in moved)
    verb = "are" if len(moved) > 1 else "is"
    return (
        f"{source.base}: has most of the images of {listed}, which {verb} gone from there. If it "
        "has moved here, set {relocate} and {name}; if not, remove its rows first: "
        f"lookalike remove GALLERY --source {moved[0]}"
    )


def _moved_names(
    source: Source, sources: Mapping[str, str], records: Callable[[str], Iterable[Record]]
) -> list[str]:
    """Return the sources that are gone and that have most of their images in a source."""
    gone = [name for name, spec in sources.items() if name != UPLOADS and is_gone(spec)]
    if not gone or not len(source):
        return []
    step = -(-len(source) // _COMPARED)
    sample = [digest for i in range(0, len(source), step) if (digest := _hash_at(source, i))]
    moved = []
    for name in gone:
        hashes = [record.content_hash for record in records(f"{name}:")]
        known = frozenset(hashes)
        matching = sum(digest in known for digest in sample)
        share = matching / len(sample) if sample else 0.0
        if share > 0.5 and share * len(source) > len(hashes) / 2:
            moved.append(name)
    return moved


def _hash_at(source: Source, index: int) -> str:
    """Return the content hash of an item; empty if it cannot be read."""
    item = source[index]
    try:
        return item_hash(item, item.content())
    except ImageError:
        return ""


def is_gone(spec: str) -> bool:
    """Return whether nothing is at the location of a source any more."""
    if spec.startswith(DATASET_PREFIX):
        return False
    return not os.path.exists(unescape_name(spec))  # noqa: PTH110 - false for what is no path


@dataclass(frozen=True, slots=True)
class MissingRows:
    """Ids that a source does not have among its items.

    Args:
        removed: their files are gone.
        kept: their files exist or may exist, but are not read now.
    """

    removed: Set[str]
    kept: Set[str]


def check_source(source: Source, sources: Mapping[str, str], *, relocate: bool) -> None:
    """Refuse a source whose name or location belongs to another one.

    Args:
        source: to be indexed.
        sources: specifications of the gallery's sources, by name.
        relocate: this source has moved.

    Raises:
        SourceError: its name or location is taken.
    """
    recorded = sources.get(source.name)
    if recorded is None and relocate:
        names = ", ".join(sources) or "none"
        raise SourceError(
            f"the gallery has no source {source.name!r} to relocate (its sources: {names}); choose "
            "one with {name}",
            name=None,
        )
    if recorded is not None and not relocate and not _same(base_of(recorded), source.base):
        raise SourceError(
            f"{source.base}: the gallery already has a source {source.name!r} at "
            f"{base_of(recorded)}; if that has moved here, set {{relocate}}; if this is another "
            "source, give it another {name}",
            relocate=None,
            name=None,
        )
    for name, spec in sources.items():
        if name != source.name and _overlap(base_of(spec), source.base):
            raise SourceError(
                f"{source.base}: overlaps the source {name!r} ({base_of(spec)}), so that its "
                "images would be indexed twice; index that source again instead"
            )


def missing_rows(
    source: Source, rows: Mapping[str, Record], *, allow_removals: bool
) -> MissingRows:
    """Return the rows that are not among the items of a source: those to remove, and to keep.

    Raises:
        SourceError: those to remove are more than half of the rows, and that is not allowed.
    """
    missing = missing_ids(source, rows.keys())
    removed = missing.removed
    gone = len(removed)
    if 2 * gone > len(rows) and not allow_removals:
        gone -= _count_moved(source, rows, removed)
    if 2 * gone > len(rows) and not allow_removals:
        raise SourceError(
            f"{source.spec}: {gone:,} of {format_count(len(rows), 'indexed image')} "
            "missing; to remove them, set {allow_removals}. Nothing was changed",
            allow_removals=None,
        )
    return missing


def missing_ids(source: Source, ids: Set[str]) -> MissingRows:
    """Return the ids that are not among the items of a source."""
    missing = ids - {item.id for item in source} if ids else set()
    unlisted = tuple(source.unlisted_prefixes)
    kept = {row_id for row_id in missing if row_id.startswith(unlisted) or source.has_file(row_id)}
    return MissingRows(missing - kept, kept)


def _count_moved(source: Source, rows: Mapping[str, Record], removed: Set[str]) -> int:
    """Return how many rows have their image in a source under another id."""
    wanted = {rows[row_id].content_hash for row_id in removed}
    new = [index for index, item in enumerate(source) if item.id not in rows]
    found = wanted.intersection(thread_map(partial(_hash_at, source), new))
    return sum(rows[row_id].content_hash in found for row_id in removed)


def all_failed_error(source: Source, summary: IngestSummary) -> SourceError:
    """Return the error that no image of a source could be indexed; it names the first."""
    first = summary.failed[0]
    reason = first.reason.replace("allow_private_urls", "{allow_private_urls}")
    return SourceError(
        f"{source.spec}: no image could be indexed ({len(source):,} failed); the first, "
        f"{first.uri}: {reason}",
        allow_private_urls=None,
    )


def base_of(spec: str) -> str:
    """Return the location of a source, from its specification."""
    return re.sub(r"\[\d*:\d*\]$", "", spec) if spec.startswith(DATASET_PREFIX) else spec


def _same(one: str, other: str) -> bool:
    if one.startswith(DATASET_PREFIX) or other.startswith(DATASET_PREFIX):
        return one == other
    return _resolved(one) == _resolved(other)


def same_location(one: str, other: str) -> bool:
    """Return whether two specifications are of one location."""
    return _same(base_of(one), base_of(other))


def _resolved(base: str) -> Path:
    path = Path(unescape_name(base))
    try:
        return path.resolve()
    except (OSError, ValueError):  # no path: too long, or with NUL
        return path


def _overlap(one: str, other: str) -> bool:
    if one.startswith(DATASET_PREFIX) or other.startswith(DATASET_PREFIX):
        return one == other
    first, second = _resolved(one), _resolved(other)
    return first == second or first in second.parents or second in first.parents
