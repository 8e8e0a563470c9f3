"""Encoder quality from human labels or similarity judgements of pairs, for model selection.

Quality from labels is leave-one-out mAP@5 with cosine distance: each labeled image is a query
among the other labeled images. k is 5, and not the number of images, since users see the nearest
results: mAP over all labeled images preferred the wrong encoder with any number of labels (HOG
before fine HOG on MNIST, in each of 60 samples of 500 labels). Quality from pairs is the area
under the ROC curve of the cosine similarity. Both compare encoders on the same images.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.csv_text import unescape_cell
from lookalike.errors import InputError
from lookalike.evaluation.metrics import (
    RESAMPLES,
    Estimate,
    Interval,
    average_precision_at_k,
    bootstrap_batch_size,
    bootstrap_interval,
)
from lookalike.files import read_text
from lookalike.formatting import format_count
from lookalike.types import Embeddings
from lookalike.vectors import unit_rows

K = 5
"""Hits per labeled image."""

MIN_LABELED = 10
MIN_PAIRS = 5
"""Minimum number of similar pairs, and of dissimilar ones."""

_YES = frozenset(("yes", "y", "1", "true"))
_NO = frozenset(("no", "n", "0", "false"))
_MAX_COMPARED = 20_000
"""Ids among which the nearest to a mistyped one is sought."""


@dataclass(frozen=True, slots=True)
class Quality:
    """An encoder's quality, and the 95 % interval of its difference to the best encoder's."""

    estimate: Estimate
    difference: Interval

    @property
    def tied(self) -> bool:
        """Whether there is no significant difference to the best encoder."""
        return self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, slots=True)
class LabelJudgements:
    """Labels of images, by id."""

    labels: Mapping[str, str]

    measure = f"leave-one-out mAP@{K}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The labeled images."""
        return tuple(self.labels)

    @property
    def summary(self) -> str:
        """The number of images and labels, in words."""
        labels = len(set(self.labels.values()))
        return f"{format_count(len(self.labels), 'labeled image')}, {format_count(labels, 'label')}"

    def restrict(self, ids: frozenset[str]) -> LabelJudgements:
        """Return the labels of these images only."""
        labels = {row_id: label for row_id, label in self.labels.items() if row_id in ids}
        return LabelJudgements(labels)

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
        counts = Counter(self.labels.values())
        if len(counts) == 1:
            raise InputError(
                f"{name}: all {len(self.labels)} images have the label {next(iter(counts))!r}; at "
                "least two labels needed"
            )
        paired = sum(count for count in counts.values() if count > 1)
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
        labels = np.array([self.labels[row_id] for row_id in self.ids])
        values = {name: average_precisions(rows, labels) for name, rows in embeddings.items()}
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
        from scipy.stats import bootstrap

        place = {row_id: row for row, row_id in enumerate(self.ids)}
        ends = np.array([[place[a], place[b]] for a, b in self.pairs])
        similar = np.array(self.similar)
        similarity = np.empty((len(embeddings), len(similar)))
        for number, rows in enumerate(embeddings.values()):
            unit = unit_rows(rows).astype(np.float64)
            similarity[number] = np.einsum("ij,ij->i", unit[ends[:, 0]], unit[ends[:, 1]])
        groups = similarity[:, similar], similarity[:, ~similar]
        values = roc_auc(*groups)
        # scipy resamples the same pairs for every row, which keeps the differences paired.
        resampled = bootstrap(
            groups,
            roc_auc,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=bootstrap_batch_size(similarity.size),
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
        best = resampled[values.argmax()]
        return {
            name: Quality(Estimate(float(value), _interval(means)), _interval(means - best))
            for name, value, means in zip(embeddings, values, resampled, strict=True)
        }


Judgements = LabelJudgements | PairJudgements


def average_precisions(embeddings: Embeddings, labels: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return leave-one-out average precision at 5 of each image that shares its label.

    Args:
        embeddings: ``(n, dim)``.
        labels: ``(n,)``.

    Ties are broken at random, in the same way for every encoder, since the order of the images
    may follow their labels.
    """
    count = len(labels)
    order = np.random.default_rng(0).permutation(count)
    unit, names = unit_rows(embeddings[order]), labels[order]
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    k = min(K, count - 1)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    relevant = (names[:, None] == names).sum(axis=1) - 1
    values = np.empty(count)
    values[order] = average_precision_at_k(names[nearest] == names[:, None], relevant)
    shared = np.empty(count, np.bool_)
    shared[order] = relevant > 0
    return values[shared]


def roc_auc(
    positive: NDArray[np.float64], negative: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    """Return the area under the ROC curve of scores: P(positive > negative), ties one half.

    Computed as the Mann-Whitney statistic (Hanley and McNeil 1982). scikit-learn's
    ``roc_auc_score`` gives the same for one sample at a time; this is vectorized over resamples.
    """
    from scipy.stats import mannwhitneyu

    wins = mannwhitneyu(positive, negative, axis=axis, method="asymptotic").statistic
    return np.asarray(wins / (positive.shape[axis] * negative.shape[axis]))


def read_judgements(path: Path, ids: Sequence[str]) -> Judgements:
    """Read a CSV of labels (columns ``id``, ``label``) or pairs (``id_a``, ``id_b``, ``similar``).

    Other columns are ignored, and so are rows with an empty label or judgement. ``similar`` is yes
    or no, 1 or 0, true or false. The separator is a comma or a semicolon.

    Args:
        path: the file.
        ids: the ids of the source.

    Raises:
        InputError: it cannot be read, lacks columns, has an unknown id or a contradiction (line
            and column are named), or has too few judgements.
    """
    rows = _rows(path)
    columns = rows[0][1].keys() if rows else ()
    id_set = frozenset(ids)
    judgements: Judgements
    if {"id_a", "id_b", "similar"} <= set(columns):
        judgements = _pairs(path, rows, id_set)
    else:
        judgements = _labels(path, rows, id_set)
    judgements.check(str(path))
    return judgements


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers, cells stripped of spaces."""
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from error
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=separator, restval="")
    names = {name.strip() for name in reader.fieldnames or ()}
    if not (names >= {"id", "label"} or names >= {"id_a", "id_b", "similar"}):
        raise InputError(
            f"{path}, line 1: columns {', '.join(sorted(names)) or 'missing'}; expected id and "
            "label, or id_a, id_b and similar"
        )
    try:
        rows = [
            (
                reader.line_num,
                {k.strip(): unescape_cell(v.strip()) for k, v in row.items() if isinstance(k, str)},
            )
            for row in reader
        ]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error
    if not rows:
        raise InputError(f"{path}: no rows below the header")
    return rows


def _labels(
    path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], ids: frozenset[str]
) -> LabelJudgements:
    labels: dict[str, str] = {}
    for line, row in rows:
        if not row["label"]:
            continue
        row_id = _check_id(path, line, "id", row["id"], ids)
        if labels.setdefault(row_id, row["label"]) != row["label"]:
            raise InputError(
                f"{path}, line {line}, column label: {row_id} is {row['label']!r} here and "
                f"{labels[row_id]!r} above; delete one of the rows"
            )
    return LabelJudgements(labels)


