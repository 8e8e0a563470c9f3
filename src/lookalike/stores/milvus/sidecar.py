"""The sidecar of a collection: files, column types and the revision of its rows.

It is a second collection with the suffix ``_notes``, so that everything needed to use the rows is
on the same server.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lookalike.documents import parse_json
from lookalike.errors import ArtifactError, InputError
from lookalike.filters import Filter, MetadataColumns
from lookalike.stores.base import Rows, new_revision, revision_number
from lookalike.stores.milvus.address import CONSISTENCIES, INDEXES
from lookalike.stores.milvus.client import STRONG, CollectionSchema, Connection, quote
from lookalike.stores.milvus.filters import (
    FIELD,
    ZERO,
    ColumnTypes,
    column_types_of,
    has_value_expression,
    texts_of,
    translate,
)
from lookalike.types import Embeddings

_REFRESH_S = 5.0
"""Seconds between checks whether other clients have added columns."""

Pages = Callable[[str, Sequence[str]], Iterable[Sequence[Mapping[str, Any]]]]
"""Reads fields of the entities that an expression matches."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sorted ids and their metadata at a revision."""

    revision: str
    ids: Sequence[str]
    columns: MetadataColumns


class ColumnCatalog:
    """The column types of a collection, so that filters are checked without reading rows.

    Columns stay in it when their last row is deleted.
    """

    def __init__(self, sidecar: SidecarCollection, pages: Pages, count: Callable[[], int]) -> None:
        self._sidecar = sidecar
        self._pages = pages
        self._count = count
        self._types = ColumnTypes()
        self._revision: str | None = None
        self._checked_at = -_REFRESH_S

    def types(self, *, fresh: bool = False) -> ColumnTypes:
        """Return the column types, unless ``fresh`` as they were some seconds ago.

        They are read again only if the revision has changed.
        """
        if fresh or time.monotonic() - self._checked_at > _REFRESH_S:
            revision = self._sidecar.revision()
            if fresh or revision != self._revision:
                self._types, self._revision = self._sidecar.column_types(), revision
            self._checked_at = time.monotonic()
        return self._types

    def add(self, rows: Rows, embeddings: Embeddings) -> None:
        """Record the new columns, and kinds of values, of rows that are about to be written."""
        pairs = {pair for metadata in rows.metadata for pair in column_types_of(metadata)}
        if not embeddings.any(axis=1).all():
            pairs.add(("", ZERO))
        types = self.types()
        new = [pair for pair in sorted(pairs) if not types.has(*pair)]
        if new:
            self._sidecar.add_column_types(new)
            self._sidecar.bump_revision()  # other clients must know the columns before the rows
            for pair in new:
                types.add(*pair)

    def translate(self, where: Filter) -> str | None:
        """Return a filter as an expression, empty if there are no rows; None if it is unknown.

        Raises:
            InputError: it names an unknown column, or compares values of different kinds.
        """
        texts = cache(self._texts)  # a filter may have many patterns for one column
        expression = translate(where, self.types(), texts)
        if expression is None:
            return None
        try:
            self._types.check(where)
        except InputError:
            types = self.types(fresh=True)
            if not types.kinds and self._count() == 0:
                return ""
            types.check(where)
            return translate(where, types, texts)
        return expression

    def _texts(self, column: str) -> set[str]:
        """Return the distinct texts of a column; reads all of its rows."""
        pages = self._pages(has_value_expression(column), [FIELD])
        return {
            text for page in pages for entity in page for text in texts_of(entity[FIELD], column)
        }


_PART = 48_000
"""Bytes of a file per entity; base64 makes them a third longer."""

_MAX_PARTS = 100_000
"""Parts of a file: 4.8 GB."""

