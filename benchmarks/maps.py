"""Ways of drawing a map, side by side: how far each can be believed, and what it takes.

    python benchmarks/maps.py WORK           # WORK/mnist-0.encoder, or trains it
    pip install umap-learn pacmap            # for these beside openTSNE, which alone is needed

MNIST's 60,000 training images; all but PaCMAP are given the same exact neighbors, and the same
principal components to begin with.
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
from lookalike.explore.layout import Points, components, faith, lay_out
from lookalike.gallery.neighbors import NeighborGraph, graph_from_embeddings
from lookalike.training.loop import TrainingOptions
from lookalike.training.train import train
from lookalike.vectors import unit_rows

NEAR = 15


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    source = la.open_source("dataset:mnist/train")
    folder = options.work / "mnist-0.encoder"
    if not folder.exists():
        told = TrainingOptions(seed=0, minutes=2)
        train(source, recipe="contrastive", out=folder, augment="digits", options=told)
    items = list(source)
    values = unit_rows(np.concatenate(list(encode_items(load_encoder(folder), items))))
    start = time.perf_counter()
    graph = graph_from_embeddings(tuple(item.id for item in items), values)
    print(f"neighbors of {len(graph):,} images: {time.perf_counter() - start:.1f} s", flush=True)
    for name, package, draw in (
        ("openTSNE, 125 + 375 steps", "openTSNE", lay_out),
        ("UMAP, 200 epochs", "umap", by_umap),
        ("PaCMAP, its own neighbors", "pacmap", by_pacmap),
    ):
        if find_spec(package) is None:
            print(f"{name}: {package} is not installed")
            continue
        show(name, graph, draw)


def show(name: str, graph: NeighborGraph, draw: Callable[[NeighborGraph], Points]) -> None:
    """Time one way twice, since the first compiles what numba compiles."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        points = draw(graph)
        took.append(time.perf_counter() - start)
    found = faith(graph, points)
    print(
        f"{name}: {took[0]:.1f} s, again {took[1]:.1f} s; trustworthiness "
        f"{found.trustworthiness:.4f}, 10 nearest kept {found.kept:.3f}",
        flush=True,
    )


def by_umap(graph: NeighborGraph) -> Points:
    """UMAP (McInnes et al. 2018) with its own settings."""
    import umap

    own = np.arange(len(graph))[:, None]
    rows = np.concatenate([own, graph.rows[:, : NEAR - 1]], axis=1).astype(np.int32)
    nearest = np.concatenate([np.zeros_like(own, float), graph.distances[:, : NEAR - 1]], axis=1)
    start = components(graph.embeddings)
    model = umap.UMAP(
        n_neighbors=NEAR,
        precomputed_knn=(rows, nearest.astype(np.float32)),
        init=(start / np.abs(start).max() * 10).astype(np.float32),
        n_epochs=200,
    )
    return np.asarray(model.fit_transform(graph.embeddings), np.float32)


def by_pacmap(graph: NeighborGraph) -> Points:
    """PaCMAP (Wang et al. 2021) with its own settings."""
    import pacmap

    return np.asarray(pacmap.PaCMAP().fit_transform(graph.embeddings, init="pca"), np.float32)


if __name__ == "__main__":
    main()
