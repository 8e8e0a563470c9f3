"""Reproduce the table of the 2020 report: three autoencoders at 1, 10 and 100 epochs.

Trains the encoders missing in WORK (about 70 minutes on one core for all), evaluates them by the
report's protocol (the first 100 test images) and on all 10,000, and prints a Markdown table.

    python benchmarks/report.py WORK > table.md
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.metrics import Scores
from lookalike.gallery.gallery import Gallery
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Metric, Progress

RECIPES = ("report-linear", "report-conv", "report-conv-bn")
EPOCHS = (1, 10, 100)
PIXELS = 28 * 28


def print_epochs(p: Progress) -> None:
    """Print a line per epoch."""
    if p.task.startswith("train") and p.done % 60_000 == 0:
        print(f"{p.task}: {p.note}", file=sys.stderr, flush=True)


def trained(recipe: str, epochs: int, work: Path) -> NetworkEncoder:
    """Return a recipe's encoder after so many epochs; one run is copied at each of EPOCHS."""
    copy = work / f"{recipe}-{epochs}"
    if not (copy / "encoder.json").exists():
        run = work / recipe
        options = TrainingOptions(epochs=epochs, resume=run.exists())
        train(
            "dataset:mnist/train", recipe=recipe, out=run, options=options, on_progress=print_epochs
        )
        shutil.copytree(run, copy)
    encoder = load_encoder(copy)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def row(name: str, scores: Scores, *more: str) -> str:
    """Return a row of the table."""
    p, interval = scores.precision.value, scores.precision.interval
    cells = [
        name,
        scores.metric.value,
        f"{100 * scores.first.precision:.1f}",
        f"{100 * p:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]",
        f"{100 * scores.map.value:.2f}",
        *more,
    ]
    return "| " + " | ".join(cells) + " |"


def shuffled(encoder: NetworkEncoder, train_set: ArraySource, test_set: ArraySource) -> list[float]:
    """Return precision@7 on the first 100 when features and images are in different orders."""
    assert train_set.labels is not None
    assert test_set.labels is not None
    index = ExactIndex(encoder.encode(train_set.images))
    hits = index.search(encoder.encode(test_set.images[:100]), 7, Metric.L2).rows
    labels, query_labels = np.array(train_set.labels), np.array(test_set.labels[:100])[:, None]
    orders = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(20)]
    return [float((labels[order][hits] == query_labels).mean()) for order in orders]


def main() -> None:
    """Train, evaluate, print."""
    work = Path(sys.argv[1])
    train_set, test_set = open_source("dataset:mnist/train"), open_source("dataset:mnist/test")
    columns = ("encoder", "distance", "P@7, first 100", "P@7, all 10,000 [95 %]", "mAP@7")
    more = ("MSE", "MSE x 20 (report)", "training, s")
    print("| " + " | ".join((*columns, *more)) + " |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    baselines: list[str] = []
    for recipe in RECIPES:
        for epochs in EPOCHS:
            encoder = trained(recipe, epochs, work)
            folder = work / f"{recipe}-{epochs}.gallery"
            shutil.rmtree(folder, ignore_errors=True)
            gallery = Gallery.create(folder, encoder=encoder)
            gallery.sync(train_set)
            loss = encoder.origin["history"][-1]["loss"]
            facts = (f"{loss:.5f}", f"{20 * loss:.6f}", f"{encoder.origin['seconds']:.0f}")
            for metric in Metric:
                evaluation = evaluate(
                    gallery, test_set, metric=metric, baselines=len(baselines) < 10
                )
                print(row(f"{recipe}, {epochs}", evaluation.scores, *facts), flush=True)
                baselines += [row(n, s, "", "", "") for n, s in evaluation.baselines.items()]
            shutil.rmtree(folder)
    print("\n".join(baselines))
    assert isinstance(train_set, ArraySource)
    assert isinstance(test_set, ArraySource)
    precisions = shuffled(trained("report-linear", 1, work), train_set, test_set)
    print(
        f"\nFeatures and images in different orders, report-linear, first 100, 20 orders: "
        f"{100 * min(precisions):.1f} to {100 * max(precisions):.1f} %, "
        f"mean {100 * sum(precisions) / len(precisions):.1f} %"
    )


if __name__ == "__main__":
    main()
