"""Number of labels that lookalike choose needs to pick an encoder tied with the best.

True quality is precision@7 of 1,000 queries against 5,000 other images (of twemoji: of 1,000
images against all others). A choice is correct if its true precision is within the 95 % interval of
the best candidate's. Labels are those of random images, as with --ask, or pooled: images on whose
nearest neighbor the candidates disagree, each with one of these neighbors.

    python benchmarks/choose.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError
from lookalike.evaluation.agreement import LabelJudgements
from lookalike.evaluation.candidates import TRAINED, candidate_names
from lookalike.evaluation.label_sheet import draw_rows
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.sources import ArraySource, open_source
from lookalike.sources.labels import LabelSet
from lookalike.stores.exact import ExactIndex
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Embeddings, Metric
from lookalike.vectors import unit_rows

SETS = (
    ("dataset:mnist/train[:6000]", "digits"),
    ("dataset:fashion-mnist/train[:6000]", "objects"),
    ("dataset:twemoji/all", "objects"),
)
GALLERY, QUERIES, K = 5_000, 1_000, 7
SAMPLE = 3_000
"""Number of images that choose uses."""
BUDGETS = (10, 20, 50, 100, 200, 500)
DRAWS = 10
MIN_CORRECT = 8

Draw = Callable[[np.ndarray, int, int], list[int]]
"""Draws rows from the nearest neighbors under each candidate, a budget and a seed."""


@dataclass(frozen=True)
class TrueQuality:
    """Precision@7 of each candidate, and the interval of the best one's."""

    precision: Mapping[str, float]
    low: float
    high: float

    @property
    def tied(self) -> set[str]:
        """The candidates within the interval of the best one."""
        return {name for name, value in self.precision.items() if value >= self.low}


def encode(source: ArraySource, augment: str) -> dict[str, Embeddings]:
    """Return the embeddings of all candidates, the trained one after one minute of training."""
    sample = list(source.images[:SAMPLE])
    embeddings = {}
    for name in candidate_names():
        embeddings[name] = open_encoder(name, sample).encode(source.images)
    small = source.subset(0, min(SAMPLE, len(source)))
    trained = train(small, recipe=TRAINED, options=TrainingOptions(minutes=1, augment=augment))
    embeddings[TRAINED] = trained.encode(source.images)
    return embeddings


def true_quality(embeddings: Mapping[str, Embeddings], labels: np.ndarray) -> TrueQuality:
    """Return the true quality of each candidate."""
    count = len(labels)
    if count >= GALLERY + QUERIES:
        queries, rows = np.arange(GALLERY, GALLERY + QUERIES), np.arange(GALLERY)
    else:
        queries, rows = np.random.default_rng(0).permutation(count)[:QUERIES], np.arange(count)
    precision = {}
    for name, values in embeddings.items():
        results = ExactIndex(values[rows]).search(values[queries], K + 1, Metric.COSINE).rows
        hits = [
            [r for r in rows[row] if r != q][:K] for row, q in zip(results, queries, strict=True)
        ]
        precision[name] = (labels[np.array(hits)] == labels[queries][:, None]).mean(axis=1)
    best = max(precision.values(), key=np.mean)
    interval = bootstrap_interval(best)
    means = {name: float(values.mean()) for name, values in precision.items()}
    return TrueQuality(means, interval.low, interval.high)


def at_random(nearest: np.ndarray, count: int, seed: int) -> list[int]:
    """Return rows as --ask draws them."""
    return draw_rows(len(nearest), count, seed=seed)


