"""Collections of Milvus as lookalike makes them, and the facts of one that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lookalike.errors import ArtifactError
from lookalike.stores.addresses import INDEXES, Address, IndexKind
from lookalike.stores.connection import Connection
from lookalike.stores.entities import TEXTS, VECTOR
from lookalike.stores.expressions import FIELD
from lookalike.stores.notes import Notes
from lookalike.types import Metric

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
    Notes(connection).create()
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
    connection.load(Notes(connection).name)
    dim = int(fields[VECTOR]["params"]["dim"])
    described = json.loads(found["description"])["lookalike"]
    return Collection(connection, dim, metric, kind, described)