def _pairs(
    path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], ids: frozenset[str]
) -> PairJudgements:
    pairs: dict[tuple[str, str], bool] = {}
    for line, row in rows:
        answer = row["similar"].lower()
        if not answer:
            continue
        if answer not in _YES | _NO:
            raise InputError(
                f"{path}, line {line}, column similar: {row['similar']!r}; expected yes or no, "
                "1 or 0"
            )
        one, other = (_check_id(path, line, name, row[name], ids) for name in ("id_a", "id_b"))
        if one == other:
            raise InputError(f"{path}, line {line}, column id_b: {other}, the same as id_a")
        pair = min(one, other), max(one, other)
        if pairs.setdefault(pair, answer in _YES) != (answer in _YES):
            raise InputError(
                f"{path}, line {line}, column similar: contradicts a row above for the same two "
                "images; delete one of the rows"
            )
    return PairJudgements(tuple(pairs), tuple(pairs.values()))


def _check_id(path: Path, line: int, column: str, row_id: str, ids: frozenset[str]) -> str:
    if row_id in ids:
        return row_id
    candidates = sorted(ids)[:_MAX_COMPARED]
    matches = difflib.get_close_matches(row_id, candidates, n=1, cutoff=0.4)
    hint = f"; did you mean {matches[0]!r}?" if matches else f"; ids look like {candidates[0]!r}"
    raise InputError(f"{path}, line {line}, column {column}: no image has the id {row_id!r}{hint}")


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))
