"""Outliers: images in sparser surroundings than their neighbors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.errors import SettingError
from lookalike.explore.lof import lof_scores
from lookalike.explore.map import load_current_map
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.gallery.notebook import SHOWN, Caption, images_html, table_html, text_html
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.tables import data_frame

if TYPE_CHECKING:
    import pandas as pd

K = 20
"""Outliers that are listed by default."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Outliers:
    """The rows of a gallery with the highest local outlier factors, the highest first.

    ``scores`` ``(k,)`` float32 are the factors: about 1 for a row that fits in, higher for one
    whose surroundings are sparser than those of its neighbors. ``compared`` counts the rows;
    ``zero_embeddings`` are ids of rows that have no score, since their embedding is zero.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float32]
    compared: int
    zero_embeddings: tuple[str, ...] = ()
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        first = f", first {self.ids[0]!r} at {self.scores[0]:.2f}" if self.ids else ""
        return f"<Outliers: top {len(self)} of {format_count(self.compared, 'image')}{first}>"

    def __len__(self) -> int:
        return len(self.ids)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with the columns ``id`` and ``lof_score``, the highest first.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        columns = {"id": list(self.ids), "lof_score": self.scores}
        return data_frame("Outliers.to_pandas", columns)

    def _repr_html_(self) -> str:
        """Return the images with their scores for a notebook; a table if none can be read."""
        pairs = list(zip(self.ids, self.scores.tolist(), strict=True))
        captions = [Caption(row_id, f"{row_id}\n{score:.2f}") for row_id, score in pairs[:SHOWN]]
        shown = images_html(self.gallery, captions)
        rows = [(row_id, f"{score:.2f}") for row_id, score in pairs]
        return f"<p>{text_html(self)}</p>{shown or table_html(('id', 'outlier factor'), rows)}"


@checked
def outliers(
    gallery: Gallery, k: int = K, *, fresh: bool = False, progress: ProgressOption = True
) -> Outliers:
    """Return the images that fit in least, by local outlier factor.

    Only embeddings are compared; no image is read. The scores of a map that is up to date are used
    if the gallery has one.

    Args:
        gallery: whose rows are compared.
        k: how many; all if there are fewer.
        fresh: compute the scores in any case.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        SettingError: ``k`` is not a number of at least 1.
        InputError: fewer than two rows, or fewer than two with an embedding but zeros.
    """
    if k < 1:
        raise SettingError("{k} must be at least 1", k=k)
    view = as_gallery(gallery).snapshot()
    current = None if fresh else load_current_map(view)
    if current is not None:
        ids, scores, zero = current.ids, current.lof_scores, current.zero_embeddings
    else:
        with reporting(progress) as on_progress:
            graph = neighbor_graph(view, on_progress=on_progress)
        ids, scores, zero = graph.ids, lof_scores(graph), graph.zero_embeddings
    order = (-scores).argsort(kind="stable")[:k]
    return Outliers(
        ids=tuple(ids[place] for place in order.tolist()),
        scores=scores[order],
        compared=len(ids),
        zero_embeddings=zero,
        gallery=gallery,
    )
