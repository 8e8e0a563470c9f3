"""An evaluation in sentences: comparison with the baselines, confusions, the precision ceiling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lookalike.evaluation.metrics import Estimate, Scores
from lookalike.evaluation.results import Evaluation
from lookalike.formatting import format_count

LOW_CEILING = 0.5
"""Precision@k is reported with its ceiling where that is lower."""


def ranking(evaluation: Evaluation) -> list[tuple[str, Scores]]:
    """Return the scores of gallery, baselines and others, the best first.

    They are ordered by precision@k if relevance is by label, else by mAP@k: with one relevant row,
    precision@7 cannot exceed 1/7.
    """
    own = (evaluation.scores.encoder, evaluation.scores)
    scores = [*_baselines(evaluation).items(), *evaluation.others.items(), own]
    return sorted(scores, key=lambda pair: -_main_score(evaluation, pair[1]).value)


def verdict(evaluation: Evaluation) -> str:
    """Compare the gallery's encoder with the best baseline, in one sentence, with any leakage."""
    leakage = evaluation.leakage
    text = _comparison(evaluation)
    if leakage is None or not leakage.leaked or leakage.excluded:
        return text
    return f"{text}; {leakage.describe()}"


def _comparison(evaluation: Evaluation) -> str:
    own = _main_score(evaluation, evaluation.scores)
    measure = "precision" if evaluation.criterion.labeled else "mAP"
    text = f"{evaluation.scores.encoder}: {measure}@{evaluation.k} {own.value:.4f}"
    if not evaluation.baselines:
        return f"{text}; not compared with baselines"
    baselines = {
        name: _main_score(evaluation, scores) for name, scores in _baselines(evaluation).items()
    }
    name, best = max(baselines.items(), key=lambda pair: pair[1].value)
    baseline = f"the best baseline, {name} ({best.value:.4f})"
    if not own.interval.is_defined:
        return f"{text}; one query, so it cannot be compared with {baseline}"
    if own.interval.low > best.interval.high:
        return f"{text}, better than {baseline}"
    if own.interval.high < best.interval.low:
        return f"{text}, worse than {baseline}"
    return f"{text}, not significantly different from {baseline}: their intervals overlap"


def ceiling_note(evaluation: Evaluation) -> str:
    """Explain the highest possible precision@k where it is low; empty otherwise."""
    if evaluation.ceiling >= LOW_CEILING:
        return ""
    k = evaluation.k
    relevant = np.mean([example.relevant for example in evaluation.examples])
    return (
        f"precision@{k} cannot exceed {evaluation.ceiling:.4f} here: queries have "
        f"{relevant:.2f} relevant rows on average; compare mAP@{k} and R@1"
    )


def cautions(evaluation: Evaluation) -> list[str]:
    """Return what flatters or leaves out, as sentences.

    That is leakage, one label for all rows, and queries without a figure.
    """
    lines = [] if evaluation.leakage is None else evaluation.leakage.notes()
    if [*evaluation.gallery_labels.values()] == [evaluation.rows]:
        (label,) = evaluation.gallery_labels
        lines.append(f"all rows have the label {label!r}: any ranking has the same figures")
    if count := evaluation.without_relevant:
        queries = format_count(count, "query has", "queries have")
        lines.append(f"{queries} no relevant row: in no figure")
    if count := evaluation.zero_embeddings:
        queries = format_count(count, "query has", "queries have")
        lines.append(f"{queries} an embedding of zeros: counted as without a hit")
    return lines


def most_confused(evaluation: Evaluation, count: int = 3) -> str:
    """List the pairs of labels with the most incorrect hits; empty if there are none."""
    pairs = sorted(
        (
            (int(evaluation.confusion[y, x]), evaluation.labels[y], evaluation.labels[x])
            for y, x in np.argwhere(~np.eye(len(evaluation.labels), dtype=bool))
        ),
        reverse=True,
    )
    return ", ".join(
        f"{query} with {hit} ({format_count(hits, 'hit')})"
        for hits, query, hit in pairs[:count]
        if hits
    )


def _main_score(evaluation: Evaluation, scores: Scores) -> Estimate:
    """Return the score that encoders are ranked by."""
    return scores.precision if evaluation.criterion.labeled else scores.map


def _baselines(evaluation: Evaluation) -> Mapping[str, Scores]:
    """Return the baselines other than the gallery's own encoder."""
    own = evaluation.scores.encoder
    return {name: scores for name, scores in evaluation.baselines.items() if name != own}
