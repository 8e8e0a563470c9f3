"""The report of a sync, and the checks that refuse one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import SourceError
from lookalike.gallery.ingest import Change, IngestSummary
from lookalike.sources import DATASET_PREFIX, Source
from lookalike.stores.base import Record
from lookalike.types import Failure


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, in images. ``moved`` counts images that were recognized under a new id."""

    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    failed: tuple[Failure, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        failed = [{"uri": f.uri, "reason": f.reason} for f in self.failed]
        counts = {
            name: getattr(self, name)
            for name in ("added", "updated", "moved", "removed", "unchanged")
        }
        return {**counts, "failed": failed, "seconds": round(self.seconds, 3)}

    @classmethod
    def of(
        cls, source: Source, summary: IngestSummary, removed: Set[str], seconds: float
    ) -> SyncReport:
        """Make the report of an ingest; ``removed`` are the ids that the source no longer has."""
        return cls(
            added=summary.counts[Change.ADDED],
            updated=summary.counts[Change.UPDATED],
            moved=summary.counts[Change.MOVED],
            removed=len(removed - summary.moved),
            unchanged=summary.counts[Change.UNCHANGED],
            failed=(*source.problems, *summary.failed),
            seconds=seconds,
        )


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
    if recorded is not None and not relocate and not _same(_base(recorded), source.base):
        raise SourceError(
            f"{source.base}: the gallery already has a source {source.name!r} at "
            f"{_base(recorded)}; if that has moved here, set {{relocate}}; if this is another "
            "source, give it another {name}",
            relocate=None,
            name=None,
        )
    for name, spec in sources.items():
        if name != source.name and _overlap(_base(spec), source.base):
            raise SourceError(
                f"{source.base}: overlaps the source {name!r} ({_base(spec)}), so that its images "
                "would be indexed twice; index that source again instead"
            )


def removed_ids(source: Source, rows: Mapping[str, Record], *, allow_removals: bool) -> set[str]:
    """Return the rows that the source no longer has, except those in unreadable folders.

    Raises:
        SourceError: they are more than half of the rows, and that is not allowed.
    """
    if not rows:
        return set()
    missing = rows.keys() - {item.id for item in source}
    removed = {
        row_id for row_id in missing if not row_id.startswith(tuple(source.unlisted_prefixes))
    }
    if 2 * len(removed) > len(rows) and not allow_removals:
        raise SourceError(
            f"{source.spec}: {len(removed):,} of its {len(rows):,} indexed images are missing; to "
            "remove them, set {allow_removals}. Nothing was changed",
            allow_removals=None,
        )
    return removed


def all_failed_error(source: Source, summary: IngestSummary) -> SourceError:
    """Return the error that no image of a source could be indexed; it names the first."""
    first = summary.failed[0]
    return SourceError(
        f"{source.spec}: none of its {len(source):,} images could be indexed; the first, "
        f"{first.uri}: {first.reason}"
    )


def _base(spec: str) -> str:
    """Return the location of a source, from its specification."""
    return re.sub(r"\[\d*:\d*\]$", "", spec) if spec.startswith(DATASET_PREFIX) else spec


def _same(one: str, other: str) -> bool:
    if one.startswith(DATASET_PREFIX) or other.startswith(DATASET_PREFIX):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


def _overlap(one: str, other: str) -> bool:
    if one.startswith(DATASET_PREFIX) or other.startswith(DATASET_PREFIX):
        return one == other
    first, second = Path(one).resolve(), Path(other).resolve()
    return first == second or first in second.parents or second in first.parents
