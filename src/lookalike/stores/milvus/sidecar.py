"""What is kept beside the rows of a collection: files, known columns, and when it was written to.

They are rows of a second collection, named as the first and ``_notes``, so that whoever can reach
the rows has them too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.errors import ArtifactError, InputError
from lookalike.filters import Filter, MetadataColumns
from lookalike.stores.base import Rows
from lookalike.stores.milvus.address import CONSISTENCIES, INDEXES
from lookalike.stores.milvus.client import STRONG, Connection, quoted
from lookalike.stores.milvus.filters import (
    FIELD,
    ZERO,
    KnownColumns,
    expression,
    facts_of,
    having,
    pick,
)
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


class ColumnCatalog:
    """The columns of a collection, kept in its notes: a filter need not look at rows to be refused.

    Columns stay in it when their last row goes.
    """

    def __init__(self, notes: SidecarCollection, pages: Pages, count: Callable[[], int]) -> None:
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


_PART = 48_000
"""Bytes of a file in one row, whose text is a third longer."""

_AT_ONCE = 200
_FILE, _COLUMN, _STAMP = "file:", "column:", "stamp"
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before each look at a file whose parts are not there: it is being written over."""

_VECTOR = {"none": 2}
"""Milvus 2.3 has no collection without vectors."""


class SidecarCollection:
    """The notes beside a collection. Small ones are one row each, files several.

    A file is written under a new number and then named, so that whoever reads meanwhile finds the
    one before, or looks again. Of several writers at once the last to name theirs wins, and parts
    that another wrote may stay.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._name = f"{connection.address.name}_notes"

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    def create(self) -> None:
        """Make the collection; one that is there is left of rows that are gone or never came."""
        if self._connection.exists(self._name):
            self._connection.ask("drop_collection", self._name)
        kind = INDEXES["flat"]
        self._connection.create(
            self._name, _VECTOR, key="key", texts=["data"], metric="L2", kind=kind
        )

    def write(self, name: str, data: bytes) -> None:
        """Write a file over the one before.

        Raises:
            UnreachableError: the server does not answer.
            StorageError: it refuses.
        """
        before = self._row(_FILE + name, STRONG)
        number = uuid.uuid4().hex
        starts = range(0, max(1, len(data)), _PART)
        parts = [base64.b64encode(data[start : start + _PART]).decode() for start in starts]
        keys = _keys(name, number, len(parts))
        for start in range(0, len(parts), _AT_ONCE):
            few = slice(start, start + _AT_ONCE)
            self._put(dict(zip(keys[few], parts[few], strict=True)))
        checked = hashlib.sha256(data).hexdigest()
        self._put({_FILE + name: json.dumps([number, len(parts), checked])})
        gone = [] if before is None else _keys(name, *json.loads(before)[:2])
        for start in range(0, len(gone), _AT_ONCE):
            listed = ", ".join(map(quoted, gone[start : start + _AT_ONCE]))
            self._connection.ask("delete", self._name, filter=f"key in [{listed}]")

    def read(self, name: str) -> bytes:
        """Return a file.

        Raises:
            ArtifactError: there is none, or it is broken.
            UnreachableError: the server does not answer.
        """
        broken = ""
        for pause in _PAUSES:
            time.sleep(pause)
            head = self._row(_FILE + name, STRONG)
            if head is None:
                raise ArtifactError(
                    f"{self._connection.address}: holds no {name}: not a gallery, or an unfinished "
                    "one"
                )
            number, count, checked = json.loads(head)
            begins = f"part:{name}:{number}:"
            parts = self._rows(f"key >= {quoted(begins)} and key < {quoted(begins[:-1] + ';')}")
            data = b"".join(base64.b64decode(parts[key]) for key in sorted(parts))
            if len(parts) == count and hashlib.sha256(data).hexdigest() == checked:
                return data
            broken = f"its {name} is broken, {len(parts)} of {count} parts"
        raise ArtifactError(f"{self._connection.address}: {broken}")

    def files(self) -> list[str]:
        """Return the names of the files there are."""
        found = self._rows(f"key >= {quoted(_FILE)} and key < {quoted('file;')}")
        return sorted(key.removeprefix(_FILE) for key in found)

    def columns(self) -> KnownColumns:
        """Return the columns that rows have, or had."""
        known = KnownColumns()
        for key in self._rows(f"key >= {quoted(_COLUMN)} and key < {quoted('column;')}"):
            known.add(*json.loads(key.removeprefix(_COLUMN)))
        return known

    def add_columns(self, facts: Sequence[tuple[str, str]]) -> None:
        """Note that columns have values of a kind."""
        self._put(
            {_COLUMN + json.dumps([name, kind], ensure_ascii=False): "" for name, kind in facts}
        )

    def stamp(self) -> str:
        """Return what is another text whenever rows or columns were written."""
        return self._row(_STAMP, "session") or ""

    def renew_stamp(self) -> None:
        """Note that rows or columns were written."""
        self._put({_STAMP: uuid.uuid4().hex})

    def _put(self, notes: Mapping[str, str]) -> None:
        rows = [{"key": key, "data": data, "none": [0.0, 0.0]} for key, data in notes.items()]
        self._connection.ask("upsert", self._name, rows)

    def _row(self, key: str, consistency: str) -> str | None:
        """Return the text of one row, None if there is none.

        While it is written over, Milvus 2.3 gives now and then what it was long ago.
        """
        found = self._connection.ask(
            "query",
            self._name,
            filter=f"key == {quoted(key)}",
            output_fields=["data"],
            consistency_level=CONSISTENCIES[consistency],
        )
        return str(found[0]["data"]) if found else None

    def _rows(self, where: str) -> dict[str, Any]:
        """Return the texts of the rows that an expression matches, by key."""
        pages = self._connection.pages(self._name, "key", where, ["data"], _AT_ONCE)
        return {row["key"]: row["data"] for page in pages for row in page}


def _keys(name: str, number: str, count: int) -> list[str]:
    """Return the keys of a file's parts, in order."""
    return [f"part:{name}:{number}:{place:06}" for place in range(count)]