def pooled(nearest: np.ndarray, count: int, seed: int) -> list[int]:
    """Return rows on whose nearest neighbor candidates disagree, each with one of the neighbors."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(nearest))
    first = drawn[: 2 * count]
    distinct = np.array([len(set(row)) for row in nearest[first].tolist()])
    ordered = [*first[np.argsort(-distinct, kind="stable")], *drawn[2 * count :]]
    rows: dict[int, None] = {}
    for row in ordered:
        for candidate in (int(row), int(rng.choice(nearest[row]))):
            if len(rows) < count:
                rows[candidate] = None
    return list(rows)


def nearest_others(embeddings: Mapping[str, Embeddings]) -> np.ndarray:
    """Return ``(rows, encoders)``: the nearest neighbor of each row by cosine."""
    columns = []
    for rows in embeddings.values():
        hits = ExactIndex(rows).search(rows, 2, Metric.COSINE).rows
        columns.append(np.where(hits[:, 0] == np.arange(len(rows)), hits[:, 1], hits[:, 0]))
    return np.stack(columns, axis=1)


def draws(
    embeddings: Mapping[str, Embeddings], labels: np.ndarray, best: set[str], draw: Draw
) -> dict[int, tuple[int, int]]:
    """Return for each budget the number of correct choices, and of ties with a correct one."""
    counts = {}
    nearest = nearest_others(embeddings)
    for budget in BUDGETS:
        correct = tied = 0
        for seed in range(DRAWS):
            rows = draw(nearest, budget, seed)
            by_id = {str(row): (str(labels[row]),) for row in rows}
            judgements = LabelJudgements(LabelSet("labels", by_id))
            try:
                judgements.check("labels")
            except InputError:
                continue
            quality = judgements.compare(
                {name: values[rows] for name, values in embeddings.items()}
            )
            choice = max(quality, key=lambda name: quality[name].estimate.value)
            correct += choice in best
            tied += any(quality[name].tied for name in best)
        counts[budget] = correct, tied
    return counts


def sufficient(counts: Mapping[int, tuple[int, int]]) -> str:
    """Return the smallest budget from which on at least 8 of 10 choices are correct."""
    good = [budget for budget, (correct, _) in counts.items() if correct >= MIN_CORRECT]
    steady = [b for b in good if all(counts[m][0] >= MIN_CORRECT for m in BUDGETS if m >= b)]
    return f"{min(steady)}" if steady else f"more than {BUDGETS[-1]}"


def main() -> None:
    """Measure each data set with and without the trained candidate, and print the tables."""
    summary = []
    for spec, augment in SETS:
        start = time.monotonic()
        source = open_source(spec)
        assert isinstance(source, ArraySource)
        assert source.labels is not None
        all_embeddings = encode(source, augment)
        labels = np.array(source.labels)
        for left_out in ((), (TRAINED,)):
            embeddings = {n: unit_rows(v) for n, v in all_embeddings.items() if n not in left_out}
            true = true_quality(embeddings, labels)
            print(f"\n{spec}{' without ' + TRAINED if left_out else ''}, P@7:")
            ordered = sorted(true.precision.items(), key=lambda named: -named[1])
            print("  " + ", ".join(f"{name} {value:.4f}" for name, value in ordered))
            print(f"  best's interval [{true.low:.4f}, {true.high:.4f}]: {sorted(true.tied)}")
            inside = {name: values[:SAMPLE] for name, values in embeddings.items()}
            results = {}
            for how, draw in (("random", at_random), ("pooled", pooled)):
                results[how] = draws(inside, labels[:SAMPLE], true.tied, draw)
                cells = [f"{b}: {r} ({k})" for b, (r, k) in results[how].items()]
                print(f"  {how:7} correct (tied) of {DRAWS}: " + "  ".join(cells), flush=True)
            name = source.name + (" without " + TRAINED if left_out else "")
            summary.append((name, sufficient(results["random"]), sufficient(results["pooled"])))
        print(f"  {time.monotonic() - start:.0f} s")
    print(f"\nlabels from which on at least {MIN_CORRECT} of {DRAWS} choices are correct")
    print(f"{'':40} {'random':>14} {'pooled':>14}")
    for name, by_chance, by_pool in summary:
        print(f"{name:40} {by_chance:>14} {by_pool:>14}")


if __name__ == "__main__":
    main()
