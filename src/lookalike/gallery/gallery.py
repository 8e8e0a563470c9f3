"""Gallery: one encoder, one store and its sources, as a folder on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.encoders.base import Encoder
from lookalike.errors import (
    CancelledError,
    InputError,
    LookalikeError,
)
from lookalike.filters import Where
from lookalike.gallery import uploads
from lookalike.gallery.adding import add_images
from lookalike.gallery.base import BaseGallery
from lookalike.gallery.ids import as_id, as_ids, missing_row_error, similar_ids
from lookalike.gallery.indexing import IndexedGallery
from lookalike.gallery.items import GalleryItem
from lookalike.gallery.lookup import find_rows
from lookalike.gallery.opening import OpenedGallery
from lookalike.gallery.storage import (
    create_storage,
)
from lookalike.images.foreground import Box
from lookalike.images.local_features import reduce_image
from lookalike.progress import ProgressOption, reporting
from lookalike.search.hits import Hits, display_size
from lookalike.search.query import Query, QueryRegion
from lookalike.search.search import SearchOptions
from lookalike.sources import (
    Item,
    ItemSource,
    SourceOptions,
    open_items,
)
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import (
    Record,
)
from lookalike.stores.milvus.address import Address
from lookalike.types import (
    Hit,
    ImageArray,
    Metadata,
    Metric,
)

GalleryRow = Record | Hit | GalleryItem
"""A row of a gallery, however it was found."""


class Gallery(IndexedGallery, BaseGallery):
    """A searchable collection of images. Create one with :meth:`create`, or :meth:`open` it.

    ``address`` is the Milvus collection of its rows, if they are not in the folder; ``metric`` the
    default metric of searches; ``sources`` maps the name of each source to its specification,
    ``source_options`` to the options that it was indexed with, as in
    :meth:`lookalike.sources.SourceOptions.as_dict`; ``written`` are metadata columns that come from
    no source, such as propagated labels: a sync keeps them while the image's content stays the
    same, and they come back with it.

    Whenever it is used, it sees what other processes have written. If another gallery was put in
    its place, that one is opened: encoder and rows are always of one gallery. Where there is none,
    or half of one, an ArtifactError says so, and the next use tries again.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: Encoder,
        metric: Metric | str = Metric.COSINE,
        store: str | None = None,
    ) -> Self:
        """Create an empty gallery, completely or not at all.

        Args:
            path: its folder, or the address of a Milvus collection, ``milvus://HOST:PORT/NAME``.
            encoder: encodes its rows.
            metric: default metric of searches.
            store: address of a Milvus collection for the rows; the folder holds the address.

        Raises:
            ArtifactError: the folder exists and is not empty, or the collection exists.
            UnreachableError: the server does not answer.
            StorageError: it could not be written.
        """
        facts = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        fields = {"encoder": facts, "dim": encoder.dim, "metric": Metric(metric).value}
        address = None if store is None else Address.parse(store)
        create_storage(path, {**fields, "sources": {}, "rows": 0}, encoder, address)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a gallery by its folder, or by the address of its Milvus collection.

        Raises:
            ArtifactError: not a gallery, or broken.
            FormatVersionError: a newer lookalike wrote it.
            UnreachableError: the Milvus server does not answer.
        """
        return cls(path)

    def search(  # noqa: PLR0913 - keyword options of the public call
        self,
        query: Query | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name everywhere else
        text: str | None = None,
        k: int = 7,
        metric: Metric | str | None = None,
        where: Where | None = None,
        max_distance: float | None = None,
        exact: bool = False,
        box: Sequence[int] | None = None,
        foreground: bool = False,
        multi_crop: bool = False,
        rerank: str | Sequence[str] | None = None,
        keywords: str | None = None,
    ) -> Hits:
        """Return the ``k`` most similar rows to one query, nearest first.

        Args:
            query: a path (``str`` or Path), a file's bytes, a PIL image, an array ``(H, W)`` or
                ``(H, W, 3)`` uint8, or an item of a source.
            id: use this row as the query; it is not among the hits.
            text: a text query, for encoders of images and text.
            k: results, at least 1.
            metric: ``l2`` or ``cosine``; the gallery's own by default.
            where: filter by metadata, e.g. ``"year >= 2020"`` or ``{"year": {"gte": 2020}}`` (see
                :mod:`lookalike.filters`).
            max_distance: maximum distance, in the metric's units.
            exact: exact search; skip the approximate index of a large gallery.
            box: crop the query to x, y, width and height in pixels.
            foreground: crop the query to its main object, if one is detected.
            multi_crop: also search with 13 crops of the query; each row counts with its nearest.
            rerank: names in :data:`lookalike.search.RERANKINGS`, or one string of them joined by
                ``+``, applied one after another to the first 200 hits. They change the order;
                distances stay those from the query to the rows.
            keywords: full-text search in metadata (:mod:`lookalike.search.keywords`), fused by
                rank with the image ranking, or alone if there is no other query.

        Raises:
            ImageError: the query cannot be decoded, or the encoder refuses it.
            MissingRowError: there is no row with this id.
            InputError: there is no query or more than one, the encoder does not support text, the
                filter cannot be parsed or does not fit the metadata, or the box is not inside the
                image.
            SettingError: ``k``, ``metric`` or ``max_distance`` is out of range.
            UnknownNameError: no such re-ranking.
        """
        region = QueryRegion(
            None if box is None else Box.from_sequence(box), foreground, multi_crop
        )
        options = SearchOptions(
            k=k,
            metric=self.metric if metric is None else Metric(metric),
            where=where,
            max_distance=max_distance,
            exact=exact,
            rerank=rerank,
            keywords=keywords,
        )
        if sum(each is not None for each in (query, id, text)) > 1:
            raise InputError("a search has one query: an image, the id of a row, or a text")
        if query is None and id is None and text is None and keywords is None:
            raise InputError("no query: pass an image, the id of a row, a text or keywords")

        def run(opened: OpenedGallery) -> Hits:
            if text is not None:
                vectors = region.encode_text(text, opened.encoder)
            elif id is not None:
                opened = opened.snapshot()  # the query is a row of what is searched
                needs = options.needs_image
                vectors = region.encode_row(id, opened, self.open_rows, needs)
            elif query is not None:
                vectors = region.encode_image(query, opened.encoder)
            else:
                vectors = region.without_image(str(keywords), opened.store.dim)
            # The snapshot is of the gallery of this encoder, or an error.
            read = partial(self.read_images, reduce=reduce_image)
            hits = options.run(opened.snapshot().store, vectors, read)
            return Hits(
                vectors.name,
                options.metric,
                hits,
                vectors.uri,
                partial(self.read_images, reduce=display_size),
            )

        return self._read(run)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all rows as they are now, sorted."""
        return iter(self._read(lambda opened: opened.snapshot().store.ids()))

    def add(
        self,
        images: object,
        *,
        ids: Iterable[str] | None = None,
        metadata: object = None,
        progress: ProgressOption = True,
    ) -> list[str]:
        """Encode images and store them in the gallery; see :meth:`BaseGallery.add`."""
        with reporting(progress) as on_progress:
            return add_images(self, images, ids, metadata, on_progress)

    def remove(self, ids: str | Iterable[str]) -> int:
        """Delete rows by id; see :meth:`BaseGallery.remove`, and :meth:`remove_rows` for more."""
        wanted = as_ids(ids)
        with self._writing():
            found = find_rows(self._store, wanted)
            for row_id in wanted:
                if row_id not in found:
                    raise missing_row_error(row_id, similar_ids(row_id, self._store.ids()))
            return self.remove_rows(list({record.id: None for record, _ in found.values()}))

    def update_metadata(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change the metadata of an added image; see :meth:`BaseGallery.update_metadata`."""
        return uploads.update_metadata(self, as_id(id), metadata)

    def embedding(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return the embedding of a row, ``(dim,)`` float32."""
        return self[id].embedding

    def image(self, id: str, *, full_size: bool = False) -> ImageArray:  # noqa: A002
        """Return the image of a row, ``(H, W)`` or ``(H, W, 3)`` uint8."""
        return self[id].image(full_size=full_size)

    def read_item(self, item: GalleryItem, *, full_size: bool = False) -> ImageArray:
        """Return the image of an item of this gallery; see :meth:`GalleryItem.image`."""
        return self.open_rows([item])[0].image(full_size=full_size)

    def _find(self, ids: Sequence[str]) -> list[GalleryItem | None]:
        found = self._read(lambda opened: find_rows(opened.store, ids))
        items: list[GalleryItem | None] = []
        for row_id in ids:
            if row_id not in found:
                items.append(None)
                continue
            record, embedding = found[row_id]
            fields = (record.id, record.uri, record.metadata, record.content_hash)
            items.append(GalleryItem(*fields, self, embedding))
        return items

    def _ids_like(self, id: str) -> list[str]:  # noqa: A002
        return similar_ids(id, self._read(lambda opened: opened.snapshot().store.ids()))

    def items(self) -> ItemSource:
        """Return the rows as a source of images, ordered by id.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        records = self._read(lambda opened: list(opened.store.records()))
        return ItemSource(self.path.name, str(self.path), self.open_rows(records))

    def open_rows(self, rows: Iterable[GalleryRow], *, public_only: bool = False) -> list[Item]:
        """Open the images of rows, which are fetched and decoded as when they were indexed.

        Args:
            rows: of this gallery.
            public_only: fetch from the public internet only, whatever is recorded.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        recorded = {
            name: SourceOptions.from_dict(fields) for name, fields in self.source_options.items()
        }
        items: list[Item] = []
        for row in rows:
            options = recorded.get(row.id.partition(":")[0], DEFAULT_SOURCE_OPTIONS)
            if public_only:
                options = replace(options, allow_private_urls=False)
            (item,) = open_items([row.uri], options=options)
            items.append(replace(item, id=row.id, metadata=row.metadata))
        return items

    def read_image(self, row: GalleryRow, *, full_size: bool = False) -> ImageArray | None:
        """Return the image of a row, see :meth:`open_rows`; None if it cannot be read.

        Raises:
            CancelledError: the work was cancelled, or its time is over.
        """
        try:
            return self.open_rows([row])[0].image(full_size=full_size)
        except CancelledError:
            raise
        except LookalikeError:  # whatever its URI names: a file, an address, a data set, a shard
            return None

    def read_images(
        self,
        rows: Iterable[GalleryRow],
        reduce: Callable[[ImageArray], ImageArray] | None = None,
    ) -> list[ImageArray | None]:
        """Return the images of rows; None where one cannot be read.

        Args:
            rows: of this gallery.
            reduce: applied to each image as soon as it is decoded, so that only as many as there
                are threads are ever in memory at full size.

        Raises:
            CancelledError: the work was cancelled, or its time is over.
        """

        def read(row: GalleryRow) -> ImageArray | None:
            check_cancelled()
            image = self.read_image(row)
            return image if image is None or reduce is None else reduce(image)

        return list(thread_map(read, rows, batch_size=1))

    def info(self) -> dict[str, Any]:
        """Return facts about the gallery, as JSON values."""
        now = self.snapshot()
        state, opened = now.state, now._opened
        return {
            "format": opened.fields["format"],
            "identity": state.identity,
            "revision": state.revision,
            "rows": len(now),
            "encoder": now._encoder_facts["name"],
            "fingerprint": opened.fingerprint,
            "dim": now.store.dim,
            "metric": now.metric.value,
            "sources": now.sources,
            **({"source_options": now.source_options} if now.source_options else {}),
            "bytes": _size(now.path),
            **opened.storage.facts,
        }


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; files may come and go meanwhile."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size
