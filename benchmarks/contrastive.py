"""The contrastive recipe beside what needs no learning: three data sets, three seeds each.

    python benchmarks/contrastive.py WORK [SET...]

Trains as ``lookalike train dataset:SET --augment NAME --minutes MINUTES --seed SEED`` does, keeps
the encoders in the folder WORK, and prints precision@7 by cosine over all queries with 95 %
bootstrap intervals; the differences to fine HOG are paired, query by query. Labels only judge.
Emoji have no queries of their own: each of the drawings is asked for the others.
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
from lookalike.training.loop import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Metric

SEEDS = 3
N = 7
BASELINES = ("pixels", "color", "hog", "hog-fine")


@dataclass(frozen=True)
class Task:
    """What is searched, what is asked, the augmentations to train with and the minutes it may take."""

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
    """Return the encoder in ``folder``, trained now if it is not there."""
    if not (folder / "encoder.json").exists():
        options = TrainingOptions(seed=seed, augment=task.augment, minutes=task.minutes)
        train(task.gallery, recipe="contrastive", out=folder, options=options)
    encoder = load_encoder(folder)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def precisions(
    encoder: Encoder, gallery: ArraySource, queries: ArraySource | None
) -> NDArray[np.float64]:
    """Return precision@7 of each query ``(q,)``; without queries, of each row among the others."""
    rows = encoder.encode(gallery.images)
    labels = np.array(gallery.labels)
    if queries is None:
        found, wanted = ExactIndex(rows).others(0, len(rows), N, Metric.COSINE).rows, labels
    else:
        asked = encoder.encode(queries.images)
        found = ExactIndex(rows).search(asked, N, Metric.COSINE).rows
        wanted = np.array(queries.labels)
    return np.asarray((labels[found] == wanted[:, None]).mean(axis=1))


def said(values: NDArray[np.float64], signed: bool = False) -> str:
    """Return mean and interval."""
    interval = bootstrap_interval(values)
    form = "+.4f" if signed else ".4f"
    return f"{values.mean():{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def report(name: str, task: Task, work: Path) -> None:
    """Train, judge and print one data set."""
    gallery = source(task.gallery)
    queries = None if task.queries is None else source(task.queries)
    sample = list(gallery.images[:: max(1, len(gallery) // SAMPLE)])
    print(f"\n{name}: {len(gallery):,} images, P@{N}, {settings().threads} threads", flush=True)
    scores = {}
    for baseline in BASELINES:
        if baseline == "color" and gallery.images.ndim == 3:
            continue
        scores[baseline] = precisions(open_encoder(baseline, sample), gallery, queries)
        print(f"  {baseline:14} {said(scores[baseline])}", flush=True)
    ours = []
    for seed in range(SEEDS):
        encoder = trained(task, seed, work / f"{name}-{seed}.encoder")
        ours.append(precisions(encoder, gallery, queries))
        seconds = encoder.origin["seconds"] + encoder.origin["preparing"]
        print(
            f"  contrastive {seed}  {said(ours[-1])}  {seconds:.0f} s; to hog-fine "
            f"{said(ours[-1] - scores['hog-fine'], True)}",
            flush=True,
        )
    mean = np.mean(ours, axis=0)
    print(f"  mean of seeds  {said(mean)}; to hog-fine {said(mean - scores['hog-fine'], True)}")


def main() -> None:
    """Print every data set's table, or those named."""
    work = Path(sys.argv[1])
    for name in sys.argv[2:] or TASKS:
        report(name, TASKS[name], work)


if __name__ == "__main__":
    main()
