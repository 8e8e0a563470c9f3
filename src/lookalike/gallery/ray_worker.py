"""The actor that runs on the machines of a Ray cluster: items in, embeddings or rows out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lookalike._version import __version__
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import SourceError
from lookalike.gallery.ingest import (
    EncodeTask,
    ExistingRows,
    ItemResult,
    commit_each,
    failed,
)
from lookalike.sources import Item, SourceOptions, open_items
from lookalike.sources.base import NO_FAILURES, failure_reason
from lookalike.stores.base import Record, VectorStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Embeddings, Metadata

_PLACEHOLDER = np.empty(0, np.float32)
"""Stands for an embedding that is sent in one matrix with the others."""


@dataclass(frozen=True, slots=True)
class ItemPayload:
    """An item as it is sent to an actor, with its row if the store has one."""

    id: str
    uri: str
    metadata: Metadata
    row: Record | None
    options: SourceOptions
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Item, existing: ExistingRows) -> ItemPayload:
        """Return the payload of an item."""
        options = SourceOptions(decoding=item.options, allow_private_urls=item.allow_private_urls)
        row = existing.rows.get(item.id)
        return cls(item.id, item.uri, item.metadata, row, options, item.notes)

    def failed(self, reason: Exception | str) -> ItemResult:
        """Return its result if it could not be indexed."""
        return failed(self.id, self.uri, reason)

    def open(self) -> Item | ItemResult:
        """Open the item by its uri; its result if that fails."""
        try:
            (item,) = open_items([self.uri], options=self.options)
            return replace(item, id=self.id, metadata=self.metadata, notes=self.notes)
        except SourceError as error:
            return self.failed(error)
        except NO_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 - one item must not end the others
            return self.failed(f"cannot be read ({failure_reason(error)})")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What every actor needs, sent once.

    Args:
        files: of the encoder, by name.
        variables: environment variables of lookalike.
        existing: the rows that moved items take their embeddings from.
        columns: of the metadata that come from the header of each file.
        address: the Milvus collection that actors write to; None if rows are written by the driver.
    """

    files: Mapping[str, bytes]
    variables: Mapping[str, str] = field(repr=False)  # one of them is a token
    existing: ExistingRows
    columns: tuple[str, ...]
    address: Address | None


class Worker:
    """An actor: opens and encodes images, and writes their rows if they go to Milvus."""

    def __init__(self) -> None:
        self._store: VectorStore | None = None
        self._task: EncodeTask | None = None

    def hello(self) -> tuple[str, str]:
        """Return the version of lookalike on this machine, and the machine's name."""
        return __version__, os.uname().nodename

    def prepare(self, config: WorkerConfig) -> None:
        """Load the encoder and open the store."""
        os.environ.update(config.variables)
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            for name, data in config.files.items():
                (Path(folder) / name).write_bytes(data)
            self._task = EncodeTask(config.existing, load_encoder(Path(folder)), config.columns)
        if config.address is not None:
            self._store = MilvusStore.open(config.address)

    def process(self, payloads: Sequence[ItemPayload]) -> tuple[list[ItemResult], Embeddings]:
        """Return the results of items, and the embeddings of those that are not written yet."""
        assert self._task is not None
        existing = self._task.existing
        rows = {payload.id: payload.row for payload in payloads if payload.row is not None}
        task = replace(self._task, existing=replace(existing, rows={**existing.rows, **rows}))
        opened = [payload.open() for payload in payloads]
        by_id = {each.id: each for each in opened if isinstance(each, ItemResult)}
        items = [each for each in opened if isinstance(each, Item)]
        by_id |= {result.id: result for result in task(items)}
        results = [by_id[payload.id] for payload in payloads]
        if self._store is not None:
            pending = [result for result in results if result.pending]
            refused = {result.id: failure for result, failure in commit_each(pending, self._store)}
            results = [refused.get(result.id, result) for result in results]
            results = [replace(result, embedding=None, written=True) for result in results]
        return split_embeddings(results)


def split_embeddings(results: Sequence[ItemResult]) -> tuple[list[ItemResult], Embeddings]:
    """Return results without their embeddings, and these as one matrix."""
    rows = [result.embedding for result in results if result.embedding is not None]
    matrix = np.stack(rows) if rows else np.empty((0, 0), np.float32)
    return [
        result if result.embedding is None else replace(result, embedding=_PLACEHOLDER)
        for result in results
    ], matrix


def join_embeddings(results: Sequence[ItemResult], matrix: Embeddings) -> list[ItemResult]:
    """Undo :func:`split_embeddings`."""
    rows = iter(matrix)
    return [
        result if result.embedding is None else replace(result, embedding=next(rows))
        for result in results
    ]
