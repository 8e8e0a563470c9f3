"""The contrastive recipe compared with untrained baselines: three data sets, three seeds each.

    python benchmarks/contrastive.py WORK [SET...]

Trains like ``lookalike train dataset:SET --augment NAME --minutes MINUTES --seed SEED`` into the
folder WORK, and prints precision@7 by cosine distance over all queries with 95 % bootstrap
intervals; differences to fine HOG are paired by query. Labels are used for evaluation only. Emoji
have no separate queries: each image is searched among the others.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.sources import ArraySource, open_source
from lookalike.sources.sampling import SAMPLE
from lookalike.stores.exact import ExactIndex
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Metric

SEEDS = 3
K = 7
BASELINES = ("pixels", "color", "hog", "hog-fine")


@dataclass(frozen=True)
class Task:
    """Gallery, queries (None: each gallery image), augmentation preset and training minutes."""

    gallery: str
    queries: str | None
    augment: str
    minutes: float


TASKS: Mapping[str, Task] = {
    "mnist": Task("dataset:mnist/train", "dataset:mnist/test", "digits", 3),
    "fashion-mnist": Task(
        "dataset:fashion-mnist/train", "dataset:fashion-mnist/test", "objects", 5
    ),
    "twemoji": Task("dataset:twemoji/all", None, "objects", 3),
}


def source(spec: str) -> ArraySource:
    """Return a data set as arrays."""
    opened = open_source(spec)
    assert isinstance(opened, ArraySource)
    return opened


def trained(task: Task, seed: int, folder: Path) -> NetworkEncoder:
    """Return the encoder in ``folder``; if there is none, train it."""
    if not (folder / "encoder.json").exists():
        options = TrainingOptions(seed=seed, augment=task.augment, minutes=task.minutes)
        train(task.gallery, recipe="contrastive", out=folder, options=options)
    encoder = load_encoder(folder)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def precisions(
    encoder: Encoder, gallery: ArraySource, queries: ArraySource | None
) -> NDArray[np.float64]:
    """Return precision@7 of each query ``(q,)``, or of each gallery row among the others."""
    rows = encoder.encode(gallery.images)
    labels = np.array(gallery.labels)
    if queries is None:
        hits, query_labels = ExactIndex(rows).others(0, len(rows), K, Metric.COSINE).rows, labels
    else:
        embeddings = encoder.encode(queries.images)
        hits = ExactIndex(rows).search(embeddings, K, Metric.COSINE).rows
        query_labels = np.array(queries.labels)
    return np.asarray((labels[hits] == query_labels[:, None]).mean(axis=1))


def mean_text(values: NDArray[np.float64], signed: bool = False) -> str:
    """Return mean and interval as text."""
    interval = bootstrap_interval(values)
    form = "+.4f" if signed else ".4f"
    return f"{values.mean():{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def report(name: str, task: Task, work: Path) -> None:
    """Train, evaluate and print one data set."""
    gallery = source(task.gallery)
    queries = None if task.queries is None else source(task.queries)
    sample = list(gallery.images[:: max(1, len(gallery) // SAMPLE)])
    print(f"\n{name}: {len(gallery):,} images, P@{K}, {settings().threads} threads", flush=True)
    scores = {}
    for baseline in BASELINES:
        if baseline == "color" and gallery.images.ndim == 3:
            continue
        scores[baseline] = precisions(open_encoder(baseline, sample), gallery, queries)
        print(f"  {baseline:14} {mean_text(scores[baseline])}", flush=True)
    trained_scores = []
    for seed in range(SEEDS):
        encoder = trained(task, seed, work / f"{name}-{seed}.encoder")
        trained_scores.append(precisions(encoder, gallery, queries))
        seconds = encoder.origin["seconds"] + encoder.origin["preparation_seconds"]
        print(
            f"  contrastive {seed}  {mean_text(trained_scores[-1])}  {seconds:.0f} s; to hog-fine "
            f"{mean_text(trained_scores[-1] - scores['hog-fine'], True)}",
            flush=True,
        )
    mean = np.mean(trained_scores, axis=0)
    difference = mean_text(mean - scores["hog-fine"], True)
    print(f"  mean of seeds  {mean_text(mean)}; to hog-fine {difference}")


def main() -> None:
    """Print the tables of the named data sets, by default all."""
    work = Path(sys.argv[1])
    for name in sys.argv[2:] or TASKS:
        report(name, TASKS[name], work)


if __name__ == "__main__":
    main()
