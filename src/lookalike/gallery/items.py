"""A row of a gallery, of this machine or of a service, as users see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError
from lookalike.formatting import format_metadata, printable

if TYPE_CHECKING:
    from lookalike.types import ImageArray, Metadata


class ItemReader(Protocol):
    """Reads what belongs to an item: a gallery."""

    def embedding(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return the embedding of a row, ``(dim,)`` float32."""
        ...

    def read_item(self, item: GalleryItem, *, full_size: bool = False) -> ImageArray:
        """Return the image of an item, ``(H, W)`` or ``(H, W, 3)`` uint8."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class GalleryItem:
    """One row of a gallery: ``id``, ``uri`` of its image, ``metadata``, ``content_hash``.

    ``uri`` is a path or URL; for a gallery of a service, the URL of its image there. It is empty
    where nothing is known of the image. ``gallery`` reads what else there is of it, when asked.
    """

    id: str
    uri: str
    metadata: Metadata
    content_hash: str
    gallery: ItemReader = field(repr=False, compare=False)
    _embedding: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.id, self.uri))  # not of the metadata, which may have lists

    def __repr__(self) -> str:
        return f"<GalleryItem {printable(self.id)!r}: {format_metadata(self.metadata)}>"

    @property
    def embedding(self) -> NDArray[np.float32]:
        """Its embedding, ``(dim,)`` float32.

        Raises:
            MissingRowError: the row is gone by now.
        """
        return self.gallery.embedding(self.id) if self._embedding is None else self._embedding

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return its image, ``(H, W)`` or ``(H, W, 3)`` uint8, upright.

        Args:
            full_size: decode large images at full resolution too.

        Raises:
            ImageError: it cannot be read or decoded.
            SourceError: its source is missing.
        """
        return self.gallery.read_item(self, full_size=full_size)

    def _repr_html_(self) -> str:
        """Return its image, if it can be read, and its metadata, for a notebook."""
        from lookalike.images.inline import item_html

        try:
            image = self.image()
        except LookalikeError:
            image = None
        return item_html(image, self.id, self.metadata)
