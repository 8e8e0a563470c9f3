"""Collections of lookalike in Milvus: creating and opening them, and converting their rows."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.documents import Fields, parse_json
from lookalike.errors import ArtifactError, InputError, MissingRowError
from lookalike.metadata import parse_metadata
from lookalike.stores.base import Record, Rows, is_identity
from lookalike.stores.milvus.address import INDEXES, Address, IndexKind
from lookalike.stores.milvus.client import MAX_TEXT, CollectionSchema, Connection
from lookalike.stores.milvus.filters import (
    FIELD,
    ORDER,
    ZERO,
    comparable_values,
    random_place,
)
from lookalike.stores.milvus.sidecar import SidecarCollection
from lookalike.types import Embeddings, Hit, Metadata, Metric

TEXTS = ("uri", "metadata", "content_hash", "signature")
VECTOR = "embedding"

TOLERANCE = 1e-6
"""Relative difference of distances that may be equal: Milvus computes in 32 bits."""

_METRICS = {Metric.L2: "L2", Metric.COSINE: "COSINE"}

_MARK = '{"lookalike": '
"""The beginning of the description of collections that lookalike created."""


def to_entity(record: Record, embedding: NDArray[np.float32]) -> dict[str, Any]:
    """Return a row as an entity of Milvus.

    Raises:
        InputError: one of its texts is longer than Milvus allows.
    """
    values = comparable_values(record.metadata)
    values[ORDER] = random_place(record.id)
    if not embedding.any():
        values[ZERO] = 1
    texts = {
        "id": record.id,
        "uri": record.uri,
        "metadata": json.dumps(dict(record.metadata), ensure_ascii=False),
        "content_hash": record.content_hash,
        "signature": record.signature,
    }
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    sizes["metadata values"] = len(json.dumps(values).encode())
    for name, size in sizes.items():
        if size > MAX_TEXT:
            raise InputError(
                f"{record.id[:80]}: its {name} has {size:,} bytes, Milvus allows {MAX_TEXT:,}; "
                "shorten it"
            )
    return {**texts, FIELD: values, VECTOR: embedding}


def to_record(entity: Mapping[str, Any]) -> Record:
    """Return an entity as a row without its embedding."""
    metadata: Metadata = parse_metadata(entity["metadata"])
    texts = (entity[name] for name in ("content_hash", "signature"))
    return Record(entity["id"], entity["uri"], metadata, *texts)


def to_rows(entities: Sequence[Mapping[str, Any]], dim: int) -> Rows:
    """Return entities as rows of ``dim`` dimensions."""
    return Rows(
        ids=[entity["id"] for entity in entities],
        uris=[entity["uri"] for entity in entities],
        embeddings=embedding_matrix(entities, dim),
        metadata=[parse_metadata(entity["metadata"]) for entity in entities],
        hashes=[entity["content_hash"] for entity in entities],
        signatures=[entity["signature"] for entity in entities],
    )


def to_hits(
    order: Sequence[tuple[float, str]], entities: Mapping[str, Mapping[str, Any]]
) -> list[Hit]:
    """Return hits from distances and ids, nearest first, and entities by id."""
    return [
        Hit(rank, row_id, entities[row_id]["uri"], distance, _metadata(entities[row_id]))
        for rank, (distance, row_id) in enumerate(order, 1)
    ]


def _metadata(entity: Mapping[str, Any]) -> Metadata:
    metadata: Metadata = parse_metadata(entity["metadata"])
    return metadata


def embedding_matrix(entities: Sequence[Mapping[str, Any]], dim: int) -> Embeddings:
    """Return the embeddings of entities, ``(n, dim)``."""
    rows = [entity[VECTOR] for entity in entities]
    return np.array(rows, np.float32).reshape(len(entities), dim)


def require_entity(entities: Mapping[str, Any], row_id: str) -> Mapping[str, Any]:
    """Return an entity by id.

    Raises:
        MissingRowError: it does not exist.
    """
    if row_id not in entities:
        raise MissingRowError(f"there is no row with the id {row_id!r}")
    entity: Mapping[str, Any] = entities[row_id]
    return entity


def to_distance(score: float, metric: Metric) -> float:
    """Return the distance for a score of Milvus: a similarity (cosine) or a square (l2)."""
    return 1 - score if metric is Metric.COSINE else math.sqrt(max(0.0, score))


def may_tie(scores: Sequence[float]) -> bool:
    """Return whether the first and the last of some scores of Milvus may be equal."""
    first, last = scores[0], scores[-1]
    return abs(first - last) <= TOLERANCE * max(1.0, abs(first))


@dataclass(frozen=True, slots=True)
class Collection:
    """An existing collection; ``description`` was stored when it was created.

    ``identity`` is a text that no other collection has, nor a later one of the same name.
    """

    connection: Connection
    identity: str
    dim: int
    metric: Metric
    kind: IndexKind
    description: Mapping[str, Any]


def create_collection(
    address: Address, dim: int, metric: Metric, description: Mapping[str, Any]
) -> None:
    """Create an empty collection and its sidecar.

    Raises:
        ArtifactError: the collection exists.
        UnreachableError: the server does not answer.
        StorageError: the server refuses.
    """
    if find_collection(address) is not None:
        raise ArtifactError(
            f"{address}: this collection already exists; choose another name, or remove it"
        )
    connection = Connection(address)
    if connection.has_collection(address.name):  # it was not completed
        connection.call("drop_collection", address.name)
    SidecarCollection(connection).create()
    schema = CollectionSchema(
        name=address.name,
        key="id",
        texts=TEXTS,
        objects=(FIELD,),
        vector=VECTOR,
        dim=dim,
        metric=_METRICS[metric],
        kind=address.kind,
        description=json.dumps({"lookalike": {**description, "identity": uuid.uuid4().hex}}),
    )
    connection.create_collection(schema)


def read_identity(connection: Connection) -> str:
    """Return the identity of the collection that has the address's name now.

    Raises:
        ArtifactError: there is none, or it was not created by lookalike.
        UnreachableError: the server does not answer.
    """
    address = connection.address
    return _identity(_description(connection.describe_collection(address.name), address))


def _description(facts: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """Return what was stored with a collection, and the server's number of it."""
    text = facts["description"]
    if not text.startswith(_MARK):
        raise _foreign(address)
    document = parse_json(text.encode(errors="surrogatepass"), f"{address}: its description")
    fields = Fields.of(document, f"{address}: its description").object("lookalike")
    fields.text("fingerprint", "")
    fields.text("identity", "")
    return {"collection": facts["collection_id"], **fields.values}


