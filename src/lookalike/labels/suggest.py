"""Which images to name first: representative, diverse, and later the doubtful ones."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import SettingError
from lookalike.gallery.neighbors import Graph
from lookalike.labels.label_set import LabelSet
from lookalike.labels.propagation import raw_confidence
from lookalike.process_state import IgnoreWarnings
from lookalike.sources import Item
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

_FEW = 20


def suggest(
    graph: Graph,
    count: int,
    given: LabelSet | None = None,
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> list[int]:
    """Return the row numbers of ``count`` images to name, those that tell most first.

    The smoothed embeddings are put into as many k-means clusters as there will be labels. Of the
    clusters in which nothing is labeled yet, those with the most images, or, when there are
    labels, with the most that these leave in doubt, give their medoid: representative, since it
    stands for a dense group, and diverse, since there is one of each (TypiClust, Hacohen et al.
    2022, section 3, with medoids). Nothing has to be known of the classes.

    Args:
        graph: of the gallery.
        count: how many, at least 1.
        given: labels so far; their images are not suggested again.
        seed: of k-means.
        on_progress: told before and after the clustering.

    Raises:
        SettingError: ``count`` is below 1, or there are fewer images left.
        InputError: there are labels, but all the same.
    """
    named = given.of if given is not None else {}
    free = np.array([row_id not in named for row_id in graph.ids])
    if not 1 <= count <= free.sum():
        raise SettingError(
            f"-k {count}: must be from 1 to {free.sum():,}, the images that have no label yet"
        )
    on_progress(Progress("clusters", 0, count, "groups"))
    doubt = np.ones(len(graph), np.float32)
    if given is not None and given.of:
        doubt = 1 - raw_confidence(graph, given)
    chosen = _medoids(graph.smoothed(), free, doubt, count, seed)
    on_progress(Progress("clusters", count, count, "groups"))
    return chosen


def _medoids(
    values: Embeddings, free: NDArray[np.bool_], doubt: NDArray[np.float32], count: int, seed: int
) -> list[int]:
    """Return the rows nearest to the centers of clusters without a label, most doubt first."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = count + int((~free).sum())
    # A bad start of a few clusters loses a class; of many, hardly anything.
    kmeans = KMeans(clusters, n_init=10 if clusters <= _FEW else 2, max_iter=50, random_state=seed)
    # Fewer different images than clusters leave some empty.
    with IgnoreWarnings(ConvergenceWarning):
        near = kmeans.fit_transform(values)
    covered = np.bincount(kmeans.labels_[~free], minlength=clusters) > 0
    total = np.bincount(kmeans.labels_, doubt, clusters)
    chosen: list[int] = []
    free = free.copy()
    for cluster in np.argsort(np.where(covered, np.inf, -total), kind="stable")[:count]:
        among = np.flatnonzero(free & (kmeans.labels_ == cluster))
        if not len(among):
            among = np.flatnonzero(free)
        chosen.append(int(among[np.argmin(near[among, cluster])]))
        free[chosen[-1]] = False
    return chosen


FILE = "labels.csv"
COLUMNS = ("number", "id", "uri", "label")


def images_to_ask(
    total: int, count: int, *, left_out: Collection[int] = (), seed: int = 0
) -> list[int]:
    """Return ``count`` of ``total`` rows, drawn at random.

    Random images were measured to need fewer labels than pairs of neighbors about which the
    encoders disagree (``benchmarks/choose.py``): at most 200 for 8 right choices of 10 with the
    trained encoder among the candidates, against 500.

    Args:
        total: how many images there are.
        count: how many rows.
        left_out: rows that are not to be asked.
        seed: of the draw.

    Raises:
        SettingError: ``count`` is below 2, or there are fewer images.
    """
    if not 2 <= count <= total - len(left_out):
        raise SettingError(
            f"--ask {count}: must be from 2 to {total - len(left_out)}, the images that can be "
            "asked about"
        )
    drawn = np.random.default_rng(seed).permutation(total).tolist()
    return [row for row in drawn if row not in left_out][:count]


def write_asked(folder: Path, items: Sequence[Item], labels: Mapping[str, str]) -> Path:
    """Write a CSV of items to be labeled, one a line; labels already given are filled in.

    Raises:
        StorageError: it could not be written.
    """
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, item in enumerate(items, 1):
        writer.writerow([number, item.id, item.uri, labels.get(item.id, "")])
    path = folder / FILE
    write_atomically(path, text.getvalue().encode())
    return path
