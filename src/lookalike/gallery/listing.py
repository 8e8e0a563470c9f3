"""The rows of a gallery in an order, to browse: the listing that :meth:`Gallery.browse` returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from lookalike.errors import SettingError
from lookalike.filters.facets import Facet, facets_of_rows
from lookalike.formatting import format_count
from lookalike.gallery.base import BaseListing
from lookalike.gallery.items import GalleryItem
from lookalike.gallery.lookup import rows_of
from lookalike.gallery.state import GalleryState
from lookalike.search.groups import Group, group_rows
from lookalike.search.ordering import RowNumbers, order_rows
from lookalike.stores.base import Rows

if TYPE_CHECKING:
    from lookalike.filters import Where
    from lookalike.gallery.gallery import Gallery

MAX_VALUES = 1_000
"""Values of a column that facets list, at most."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Listing(BaseListing):
    """Rows of one state of a gallery in an order; see :class:`BaseListing`.

    Later writes to the gallery do not change it.

    Args:
        gallery: a snapshot.
        numbers: of the rows, in order.
    """

    gallery: Gallery
    numbers: RowNumbers

    @property
    def state(self) -> GalleryState:
        """Identity and revision of the gallery that the rows are of."""
        return self.gallery.state

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> GalleryItem: ...

    @overload
    def __getitem__(self, place: slice) -> list[GalleryItem]: ...

    def __getitem__(self, place: int | slice) -> GalleryItem | list[GalleryItem]:
        if isinstance(place, slice):
            return [item for part in self.rows(place) for item in self._items(part)]
        place = range(len(self))[place]
        [item] = self._items(self.gallery.store.get(self.ids(slice(place, place + 1))))
        return item

    def __repr__(self) -> str:
        return f"<Listing of {self.gallery!r}: {format_count(len(self), 'row')}>"

    def ids(self, places: slice = slice(None)) -> list[str]:
        """Return the ids of the rows at some places, by default of all."""
        return self.gallery.store.ids_at(self.numbers[places])

    def rows(self, places: slice) -> Iterator[Rows]:
        """Yield the rows at some places, in parts.

        Of rows on a server, those that were deleted meanwhile are left out.
        """
        return rows_of(self.gallery.store, self.ids(places))

    def _items(self, rows: Rows) -> Iterator[GalleryItem]:
        for record, embedding in zip(rows.records(), rows.embeddings, strict=True):
            fields = (record.id, record.uri, record.metadata, record.content_hash)
            yield GalleryItem(*fields, self.gallery, embedding)

    def facets(
        self, columns: Iterable[str] | None = None, *, most_frequent: int = 50
    ) -> list[Facet]:
        """Count the values of metadata columns in these rows; see :meth:`BaseListing.facets`."""
        check_most_frequent(most_frequent)
        names = columns if columns is None or isinstance(columns, str) else [*columns]
        return facets_of_rows(self.gallery.store.columns(), self.numbers, names, most_frequent)

    def groups(self, key: str = "date", by: str = "value") -> list[Group]:
        """Return the groups of rows next to each other; see :meth:`BaseListing.groups`."""
        return group_rows(self.gallery.store, self.numbers, key, by)


def check_most_frequent(count: int) -> None:
    """Check the number of values that facets list of a column.

    Raises:
        SettingError: it is out of range.
    """
    if not 1 <= count <= MAX_VALUES:
        raise SettingError(
            f"{{most_frequent}} must be from 1 to {MAX_VALUES:,}", most_frequent=count
        )


def list_rows(
    gallery: Gallery,
    *,
    where: Where | None = None,
    keywords: str | None = None,
    sort: str | Iterable[str] = "id",
) -> Listing:
    """Return the rows of a gallery as they are now, in an order; see :meth:`Gallery.browse`."""
    view = gallery.snapshot()
    return Listing(view, order_rows(view.store, where=where, keywords=keywords, sort=sort))
