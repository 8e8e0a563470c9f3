"""The result of an evaluation: scores, confusions, examples and latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError
from lookalike.evaluation.comparison import Comparison, verdict
from lookalike.evaluation.leakage import Leakage
from lookalike.evaluation.metrics import Estimate, Scores, columns_of, table_row
from lookalike.evaluation.protocols import EvaluationProtocol
from lookalike.evaluation.relevance import RelevanceCriterion
from lookalike.evaluation.variants import VariantResult
from lookalike.formatting import format_count
from lookalike.gallery.notebook import scores_html
from lookalike.gallery.state import GalleryState
from lookalike.sources import open_items
from lookalike.sources.tables import data_frame
from lookalike.types import Failure, Hit, ImageArray

if TYPE_CHECKING:
    import pandas as pd


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

    def image(self) -> ImageArray | None:
        """Return the query's image, which is read again; None if it cannot be."""
        try:
            return open_items([self.uri])[0].image()
        except LookalikeError:  # whatever the URI names: a file, an address, a data set, a shard
            return None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Evaluation:
    """The result of :func:`evaluate`; in a notebook, a table of the scores.

    ``differences`` are the main score, precision@k if relevance is by label and mAP@k otherwise, of
    the gallery's encoder less each baseline's, paired by query. ``latency`` is None where no query
    could be encoded.

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
    latency: Latency | None
    criterion: RelevanceCriterion
    ceiling: float
    state: GalleryState
    without_relevant: int = 0
    zero_embeddings: int = 0
    leakage: Leakage | None = None
    protocol: EvaluationProtocol | None = None
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    baselines_left_out: Mapping[str, str] = field(default_factory=dict)
    baselines_unread: tuple[Failure, ...] = ()
    others: Mapping[str, Scores] = field(default_factory=dict)
    variants: Mapping[str, VariantResult] = field(default_factory=dict)

    @property
    def comparison(self) -> Comparison:
        """The gallery's encoder beside the baselines, by the main score."""
        return Comparison(
            measure=f"{self._main_name}@{self.k}",
            encoder=self.scores.encoder,
            score=self.main_score(self.scores),
            baselines={name: self.main_score(scores) for name, scores in self.baselines.items()},
            differences=self.differences,
            left_out=self.baselines_left_out,
        )

    @property
    def _main_name(self) -> str:
        return "precision" if self.criterion.labeled else "mAP"

    def main_score(self, scores: Scores) -> Estimate:
        """Return the score that encoders are ranked by.

        That is precision@k if relevance is by label, else mAP@k: with one relevant row, precision@7
        cannot exceed 1/7.
        """
        return scores.precision if self.criterion.labeled else scores.map

    def ranking(self) -> list[tuple[str, Scores]]:
        """Return the scores of gallery, baselines and others, the best first."""
        own = self.scores.encoder
        baselines = {name: scores for name, scores in self.baselines.items() if name != own}
        scores = [*baselines.items(), *self.others.items(), (own, self.scores)]
        return sorted(scores, key=lambda pair: -self.main_score(pair[1]).value)

    def verdict(self) -> str:
        """Compare the encoder with the best baseline, in one sentence, with any leakage."""
        text = verdict(self.comparison)
        if self.leakage is None or not self.leakage.leaked or self.leakage.excluded:
            return text
        return f"{text}; {self.leakage.describe()}"

    def __repr__(self) -> str:
        queries = format_count(len(self.examples), "query", "queries")
        scores = self.scores
        return (
            f"Evaluation({queries}, {format_count(self.rows, 'row')}; R@1 "
            f"{scores.recall_at_1.value:.4f}, mAP@{self.k} {scores.map.value:.4f};\n"
            f"  {self.verdict()})"
        )

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return columns and rows of the scores, the best first."""
        columns = ("encoder", f"precision@{self.k}", f"mAP@{self.k}", "R@1", f"recall@{self.k}")
        rows = [
            (
                f"{name} *" if scores is self.scores else name,
                *(str(e) for e in (scores.precision, scores.map, scores.recall_at_1)),
                str(scores.recall),
            )
            for name, scores in self.ranking()
        ]
        return columns, rows

    def _repr_html_(self) -> str:
        columns, rows = self._table()
        queries = format_count(len(self.examples), "query", "queries")
        title = f"{queries}, {format_count(self.rows, 'row')}, {self.scores.metric.value} distance"
        return scores_html(title, columns, rows, f"* {self.verdict()}")

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a DataFrame, a row for each encoder, the best first.

        The columns are ``precision``, ``map``, ``map_retrieved``, ``recall`` and ``recall_at_1``,
        each with ``NAME_low`` and ``NAME_high``, the ends of its 95 % interval.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows = [{"encoder": name, **table_row(scores.estimates)} for name, scores in self.ranking()]
        return data_frame("Evaluation.to_pandas", columns_of(rows)).set_index("encoder")

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
            "baselines": {
                name: {
                    **scores.as_dict(),
                    "difference": self.differences[name].value,
                    "difference_interval": self.differences[name].interval.as_list(),
                }
                for name, scores in self.baselines.items()
            },
            "baselines_left_out": dict(self.baselines_left_out),
            "baselines_unread": len(self.baselines_unread),
            "variants": {name: result.as_dict() for name, result in self.variants.items()},
            "latency_ms": None if self.latency is None else asdict(self.latency),
        }
