"""The interface that every gallery has: those of this machine and those of a service."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lookalike.gallery.ids import as_id, as_ids, missing_row_error
from lookalike.search.searchable import Searchable

if TYPE_CHECKING:
    from lookalike.filters import Where
    from lookalike.filters.facets import Facet
    from lookalike.gallery.items import GalleryItem
    from lookalike.progress import ProgressOption
    from lookalike.search.groups import Group
    from lookalike.sources.inputs import ManyImages, OneImage
    from lookalike.types import ImageArray, Metadata

D = TypeVar("D")

_PREVIEW = 12
"""Images that a notebook shows of a gallery, at most."""

_READ_AT_ONCE = 1_000
"""Rows of a listing that are read together while it is iterated over."""


class BaseListing(Sequence["GalleryItem"]):
    """Rows of one revision of a gallery in an order, each of which is read when it is used.

    ``listing[40]`` is an item, ``listing[40:60]`` a list of them; ``len(listing)`` is the number of
    rows that match. :class:`lookalike.Listing` and :class:`lookalike.RemoteListing` are such.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, place: int) -> GalleryItem: ...

    @overload
    def __getitem__(self, place: slice) -> list[GalleryItem]: ...

    @abstractmethod
    def __getitem__(self, place: int | slice) -> GalleryItem | list[GalleryItem]: ...

    def __iter__(self) -> Iterator[GalleryItem]:
        for start in range(0, len(self), _READ_AT_ONCE):
            yield from self[start : start + _READ_AT_ONCE]

    @abstractmethod
    def ids(self, places: slice = slice(None)) -> list[str]:
        """Return the ids of the rows at some places, by default of all."""

    @abstractmethod
    def facets(
        self, columns: Iterable[str] | None = None, *, most_frequent: int = 50
    ) -> list[Facet]:
        """Count the values of metadata columns in these rows.

        Args:
            columns: names; by default all columns, sorted by name, the first 1,000.
            most_frequent: values of a column that are listed, from 1 to 1,000.

        Returns:
            Each column's kind, the number of rows that have a value, and its most frequent values
            with their numbers of rows. Columns without booleans, numbers or texts in these rows are
            left out.

        Raises:
            InputError: no row of the gallery has one of the columns.
            SettingError: ``most_frequent`` is out of range.
            CancelledError: the work was cancelled.
        """

    @abstractmethod
    def groups(self, key: str = "date", by: str = "value") -> list[Group]:
        """Return the groups of rows that are next to each other and have the same value.

        ``gallery.browse(sort="-date").groups("date", by="month")`` are the months with their
        numbers of rows, newest first; see :func:`~lookalike.search.groups.group_rows`.

        Args:
            key: ``source``, ``date``, or a metadata column; best the first one of the order.
            by: ``value``, ``year``, ``month`` or ``day``.

        Raises:
            InputError: the key does not exist, or there are more than 10,000 groups.
            SettingError: ``by`` is none of these.
            CancelledError: the work was cancelled.
        """