_BATCH = 200
_FILE, _COLUMN, _REVISION = "file:", "column:", "stamp"
_OPEN = "+"
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before each attempt to read a file that is being replaced."""

_VECTOR, _NO_VECTOR = "none", [0.0, 0.0]
"""A vector that is not used: Milvus 2.3 has no collections without vectors."""

_KINDS_BEFORE_3 = {"truth": "boolean"}
"""Kinds of values that galleries of formats 1 and 2 name otherwise."""


class SidecarCollection:
    """Files, column types and the revision of a collection, as entities of a second one.

    A file is written in parts under a new number, then its name is pointed to that number, so that
    readers find the previous version or try again. Of several writers the last one wins; parts of
    the others may stay behind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._name = f"{connection.address.name}_notes"

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    def create(self) -> None:
        """Create the sidecar, in place of one that a deleted or unfinished collection left."""
        if self._connection.has_collection(self._name):
            self._connection.call("drop_collection", self._name)
        schema = CollectionSchema(
            name=self._name,
            key="key",
            texts=("data",),
            vector=_VECTOR,
            dim=len(_NO_VECTOR),
            metric="L2",
            kind=INDEXES["flat"],
        )
        self._connection.create_collection(schema)

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file.

        Raises:
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
        """
        previous = self._get(_FILE + name, STRONG)
        number = uuid.uuid4().hex
        starts = range(0, max(1, len(data)), _PART)
        parts = [base64.b64encode(data[start : start + _PART]).decode() for start in starts]
        keys = _part_keys(name, number, len(parts))
        for start in range(0, len(parts), _BATCH):
            batch = slice(start, start + _BATCH)
            self._put(dict(zip(keys[batch], parts[batch], strict=True)))
        digest = hashlib.sha256(data).hexdigest()
        self._put({_FILE + name: json.dumps([number, len(parts), digest])})
        old = [] if previous is None else _part_keys(name, *self._head(name, previous)[:2])
        for start in range(0, len(old), _BATCH):
            listed = ", ".join(map(quote, old[start : start + _BATCH]))
            self._connection.call("delete", self._name, filter=f"key in [{listed}]")

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            ArtifactError: it is missing or broken.
            UnreachableError: the server does not answer.
        """
        state = ""
        for pause in _PAUSES:
            time.sleep(pause)
            head = self._get(_FILE + name, STRONG)
            if head is None:
                raise ArtifactError(
                    f"{self._connection.address}: has no {name}; not a complete gallery"
                )
            number, count, digest = self._head(name, head)
            parts = self._get_all(f"part:{name}:{number}:")
            try:
                data = b"".join(base64.b64decode(parts[key]) for key in sorted(parts))
            except ValueError:
                data = b""
            if len(parts) == count and hashlib.sha256(data).hexdigest() == digest:
                return data
            state = f"its {name} is broken: {len(parts)} of {count} parts"
        raise ArtifactError(f"{self._connection.address}: {state}")

    def _head(self, name: str, text: str) -> tuple[str, int, str]:
        """Return the number of a file's version, the number of its parts and its SHA-256.

        Raises:
            ArtifactError: the text is broken.
        """
        place = f"{self._connection.address}: its {name}"
        match parse_json(text.encode(errors="surrogatepass"), place):
            case [str(number), int(count), str(digest)] if 0 < count <= _MAX_PARTS:
                return number, count, digest
        raise ArtifactError(f"{place} is broken; copy the gallery again")

    def files(self) -> list[str]:
        """Return the names of the files; they are texts of the server."""
        return sorted(key.removeprefix(_FILE) for key in self._get_all(_FILE))

    def column_types(self) -> ColumnTypes:
        """Return the columns that rows have or had."""
        types = ColumnTypes()
        for key in self._get_all(_COLUMN):
            place = f"{self._connection.address}: its list of columns"
            match parse_json(key.removeprefix(_COLUMN).encode(errors="surrogatepass"), place):
                case [str(name), str(kind)]:
                    types.add(name, _KINDS_BEFORE_3.get(kind, kind))
                case _:
                    raise ArtifactError(f"{place} is broken; copy the gallery again")
        return types

    def add_column_types(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Record pairs of column and kind, see :meth:`ColumnTypes.add`."""
        self._put(
            {_COLUMN + json.dumps([name, kind], ensure_ascii=False): "" for name, kind in pairs}
        )

    def revision(self) -> str:
        """Return a text that changes whenever rows or columns are written.

        It :func:`is_open` while they are.
        """
        return self._get(_REVISION, "session") or "0-"

    def bump_revision(self, *, is_open: bool = False) -> None:
        """Record that rows or columns were written, or are about to be."""
        revision = new_revision(revision_number(self.revision()) + 1)
        self._put({_REVISION: revision + _OPEN if is_open else revision})

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Change the revision before and after rows are written.

        If that fails, or the process is killed, the revision stays open, since some of the rows may
        have arrived: what readers read then is not kept in memory.
        """
        self.bump_revision(is_open=True)
        yield
        self.bump_revision()

    def _put(self, texts: Mapping[str, str]) -> None:
        entities = [{"key": key, "data": text, _VECTOR: _NO_VECTOR} for key, text in texts.items()]
        self._connection.call("upsert", self._name, entities)

    def _get(self, key: str, consistency: str) -> str | None:
        """Return the text of a key, None if it does not exist.

        While a key is replaced, Milvus 2.3 sometimes returns a version from long ago.
        """
        entities = self._connection.call(
            "query",
            self._name,
            filter=f"key == {quote(key)}",
            output_fields=["data"],
            consistency_level=CONSISTENCIES[consistency],
        )
        return str(entities[0]["data"]) if entities else None

    def _get_all(self, prefix: str) -> dict[str, str]:
        """Return the texts of all keys with a prefix that ends in ``:``, by key."""
        after = prefix.removesuffix(":") + ";"  # the character after the colon
        expression = f"key >= {quote(prefix)} and key < {quote(after)}"
        pages = self._connection.iter_pages(self._name, "key", expression, ["data"], _BATCH)
        return {entity["key"]: entity["data"] for page in pages for entity in page}


def is_open(revision: str) -> bool:
    """Return whether rows are being written, or a write was broken off."""
    return revision.endswith(_OPEN)


def _part_keys(name: str, number: str, count: int) -> list[str]:
    """Return the keys of a file's parts, in order."""
    return [f"part:{name}:{number}:{place:06}" for place in range(count)]
