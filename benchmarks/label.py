"""Label propagation from few labels: accuracy with suggested and with random images.

    python benchmarks/label.py WORK              # trains three encoders into WORK, or reuses them
    python benchmarks/label.py WORK --markdown

On MNIST's 60,000 training images, with encoders trained for two minutes without labels, three
seeds. Accuracy is over all unlabeled images, the mean of the seeds; raw pixels are the baseline.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lookalike as la
from lookalike.encoders.batching import encode_items
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.gallery.neighbors import graph_from_embeddings
from lookalike.labels import (
    LabelSet,
    NeighborGraph,
    Propagation,
    propagate,
    rank_labels,
    suggest,
)
from lookalike.stores.exact import ExactIndex
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Metric
from lookalike.vectors import unit_rows

SEEDS = 3
TEN_LABEL_SEEDS = 10
LABELS_PER_CLASS = (1, 5, 10, 50)
CLASSES = 10
BINS = 15
WRONG_SHARES = (0.01, 0.03, 0.05)
COLUMNS = ("labels", "nearest", "propagated", "pixels, nearest", "pixels, propagated")

Truth = NDArray[np.str_]
Pick = Callable[[NeighborGraph, int], list[int]]
"""Picks the rows to label, given a graph and a seed."""


def main() -> None:
    """Print every figure of docs/labeling.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    source = la.open_source("dataset:mnist/train")
    items = list(source)
    truth = np.array([str(item.metadata["label"]) for item in items])
    ids = tuple(item.id for item in items)
    graphs = []
    for seed in range(SEEDS):
        folder = options.work / f"mnist-{seed}.encoder"
        if not folder.exists():
            training = TrainingOptions(seed=seed, minutes=2, augment="digits")
            train(source, recipe="contrastive", out=folder, options=training)
        start = time.perf_counter()
        embeddings = np.concatenate(list(encode_items(load_encoder(folder), items)))
        graphs.append(graph_from_embeddings(ids, unit_rows(embeddings)))
        print(f"seed {seed}: encoding and graph {time.perf_counter() - start:.0f} s", flush=True)
    measure_ten_labels(graphs, truth)
    measure_calibration(graphs, truth)
    measure_label_issues(graphs[0], truth)
    pixels = np.concatenate(list(encode_items(open_encoder("pixels", source), items)))
    baseline = graph_from_embeddings(ids, pixels)
    rows: list[list[str]] = []
    for count in LABELS_PER_CLASS:
        picks: dict[str, Pick] = {
            f"{count} per class, at random": random_pick(truth, count),
            f"{CLASSES * count} suggested": suggested_pick(CLASSES * count),
        }
        for name, pick in picks.items():
            rows.append([name, *accuracies(graphs, baseline, truth, pick)])
            print(rows[-1], flush=True)
    print_table(rows, markdown=options.markdown)


