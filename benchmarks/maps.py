"""Map layouts compared: quality and time of openTSNE, UMAP and PaCMAP.

    python benchmarks/maps.py WORK           # uses WORK/mnist-0.encoder, or trains it
    pip install umap-learn pacmap            # optional; without them only openTSNE is measured

On MNIST's 60,000 training images. openTSNE and UMAP get the same exact neighbors and the same
principal components as initialization; PaCMAP finds its own neighbors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import lookalike as la
from lookalike.encoders.batching import encode_items
from lookalike.encoders.persistence import load_encoder
from lookalike.explore.layout import (
    Points,
    compute_layout,
    measure_quality,
    principal_components,
)
from lookalike.gallery.neighbors import NeighborGraph, graph_from_embeddings
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.vectors import unit_rows

NEIGHBORS = 15


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    source = la.open_source("dataset:mnist/train")
    folder = options.work / "mnist-0.encoder"
    if not folder.exists():
        training = TrainingOptions(seed=0, minutes=2, augment="digits")
        train(source, recipe="contrastive", out=folder, options=training)
    items = list(source)
    values = unit_rows(np.concatenate(list(encode_items(load_encoder(folder), items))))
    start = time.perf_counter()
    graph = graph_from_embeddings(tuple(item.id for item in items), values)
    print(f"neighbors of {len(graph):,} images: {time.perf_counter() - start:.1f} s", flush=True)
    for name, package, layout in (
        ("openTSNE, 125 + 375 steps", "openTSNE", compute_layout),
        ("UMAP, 200 epochs", "umap", by_umap),
        ("PaCMAP, its own neighbors", "pacmap", by_pacmap),
    ):
        if find_spec(package) is None:
            print(f"{name}: {package} is not installed")
            continue
        measure(name, graph, layout)


def measure(name: str, graph: NeighborGraph, layout: Callable[[NeighborGraph], Points]) -> None:
    """Print quality and time; timed twice because numba compiles in the first run."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        points = layout(graph)
        seconds.append(time.perf_counter() - start)
    quality = measure_quality(graph, points)
    print(
        f"{name}: {seconds[0]:.1f} s, second run {seconds[1]:.1f} s; trustworthiness "
        f"{quality.trustworthiness:.4f}, neighborhood preservation "
        f"{quality.neighborhood_preservation:.3f}",
        flush=True,
    )


def by_umap(graph: NeighborGraph) -> Points:
    """UMAP (McInnes et al. 2018) with its default settings."""
    import umap

    own = np.arange(len(graph))[:, None]
    rows = np.concatenate([own, graph.rows[:, : NEIGHBORS - 1]], axis=1).astype(np.int32)
    nearest = np.concatenate(
        [np.zeros_like(own, float), graph.distances[:, : NEIGHBORS - 1]], axis=1
    )
    start = principal_components(graph.embeddings)
    model = umap.UMAP(
        n_neighbors=NEIGHBORS,
        precomputed_knn=(rows, nearest.astype(np.float32)),
        init=(start / np.abs(start).max() * 10).astype(np.float32),
        n_epochs=200,
    )
    return np.asarray(model.fit_transform(graph.embeddings[:]), np.float32)


def by_pacmap(graph: NeighborGraph) -> Points:
    """PaCMAP (Wang et al. 2021) with its default settings."""
    import pacmap

    return np.asarray(pacmap.PaCMAP().fit_transform(graph.embeddings[:], init="pca"), np.float32)


if __name__ == "__main__":
    main()