class BaseGallery(Searchable):
    """Rows by id, with their images, embeddings and metadata.

    :class:`lookalike.Gallery` and the galleries of :class:`lookalike.Client` have these methods,
    with the same results and errors. Ids of images that were added with :meth:`add` begin with
    ``api:``; wherever an id is passed, they may be passed without it, if no other row has that id.
    """

    __slots__ = ()

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return facts about the gallery, as JSON values: ``rows``, ``dim``, ``encoder``, ..."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all rows, sorted."""

    @abstractmethod
    def add(
        self,
        images: OneImage | ManyImages,
        *,
        ids: Iterable[str] | None = None,
        metadata: object = None,
        progress: ProgressOption = True,
    ) -> list[str]:
        """Encode images and store them in the gallery; return their ids.

        Files are copied into the gallery, so that the originals may go. For a folder that stays
        where it is, use :meth:`lookalike.Gallery.sync`. All images are read, decoded and encoded
        before anything is written, and rows are written together.

        Args:
            images: one or many: a path, a file's bytes or file object, a PIL image, an array
                ``(H, W)``, ``(H, W, 3)`` or ``(n, H, W[, 3])`` uint8, a tensor, an item, a source,
                or an iterable of these.
            ids: one text or integer per image; ``api:`` is put before it. A row that has one
                already is replaced. By default, ids are made from the content.
            metadata: a mapping of JSON values per image, or a pandas or arrow table with a row per
                image; none by default.
            progress: True shows it on a terminal or in a notebook; False does not; a callback gets
                it.

        Returns:
            the ids, in the order of the images.

        Raises:
            ImageError: an image cannot be read or decoded, or the encoder refuses it; nothing was
                written.
            InputError: wrong number of ids or metadata, an invalid or repeated id, metadata that
                cannot be stored, rows that are not in the gallery's folder, or no encoder.
            BusyError: another process is writing.
            StorageError: they could not be written.
        """

    @abstractmethod
    def remove(self, ids: str | Iterable[str]) -> int:
        """Delete rows by id, one or many; return how many. Files of added images are deleted too.

        Files of sources stay; the next sync leaves these images out.

        Raises:
            MissingRowError: there is no row with one of the ids; nothing was deleted.
            InputError: an id is no text.
            BusyError: another process is writing.
            StorageError: they could not be deleted.
        """

    @abstractmethod
    def update_metadata(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change columns of the metadata of an image, None removes one; return all of it.

        A row of a source keeps what is set here, also when the source is synced, as long as the
        image's content is the same. What the source has in these columns is in the column
        ``edited_columns``; None takes a change back to it.

        Raises:
            MissingRowError: there is no such row.
            InputError: its metadata cannot be stored.
            BusyError: another process is writing.
            StorageError: it could not be written.
        """

    @abstractmethod
    def browse(
        self,
        *,
        where: Where | None = None,
        keywords: str | None = None,
        sort: str | Sequence[str] = "id",
    ) -> BaseListing:
        """Return the rows that match, in an order, as a sequence that reads what is used of it.

        ``gallery.browse(sort="-date")[:100]`` are the items of the newest 100 images; ``len()`` of
        it is the number of rows that match, and ``facets()`` counts their values. The rows are
        those of now: if some are written later, a listing of a gallery on this machine stays as it
        is, and one of a service raises an error that says so.

        Args:
            where: filter by metadata, as in :meth:`search`.
            keywords: rows with all of these words in file name, folder or metadata.
            sort: ``id``, ``name`` (of the file, with the numbers in it as numbers), ``source``,
                ``date`` (a column called date, taken_at, ... or, without one, when the file was
                written), or a metadata column (also ``metadata.COLUMN``); ``-`` before it for
                descending order. Up to three of them in a list. Rows without a value come last;
                equal ones are ordered by id.

        Raises:
            InputError: a column does not exist, the filter cannot be parsed or does not fit the
                metadata, there is no keyword, or no row has a date.
            SettingError: more than three sort keys.
        """

    @abstractmethod
    def image(self, id: str, *, full_size: bool = False) -> ImageArray:  # noqa: A002
        """Return the image of a row, ``(H, W)`` or ``(H, W, 3)`` uint8, upright.

        Args:
            id: of the row.
            full_size: decode large images at full resolution too.

        Raises:
            MissingRowError: there is no such row.
            ImageError: it cannot be read or decoded.
        """

    @abstractmethod
    def embedding(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return the embedding of a row, ``(dim,)`` float32.

        Raises:
            MissingRowError: there is no such row.
        """

    @abstractmethod
    def read_item(self, item: GalleryItem, *, full_size: bool = False) -> ImageArray:
        """Return the image of an item of this gallery; see :meth:`GalleryItem.image`."""

    @abstractmethod
    def _find(self, ids: Sequence[str]) -> list[GalleryItem | None]:
        """Return the rows with some ids, in this order; None where there is none."""

    @abstractmethod
    def _ids_like(self, id: str) -> Iterable[str]:  # noqa: A002
        """Return a few ids among which the one that was meant may be."""

    @abstractmethod
    def _preview(self, count: int) -> Sequence[tuple[ImageArray | None, str]]:
        """Return images of rows with their ids, at most so many; None for an unreadable one."""

    @overload
    def get(self, id: str) -> GalleryItem | None: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, id: str, default: D) -> GalleryItem | D: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, id: Iterable[str]) -> list[GalleryItem | None]: ...
    @overload
    def get(self, id: Iterable[str], default: D) -> list[GalleryItem | D]: ...
    def get(self, id: str | Iterable[str], default: Any = None) -> Any:  # noqa: A002
        """Return the row with an id, or those with several ids as a list, in their order.

        Args:
            id: an id, or several.
            default: returned where there is no row.

        Raises:
            InputError: an id is no text.
        """
        items = [default if item is None else item for item in self._find(as_ids(id))]
        return items[0] if isinstance(id, str) else items

    def __getitem__(self, id: str) -> GalleryItem:  # noqa: A002
        """Return the row with an id.

        Raises:
            MissingRowError: there is none; the message suggests the nearest id.
            InputError: the id is no text.
        """
        [item] = self._find([as_id(id)])
        if item is None:
            raise missing_row_error(id, self._ids_like(id))
        return item

    def _repr_html_(self) -> str:
        """Return facts and a row of images for a notebook; what cannot be read is left out."""
        import html

        from lookalike.images.inline import grid_html

        try:
            facts = html.escape(repr(self))
            images = [
                (image, row_id) for image, row_id in self._preview(_PREVIEW) if image is not None
            ]
            return f"<div><p>{facts}</p>{grid_html(images)}</div>"
        except Exception as error:  # noqa: BLE001 - a notebook goes on, whatever is gone
            return f"<p>{html.escape(f'{type(self).__name__}: {error}')}</p>"

    def __contains__(self, id: object) -> bool:  # noqa: A002
        return isinstance(id, str) and self._find([id]) != [None]