def random_pick(truth: Truth, count: int) -> Pick:
    """Pick ``count`` random rows of each class; this takes the classes to be known."""

    def pick(_: NeighborGraph, seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return [
            int(row)
            for label in np.unique(truth)
            for row in rng.choice(np.flatnonzero(truth == label), count, replace=False)
        ]

    return pick


def suggested_pick(count: int) -> Pick:
    """Pick the rows that ``suggest`` returns."""
    return lambda graph, seed: suggest(graph, count, seed=seed)


def accuracies(
    graphs: list[NeighborGraph], baseline: NeighborGraph, truth: Truth, pick: Pick
) -> list[str]:
    """Return the mean accuracies with some picked rows: of the encoders, and of the baseline."""
    ours = [measure(graph, truth, pick(graph, seed)) for seed, graph in enumerate(graphs)]
    means = [*np.mean(ours, axis=0), *measure(baseline, truth, pick(baseline, 0))]
    return [f"{value:.4f}" for value in means]


def label_set(graph: NeighborGraph, truth: Truth, rows: Sequence[int]) -> LabelSet:
    """Return the labels of some rows."""
    return LabelSet("benchmark", {graph.ids[row]: (str(truth[row]),) for row in rows})


def measure(graph: NeighborGraph, truth: Truth, rows: list[int]) -> tuple[float, float]:
    """Return the accuracy of the nearest labeled image's label, and of propagation."""
    unlabeled = np.ones(len(truth), np.bool_)
    unlabeled[rows] = False
    index = ExactIndex(graph.embeddings[rows])
    nearest = index.search(graph.embeddings[:], 1, Metric.L2).rows[:, 0]
    is_nearest_correct = truth[rows][nearest] == truth
    is_correct = correct(propagate(graph, label_set(graph, truth, rows)), truth)
    return float(is_nearest_correct[unlabeled].mean()), float(is_correct[unlabeled].mean())


def correct(result: Propagation, truth: Truth) -> NDArray[np.bool_]:
    """Return which predictions are correct, ``(n,)``."""
    return np.array(
        [predicted == (label,) for predicted, label in zip(result.predictions, truth, strict=True)]
    )


def measure_ten_labels(graphs: list[NeighborGraph], truth: Truth) -> None:
    """Print the accuracy of ten labels in total over ten seeds, with each encoder in turn."""
    accuracy = []
    for seed in range(TEN_LABEL_SEEDS):
        graph = graphs[seed % len(graphs)]
        accuracy.append(measure(graph, truth, suggest(graph, 10, seed=seed))[1])
    print(
        f"10 labels in total, {TEN_LABEL_SEEDS} seeds: mean {np.mean(accuracy):.4f}, "
        f"minimum {min(accuracy):.4f}",
        flush=True,
    )


def measure_calibration(graphs: list[NeighborGraph], truth: Truth) -> None:
    """Print what a target precision of .99 accepts with 100 labels, and the calibration error."""
    for seed, graph in enumerate(graphs):
        labels = label_set(graph, truth, suggest(graph, 100, seed=seed))
        result = propagate(graph, labels, precision=0.99)
        is_correct = correct(result, truth)
        accepted = np.array([bool(each) for each in result.labels]) & ~result.labeled
        heading = f"seed {seed}, 100 suggested, target precision .99"
        if not accepted.any():
            print(f"{heading}: nothing accepted", flush=True)
            continue
        interval = bootstrap_interval(is_correct[accepted].astype(np.float64))
        unlabeled = ~result.labeled
        error = calibration_error(result.confidence[unlabeled], is_correct[unlabeled])
        print(
            f"{heading} ({result.method}): precision {is_correct[accepted].mean():.4f} "
            f"[{interval.low:.4f}, {interval.high:.4f}], coverage {result.coverage:.2%}; "
            f"accuracy of all {is_correct[unlabeled].mean():.4f}; "
            f"expected calibration error {error:.4f}",
            flush=True,
        )


def calibration_error(confidence: NDArray[np.float64], is_correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error in 15 bins (Guo et al. 2017, section 2)."""
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [numbers == number for number in range(BINS)]
    return float(
        sum(
            each.mean() * abs(confidence[each].mean() - is_correct[each].mean())
            for each in bins
            if each.any()
        )
    )


def measure_label_issues(graph: NeighborGraph, truth: Truth) -> None:
    """Print the average precision of ``rank_labels`` at ranking planted wrong labels."""
    for share in WRONG_SHARES:
        rng = np.random.default_rng(0)
        planted = rng.permutation(len(truth))[: int(share * len(truth))]
        labels = truth.copy()
        for row in planted:
            labels[row] = str((int(truth[row]) + rng.integers(1, CLASSES)) % CLASSES)
        result = rank_labels(graph, label_set(graph, labels, range(len(labels))))
        is_wrong = np.zeros(len(truth), np.bool_)
        is_wrong[planted] = True
        ranked = is_wrong[[issue.row for issue in result.ranking]]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        average = precision[ranked].sum() / is_wrong.sum()
        print(f"{share:.0%} wrong labels: average precision {average:.4f}", flush=True)


def print_table(rows: list[list[str]], *, markdown: bool) -> None:
    """Print the accuracies."""
    if markdown:
        print("| " + " | ".join(COLUMNS) + " |\n|---|" + "--:|" * (len(COLUMNS) - 1))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    else:
        for row in [list(COLUMNS), *rows]:
            print(f"{row[0]:<24}" + "".join(f"{cell:>20}" for cell in row[1:]))


if __name__ == "__main__":
    main()
