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
from collections.abc import Mapping, Sequence
from typing import Any

from lookalike.errors import ArtifactError
from lookalike.stores.addresses import CONSISTENCIES, INDEXES
from lookalike.stores.connection import STRONG, Connection, quoted
from lookalike.stores.expressions import KnownColumns

_PART = 48_000
"""Bytes of a file in one row, whose text is a third longer."""

_AT_ONCE = 200
_FILE, _COLUMN, _STAMP = "file:", "column:", "stamp"
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before each look at a file whose parts are not there: it is being written over."""

_VECTOR = {"none": 2}
"""Milvus 2.3 has no collection without vectors."""


class Notes:
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
