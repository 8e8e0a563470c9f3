"""The contrastive recipe on one process and on several: the same quality, and the time.

    python benchmarks/processes.py WORK [COUNT [EPOCHS]]

Runs ``lookalike train dataset:mnist/train --recipe contrastive --augment digits`` as it is and under
``torchrun --nproc-per-node COUNT`` (2 unless given), for the same EPOCHS (2) and the same seed,
keeps the encoders in the folder WORK, and prints precision@7 by cosine over all 10,000 queries with
95 % bootstrap intervals; the difference is paired, query by query. Seconds an epoch do not hold
finding neighbors, which stands beside them. Labels only judge.
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

N = 7
SOURCE = "dataset:mnist/train"


def source(spec: str) -> ArraySource:
    """Return a data set as arrays."""
    opened = open_source(spec)
    assert isinstance(opened, ArraySource)
    return opened


def trained(count: int, epochs: int, folder: Path) -> NetworkEncoder:
    """Return the encoder in ``folder``, trained as from a shell now if it is not there."""
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m")
    options = ("--augment", "digits", "--epochs", str(epochs), "--no-evaluate", "-o", str(folder))
    if not (folder / "encoder.json").exists():
        command = [*(launch if count > 1 else ()), "lookalike", "train", SOURCE, *options]
        subprocess.run([sys.executable, "-m", *command], check=True)
    encoder = load_encoder(folder)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def seconds(encoder: NetworkEncoder) -> float:
    """Return the seconds that an epoch took."""
    return float(np.mean([each["seconds"] for each in encoder.origin["history"]]))


def precisions(
    encoder: NetworkEncoder, gallery: ArraySource, queries: ArraySource
) -> NDArray[np.float64]:
    """Return precision@7 of each query ``(q,)``."""
    index = ExactIndex(encoder.encode(gallery.images))
    found = index.search(encoder.encode(queries.images), N, Metric.COSINE).rows
    right = np.array(gallery.labels)[found] == np.array(queries.labels)[:, None]
    return np.asarray(right.mean(axis=1))


def said(values: NDArray[np.float64], form: str = ".4f") -> str:
    """Return mean and interval."""
    interval = bootstrap_interval(values)
    return f"{values.mean():{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def main() -> None:
    """Train twice and print the table."""
    work = Path(sys.argv[1])
    count, epochs = (int(sys.argv[i]) if len(sys.argv) > i else 2 for i in (2, 3))
    made = {n: trained(n, epochs, work / f"{n}.encoder") for n in (1, count)}
    gallery, queries = source(SOURCE), source("dataset:mnist/test")
    print(f"{len(gallery):,} images, {epochs} epochs, {settings().threads} cores")
    scores = {n: precisions(encoder, gallery, queries) for n, encoder in made.items()}
    print(f"processes  precision@{N}               s/epoch  neighbors, s  last loss")
    for n, encoder in made.items():
        preparing, loss = encoder.origin["preparing"], encoder.origin["loss"]
        took = f"{seconds(encoder):7.1f}  {preparing:13.1f}  {loss:9.4f}"
        print(f"{n:9}  {said(scores[n])}  {took}")
    print(f"difference {said(scores[count] - scores[1], '+.4f')}")
    print(f"an epoch on {count} takes {seconds(made[count]) / seconds(made[1]):.2f} of that on 1")


if __name__ == "__main__":
    main()
