"""What an evaluation says in words: who is best, by how much, and what is confused with what."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lookalike.evaluation import Evaluation
from lookalike.metrics import Scores


def ranking(found: Evaluation) -> list[tuple[str, Scores]]:
    """Return the scores of gallery, baselines and others, best precision first."""
    own = (found.scores.encoder, found.scores)
    scores = [*_rivals(found).items(), *found.others.items(), own]
    return sorted(scores, key=lambda named: -named[1].precision.value)


def _rivals(found: Evaluation) -> Mapping[str, Scores]:
    """Return the baselines but the one that the gallery itself is made with."""
    return {name: s for name, s in found.baselines.items() if name != found.scores.encoder}


def verdict(found: Evaluation) -> str:
    """Say in one sentence how the gallery's encoder compares with the best baseline."""
    ours = found.scores.precision
    name = found.scores.encoder
    said = f"{name}: precision@{found.n} {ours.value:.4f}"
    if not found.baselines:
        return f"{said}; without baselines (--baselines) nothing says whether that is good"
    best_name, best = max(_rivals(found).items(), key=lambda named: named[1].precision.value)
    against = f"the best baseline, {best_name}, {best.precision.value:.4f}"
    if ours.interval.low > best.precision.interval.high:
        return f"{said} is better than {against}"
    if ours.interval.high < best.precision.interval.low:
        return f"{said} is worse than {against}, which needs no training"
    return f"{said} cannot be told apart from {against}: their intervals overlap"


def most_confused(found: Evaluation, count: int = 3) -> str:
    """Say which labels' queries most often got hits of which other label; empty if none did."""
    pairs = sorted(
        (
            (int(found.confusion[y, x]), found.labels[y], found.labels[x])
            for y, x in np.argwhere(~np.eye(len(found.labels), dtype=bool))
        ),
        reverse=True,
    )
    worst = [f"{a} answered with {b} ({hits:,} hits)" for hits, a, b in pairs[:count] if hits]
    return ", ".join(worst)
