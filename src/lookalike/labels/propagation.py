"""Labels of a few images spread to all, each with a confidence that can be relied on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError
from lookalike.gallery.neighbors import Graph
from lookalike.labels.cross_validation import divide, simplest_of_the_best, try_method
from lookalike.labels.label_set import GIVEN, SEPARATOR, UNKNOWN, LabelSet
from lookalike.labels.propagation_methods import DEFAULT, Problem, methods_for
from lookalike.types import Progress, ProgressCallback, ignore_progress

__all__ = ["UNKNOWN", "Spread", "spread"]

SPREAD = "spread"
LEAST = 20
"""With fewer labels held out and known elsewhere, nothing can be said of confidence."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Labels of all rows of a gallery.

    ``labels`` are accepted ones, empty where unknown; ``guesses`` the likeliest in any case;
    ``confidence`` ``(n,)`` is the calibrated probability that the guess is right, 1 for given ones;
    ``threshold`` is what confidence had to reach. ``tried`` maps each method to its accuracy on
    the given labels, each left out in turn. ``calibrated`` is false where there were too few
    labels for that.
    """

    ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    guesses: tuple[tuple[str, ...], ...]
    confidence: NDArray[np.float64]
    given: NDArray[np.bool_]
    method: str
    tried: Mapping[str, float]
    threshold: float
    precision: float | None
    calibrated: bool

    def status(self, row: int) -> str:
        """Return ``given``, ``spread`` or ``unknown``."""
        if self.given[row]:
            return GIVEN
        return SPREAD if self.labels[row] else UNKNOWN

    @property
    def coverage(self) -> float:
        """The share of the rows without a given label that got one."""
        rest = np.flatnonzero(~self.given)
        return sum(bool(self.labels[row]) for row in rest) / max(1, len(rest))

    @property
    def expected(self) -> float:
        """The expected share of right ones among the labels that were spread; 1 if none was."""
        accepted = [row for row in np.flatnonzero(~self.given) if self.labels[row]]
        return float(self.confidence[accepted].mean()) if accepted else 1.0

    def summary(self) -> list[dict[str, Any]]:
        """Return by label: given, spread, and the mean confidence of those spread."""
        given: Counter[str] = Counter()
        spread: Counter[str] = Counter()
        trust: Counter[str] = Counter()
        for row, labels in enumerate(self.labels):
            for label in labels:
                given[label] += int(self.given[row])
                spread[label] += int(not self.given[row])
                trust[label] += 0 if self.given[row] else float(self.confidence[row])  # type: ignore[assignment]
        return [
            {
                "label": label,
                "given": given[label],
                "spread": spread[label],
                "confidence": trust[label] / spread[label] if spread[label] else None,
            }
            for label in sorted(given | spread)
        ]

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a row of the CSV for each image, in order of id."""
        for row, row_id in enumerate(self.ids):
            yield {
                "id": row_id,
                "label": SEPARATOR.join(self.labels[row]) or UNKNOWN,
                "confidence": f"{self.confidence[row]:.4f}",
                "status": self.status(row),
                "guess": SEPARATOR.join(self.guesses[row]),
            }

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike label propagate --json``."""
        return {
            "images": len(self.ids),
            "given": int(self.given.sum()),
            "spread": sum(self.status(row) == SPREAD for row in range(len(self.ids))),
            "coverage": self.coverage,
            "expected_precision": self.expected if self.calibrated else None,
            "asked_precision": self.precision,
            "threshold": self.threshold,
            "method": self.method,
            "tried": dict(self.tried),
            "calibrated": self.calibrated,
            "labels": self.summary(),
        }


def spread(
    graph: Graph,
    given: LabelSet,
    *,
    precision: float | None = None,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> Spread:
    """Label all rows from a few.

    Methods are spreading on the neighbor graph (10, 5 or 20 neighbors) and a vote of the 1, 3 or
    5 nearest given ones. Each is tried on the given labels, a tenth left out at a time, twice. The
    first in that order is taken whose accuracy is within one standard error of the best one's (the
    rule of Hastie et al. 2009, section 7.10): a hundred labels cannot tell a hundredth from luck.
    Its confidences are calibrated on the same left-out labels (:meth:`Trial.calibrate`).

    Args:
        graph: of the gallery.
        given: labels by id.
        precision: the share of the accepted labels that shall be right by their confidences; the
            rest are unknown. None accepts all.
        seed: of the division into tenths.
        on_progress: told after each method.

    Raises:
        InputError: no labels, all the same, or too few for a precision to be promised.
        SettingError: ``precision`` is not between 0 and 1.
    """
    given.check()
    if precision is not None and not 0 < precision < 1:
        raise SettingError(f"--precision {precision:g}: must be between 0 and 1, as in 0.99")
    problem = Problem.of(graph, given)
    folds = divide(problem, seed)
    methods = methods_for(graph)
    trials = {}
    for number, name in enumerate(methods, 1):
        trials[name] = try_method(problem, methods[name], folds)
        on_progress(Progress("cross-validation", number, len(methods), "methods", name))
    count = int(folds.judged.sum())
    calibrated = count >= LEAST
    if precision is not None and not calibrated:
        raise InputError(
            f"{given.name}: {len(given.of)} labels are too few to promise a precision: only "
            f"{count} can be left out and still have their label elsewhere, {LEAST} are needed; "
            "label more, or leave --precision away"
        )
    method = simplest_of_the_best(trials) if calibrated else DEFAULT
    shares = methods[method](problem, problem.labeled, np.arange(len(graph)))
    guesses, raw = problem.read(shares)
    confidence = trials[method].calibrate(raw) if calibrated else raw
    confidence[problem.labeled] = 1
    rest = np.ones(len(graph), np.bool_)
    rest[problem.labeled] = False
    threshold = 0.0
    if precision is not None:
        threshold = _threshold(confidence[rest], precision)
    named = problem.named(guesses)
    for row in problem.labeled:
        named[row] = given.of[graph.ids[row]]
    accepted = ~rest | (confidence >= threshold)
    return Spread(
        ids=graph.ids,
        labels=tuple(each if accepted[row] else () for row, each in enumerate(named)),
        guesses=tuple(named),
        confidence=confidence,
        given=~rest,
        method=method,
        tried={name: trial.accuracy for name, trial in trials.items()} if calibrated else {},
        threshold=threshold,
        precision=precision,
        calibrated=calibrated,
    )


def raw_confidence(graph: Graph, given: LabelSet) -> NDArray[np.float32]:
    """Return ``(n,)`` uncalibrated confidences of labels spread, 1 for the given: for ordering.

    Raises:
        InputError: no labels, or all the same.
    """
    given.check()
    problem = Problem.of(graph, given)
    _, raw = problem.read(
        methods_for(graph)[DEFAULT](problem, problem.labeled, np.arange(len(graph)))
    )
    raw[problem.labeled] = 1
    return raw.astype(np.float32)


def _threshold(confidence: NDArray[np.float64], precision: float) -> float:
    """Return the lowest confidence at which the accepted are as precise as asked."""
    falling = np.sort(confidence)[::-1]
    wrong = np.cumsum(1 - falling) / np.arange(1, len(falling) + 1)
    fits = np.flatnonzero(wrong <= 1 - precision)
    return float(falling[fits[-1]]) if len(fits) else float(np.nextafter(1, 2))


def spread_metadata(found: Spread, column: str) -> Sequence[dict[str, Any]]:
    """Return what ``--write COLUMN`` adds to the metadata of each row, in order of id."""
    return [
        {
            column: SEPARATOR.join(found.labels[row]) or None,
            f"{column}_confidence": round(float(found.confidence[row]), 4),
            f"{column}_status": found.status(row),
        }
        for row in range(len(found.ids))
    ]
