"""Encoder quality from human labels or similarity judgements of pairs, for model selection.

Quality from labels is leave-one-out mAP@5 with cosine distance: each labeled image is a query
among the other labeled images. k is 5, and not the number of images, since users see the nearest
results: mAP over all labeled images preferred the wrong encoder with any number of labels (HOG
before fine HOG on MNIST, in each of 60 samples of 500 labels). Quality from pairs is the area
under the ROC curve of the cosine similarity. Both compare encoders on the same images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.evaluation.metrics import (
    Estimate,
    Interval,
    bootstrap_interval,
    resampled_interval,
    resampled_statistic,
)
from lookalike.evaluation.trial import leave_one_out
from lookalike.formatting import format_count
from lookalike.sources.labels import (
    LabelSet,
    LabelSource,
    read_labels,
    resolve_ids,
)
from lookalike.sources.tables import Table, read_table
from lookalike.types import Embeddings
from lookalike.vectors import unit_rows

K = 5
"""Hits per labeled image."""

MIN_LABELED = 10
MIN_PAIRS = 5
"""Minimum number of similar pairs, and of dissimilar ones."""

_YES = frozenset(("yes", "y", "1", "true"))
_NO = frozenset(("no", "n", "0", "false"))
_PAIR_COLUMNS = ("id_a", "id_b", "similar")


@dataclass(frozen=True, slots=True)
class Quality:
    """An encoder's quality, and the 95 % interval of its difference to the best encoder's."""

    estimate: Estimate
    difference: Interval

    @property
    def tied(self) -> bool:
        """Whether there is no significant difference to the best encoder."""
        return self.difference.side == 0


@dataclass(frozen=True, slots=True)
class LabelJudgements:
    """Labels of images: two of them are similar if they share a label."""

    labels: LabelSet

    measure = f"leave-one-out mAP@{K}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The labeled images."""
        return tuple(self.labels.by_id)

    @property
    def summary(self) -> str:
        """The number of images and labels, in words."""
        labels = format_count(len(self.labels.counts), "label")
        return f"{format_count(len(self.labels), 'labeled image')}, {labels}"

    def restrict(self, ids: frozenset[str]) -> LabelJudgements:
        """Return the labels of these images only."""
        return LabelJudgements(self.labels.restrict(ids))

    def check(self, name: str) -> None:
        """Check that there are enough to compare encoders.

        Raises:
            InputError: too few labels, or only one distinct label; the message begins with
                ``name``.
        """
        if len(self.labels) < MIN_LABELED:
            raise InputError(
                f"{name}: {format_count(len(self.labels), 'labeled image')}, at least "
                f"{MIN_LABELED} needed; label {MIN_LABELED - len(self.labels)} more"
            )
        counts = self.labels.counts
        if len(counts) == 1:
            raise InputError(
                f"{name}: all {len(self.labels)} images have the label {next(iter(counts))!r}; at "
                "least two labels needed"
            )
        paired = sum(
            any(counts[label] > 1 for label in labels) for labels in self.labels.by_id.values()
        )
        if paired < MIN_LABELED // 2:
            raise InputError(
                f"{name}: images that share their label with another: {paired}, at least "
                f"{MIN_LABELED // 2} needed; label more images, or use fewer, broader labels"
            )

    def compare(self, embeddings: Mapping[str, Embeddings]) -> dict[str, Quality]:
        """Return each encoder's quality, from embeddings ``(ids, dim)`` in the order of ``ids``.

        The intervals are bootstrapped over the images as queries. The images searched stay the
        same, so the intervals are somewhat narrow: with few labels, a candidate as good as the
        best was not counted as tied in up to 3 of 10 samples.
        """
        values = {
            name: leave_one_out(rows, self.labels, k=K).scores.average_precision
            for name, rows in embeddings.items()
        }
        best = max(values, key=lambda name: float(values[name].mean()))
        return {
            name: Quality(
                Estimate.of(each),
                bootstrap_interval(each - values[best]),
            )
            for name, each in values.items()
        }