def _foreign(address: Address) -> ArtifactError:
    return ArtifactError(
        f"{address}: this collection was not created by lookalike; choose another name"
    )


def _identity(description: Mapping[str, Any]) -> str:
    """Return a collection's identity; before format 4 it is the number that the server gave it."""
    identity = str(description.get("identity") or f"collection-{description['collection']}")
    if not is_identity(identity):
        raise ArtifactError("the collection's identity is damaged; copy the gallery again")
    return identity


def open_collection(address: Address) -> Collection:
    """Open a collection and load it for searches.

    Raises:
        ArtifactError: it does not exist, or was not created by lookalike.
        UnreachableError: the server does not answer.
    """
    collection = find_collection(address)
    if collection is None:
        raise ArtifactError(
            f"{address}: the server has no complete collection {address.name!r}; check the "
            f"address, or index images: lookalike index {address} FOLDER"
        )
    return collection


def find_collection(address: Address) -> Collection | None:
    """Open a collection; None if it does not exist or was not completed.

    Raises:
        ArtifactError: it was not created by lookalike.
        UnreachableError: the server does not answer.
    """
    connection = Connection(address)
    if not connection.has_collection(address.name):
        return None
    facts = connection.describe_collection(address.name)
    fields = {field["name"]: field for field in facts["fields"]}
    expected = {"id", FIELD, VECTOR, *TEXTS}
    description = _description(facts, address)
    if fields.keys() != expected:
        raise _foreign(address)
    index = connection.call("describe_index", address.name, VECTOR)
    if index is None:
        return None
    kinds = {kind.type: kind for kind in INDEXES.values()}
    kind = kinds.get(index["index_type"]) or IndexKind(index["index_type"], {})
    metrics = {name: metric for metric, name in _METRICS.items()}
    if index["metric_type"] not in metrics:
        raise _foreign(address)
    metric = metrics[index["metric_type"]]
    connection.load_collection(address.name)
    connection.load_collection(SidecarCollection(connection).name)
    dim = int(fields[VECTOR]["params"]["dim"])
    return Collection(connection, _identity(description), dim, metric, kind, description)
