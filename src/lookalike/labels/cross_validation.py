"""Cross-validation of propagation methods on the labeled images, and confidence calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.evaluation.metrics import Estimate, PerQuery, standard_error
from lookalike.labels.propagation_methods import LabelMatrix, Method

_FOLDS = 10
_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Folds:
    """Repeated divisions of ``m`` labeled rows into ``count`` folds.

    ``assignment`` is ``(repeats, m)`` fold numbers. ``scored`` ``(m,)`` is false for rows with a
    label that no other row has: no method could predict them.
    """

    assignment: NDArray[np.int64]
    scored: NDArray[np.bool_]
    count: int


def make_folds(labels: LabelMatrix, seed: int) -> Folds:
    """Divide the labeled rows into ten folds at random, twice."""
    m = len(labels.labeled)
    count = min(_FOLDS, m)
    rng = np.random.default_rng(seed)
    assignment = np.stack([rng.permutation(m) % count for _ in range(_REPEATS)])
    unique = (labels.indicators.sum(axis=0) < 2)[None] & labels.indicators
    return Folds(assignment, ~unique.any(axis=1), count)


@dataclass(frozen=True, slots=True)
class HeldOutPredictions:
    """A method's predictions of held-out labels.

    ``confidence`` is ``(trials,)``, raw, NaN without a prediction; ``correct`` ``(trials,)`` bool;
    ``rows`` ``(trials,)`` int64 are the held-out rows, each of them once per repeat.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def labels(self) -> int:
        """The number of rows that were held out."""
        return len(np.unique(self.rows))

    @property
    def by_row(self) -> PerQuery:
        """The share of correct predictions of each held-out row, ``(labels,)``."""
        _, place, counts = np.unique(self.rows, return_inverse=True, return_counts=True)
        return np.asarray(np.bincount(place, self.correct) / counts)

    @property
    def accuracy(self) -> Estimate:
        """The share of rows with a correct prediction, with its 95 % interval over the rows.

        Raises:
            InputError: none was held out.
        """
        return Estimate.of(self.by_row)

    def calibrate(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that predictions of a raw confidence ``(n,)`` are correct.

        Logistic regression on the log odds of the confidence (Platt 1999, section 2.2, with the
        paper's targets for few errors). A hundred labels leave a handful of errors or none, so
        intercept and slope have normal priors of standard deviation 1 around 0 and 1: without
        evidence the raw confidence is returned unchanged. Rows without a prediction are left out of
        the regression, and NaN stays NaN.
        """
        from scipy.optimize import minimize
        from scipy.special import expit

        predicted = np.isfinite(self.confidence)
        odds, is_correct = _log_odds(self.confidence[predicted]), self.correct[predicted]
        weight = self.labels / max(1, len(self.correct))  # a label held out twice counts once
        correct, wrong = weight * is_correct.sum(), weight * (~is_correct).sum()
        target = np.where(is_correct, (correct + 1) / (correct + 2), 1 / (wrong + 2))

        def loss(parameters: NDArray[np.float64]) -> float:
            logits = parameters[0] + parameters[1] * odds
            likelihood = weight * float((np.logaddexp(0, logits) - target * logits).sum())
            return likelihood + float(parameters[0] ** 2 + (parameters[1] - 1) ** 2) / 2

        intercept, slope = minimize(loss, [0.0, 1.0]).x
        return np.asarray(expit(intercept + slope * _log_odds(confidence)), np.float64)


def select_method(results: Mapping[str, HeldOutPredictions]) -> str:
    """Return the first method whose accuracy is within one standard error of the best.

    The one-standard-error rule of Hastie et al. 2009, section 7.10.
    """
    accuracy = {name: float(result.by_row.mean()) for name, result in results.items()}
    best = max(accuracy, key=lambda name: accuracy[name])
    required = accuracy[best] - standard_error(results[best].by_row)
    return next(name for name in results if accuracy[name] >= required)


def cross_validate(labels: LabelMatrix, method: Method, folds: Folds) -> HeldOutPredictions:
    """Predict the rows of each fold from the rows of all other folds."""
    confidence, correct, rows = [], [], []
    for assignment in folds.assignment:
        for fold in range(folds.count):
            check_cancelled()
            test = (assignment == fold) & folds.scored
            train = assignment != fold
            if not test.any() or not train.any():
                continue
            scores = method(labels, labels.labeled[train], labels.labeled[test])
            predicted, raw = labels.predict(scores)
            confidence.append(raw)
            correct.append((predicted == labels.indicators[test]).all(axis=1))
            rows.append(np.flatnonzero(test))
    if not confidence:
        return HeldOutPredictions(np.empty(0), np.empty(0, np.bool_), np.empty(0, np.int64))
    return HeldOutPredictions(
        np.concatenate(confidence), np.concatenate(correct), np.concatenate(rows)
    )


def _log_odds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped)))