@dataclass(frozen=True, slots=True)
class PairJudgements:
    """Pairs of images by id, and whether each pair is similar."""

    pairs: tuple[tuple[str, str], ...]
    similar: tuple[bool, ...]

    measure = "ROC AUC of similar against dissimilar pairs"

    @property
    def ids(self) -> tuple[str, ...]:
        """The images in any of the pairs."""
        return tuple(dict.fromkeys(row_id for pair in self.pairs for row_id in pair))

    @property
    def summary(self) -> str:
        """The number of pairs, in words."""
        return f"{len(self.pairs):,} pairs, {sum(self.similar):,} similar"

    def restrict(self, ids: frozenset[str]) -> PairJudgements:
        """Return the pairs of these images only."""
        rows = [i for i, pair in enumerate(self.pairs) if ids.issuperset(pair)]
        return PairJudgements(
            tuple(self.pairs[i] for i in rows), tuple(self.similar[i] for i in rows)
        )

    def check(self, name: str) -> None:
        """Check that there are enough to compare encoders.

        Raises:
            InputError: too few similar or dissimilar pairs; the message begins with ``name``.
        """
        for kind, count in (
            ("similar", sum(self.similar)),
            ("dissimilar", len(self.similar) - sum(self.similar)),
        ):
            if count < MIN_PAIRS:
                raise InputError(
                    f"{name}: {count} {kind} pair{'s' * (count != 1)}, at least {MIN_PAIRS} "
                    f"needed; judge {MIN_PAIRS - count} more"
                )

    def compare(self, embeddings: Mapping[str, Embeddings]) -> dict[str, Quality]:
        """Return each encoder's quality, from embeddings ``(ids, dim)`` in the order of ``ids``.

        The intervals are bootstrapped over the pairs, similar and dissimilar ones separately, with
        the same resamples for every encoder.
        """
        place = {row_id: row for row, row_id in enumerate(self.ids)}
        ends = np.array([[place[a], place[b]] for a, b in self.pairs])
        similar = np.array(self.similar)
        similarity = np.empty((len(embeddings), len(similar)))
        for number, rows in enumerate(embeddings.values()):
            unit = unit_rows(rows).astype(np.float64)
            similarity[number] = np.einsum("ij,ij->i", unit[ends[:, 0]], unit[ends[:, 1]])
        groups = similarity[:, similar], similarity[:, ~similar]
        values = roc_auc(*groups)
        resampled = resampled_statistic(groups, roc_auc, np.random.default_rng(0))
        best = resampled[values.argmax()]
        return {
            name: Quality(
                Estimate(float(value), resampled_interval(means)), resampled_interval(means - best)
            )
            for name, value, means in zip(embeddings, values, resampled, strict=True)
        }


Judgements = LabelJudgements | PairJudgements


def roc_auc(
    positive: NDArray[np.float64], negative: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    """Return the area under the ROC curve of scores: P(positive > negative), ties one half.

    Computed as the Mann-Whitney statistic (Hanley and McNeil 1982). scikit-learn's
    ``roc_auc_score`` gives the same for one sample at a time; this is vectorized over resamples.
    """
    positive, negative = np.moveaxis(positive, axis, -1), np.moveaxis(negative, axis, -1)
    below, not_above = (_negatives_before(positive, negative, ties) for ties in (False, True))
    return np.asarray((below + not_above) / 2 / (positive.shape[-1] * negative.shape[-1]))


def _negatives_before(
    positive: NDArray[np.float64], negative: NDArray[np.float64], ties: bool
) -> NDArray[np.int64]:
    """Return how many pairs have a lower negative score, or with ``ties`` one as low: ``(...)``."""
    parts = (negative, positive) if ties else (positive, negative)  # a stable sort keeps the order
    order = np.concatenate(parts, axis=-1).argsort(axis=-1, kind="stable")
    first = parts[0].shape[-1]
    is_negative = order < first if ties else order >= first
    return np.asarray((np.cumsum(is_negative, axis=-1) * ~is_negative).sum(axis=-1))


def read_judgements(source: LabelSource, ids: Sequence[str]) -> Judgements:
    """Read labels, or a table of pairs with the columns ``id_a``, ``id_b`` and ``similar``.

    Other columns are ignored, and so are rows without a label or judgement. ``similar`` is yes or
    no, 1 or 0, true or false.

    Args:
        source: what :func:`~lookalike.sources.labels.read_labels` takes; a table of pairs is a
            file.
        ids: the ids of the source.

    Raises:
        InputError: it cannot be read, lacks columns, has an unknown id or a contradiction (the
            line is named), or has too few judgements.
    """
    name = "labels"
    if isinstance(source, str | os.PathLike):
        source, name = read_table(Path(source), texts=True), str(source)
    judgements: Judgements
    if isinstance(source, Table) and set(_PAIR_COLUMNS) <= set(source.names):
        judgements = _read_pairs(source, ids)
    else:
        judgements = LabelJudgements(read_labels(source, ids))
    judgements.check(name)
    return judgements


def _read_pairs(table: Table, ids: Sequence[str]) -> PairJudgements:
    if table.problems:
        raise InputError(f"{table.problems[0].uri}: {table.problems[0].reason}")
    rows = [(table.place(number), row) for number, row in enumerate(table.only(*_PAIR_COLUMNS))]
    rows = [(place, row) for place, row in rows if "similar" in row]
    ends = [
        (f"{at}, column {c}", str(row.get(c, ""))) for at, row in rows for c in _PAIR_COLUMNS[:2]
    ]
    id_of = resolve_ids(ends, ids)
    pairs: dict[tuple[str, str], bool] = {}
    for place, row in rows:
        answer = str(row["similar"]).lower()
        if answer not in _YES | _NO:
            raise InputError(
                f"{place}, column similar: {row['similar']!r}; expected yes or no, 1 or 0"
            )
        one, other = (id_of[str(row.get(name, ""))] for name in _PAIR_COLUMNS[:2])
        if one == other:
            raise InputError(f"{place}, column id_b: {other}, the same as id_a")
        pair = min(one, other), max(one, other)
        if pairs.setdefault(pair, answer in _YES) != (answer in _YES):
            raise InputError(
                f"{place}, column similar: contradicts a row above for the same two images; "
                "delete one of the rows"
            )
    return PairJudgements(tuple(pairs), tuple(pairs.values()))
