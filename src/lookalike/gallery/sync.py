"""What keeping a gallery in step with a source comes to, and when it is refused."""

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
    """What a sync did, in images. ``moved`` are those found again under another id."""

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
        cls, source: Source, outcome: IngestSummary, gone: Set[str], seconds: float
    ) -> SyncReport:
        """Sum up what became of a source; ``gone`` are the rows that it no longer has."""
        return cls(
            added=outcome.counts[Change.ADDED],
            updated=outcome.counts[Change.UPDATED],
            moved=outcome.counts[Change.MOVED],
            removed=len(gone - outcome.moved),
            unchanged=outcome.counts[Change.UNCHANGED],
            failed=(*source.problems, *outcome.failed),
            seconds=seconds,
        )


def check_source(source: Source, sources: Mapping[str, str], *, relocate: bool) -> None:
    """See that neither the name nor the place of a source is another one's.

    ``sources`` are those that a gallery has, by name; ``relocate`` says that this one has moved.

    Raises:
        SourceError: it is.
    """
    recorded = sources.get(source.name)
    moved = recorded is not None and not _same(_base(recorded), source.base)
    if recorded is not None and moved and not relocate:
        raise SourceError(
            f"{source.base}: the gallery already has a source called {source.name!r}, "
            f"{_base(recorded)}; if it has moved, say --relocate, if this is another one, give "
            "it another --name"
        )
    if recorded is None and relocate:
        known = ", ".join(sources) or "none"
        raise SourceError(
            f"--relocate: the gallery has no source called {source.name!r}, only {known}; say "
            "with --name which one has moved here"
        )
    for name, spec in sources.items():
        if name != source.name and _overlap(_base(spec), source.base):
            raise SourceError(
                f"{source.base}: its images would be there twice, since the source {name!r}, "
                f"{_base(spec)}, is within it, around it or the same; index that one again"
            )


def removed_ids(source: Source, rows: Mapping[str, Record], *, allow_removals: bool) -> set[str]:
    """Return the rows that the source no longer has; not those that may only be unreadable.

    Raises:
        SourceError: they are more than half, and that is not allowed.
    """
    if not rows:
        return set()
    gone = rows.keys() - {item.id for item in source}
    gone = {row_id for row_id in gone if not row_id.startswith(tuple(source.unread))}
    if 2 * len(gone) > len(rows) and not allow_removals:
        raise SourceError(
            f"{source.spec}: {len(gone):,} of the {len(rows):,} images that the gallery has from "
            "it are gone; if that is right, say --allow-removals. Nothing was changed"
        )
    return gone


def all_failed_error(source: Source, outcome: IngestSummary) -> SourceError:
    """Return the error that not one image of a source could be indexed; the first is named."""
    first = outcome.failed[0]
    return SourceError(
        f"{source.spec}: not one of its {len(source):,} images could be indexed; the first, "
        f"{first.uri}: {first.reason}"
    )


def _base(spec: str) -> str:
    """Return where a source lies, from the text that opens it."""
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
