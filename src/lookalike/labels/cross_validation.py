"""Methods tried on given labels that they are not shown, and what their confidence is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.labels.propagation_methods import OnGraph, Problem, Vote

_FOLDS = 10
_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Folds:
    """Divisions of ``m`` labeled rows: ``(repeats, m)`` fold numbers, and which are judged.

    Rows are not judged whose label nobody else has in the other folds.
    """

    number: NDArray[np.int64]
    judged: NDArray[np.bool_]
    count: int


def divide(problem: Problem, seed: int) -> Folds:
    """Divide the labeled rows into tenths, twice."""
    m = len(problem.labeled)
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

    def calibrate(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities of being right for raw confidences, ``(n,)``.

        Logistic regression on their log odds (Platt 1999, section 2.2, with his targets for few
        errors). A hundred labels leave a handful of errors or none, so that intercept and slope
        have normal priors of deviation 1 about 0 and 1: without evidence raw confidences stay.
        """
        from scipy.optimize import minimize
        from scipy.special import expit

        odds = _log_odds(self.raw)
        each = self.labels / max(1, len(odds))  # a label that was tried twice counts once
        right, wrong = each * self.right.sum(), each * (~self.right).sum()
        target = np.where(self.right, (right + 1) / (right + 2), 1 / (wrong + 2))

        def surprise(line: NDArray[np.float64]) -> float:
            found = line[0] + line[1] * odds
            seen = each * float((np.logaddexp(0, found) - target * found).sum())
            return seen + float(line[0] ** 2 + (line[1] - 1) ** 2) / 2

        intercept, slope = minimize(surprise, [0.0, 1.0]).x
        return np.asarray(expit(intercept + slope * _log_odds(raw)), np.float64)


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
            rows = problem.labeled[held]
            guesses, sure = problem.read(method(problem, problem.labeled[shown], rows))
            raw.append(sure)
            right.append((guesses == problem.has[held]).all(axis=1))
    labels = int(folds.judged.sum())
    if not raw:
        return Trial(np.empty(0), np.empty(0, np.bool_), labels)
    return Trial(np.concatenate(raw), np.concatenate(right), labels)


def _log_odds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped)))
