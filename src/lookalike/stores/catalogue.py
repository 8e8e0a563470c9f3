"""Which columns the rows of a collection have, and filters on them as expressions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.errors import InputError
from lookalike.filters import Filter, MetadataColumns
from lookalike.stores.base import Rows
from lookalike.stores.entities import ZERO
from lookalike.stores.expressions import (
    FIELD,
    KnownColumns,
    expression,
    facts_of,
    having,
    pick,
)
from lookalike.stores.notes import Notes
from lookalike.types import Embeddings

_FRESH_S = 5.0
"""Seconds for which columns that others may have added to are taken as known."""

Pages = Callable[[str, Sequence[str]], Iterable[Sequence[Mapping[str, Any]]]]
"""Reads fields of the rows that an expression matches."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Ids in order and their metadata, as they were at a stamp."""

    stamp: str
    ids: Sequence[str]
    columns: MetadataColumns


class ColumnCatalogue:
    """The columns of a collection, kept in its notes: a filter need not look at rows to be refused.

    Columns stay in it when their last row goes.
    """

    def __init__(self, notes: Notes, pages: Pages, count: Callable[[], int]) -> None:
        self._notes = notes
        self._pages = pages
        self._count = count
        self._known = KnownColumns()
        self._stamp: str | None = None
        self._looked_at = -_FRESH_S

    def known(self, *, fresh: bool = False) -> KnownColumns:
        """Return the columns there are, unless ``fresh`` as they were some seconds ago.

        They are read again only if something was written, which is cheap to ask.
        """
        if fresh or time.monotonic() - self._looked_at > _FRESH_S:
            stamp = self._notes.stamp()
            if fresh or stamp != self._stamp:
                self._known, self._stamp = self._notes.columns(), stamp
            self._looked_at = time.monotonic()
        return self._known

    def learn(self, rows: Rows, embeddings: Embeddings) -> None:
        """Note columns, and kinds of values, that no row had before."""
        facts = {fact for metadata in rows.metadata for fact in facts_of(metadata)}
        if not embeddings.any(axis=1).all():
            facts.add(("", ZERO))
        known = self.known()
        new = [fact for fact in sorted(facts) if not known.has(*fact)]
        if new:
            self._notes.add_columns(new)
            self._notes.renew_stamp()  # before the rows come: others are to know these by then
            for fact in new:
                known.add(*fact)

    def expression(self, where: Filter) -> str | None:
        """Return a filter as an expression; None for one of another kind, empty without rows.

        Raises:
            InputError: a column that is not there, or whose values are of another kind.
        """
        chosen = expression(where, self.known(), self._texts)
        if chosen is None:
            return None
        try:
            self._known.refuse(where)
        except InputError:
            known = self.known(fresh=True)
            if not known.kinds and self._count() == 0:
                return ""
            known.refuse(where)
            return expression(where, known, self._texts)
        return chosen

    def _texts(self, column: str) -> set[str]:
        """Return the distinct texts of a column, which all rows are read for."""
        pages = self._pages(having(column), [FIELD])
        return {text for page in pages for row in page for text in pick(row[FIELD], column)}
