"""Label issues: labels that those of the nearest images contradict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.arguments import checked
from lookalike.cancellation import check_cancelled
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.neighbors import NeighborGraph, neighbor_graph
from lookalike.gallery.notebook import SHOWN, Caption, images_html, table_html, text_html
from lookalike.labels.gallery_labels import gallery_labels, labels_for
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.labels import LABEL, SEPARATOR, LabelSet, LabelSource
from lookalike.sources.tables import data_frame

if TYPE_CHECKING:
    import pandas as pd

K = 10
"""Labeled neighbors that are compared with each image."""

_THRESHOLD = 0.5

_STEP = 1_000
"""Images that are compared between checks whether the work was cancelled."""


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A labeled image whose label may be wrong.

    ``suggested`` are the labels with the most weight among its labeled ``neighbors``, of which
    ``agreeing`` share a label with it. ``disagreement``, from 0 to 1, is the weight of the others.
    """

    row: int
    id: str
    labels: tuple[str, ...]
    suggested: tuple[str, ...]
    disagreement: float
    agreeing: int
    neighbors: int


@dataclass(frozen=True, slots=True, repr=False)
class LabelIssues:
    """All ``labeled`` images that have a labeled neighbor, by falling disagreement."""

    ranking: tuple[LabelIssue, ...]
    labeled: int
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        labels = format_count(self.labeled, "label")
        return f"<LabelIssues: {len(self):,} of {labels} disagree with the nearest neighbors>"

    def __len__(self) -> int:
        return len(self.issues)

    def __iter__(self) -> Iterator[LabelIssue]:
        return iter(self.issues)

    @property
    def issues(self) -> tuple[LabelIssue, ...]:
        """Those whose neighbors suggest other labels, with a disagreement above 0.5."""
        return tuple(
            each
            for each in self.ranking
            if each.suggested != each.labels and each.disagreement > _THRESHOLD
        )

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a CSV row for each issue."""
        for issue in self.issues:
            yield {
                "id": issue.id,
                "label": SEPARATOR.join(issue.labels),
                "suggested": SEPARATOR.join(issue.suggested),
                "disagreement": f"{issue.disagreement:.4f}",
                "agreeing": str(issue.agreeing),
                "neighbors": str(issue.neighbors),
            }

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each issue, the worst first.

        Its columns are ``id``, ``label``, ``suggested``, ``disagreement`` (0 to 1), ``agreeing``
        and ``neighbors``; several labels are separated by semicolons.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        issues = self.issues
        columns = {
            "id": [each.id for each in issues],
            "label": [SEPARATOR.join(each.labels) for each in issues],
            "suggested": [SEPARATOR.join(each.suggested) for each in issues],
            "disagreement": np.array([each.disagreement for each in issues], np.float64),
            "agreeing": np.array([each.agreeing for each in issues], np.int64),
            "neighbors": np.array([each.neighbors for each in issues], np.int64),
        }
        return data_frame("LabelIssues.to_pandas", columns)

    def _repr_html_(self) -> str:
        """Return the worst issues with their images, or as a table if none can be read."""
        rows = [(row["id"], row["label"], f"{row['suggested']}?") for row in self.rows()]
        captions = [Caption(row[0], "\n".join(row)) for row in rows[:SHOWN]]
        shown = images_html(self.gallery, captions)
        return f"<p>{text_html(self)}</p>{shown or table_html(('id', 'label', 'suggested'), rows)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike label issues --json``."""
        return {
            "labeled": self.labeled,
            "compared": len(self.ranking),
            "issues": [
                {
                    "id": issue.id,
                    "labels": list(issue.labels),
                    "suggested": list(issue.suggested),
                    "disagreement": issue.disagreement,
                    "agreeing": issue.agreeing,
                    "neighbors": issue.neighbors,
                }
                for issue in self.issues
            ],
        }


@checked
def find_label_issues(
    gallery: Gallery,
    labels: LabelSource | None = None,
    *,
    column: str = LABEL,
    progress: ProgressOption = True,
) -> LabelIssues:
    """Rank the labels of a gallery by how much those of the nearest images disagree with them.

    Nothing is changed, and no image is read.

    Args:
        gallery: whose images are labeled.
        labels: what :func:`~lookalike.sources.labels.read_labels` takes; by default those in the
            metadata.
        column: of the metadata, with the labels.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        InputError: no labels, only one class, an unknown id, or fewer than two rows.
    """
    view = as_gallery(gallery).snapshot()
    label_set = gallery_labels(view, column) if labels is None else labels_for(view, labels)
    label_set.validate()
    with reporting(progress) as on_progress:
        result = rank_labels(neighbor_graph(view, on_progress=on_progress), label_set)
    return replace(result, gallery=gallery)


def rank_labels(graph: NeighborGraph, labels: LabelSet) -> LabelIssues:
    """Rank labeled images by how much the labels of their neighbors disagree with theirs.

    Each of the nearest labeled neighbors (at most ten of those in the graph) votes with the
    weight ``exp(-d^2 / s^2)``, where ``s`` is the distance to the farthest of them. Images of
    equal disagreement are ordered by the mean distance to these neighbors.

    Raises:
        InputError: no labels, or only one class.
    """
    labels.validate()
    compared: list[tuple[LabelIssue, float]] = []
    for row, row_id in enumerate(graph.ids):
        if row % _STEP == 0:
            check_cancelled()
        if row_id not in labels.by_id:
            continue
        neighbors = [
            (graph.ids[other], distance)
            for other, distance in zip(graph.rows[row], graph.distances[row], strict=True)
            if graph.ids[other] in labels.by_id
        ][:K]
        if neighbors:
            issue = _compare(row, row_id, labels, neighbors)
            compared.append((issue, float(np.mean([distance for _, distance in neighbors]))))
    compared.sort(key=lambda pair: (-pair[0].disagreement, pair[1], pair[0].id))
    return LabelIssues(tuple(issue for issue, _ in compared), len(labels))


def _compare(
    row: int, row_id: str, labels: LabelSet, neighbors: list[tuple[str, float]]
) -> LabelIssue:
    own = set(labels.by_id[row_id])
    distances = np.array([distance for _, distance in neighbors])
    weights = np.exp(-((distances / max(float(distances[-1]), 1e-12)) ** 2))
    votes: dict[tuple[str, ...], float] = defaultdict(float)
    agreeing, against = 0, 0.0
    for (other, _), weight in zip(neighbors, weights.tolist(), strict=True):
        theirs = labels.by_id[other]
        votes[theirs] += weight
        if own.intersection(theirs):
            agreeing += 1
        else:
            against += weight
    return LabelIssue(
        row=row,
        id=row_id,
        labels=labels.by_id[row_id],
        suggested=max(votes, key=lambda each: (votes[each], each)),
        disagreement=against / sum(weights.tolist()),
        agreeing=agreeing,
        neighbors=len(neighbors),
    )
