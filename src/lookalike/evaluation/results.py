"""The result of an evaluation: scores, confusions, examples and latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation.leakage import Leakage
from lookalike.evaluation.metrics import Scores
from lookalike.evaluation.protocols import EvaluationProtocol
from lookalike.evaluation.relevance import RelevanceCriterion
from lookalike.evaluation.variants import VariantResult
from lookalike.gallery.state import GalleryState
from lookalike.types import Failure, Hit


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per query, from pixels to hits; at most 200 queries are timed, one by one."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Example:
    """One query with its hits.

    ``label`` is the query's label, its value in the matched column, or its short name;
    ``correct`` says of each hit whether its row is relevant; ``relevant`` is the number of
    relevant rows.
    """

    uri: str
    label: str
    hits: tuple[Hit, ...]
    correct: tuple[bool, ...]
    relevant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of :func:`evaluate`.

    ``confusion`` is ``(labels, labels)`` int64: hits by label of the query (row) and of the hit
    (column); ``baselines_left_out`` holds the reason for each baseline that could not be run,
    ``baselines_unread`` the rows that no baseline has; ``query_labels`` and ``gallery_labels``
    count images by label. These and ``labels`` are empty unless ``criterion`` is the label.
    ``state`` is that of the gallery when it was evaluated. ``ceiling`` is the highest possible
    precision@k, the mean of min(relevant, k) / k. ``without_relevant`` of the skipped queries have
    no relevant row. ``zero_embeddings`` of the queries have no distance to any row, and no hits.
    ``leakage`` counts the queries that the gallery holds; None for synthetic queries. ``others``
    may hold scores of other galleries of the same images for the same queries, for comparison.
    """

    k: int
    gallery: str
    rows: int
    queries: str
    skipped: tuple[Failure, ...]
    scores: Scores
    baselines: Mapping[str, Scores]
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    query_labels: Mapping[str, int]
    gallery_labels: Mapping[str, int]
    examples: tuple[Example, ...]
    latency: Latency
    criterion: RelevanceCriterion
    ceiling: float
    state: GalleryState
    without_relevant: int = 0
    zero_embeddings: int = 0
    leakage: Leakage | None = None
    protocol: EvaluationProtocol | None = None
    baselines_left_out: Mapping[str, str] = field(default_factory=dict)
    baselines_unread: tuple[Failure, ...] = ()
    others: Mapping[str, Scores] = field(default_factory=dict)
    variants: Mapping[str, VariantResult] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --json``."""
        return {
            "k": self.k,
            "queries": len(self.examples),
            "skipped": len(self.skipped),
            "without_relevant": self.without_relevant,
            "zero_embeddings": self.zero_embeddings,
            "leakage": None if self.leakage is None else self.leakage.as_dict(),
            "gallery": self.gallery,
            "protocol": None if self.protocol is None else self.protocol.as_dict(),
            "relevance": self.criterion.as_dict(),
            "precision_ceiling": self.ceiling,
            **self.scores.as_dict(),
            "baselines": {name: scores.as_dict() for name, scores in self.baselines.items()},
            "baselines_left_out": dict(self.baselines_left_out),
            "baselines_unread": len(self.baselines_unread),
            "variants": {name: result.as_dict() for name, result in self.variants.items()},
            "latency_ms": {"p50": self.latency.p50, "p95": self.latency.p95},
        }
