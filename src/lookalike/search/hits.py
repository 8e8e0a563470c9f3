"""The hits of one query: as arrays, tables, a contact sheet, and thumbnails in a notebook."""

from __future__ import annotations

import copy
import html
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError, SettingError, requiring
from lookalike.files import is_url
from lookalike.formatting import format_count, format_distance, printable, shorten
from lookalike.types import Hit, ImageArray, Metric

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Positions = NDArray[np.float32]
"""Points ``(i, 2)`` in an image: x and y as shares of its width and height."""

_MAX_MATCHES = 100

RankedBy = Literal["embedding", "keywords", "embedding+keywords", "id", "sort"]
"""What the order of hits comes from."""

RANKED_BY: tuple[RankedBy, ...] = get_args(RankedBy)

ImageReader = Callable[[Sequence[Hit]], Sequence[ImageArray | None]]
"""Reads the images of hits; None where one cannot be read."""

_MAX_SIDE = 1024
"""Images that are drawn are scaled down as they are read: many are in memory for one sheet."""

_SHOWN = 24
"""Thumbnails in a notebook."""

_SHOWN_QUERIES = 10
_SHOWN_PER_QUERY = 7
"""The same of several queries."""

_NAME_CHARACTERS = 60


@dataclass(frozen=True, slots=True, repr=False)
class Hits(Sequence[Hit]):
    """The results of one query, best first; equal distances are ordered by id.

    ``query`` is the name of the query, ``uri`` the location of its image, if it has one. ``reader``
    reads the images of hits; without one they are opened by their URIs. It is neither compared nor
    pickled. A slice is ``Hits`` again; ranks stay those of the search.

    ``ranked_by`` says what the order comes from: ``embedding``, ``keywords`` (names and metadata),
    ``embedding+keywords``, both fused by rank, ``id``, where nothing but a filter was searched by,
    or ``sort``, where rows are listed in an order; distances are NaN then. ``total`` is the number
    of rows that match keywords or a filter alone; None where all rows are ranked. ``note`` is what
    a person should know about it: that a text was searched in names and metadata, since the encoder
    has no texts, which words match nothing, and that an approximate index was used.

    ``matches`` has, by id, where geometric verification found the query in the images of hits:
    points ``(i, 2)`` float32, x and y as shares of the width and height.
    """

    query: str
    metric: Metric
    rows: tuple[Hit, ...]
    uri: str | None = None
    reader: ImageReader | None = field(default=None, compare=False)
    ranked_by: RankedBy = "embedding"
    note: str | None = None
    total: int | None = None
    matches: Mapping[str, Positions] = field(default_factory=dict, compare=False)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.rows)

    def __repr__(self) -> str:
        best = (
            f", best {shorten(self.rows[0].id, _NAME_CHARACTERS)!r}{self._at(self.rows[0])}"
            if self.rows
            else ""
        )
        query = shorten(self.query, _NAME_CHARACTERS)
        return f"<Hits of {query!r}: {format_count(len(self), 'hit')}, {self.measure}{best}>"

    def __reduce__(self) -> tuple[object, ...]:
        ranking = (self.ranked_by, self.note, self.total)
        return Hits, (self.query, self.metric, self.rows, self.uri, None, *ranking)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hits:
        return replace(self, rows=copy.deepcopy(self.rows, memo))

    @property
    def measure(self) -> str:
        """What distances are in: the metric, or ``keywords``, where they are 1 - score / best.

        It is ``id`` where there are none.
        """
        return self.metric.value if self.has_distances else self.ranked_by

    @property
    def has_distances(self) -> bool:
        """Whether hits are at a distance: not where keywords or a filter alone were searched by."""
        return self.ranked_by in ("embedding", "embedding+keywords")

    @property
    def ids(self) -> list[str]:
        """The ids of the rows, best first."""
        return [hit.id for hit in self.rows]

    @property
    def distances(self) -> NDArray[np.float64]:
        """``(k,)`` float64, in the metric's units."""
        return np.array([hit.distance for hit in self.rows], np.float64)

    @property
    def similarities(self) -> NDArray[np.float64]:
        """Cosine similarities, 1 - cosine distance: ``(k,)`` float64 in [-1, 1].

        Raises:
            SettingError: the metric is not cosine, or nothing but keywords was searched for.
        """
        if not self.has_distances:
            raise SettingError(f"hits by {self.ranked_by} have no similarities")
        if self.metric is not Metric.COSINE:
            raise SettingError(
                "{metric} has no similarities; use .distances, or search with metric='cosine'",
                metric=str(self.metric),
            )
        return np.clip(1 - self.distances, -1, 1)

    def similarity(self, hit: Hit) -> float | None:
        """Return the cosine similarity of a hit, -1 to 1; None where there are none.

        That is where the metric is l2, whose distances have no upper bound, and where keywords or a
        filter alone were searched by. 100 times the similarity, at least 0, is what people are
        shown as per cent.
        """
        if not self.has_distances or self.metric is not Metric.COSINE:
            return None
        return min(1.0, max(-1.0, 1 - float(hit.distance)))

    def as_dict(self) -> dict[str, Any]:
        """Return the query, what ranked its hits, the note, how many there are, and the hits."""
        return {
            "query": self.query,
            "ranked_by": self.ranked_by,
            "note": self.note,
            "total": self.total,
            "hits": [self.hit_as_dict(hit) for hit in self.rows],
        }

    def hit_as_dict(self, hit: Hit) -> dict[str, Any]:
        """Return a hit as JSON values, with its similarity; what it has not is None.

        After geometric verification, ``matches`` is where the query was found in the hit's image:
        at most 100 points; None where it was not.
        """
        distance = None if math.isnan(hit.distance) else float(hit.distance)
        fields: dict[str, Any] = {
            "rank": hit.rank,
            "id": hit.id,
            "uri": hit.uri,
            "distance": distance,
            "similarity": self.similarity(hit),
            "metadata": dict(hit.metadata),
        }
        if self.matches:
            points = self.matches.get(hit.id)
            fields["matches"] = None
            if points is not None:
                fields["matches"] = np.round(points[:_MAX_MATCHES].astype(float), 4).tolist()
        return fields

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each hit.

        Its columns are ``rank``, ``id``, ``uri``, ``distance``, for cosine ``similarity``, and
        those of the metadata, by their own names. A column of the metadata of one of these names is
        called ``metadata.NAME``. Missing values are null.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        from lookalike.sources.tables import data_frame

        return data_frame("Hits.to_pandas", self._columns())

    def to_arrow(self) -> pa.Table:
        """Return a ``pyarrow.Table`` with the rows and columns of :meth:`to_pandas`.

        A column whose values have no common type is text, in JSON.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        with requiring("pyarrow", "Hits.to_arrow", "parquet"):
            import pyarrow as pa

        def array(values: Any) -> pa.Array:
            try:
                return pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
                return pa.array(texts, pa.string())

        columns = self._columns()
        text = {name: pa.array(columns.pop(name), pa.string()) for name in ("id", "uri")}
        arrays = {name: array(values) for name, values in columns.items()}
        return pa.table({"rank": arrays.pop("rank"), **text, **arrays})

    def _columns(self) -> dict[str, Any]:
        """Return the columns of tables, in their order."""
        columns: dict[str, Any] = {
            "rank": np.array([hit.rank for hit in self.rows], np.int64),
            "id": self.ids,
            "uri": [hit.uri for hit in self.rows],
            "distance": self.distances,
        }
        if self.measure == Metric.COSINE:
            columns["similarity"] = self.similarities
        from lookalike.sources.tables import add_metadata

        add_metadata(columns, [hit.metadata for hit in self.rows])
        return columns

    def images(self) -> list[ImageArray | None]:
        """Return the images of the hits, at most 1,024 pixels a side; None where one is unreadable.

        Each is ``(H, W)`` or ``(H, W, 3)`` uint8.
        """
        read = _read_by_uri if self.reader is None else self.reader
        images = read(self.rows)
        return [None if each is None else display_size(each) for each in images]

    def query_image(self) -> ImageArray | None:
        """Return the image of the query, as :meth:`images`; None if it has none to read."""
        return None if self.uri is None else _read_uri(self.uri)

    def save_sheet(self, path: str | Path) -> None:
        """Save a contact sheet: the query beside its hits with names, distances and labels.

        Args:
            path: of the file, PNG or, by the suffix, JPEG, WebP or PDF.

        Raises:
            InputError: ``path`` is no path.
            SettingError: no such kind of file.
            StorageError: it could not be written.
        """
        from lookalike.search.contact_sheet import contact_sheet

        contact_sheet(self).save(path)

    def _repr_html_(self) -> str:
        """Return the query and the first hits as thumbnails, with their similarity or distance."""
        return self._thumbnails(_SHOWN)

    def _thumbnails(self, limit: int) -> str:
        shown = self[:limit]
        try:
            images: Sequence[ImageArray | None] = shown.images()
            note = ""
        except Exception as error:  # noqa: BLE001 - a notebook shows hits whose images are gone
            images = [None] * len(shown)
            note = f"; images cannot be read: {type(error).__name__}: {error}"
        more = len(self) - len(shown)
        title = (
            f"{shorten(self.query)}: {format_count(len(self), 'hit')}, {self.measure}"
            f"{f' ({more:,} more not shown)' if more else ''}{shorten(note, 300)}"
            f"{'' if self.note is None else f'; {shorten(self.note, 300)}'}"
        )
        cells = [(image, self._caption(hit)) for image, hit in zip(images, shown, strict=True)]
        query = None if self.uri is None or is_url(self.uri) else self.query_image()
        if query is not None:
            lines = max((caption.count("\n") for _, caption in cells), default=0)
            cells.insert(0, (query, "query" + "\n\N{NO-BREAK SPACE}" * lines))  # as high as theirs
        from lookalike.images.inline import grid_html

        return f"<div><p>{html.escape(printable(title))}</p>{grid_html(cells)}</div>"

    def _at(self, hit: Hit) -> str:
        return f" at {format_distance(hit.distance)}" if self.has_distances else ""

    def _caption(self, hit: Hit) -> str:
        """Return rank, score and id of a hit, and its label unless that is part of the id."""
        label = str(hit.metadata.get("label") or "")
        rank = f"{hit.rank}  {self._score(hit)}".rstrip()
        lines = (rank, "" if label in hit.id else label, hit.id)
        return "\n".join(line for line in lines if line)

    def _score(self, hit: Hit) -> str:
        if not self.has_distances:
            return ""
        if self.measure == Metric.COSINE:
            return f"similarity {1 - hit.distance:z.3f}"
        return f"distance {format_distance(hit.distance)}"


class HitsList(list[Hits]):
    """The results of several queries, in their order: a list that a notebook shows as images."""

    def _repr_html_(self) -> str:
        """Return a row of thumbnails for each of the first queries."""
        rows = "".join(results._thumbnails(_SHOWN_PER_QUERY) for results in self[:_SHOWN_QUERIES])
        more = len(self) - _SHOWN_QUERIES
        note = f"<p>{more:,} more queries not shown</p>" if more > 0 else ""
        return f"<div>{rows}{note}</div>"


def display_size(image: ImageArray) -> ImageArray:
    """Downscale an image to what :meth:`Hits.images` returns."""
    from lookalike.images.decode import shrink_image

    return shrink_image(image, _MAX_SIDE)


def _read_by_uri(hits: Sequence[Hit]) -> list[ImageArray | None]:
    return [_read_uri(hit.uri) for hit in hits]


def _read_uri(uri: str) -> ImageArray | None:
    from lookalike.sources import open_items

    try:
        return display_size(open_items([uri])[0].image())
    except LookalikeError:
        return None
