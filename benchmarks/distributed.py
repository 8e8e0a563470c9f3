"""Distributed training: quality and time of the contrastive recipe on one and several processes.

    python benchmarks/distributed.py WORK [COUNT [EPOCHS]]

Runs ``lookalike train dataset:mnist/train --augment digits`` alone and under
``torchrun --nproc-per-node COUNT`` (default 2), with the same EPOCHS (default 2) and seed, into the
folder WORK. Prints precision@7 by cosine distance over all 10,000 queries with 95 % bootstrap
intervals; the difference is paired by query. The time per epoch excludes the search for neighbors,
which has its own column. Labels are used for evaluation only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.types import Metric

K = 7
SOURCE = "dataset:mnist/train"


def source(spec: str) -> ArraySource:
    """Return a data set as arrays."""
    opened = open_source(spec)
    assert isinstance(opened, ArraySource)
    return opened


def trained(count: int, epochs: int, folder: Path) -> NetworkEncoder:
    """Return the encoder in ``folder``; if there is none, train it on the command line."""
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m")
    options = ("--augment", "digits", "--epochs", str(epochs), "--no-evaluate", "-o", str(folder))
    if not (folder / "encoder.json").exists():
        command = [*(launch if count > 1 else ()), "lookalike", "train", SOURCE, *options]
        subprocess.run([sys.executable, "-m", *command], check=True)
    encoder = load_encoder(folder)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def seconds(encoder: NetworkEncoder) -> float:
    """Return the mean seconds per epoch."""
    return float(np.mean([each["seconds"] for each in encoder.origin["history"]]))


def precisions(
    encoder: NetworkEncoder, gallery: ArraySource, queries: ArraySource
) -> NDArray[np.float64]:
    """Return precision@7 of each query ``(q,)``."""
    index = ExactIndex(encoder.encode(gallery.images))
    rows = index.search(encoder.encode(queries.images), K, Metric.COSINE).rows
    correct = np.array(gallery.labels)[rows] == np.array(queries.labels)[:, None]
    return np.asarray(correct.mean(axis=1))


def mean_text(values: NDArray[np.float64], form: str = ".4f") -> str:
    """Return mean and interval as text."""
    interval = bootstrap_interval(values)
    return f"{values.mean():{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def main() -> None:
    """Train both encoders and print the table."""
    work = Path(sys.argv[1])
    count, epochs = (int(sys.argv[i]) if len(sys.argv) > i else 2 for i in (2, 3))
    encoders = {n: trained(n, epochs, work / f"{n}.encoder") for n in (1, count)}
    gallery, queries = source(SOURCE), source("dataset:mnist/test")
    print(f"{len(gallery):,} images, {epochs} epochs, {settings().threads} cores")
    scores = {n: precisions(encoder, gallery, queries) for n, encoder in encoders.items()}
    print(f"processes  precision@{K}               s/epoch  neighbors, s  last loss")
    for n, encoder in encoders.items():
        preparation, loss = encoder.origin["preparation_seconds"], encoder.origin["loss"]
        columns = f"{seconds(encoder):7.1f}  {preparation:13.1f}  {loss:9.4f}"
        print(f"{n:9}  {mean_text(scores[n])}  {columns}")
    print(f"difference {mean_text(scores[count] - scores[1], '+.4f')}")
    ratio = seconds(encoders[count]) / seconds(encoders[1])
    print(f"time per epoch, {count} processes / 1 process: {ratio:.2f}")


if __name__ == "__main__":
    main()
