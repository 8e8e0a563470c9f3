"""Collections of Milvus as lookalike makes them, and the facts of one that is there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ArtifactError, InputError, MissingRowError
from lookalike.stores.base import Record, Rows
from lookalike.stores.milvus.address import INDEXES, Address, IndexKind
from lookalike.stores.milvus.client import LONGEST, Connection
from lookalike.stores.milvus.filters import FIELD, ZERO, values_of
from lookalike.stores.milvus.sidecar import SidecarCollection
from lookalike.types import Embeddings, Hit, Metadata, Metric

TEXTS = ("uri", "metadata", "content_hash", "signature")
VECTOR = "embedding"

CLOSE = 1e-6
"""Distances nearer to each other than this share may be equal: Milvus rounds to 32 bits."""


def entity_of(
    row_id: str,
    uri: str,
    metadata: Metadata,
    content_hash: str,
    signature: str,
    embedding: NDArray[np.float32],
) -> dict[str, Any]:
    """Return a row as Milvus takes it.

    Raises:
        InputError: one of its texts is longer than Milvus holds.
    """
    values = values_of(metadata)
    if not embedding.any():
        values[ZERO] = 1
    texts = (row_id, uri, json.dumps(dict(metadata), ensure_ascii=False), content_hash, signature)
    for name, text in zip(("id", *TEXTS), (*texts,), strict=True):
        if len(text.encode()) > LONGEST:
            raise InputError(
                f"{row_id[:80]}: its {name} has {len(text.encode()):,} bytes, Milvus holds "
                f"{LONGEST:,}; shorten it"
            )
    if len(json.dumps(values).encode()) > LONGEST:
        raise InputError(
            f"{row_id[:80]}: its metadata are too long for Milvus, which holds {LONGEST:,} bytes "
            "of values; leave columns out"
        )
    return {
        **dict(zip(("id", *TEXTS), texts, strict=True)),
        FIELD: values,
        VECTOR: embedding,
    }


def record_of(row: Mapping[str, Any]) -> Record:
    """Return an entity as a row without its embedding."""
    fields = (row[name] for name in ("content_hash", "signature"))
    return Record(row["id"], row["uri"], json.loads(row["metadata"]), *fields)


def rows_of(found: Sequence[Mapping[str, Any]], dim: int) -> Rows:
    """Return entities as rows of ``dim`` dimensions."""
    return Rows(
        ids=[row["id"] for row in found],
        uris=[row["uri"] for row in found],
        embeddings=matrix(found, dim),
        metadata=[json.loads(row["metadata"]) for row in found],
        hashes=[row["content_hash"] for row in found],
        signatures=[row["signature"] for row in found],
    )


def hits_of(
    order: Sequence[tuple[float, str]], found: Mapping[str, Mapping[str, Any]]
) -> list[Hit]:
    """Return hits from distances and ids, nearest first, and the entities by id."""
    return [
        Hit(rank, row_id, found[row_id]["uri"], distance, json.loads(found[row_id]["metadata"]))
        for rank, (distance, row_id) in enumerate(order, 1)
    ]


def matrix(rows: Sequence[Mapping[str, Any]], dim: int) -> Embeddings:
    """Return the embeddings of rows, ``(n, dim)``."""
    return np.array([row[VECTOR] for row in rows], np.float32).reshape(len(rows), dim)


def there(found: Mapping[str, Any], row_id: str) -> Mapping[str, Any]:
    """Return an entity by id.

    Raises:
        MissingRowError: there is none.
    """
    if row_id not in found:
        raise MissingRowError(f"there is no row with the id {row_id!r}")
    row: Mapping[str, Any] = found[row_id]
    return row


def distance_of(score: float, metric: Metric) -> float:
    """Return the distance that Milvus tells by a similarity (cosine) or a square (l2)."""
    return 1 - score if metric is Metric.COSINE else math.sqrt(max(0.0, score))


def as_far(scores: Sequence[float]) -> bool:
    """Tell whether the last of two scores of Milvus may be equal to the first."""
    first, last = scores[0], scores[-1]
    return abs(first - last) <= CLOSE * max(1.0, abs(first))


_METRICS = {Metric.L2: "L2", Metric.COSINE: "COSINE"}
_BEGINS = '{"lookalike": '
"""How the description of a collection of ours begins."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection that is there; ``described`` is what was said of it when it was made."""

    connection: Connection
    dim: int
    metric: Metric
    kind: IndexKind
    described: Mapping[str, Any]


def make_collection(
    address: Address, dim: int, metric: Metric, described: Mapping[str, Any]
) -> None:
    """Make an empty collection, and the notes beside it.

    Raises:
        ArtifactError: there is one of that name.
        UnreachableError: the server does not answer.
        StorageError: the server refuses.
    """
    if find_collection(address) is not None:
        raise ArtifactError(
            f"{address}: there is a collection of that name; choose another name, or remove it"
        )
    connection = Connection(address)
    if connection.exists(address.name):  # one that did not come to its end
        connection.ask("drop_collection", address.name)
    SidecarCollection(connection).create()
    connection.create(
        address.name,
        {VECTOR: dim},
        key="id",
        texts=TEXTS,
        objects=[FIELD],
        metric=_METRICS[metric],
        described=json.dumps({"lookalike": dict(described)}),
        kind=address.kind,
    )


def open_collection(address: Address) -> Collection:
    """Return the facts of a collection, which is held ready for searches from then on.

    Raises:
        ArtifactError: there is none, or it is not one of lookalike's.
        UnreachableError: the server does not answer.
    """
    found = find_collection(address)
    if found is None:
        raise ArtifactError(
            f"{address}: the server has no collection {address.name!r}, or one that was not made "
            "to its end; index the images again, or see whether the address is right"
        )
    return found


def find_collection(address: Address) -> Collection | None:
    """Open a collection as :func:`open_collection`; None if there is none, or an unfinished one.

    Raises:
        ArtifactError: it is not one of lookalike's.
        UnreachableError: the server does not answer.
    """
    connection = Connection(address)
    if not connection.exists(address.name):
        return None
    found = connection.describe(address.name)
    fields = {field["name"]: field for field in found["fields"]}
    if not found["description"].startswith(_BEGINS) or fields.keys() != {
        *("id", FIELD, VECTOR),
        *TEXTS,
    }:
        raise ArtifactError(
            f"{address}: this collection was not made by lookalike; choose another name"
        )
    index = connection.ask("describe_index", address.name, VECTOR)
    if index is None:
        return None
    kinds = {kind.type: kind for kind in INDEXES.values()}
    kind = kinds.get(index["index_type"]) or IndexKind(index["index_type"], {})
    metric = {name: each for each, name in _METRICS.items()}[index["metric_type"]]
    connection.load(address.name)
    connection.load(SidecarCollection(connection).name)
    dim = int(fields[VECTOR]["params"]["dim"])
    described = json.loads(found["description"])["lookalike"]
    return Collection(connection, dim, metric, kind, described)
