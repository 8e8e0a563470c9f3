"""Methods tried on given labels that they are not shown, and what their confidence is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.label.methods import OnGraph, Problem, Vote

_FOLDS = 10
_REPEATS = 2
_CAUTION = 0.7


@dataclass(frozen=True, slots=True)
class Folds:
    """Divisions of ``m`` labelled rows: ``(repeats, m)`` fold numbers, and which are judged.

    Rows are not judged whose label nobody else has in the other folds.
    """

    number: NDArray[np.int64]
    judged: NDArray[np.bool_]
    count: int


def divide(problem: Problem, seed: int) -> Folds:
    """Divide the labelled rows into tenths, twice."""
    m = len(problem.labelled)
    count = min(_FOLDS, m)
    rng = np.random.default_rng(seed)
    number = np.stack([rng.permutation(m) % count for _ in range(_REPEATS)])
    lone = (problem.has.sum(axis=0) < 2)[None] & problem.has
    judged = ~lone.any(axis=1)
    return Folds(number, judged, count)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a method said of labels it was not shown: ``(trials,)`` raw confidence, and if right."""

    raw: NDArray[np.float64]
    right: NDArray[np.bool_]
    labels: int

    @property
    def accuracy(self) -> float:
        """The share of labels that were right; 0 if none was tried."""
        return float(self.right.mean()) if len(self.right) else 0.0

    @property
    def error(self) -> float:
        """The standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / max(1, self.labels)))

    @property
    def caution(self) -> float:
        """By how much errors may be more than those seen: upper bound by what is expected.

        Clopper and Pearson 1934, one-sided, of as many labels as were left out.
        """
        from scipy.stats import beta

        wrong = self.labels * (1 - self.accuracy)
        upper = float(beta.ppf(_CAUTION, wrong + 1, max(self.labels - wrong, 1e-9)))
        return max(1.0, upper * self.labels / (wrong + 0.5))

    def calibrate(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities of being right for raw confidences, ``(n,)``."""
        from sklearn.linear_model import LogisticRegression

        right, wrong = int(self.right.sum()), int((~self.right).sum())
        target = np.where(self.right, (right + 1) / (right + 2), 1 / (wrong + 2))
        odds = _log_odds(self.raw)
        model = LogisticRegression(C=1.0).fit(
            np.concatenate([odds, odds]),
            np.repeat([1, 0], len(odds)),
            np.concatenate([target, 1 - target]),
        )
        return np.asarray(model.predict_proba(_log_odds(raw))[:, 1], np.float64)


def simplest_of_the_best(trials: Mapping[str, Trial]) -> str:
    """Return the first method whose accuracy is within one standard error of the best one's."""
    best = max(trials.values(), key=lambda trial: trial.accuracy)
    least = best.accuracy - best.error
    return next(name for name, trial in trials.items() if trial.accuracy >= least)


def try_method(problem: Problem, method: OnGraph | Vote, folds: Folds) -> Trial:
    """Have a method label each judged row from the other folds."""
    raw, right = [], []
    for number in folds.number:
        for fold in range(folds.count):
            held = (number == fold) & folds.judged
            shown = number != fold
            if not held.any() or not shown.any():
                continue
            rows = problem.labelled[held]
            guesses, sure = problem.read(method(problem, problem.labelled[shown], rows))
            raw.append(sure)
            right.append((guesses == problem.has[held]).all(axis=1))
    labels = int(folds.judged.sum())
    if not raw:
        return Trial(np.empty(0), np.empty(0, np.bool_), labels)
    return Trial(np.concatenate(raw), np.concatenate(right), labels)


def _log_odds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped))[:, None])
