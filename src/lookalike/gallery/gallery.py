"""Gallery: one encoder, one store and its sources, as a folder on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.arguments import checked
from lookalike.cancellation import check_cancelled
from lookalike.errors import (
    CancelledError,
    ImageError,
    InputError,
    LookalikeError,
)
from lookalike.files import is_url
from lookalike.formatting import format_count
from lookalike.gallery.base import BaseGallery
from lookalike.gallery.ids import as_id, as_ids, missing_row_error
from lookalike.gallery.indexing import IndexedGallery
from lookalike.gallery.items import GalleryItem
from lookalike.gallery.lookup import find_rows, ids_like
from lookalike.gallery.storage import (
    create_storage,
)
from lookalike.metadata import metadata_changes
from lookalike.progress import ProgressOption, reporting
from lookalike.stores.base import (
    Record,
    RowReader,
)
from lookalike.stores.registry import parse_address
from lookalike.types import (
    Embeddings,
    Hit,
    ImageArray,
    Metadata,
    Metric,
)

if TYPE_CHECKING:
    import pandas as pd

    from lookalike.encoders.base import Encoder
    from lookalike.filters import Where
    from lookalike.gallery.copy import CopyReport
    from lookalike.gallery.listing import Listing
    from lookalike.gallery.neighbors import Neighbors
    from lookalike.search.hits import Hits
    from lookalike.search.request import SearchRequest
    from lookalike.sources import Item, ItemSource
    from lookalike.sources.inputs import ManyImages, OneImage

_PREVIEW_SIDE = 160
"""Pixels on the longer side of images in a notebook."""

_TEMPORARY = "vectors"
"""Name of the folder of a temporary gallery."""

GalleryRow = Record | Hit | GalleryItem
"""A row of a gallery, however it was found."""


class Gallery(IndexedGallery, BaseGallery):
    """A searchable collection of images. Create one with :meth:`create`, or :meth:`open` it.

    ``address`` is that of its rows, if they are not in the folder; ``metric`` the default metric of
    searches; ``sources`` maps the name of each source to its specification, ``source_options`` to
    the options that it was indexed with, as in :meth:`lookalike.sources.SourceOptions.as_dict`;
    ``written`` are metadata columns that come from no source, such as propagated labels: a sync
    keeps them while the image's content stays the same, and they come back with it.

    Whenever it is used, it sees what other processes have written. If another gallery was put in
    its place, that one is opened: encoder and rows are always of one gallery. Where there is none,
    or half of one, an ArtifactError says so, and the next use tries again.

    Copies and snapshots share what is open. Pickled are only the folder or address: unpickling
    opens the gallery there, without an encoder that was passed to :meth:`open`. Snapshots and
    temporary galleries cannot be pickled.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: str | Path | Encoder | None = None,
        images: OneImage | ManyImages | None = None,
        metric: Metric | str = Metric.COSINE,
        store: str | None = None,
    ) -> Self:
        """Create an empty gallery, completely or not at all.

        Args:
            path: its folder, or the address of new rows, such as ``milvus://HOST:PORT/NAME``.
            encoder: encodes its rows: a name, as for :func:`lookalike.open_encoder`, such as
                ``efficientnet-lite0``; an encoder; or the folder of a saved one. By default, one is
                chosen by ``images``. A function or network of your own:
                :func:`lookalike.encoders.from_callable`.
            images: images of the collection: a folder, a source, or a list of images. They are not
                added; encoders that are fitted to a collection, such as ``hog``, and the default
                one need them.
            metric: default metric of searches.
            store: address of new rows, in Milvus or in the store of an installed package
                (:mod:`lookalike.stores.registry`); the folder holds the address.

        Raises:
            InputError: no encoder and no images, a function without ``from_callable``, or an
                encoder that needs images.
            UnknownNameError: no such encoder; the message suggests the nearest name.
            SourceError: no image can be decoded.
            ArtifactError: the folder exists and is not empty, or the collection exists.
            UnreachableError: the server does not answer.
            StorageError: it could not be written.
        """
        from lookalike.gallery.encoder_choice import choose_encoder  # loads every encoder

        return cls._create(path, choose_encoder(encoder, images), metric, store)

    @classmethod
    def _create(
        cls, path: str | Path, encoder: Encoder, metric: Metric | str, store: str | None = None
    ) -> Self:
        facts = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        fields = {"encoder": facts, "dim": encoder.dim, "metric": Metric(metric).value}
        address = None if store is None else parse_address(store)
        create_storage(path, {**fields, "sources": {}, "rows": 0}, encoder, address)
        return cls(path, encoder)

    @classmethod
    def open(cls, path: str | Path, *, encoder: Encoder | None = None) -> Self:
        """Open a gallery by its folder, or by the address of its rows.

        Args:
            path: its folder or address.
            encoder: the encoder of its rows. By default, that in its folder; an external one
                (:func:`lookalike.encoders.from_callable`) has no function there, so that it must be
                passed to encode images.

        Raises:
            ArtifactError: not a gallery, or broken.
            FormatVersionError: a newer lookalike wrote it, or an earlier one: the message has the
                command that migrates it.
            FingerprintError: its rows are of another encoder.
            UnreachableError: the server does not answer.
        """
        if encoder is not None:
            _check_encoder(encoder)
        return cls(path, encoder)

    @classmethod
    def from_embeddings(  # noqa: PLR0913 - keyword options of the public call
        cls,
        embeddings: ArrayLike,
        *,
        ids: Iterable[str | int] | None = None,
        uris: Iterable[str | Path | None] | None = None,
        metadata: object = None,
        path: str | Path | None = None,
        metric: Metric | str = Metric.COSINE,
        name: str = "external",
    ) -> Self:
        """Make a gallery of embeddings that were made elsewhere; search it by vector and id.

        It has no encoder, so it cannot be searched with images, nor can images be added. Whatever
        needs embeddings and metadata only works: neighbors, maps, duplicates, labels, evaluation,
        export.

        Args:
            embeddings: ``(n, dim)`` numbers, finite, stored as float32.
            ids: a distinct text for each, kept as it is; integers become texts. By default ``"0"``,
                ``"1"``, ...
            uris: path or URL of the image of each, which is shown where it can be read; None or
                empty where there is none. Paths become absolute.
            metadata: a mapping of JSON values for each, or a pandas or arrow table with a row each.
            path: the new folder. By default, a temporary one that is deleted with the gallery; its
                snapshots and items keep it.
            metric: default metric of searches.
            name: what the encoder is called; galleries of other names are kept apart.

        Raises:
            InputError: wrong shape or type, an embedding with NaN or Inf, another number of ids,
                uris or metadata, a repeated id, or metadata that cannot be stored.
            ArtifactError: the folder exists and is not empty.
            StorageError: it could not be written.
        """
        from lookalike.encoders.external import ExternalEncoder
        from lookalike.gallery.vectors import ExternalRows, TemporaryFolder

        rows = ExternalRows.of(embeddings, ids, uris, metadata)
        encoder = ExternalEncoder(name, rows.embeddings.shape[1])
        temporary = None
        if path is None:
            temporary = TemporaryFolder()
            path = temporary.path / f"{_TEMPORARY}.gallery"
        gallery = cls._create(path, encoder, metric)
        gallery._temporary = temporary
        gallery.upsert(rows.batches(), fingerprint=encoder.fingerprint)
        return gallery

    def _search(self, request: SearchRequest) -> list[Hits]:
        from lookalike.gallery.searching import run_request

        request = request.for_metric(self.metric)
        return self._read(lambda opened: run_request(self, opened, request))

    def _pages(self, request: SearchRequest) -> Iterator[Hits]:
        """Yield pages, all of the rows as they are now."""
        return BaseGallery._pages(self.snapshot(), request)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all rows as they are now, sorted."""
        return iter(self._read(lambda opened: opened.snapshot().store.ids()))

    def add(
        self,
        images: OneImage | ManyImages,
        *,
        ids: Iterable[str] | None = None,
        metadata: object = None,
        progress: ProgressOption = True,
    ) -> list[str]:
        """Encode images and store them in the gallery; see :meth:`BaseGallery.add`."""
        from lookalike.gallery.adding import add_images

        with reporting(progress) as on_progress:
            return add_images(self, images, ids, metadata, on_progress)

    def remove(self, ids: str | Iterable[str]) -> int:
        """Delete rows by id; see :meth:`BaseGallery.remove`, and :meth:`remove_rows` for more."""
        wanted = as_ids(ids)
        with self._writing():
            rows_by_id = find_rows(self._store, wanted)
            for row_id in wanted:
                if row_id not in rows_by_id:
                    raise missing_row_error(row_id, ids_like(self._store, row_id))
            return self.remove_rows(list({record.id: None for record, _ in rows_by_id.values()}))

    def update_metadata(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change the metadata of an image; see :meth:`BaseGallery.update_metadata`."""
        from lookalike.gallery import uploads

        return uploads.update_metadata(self, as_id(id), metadata_changes(metadata))

    @checked
    def browse(
        self,
        *,
        where: Where | None = None,
        keywords: str | None = None,
        sort: str | Sequence[str] = "id",
    ) -> Listing:
        """Return the rows that match, in an order; see :meth:`BaseGallery.browse`."""
        from lookalike.gallery.listing import list_rows

        return list_rows(self, where=where, keywords=keywords, sort=sort)

    def embedding(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return the embedding of a row, ``(dim,)`` float32."""
        return self[id].embedding

    def embeddings(self, ids: Iterable[str] | None = None) -> Embeddings:
        """Return the embeddings of rows, ``(n, dim)`` float32.

        Args:
            ids: of the rows, in this order; by default all, in the order of ``list(gallery)``.

        Raises:
            MissingRowError: there is no row with one of the ids.
            InputError: an id is no text.
        """
        chosen = None if ids is None else as_ids(ids)

        def read(rows: RowReader) -> Embeddings:
            wanted = list(rows.ids()) if chosen is None else chosen
            return np.require(rows.embeddings(wanted), requirements="W")

        return self._read(lambda opened: read(opened.snapshot().store))

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame of all rows, sorted by id as in ``list(gallery)``.

        Its columns are ``id``, ``uri`` and those of the metadata, by their own names; one that is
        called like these is ``metadata.NAME``. Missing values are null.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        from lookalike.sources.tables import add_metadata, data_frame

        records = self._read(lambda opened: list(opened.snapshot().store.records()))
        columns: dict[str, Any] = {
            "id": [record.id for record in records],
            "uri": [record.uri for record in records],
        }
        add_metadata(columns, [record.metadata for record in records])
        return data_frame("Gallery.to_pandas", columns)

    def image(self, id: str, *, full_size: bool = False) -> ImageArray:  # noqa: A002
        """Return the image of a row, ``(H, W)`` or ``(H, W, 3)`` uint8."""
        return self[id].image(full_size=full_size)

    def read_item(self, item: GalleryItem, *, full_size: bool = False) -> ImageArray:
        """Return the image of an item of this gallery; see :meth:`GalleryItem.image`."""
        return self.open_rows([item])[0].image(full_size=full_size)

    def _find(self, ids: Sequence[str]) -> list[GalleryItem | None]:
        rows_by_id = self._read(lambda opened: find_rows(opened.store, ids))
        items: list[GalleryItem | None] = []
        for row_id in ids:
            if row_id not in rows_by_id:
                items.append(None)
                continue
            record, embedding = rows_by_id[row_id]
            fields = (record.id, record.uri, record.metadata, record.content_hash)
            items.append(GalleryItem(*fields, self, embedding))
        return items

    def _ids_like(self, id: str) -> list[str]:  # noqa: A002
        return self._read(lambda opened: ids_like(opened.snapshot().store, id))

    def _preview(self, count: int) -> list[tuple[ImageArray | None, str]]:
        from lookalike.images.decode import shrink_image

        rows = list(self._read(lambda opened: opened.snapshot().store.sample(2 * count)).records())
        local = [row for row in rows if row.uri and not is_url(row.uri)]  # URLs may take long
        cells: list[tuple[ImageArray | None, str]] = []
        for row in local:
            if len(cells) < count and (image := self.read_image(row)) is not None:
                cells.append((shrink_image(image, _PREVIEW_SIDE), row.id))
        return cells

    def __repr__(self) -> str:
        place = "temporary" if self._temporary else str(self.address or self.path)
        name = f"{type(self).__name__} {place!r}"
        if self._is_snapshot:
            name += " (snapshot)"
        try:
            rows = format_count(len(self), "row")
        except LookalikeError as error:  # it is gone, or its server does not answer
            return f"<{name}: {type(error).__name__}>"
        return f"<{name}: {rows}, {self._encoder_facts['name']}, {self.metric}>"

    @checked
    def neighbors(self, k: int = 10, *, progress: ProgressOption = True) -> Neighbors:
        """Return the exact ``k`` nearest neighbors of every row, by the gallery's metric.

        Args:
            k: neighbors of each row; all others if there are fewer.
            progress: True shows it on a terminal or in a notebook; a callback gets it.

        Raises:
            SettingError: ``k`` is out of range.
            InputError: fewer than two rows, or fewer than two with an embedding but zeros.
        """
        from lookalike.gallery.neighbors import neighbors

        return neighbors(self, k, progress=progress)

    @checked
    def export(
        self, path: str | Path, *, layout: str = "parquet", progress: ProgressOption = True
    ) -> int:
        """Write ids, URIs, metadata and embeddings for other tools; return the number of rows.

        Args:
            path: the new file or folder.
            layout: ``parquet``, one file; ``npy``, a folder in the layout of clip-retrieval;
                ``jsonl``, a folder of a numpy file and JSON Lines; or ``lance``, a Lance table. See
                :func:`lookalike.gallery.export.export`.
            progress: True shows it on a terminal or in a notebook; a callback gets it.

        Raises:
            UnknownNameError: no such layout.
            MissingDependencyError: the layout needs a package that is not installed.
            ArtifactError: ``path`` exists.
            StorageError: it could not be written.
        """
        from lookalike.gallery.export import export

        with reporting(progress) as on_progress:
            return export(self, path, layout=layout, on_progress=on_progress)

    @checked
    def copy_to(
        self,
        target: str | Path,
        *,
        store: str | None = None,
        allow_removals: bool = False,
        progress: ProgressOption = True,
    ) -> CopyReport:
        """Copy encoder, rows and sources, or update a copy, and verify it.

        Images stay where they are. An interrupted copy resumes when it is called again.

        Args:
            target: a folder or an address of rows; created if it does not exist.
            store: for a new folder, the address of its rows.
            allow_removals: delete target rows that are missing from the gallery.
            progress: True shows it on a terminal or in a notebook; a callback gets it.

        Raises:
            InputError: the target is the gallery itself, or its rows are not in ``store``.
            FingerprintError: the target has another encoder.
            ArtifactError: the target has rows that the gallery does not have, or rows read back
                differ.
            UnreachableError: a server does not answer.
            StorageError: the target could not be written.
        """
        from lookalike.gallery.copy import copy

        with reporting(progress) as on_progress:
            return copy(
                self, target, store=store, allow_removals=allow_removals, on_progress=on_progress
            )

    def items(self) -> ItemSource:
        """Return the rows as a source of images, ordered by id.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        from lookalike.sources import ItemSource

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
        from lookalike.sources import SourceOptions, open_items
        from lookalike.sources.base import Item
        from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS

        recorded = {
            name: SourceOptions.from_dict(fields) for name, fields in self.source_options.items()
        }
        items: list[Item] = []
        for row in rows:
            options = recorded.get(row.id.partition(":")[0], DEFAULT_SOURCE_OPTIONS)
            if public_only:
                options = replace(options, allow_private_urls=False)
            if row.uri:
                (item,) = open_items([row.uri], options=options)
            else:
                item = Item(row.id, "", {}, partial(_no_image, row.id))
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
        from lookalike.sources.sampling import thread_map

        def read(row: GalleryRow) -> ImageArray | None:
            check_cancelled()
            image = self.read_image(row)
            return image if image is None or reduce is None else reduce(image)

        return list(thread_map(read, rows, batch_size=1))

    def info(self) -> dict[str, Any]:
        """Return facts about the gallery, as JSON values."""
        from lookalike.gallery import ann_index

        now = self.snapshot()
        state, opened = now.state, now._opened
        removed = sum(map(len, now.removed.values()))
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
            **({"removed": removed} if removed else {}),
            "bytes": _size(now.path),
            **opened.storage.facts,
            **ann_index.facts(now.store, now.metric),
        }


def _check_encoder(value: object) -> None:
    """Check that an argument is an encoder.

    Raises:
        InputError: it is something else.
    """
    from lookalike.encoders.base import Encoder

    if not isinstance(value, Encoder):
        raise InputError(
            f"{{encoder}} must be an Encoder, such as of lookalike.open_encoder or "
            f"lookalike.encoders.from_callable, not {type(value).__name__}",
            encoder=None,
        )


def _no_image(row_id: str) -> ImageArray:
    raise ImageError(f"{row_id}: has no image; its embedding was made elsewhere")


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; files may come and go meanwhile."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def as_gallery(value: object, argument: str = "gallery") -> Gallery:
    """Return an argument that is to be an open gallery on this machine.

    Raises:
        InputError: it is something else; the message says how to open one.
    """
    if isinstance(value, Gallery):
        return value
    raise InputError(
        f"{argument}: expected an open lookalike.Gallery, got {type(value).__name__}; open one "
        "with lookalike.Gallery.open(PATH)"
    )
