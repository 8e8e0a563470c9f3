"""Labels from a few to all: how many are right, beside plain pixels and images named at random.

    python benchmarks/label.py WORK          # trains three encoders into WORK, or finds them
    python benchmarks/label.py WORK --markdown

MNIST's 60,000 training images; an encoder trained for two minutes without labels, three seeds.
Accuracy is over all images without a given label, each the mean of the seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lookalike as la
from lookalike.encoders.batching import encode_items, fit_encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.gallery.neighbors import graph_from_embeddings
from lookalike.labels import LabelSet, NeighborGraph, check, spread, suggest
from lookalike.stores.exact import ExactIndex
from lookalike.training.loop import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Metric
from lookalike.vectors import unit_rows

SEEDS = 3
TEN_SEEDS = 10
EACH = (1, 5, 10, 50)
BINS = 15
WRONG = (0.01, 0.03, 0.05)

Labels = NDArray[np.str_]


def main() -> None:
    """Print the table."""
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
            told = TrainingOptions(seed=seed, minutes=2)
            train(source, recipe="contrastive", out=folder, augment="digits", options=told)
        start = time.perf_counter()
        values = np.concatenate(list(encode_items(load_encoder(folder), items)))
        graphs.append(graph_from_embeddings(ids, unit_rows(values)))
        print(
            f"seed {seed}: encoded, and its graph made, in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    ten(graphs, truth)
    trust(graphs, truth)
    wrong(graphs[0], truth)
    rows: list[list[str]] = []
    pixels = graph_from_embeddings(
        ids, np.concatenate(list(encode_items(fit_encoder("pixels", source), items)))
    )
    for each in EACH:
        rows.append(
            line(
                f"{each} a class, at random",
                graphs,
                pixels,
                truth,
                lambda _, s, e=each: at_random(truth, e, s),
            )
        )
        rows.append(
            line(
                f"{10 * each} as suggested",
                graphs,
                pixels,
                truth,
                lambda g, s, e=each: suggest(g, 10 * e, seed=s),
            )
        )
        print(rows[-2], rows[-1], flush=True)
    show(
        ("given", "nearest", "spread", "pixels, nearest", "pixels, spread"), rows, options.markdown
    )


def at_random(truth: Labels, each: int, seed: int) -> list[int]:
    """Return as many rows of each class, which already takes the classes to be known."""
    rng = np.random.default_rng(seed)
    return [
        int(r)
        for k in np.unique(truth)
        for r in rng.choice(np.flatnonzero(truth == k), each, replace=False)
    ]


def line(name, graphs, pixels, truth, choose) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the mean accuracies of one way of choosing what to name."""
    found = [scores(graph, truth, choose(graph, seed)) for seed, graph in enumerate(graphs)]
    plain = [scores(pixels, truth, choose(pixels, seed)) for seed in range(1)]
    means = [*np.mean(found, axis=0), *np.mean(plain, axis=0)]
    return [name, *(f"{value:.4f}" for value in means)]


def given_of(graph: NeighborGraph, truth: Labels, rows: list[int]) -> LabelSet:
    """Return the true labels of some rows."""
    return LabelSet("benchmark", {graph.ids[row]: (str(truth[row]),) for row in rows})


def scores(graph: NeighborGraph, truth: Labels, rows: list[int]) -> tuple[float, float]:
    """Return the accuracy of the nearest labeled image, and of ``spread``."""
    rest = np.ones(len(truth), np.bool_)
    rest[rows] = False
    near = ExactIndex(graph.embeddings[rows]).search(graph.embeddings, 1, Metric.L2).rows[:, 0]
    nearest = truth[rows][near] == truth
    return float(nearest[rest].mean()), float(
        right_of(spread(graph, given_of(graph, truth, rows)), truth)[rest].mean()
    )


def right_of(found, truth: Labels) -> NDArray[np.bool_]:  # type: ignore[no-untyped-def]
    """Return which guesses are right."""
    return np.array([guess == (label,) for guess, label in zip(found.guesses, truth, strict=True)])


def ten(graphs: list[NeighborGraph], truth: Labels) -> None:
    """Print the accuracy of ten images in total, over ten seeds, the encoders in turn."""
    turns = [(seed, graphs[seed % len(graphs)]) for seed in range(TEN_SEEDS)]
    found = [scores(graph, truth, suggest(graph, 10, seed=seed))[1] for seed, graph in turns]
    print(
        f"10 images in total, {TEN_SEEDS} seeds: mean {np.mean(found):.4f}, least {min(found):.4f}",
        flush=True,
    )


def trust(graphs: list[NeighborGraph], truth: Labels) -> None:
    """Print what --precision 0.99 accepts of 100 suggested, and how far confidence is off."""
    for seed, graph in enumerate(graphs):
        found = spread(
            graph, given_of(graph, truth, suggest(graph, 100, seed=seed)), precision=0.99
        )
        right = right_of(found, truth)
        taken = np.array([bool(labels) for labels in found.labels]) & ~found.given
        if not taken.any():
            print(f"seed {seed}, 100 as suggested, --precision 0.99: nothing accepted", flush=True)
            continue
        bound = bootstrap_interval(right[taken].astype(np.float64))
        low, high = bound.low, bound.high
        error = calibration_error(found.confidence[~found.given], right[~found.given])
        print(
            f"seed {seed}, 100 as suggested, --precision 0.99 ({found.method}): "
            f"{right[taken].mean():.4f} [{low:.4f}, {high:.4f}] right of {found.coverage:.2%} "
            f"accepted; all {right[~found.given].mean():.4f}; "
            f"expected calibration error {error:.4f}",
            flush=True,
        )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error in 15 bins (Guo et al. 2017, section 2)."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    parts = [bins == b for b in range(BINS)]
    return float(
        sum(p.mean() * abs(confidence[p].mean() - right[p].mean()) for p in parts if p.any())
    )


def wrong(graph: NeighborGraph, truth: Labels) -> None:
    """Print the average precision of ``check`` at finding planted wrong labels."""
    for share in WRONG:
        rng = np.random.default_rng(0)
        planted = rng.permutation(len(truth))[: int(share * len(truth))]
        said = truth.copy()
        said[planted] = [str((int(v) + rng.integers(1, 10)) % 10) for v in truth[planted]]
        found = check(graph, given_of(graph, said, list(range(len(said)))))
        bad = np.zeros(len(truth), np.bool_)
        bad[planted] = True
        hit = bad[[suspect.row for suspect in found.suspects]]
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        average = precision[hit].sum() / bad.sum()
        print(f"{share:.0%} wrong labels planted: average precision {average:.4f}", flush=True)


def show(columns: tuple[str, ...], rows: list[list[str]], markdown: bool) -> None:
    """Print a table."""
    if markdown:
        print("| " + " | ".join(columns) + " |\n|---|" + "--:|" * (len(columns) - 1))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    else:
        for row in [list(columns), *rows]:
            print(f"{row[0]:<24}" + "".join(f"{cell:>18}" for cell in row[1:]))


if __name__ == "__main__":
    main()
