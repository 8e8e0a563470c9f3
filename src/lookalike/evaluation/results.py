"""What an evaluation found: scores, examples and what made hits right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation.metrics import Scores
from lookalike.evaluation.protocols import EvaluationProtocol
from lookalike.evaluation.relevance import RelevanceCriterion
from lookalike.evaluation.variants import VariantResult
from lookalike.types import Failure, Hit


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from one query's pixels to its hits, over at most 200 queries one by one."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Example:
    """One query with its hits, and whether each is right.

    ``label`` is the query's label, its value in the column that judges, or its short name;
    ``relevant`` is how many rows are right.
    """

    uri: str
    label: str
    hits: tuple[Hit, ...]
    right: tuple[bool, ...]
    relevant: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found.

    ``confusion`` is ``(labels, labels)`` int64: how many hits of each label (column) the queries
    of each label (row) got. ``examples`` holds every query with its hits; ``query_labels`` and
    ``gallery_labels`` count labels. All of these but the examples are empty where not labels made
    hits right but what ``criterion`` says. ``ceiling`` is the highest precision@k there can be, the
    mean of min(relevant, n) / n. ``others`` may hold the scores of other galleries of the same
    images for the same queries, to be shown beside, and ``variants`` what other ways of asking it
    came to.
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
    protocol: EvaluationProtocol | None = None
    others: Mapping[str, Scores] = field(default_factory=dict)
    variants: Mapping[str, VariantResult] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --json``."""
        return {
            "k": self.k,
            "queries": len(self.examples),
            "skipped": len(self.skipped),
            "gallery": self.gallery,
            "protocol": None if self.protocol is None else self.protocol.as_dict(),
            "relevance": self.criterion.as_dict(),
            "precision_ceiling": self.ceiling,
            **self.scores.as_dict(),
            "baselines": {name: scores.as_dict() for name, scores in self.baselines.items()},
            "variants": {name: tried.as_dict() for name, tried in self.variants.items()},
            "latency_ms": {"p50": self.latency.p50, "p95": self.latency.p95},
        }
