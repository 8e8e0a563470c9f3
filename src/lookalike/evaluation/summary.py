"""What an evaluation says in words: who is best, by how much, and what is confused with what."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lookalike.evaluation.metrics import Estimate, Scores
from lookalike.evaluation.results import Evaluation

LOW_CEILING = 0.5
"""Below it, precision@k is not to be read without its ceiling."""


def ranking(found: Evaluation) -> list[tuple[str, Scores]]:
    """Return the scores of gallery, baselines and others, the best first.

    The best has the highest precision@k or, where not labels judge, mAP@k: an item of which the
    gallery has one other picture cannot reach a precision@7 of more than 1/7.
    """
    own = (found.scores.encoder, found.scores)
    scores = [*_rivals(found).items(), *found.others.items(), own]
    return sorted(scores, key=lambda named: -_main(found, named[1]).value)


def _main(found: Evaluation, scores: Scores) -> Estimate:
    """Return what encoders are ranked by."""
    return scores.precision if found.criterion.labeled else scores.map


def _rivals(found: Evaluation) -> Mapping[str, Scores]:
    """Return the baselines but the one that the gallery itself is made with."""
    return {name: s for name, s in found.baselines.items() if name != found.scores.encoder}


def verdict(found: Evaluation) -> str:
    """Say in one sentence how the gallery's encoder compares with the best baseline."""
    ours = _main(found, found.scores)
    name = found.scores.encoder
    measure = "precision" if found.criterion.labeled else "mAP"
    said = f"{name}: {measure}@{found.k} {ours.value:.4f}"
    if not found.baselines:
        return f"{said}; without baselines (--baselines) nothing says whether that is good"
    rivals = {rival: _main(found, scores) for rival, scores in _rivals(found).items()}
    best_name, best = max(rivals.items(), key=lambda named: named[1].value)
    against = f"the best baseline, {best_name}, {best.value:.4f}"
    if ours.interval.low > best.interval.high:
        return f"{said} is better than {against}"
    if ours.interval.high < best.interval.low:
        return f"{said} is worse than {against}, which needs no training"
    return f"{said} cannot be told apart from {against}: their intervals overlap"


def ceiling_note(found: Evaluation) -> str:
    """Say how high precision@k can be, where that is low; empty otherwise."""
    if found.ceiling >= LOW_CEILING:
        return ""
    right = np.mean([example.relevant for example in found.examples])
    return (
        f"precision@{found.k} cannot be higher than {found.ceiling:.4f} here, the mean of "
        f"min(right answers, {found.k}) / {found.k}: a query has {right:.2f} right answers on "
        f"average, so read mAP@{found.k} and R@1"
    )


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
