"""Rows as Milvus' entities, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, MissingRowError
from lookalike.stores.base import Record, Rows
from lookalike.stores.connection import LONGEST
from lookalike.stores.expressions import FIELD, values_of
from lookalike.types import Embeddings, Hit, Metadata, Metric

TEXTS = ("uri", "metadata", "content_hash", "signature")
VECTOR = "embedding"
ZERO = "zero"
"""What marks, among a row's values, a vector that Milvus leaves out of searches by cosine."""

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
