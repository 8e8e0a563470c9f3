"""Searches of a gallery on this machine: queries are decoded in threads and encoded in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from lookalike.cancellation import check_cancelled
from lookalike.errors import ImageError, MissingRowError
from lookalike.gallery.ids import can_be_id, missing_row_error
from lookalike.gallery.lookup import find_rows, ids_like
from lookalike.gallery.opening import OpenedGallery
from lookalike.search.hits import Hits, display_size
from lookalike.search.query import encode_queries, run_now, with_stored_rows
from lookalike.search.region import QueryRegion
from lookalike.search.request import Example, QueryImage, SearchRequest
from lookalike.search.search import search_rows
from lookalike.stores.base import RowReader, Rows
from lookalike.types import Embeddings, ImageArray

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery, GalleryRow

_BATCH = 32
"""Images that are decoded and encoded at a time."""


def run_request(gallery: Gallery, opened: OpenedGallery, request: SearchRequest) -> list[Hits]:
    """Return the hits of each query of a request, all from one snapshot of the rows.

    Args:
        gallery: opens the images of rows.
        opened: its parts as they are now.
        request: with the metric.

    Raises:
        LookalikeError: see :meth:`lookalike.search.Searchable.search`.
    """
    queries = request.queries
    if any(query.has_rows for query in queries):
        opened = opened.snapshot()  # the queries are rows of what is searched
        queries = tuple(with_stored_rows(query, opened.store) for query in queries)
    read = partial(_read_reduced, gallery)
    results: list[Hits] = []
    if request.is_plain:
        vectors = run_now(encode_queries(queries, request, _Steps(gallery, opened)))
        # The snapshot is of the gallery of this encoder, or an error.
        results = search_rows(request, opened.snapshot().store, vectors, read)
    else:
        for query in queries:
            check_cancelled()
            encoded = run_now(encode_queries((query,), request, _Steps(gallery, opened)))
            opened = opened.snapshot()  # that of the first query, for all of them
            results += search_rows(request, opened.store, encoded, read)
    reader = partial(gallery.read_images, reduce=display_size)
    return [replace(hits, reader=reader) for hits in results]


def _read_reduced(gallery: Gallery, rows: Iterable[GalleryRow]) -> list[ImageArray | None]:
    """Return the images of rows in the size in which local features are compared."""
    from lookalike.images.local_features import reduce_image

    return gallery.read_images(rows, reduce_image)


def query_rows(store: RowReader, ids: Sequence[str]) -> Rows:
    """Return the rows that are queries; those of added images also without ``api:``.

    Raises:
        MissingRowError: there is no row with one of the ids; the nearest id is suggested.
    """
    with contextlib.suppress(MissingRowError):
        if all(map(can_be_id, ids)):
            return store.get(ids)
    rows_by_id = find_rows(store, ids)
    for row_id in ids:
        if row_id not in rows_by_id:
            raise missing_row_error(row_id, ids_like(store, row_id))
    return store.get([rows_by_id[row_id][0].id for row_id in ids])


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps from examples to embeddings, none of which waits for others."""

    gallery: Gallery
    opened: OpenedGallery

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.opened.store.dim

    @property
    def supports_text(self) -> bool:
        """Whether the encoder embeds texts."""
        return self.opened.encoder.supports_text

    @property
    def batch_size(self) -> int:
        """Images to decode and encode at a time."""
        return _BATCH

    async def rows(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        return query_rows(self.opened.store, ids)

    async def crops(
        self, examples: Sequence[Example], rows: Sequence[Rows | None], region: QueryRegion
    ) -> list[list[ImageArray]]:
        """Decode images in threads, and crop them there."""
        full_size = region.box is not None

        def read(pair: tuple[Example, Rows | None]) -> list[ImageArray]:
            check_cancelled()
            example, row = pair
            if row is not None:
                image = self.gallery.open_rows(row.records())[0].image(full_size=full_size)
            elif example.image is not None:
                image = _query_image(example.image, full_size)
            else:
                url = str(example.url)
                from lookalike.images.decode import decode
                from lookalike.sources.urls import read_url

                data = read_url(url, advice="download the image, and pass its path")
                image = decode(data, name=url, full_size=full_size)
            return region.crops(image)

        pairs = list(zip(examples, rows, strict=True))
        if len(pairs) == 1:
            return [read(pairs[0])]
        from lookalike.sources.sampling import thread_map

        return list(thread_map(read, pairs, batch_size=1))

    async def encode_images(self, images: Sequence[ImageArray]) -> Embeddings:
        """Encode images as one batch."""
        return self.opened.encoder.encode_batch(images)

    async def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Encode texts as one batch."""
        return self.opened.encoder.encode_text(texts)


def _query_image(image: QueryImage, full_size: bool) -> ImageArray:
    """Return a query decoded; a path without a file may be meant as an id or a text."""
    try:
        return image.image(full_size=full_size)
    except ImageError as error:
        if image.item_id is None and isinstance(error.__cause__, FileNotFoundError):
            hint = "to search by a row use {id}, by words {text}"
            raise ImageError(f"{error}; {hint}", id=None, text=None) from error
        raise
