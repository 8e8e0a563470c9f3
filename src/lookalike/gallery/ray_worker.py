"""What runs on the machines of a cluster: items in, embeddings out or rows written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lookalike._version import __version__
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import SourceError
from lookalike.gallery.ingest import EncodeTask, ExistingRows, ItemResult, commit, failed
from lookalike.sources import Item, open_items
from lookalike.stores.base import Record, VectorStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Embeddings, Metadata


@dataclass(frozen=True, slots=True)
class ItemPayload:
    """An item on its way to an actor, with the row that the store has of it."""

    id: str
    uri: str
    metadata: Metadata
    row: Record | None

    @classmethod
    def of(cls, item: Item, known: ExistingRows) -> ItemPayload:
        """Return what is sent of an item."""
        return cls(item.id, item.uri, item.metadata, known.rows.get(item.id))

    def failed(self, reason: Exception | str) -> ItemResult:
        """Return it as one that could not be indexed, and why."""
        return failed(self.id, self.uri, reason)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What every actor needs, sent once."""

    files: Mapping[str, bytes]
    variables: Mapping[str, str]
    known: ExistingRows
    address: Address | None


class Worker:
    """An actor: opens images, encodes them and, into Milvus, writes their rows."""

    def __init__(self) -> None:
        self._store: VectorStore | None = None
        self._work: EncodeTask | None = None

    def hello(self) -> tuple[str, str]:
        """Return the version of lookalike here, and the machine's name."""
        return __version__, os.uname().nodename

    def prepare(self, shared: WorkerConfig) -> None:
        """Load the encoder, and connect to where rows go."""
        os.environ.update(shared.variables)
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            for name, data in shared.files.items():
                (Path(folder) / name).write_bytes(data)
            self._work = EncodeTask(shared.known, load_encoder(Path(folder)))
        if shared.address is not None:
            self._store = MilvusStore.open(shared.address)

    def do(self, sent: Sequence[ItemPayload]) -> tuple[list[ItemResult], Embeddings]:
        """Return what became of items, and the embeddings of those that are yet to be written."""
        assert self._work is not None
        rows = {each.id: each.row for each in sent if each.row is not None}
        known = replace(self._work.known, rows={**self._work.known.rows, **rows})
        opened = [_opened(each) for each in sent]
        items = [each for each in opened if isinstance(each, Item)]
        by_id = {done.id: done for done in replace(self._work, known=known)(items)}
        by_id |= {each.id: each for each in opened if isinstance(each, ItemResult)}
        found = [by_id[each.id] for each in sent]
        if self._store is not None:
            new = [done for done in found if done.pending]
            if new:
                commit(new, self._store)
            found = [replace(done, embedding=None, written=True) for done in found]
        rows_of = [done.embedding for done in found if done.embedding is not None]
        matrix = np.stack(rows_of) if rows_of else np.empty((0, 0), np.float32)
        bare = [replace(d, embedding=_LATER if d.embedding is not None else None) for d in found]
        return bare, matrix


_LATER = np.empty(0, np.float32)
"""Stands for an embedding on its way, which comes in one matrix with the others."""


def whole(found: Sequence[ItemResult], matrix: Embeddings) -> list[ItemResult]:
    """Return what became of items, with their embeddings."""
    rows = iter(matrix)
    return [
        done if done.embedding is None else replace(done, embedding=next(rows)) for done in found
    ]


def _opened(sent: ItemPayload) -> Item | ItemResult:
    """Open an item where its uri says that it is."""
    try:
        return replace(open_items([sent.uri])[0], id=sent.id, metadata=sent.metadata)
    except SourceError as error:
        return sent.failed(error)
