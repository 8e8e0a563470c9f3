"""An evaluation in sentences: the precision ceiling, what flatters it, confusions."""

from __future__ import annotations

import numpy as np

from lookalike.evaluation.results import Evaluation
from lookalike.formatting import format_count

LOW_CEILING = 0.5
"""Precision@k is reported with its ceiling where that is lower."""


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
