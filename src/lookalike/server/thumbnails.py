"""Images of gallery items, in full size and as thumbnails, with a cache of thumbnails."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lookalike.errors import ImageError, SourceError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.images.formats import detect_format
from lookalike.images.options import DecodeOptions
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.decoder_process import MAX_SIDE
from lookalike.server.problems import too_many_requests
from lookalike.stores.base import Rows
from lookalike.types import ImageArray

_CACHE_BYTES = 64 << 20
_MAX_READS = 512
"""Images that are read at a time."""

RunInThread = Callable[..., Awaitable[Any]]
"""Runs blocking work in a thread."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The file or the pixels of an item's image, and how its file is decoded."""

    content: bytes | ImageArray
    options: DecodeOptions
    page: int


class ItemImages:
    """Reads images of items; more than 512 reads at a time are refused."""

    def __init__(self, decoders: DecoderPool, in_thread: RunInThread) -> None:
        self._decoders = decoders
        self._in_thread = in_thread
        self._reads = 0
        self._thumbnails = _Cache(_CACHE_BYTES)

    async def full(self, gallery: Gallery, row: Rows) -> tuple[str, bytes]:
        """Return the media type and bytes of an item's file, or of a PNG of its pixels.

        Files that browsers do not show are returned as JPEG, at most 2,048 pixels a side.

        Raises:
            ImageError: the image cannot be read.
        """
        async with self._read_slot():
            stored = await self._in_thread(read_item_image, gallery, row)
            data = stored.content
            if not isinstance(data, bytes):
                return "image/png", await self._in_thread(_encode_png, data)
            kind = detect_format(data, row.uris[0])
            if kind is None or not kind.is_readable:
                raise ImageError(f"{row.ids[0]}: the file is not an image any more")
            if kind.web:
                return kind.media_type, data
            return await self._thumbnail(stored, row.ids[0], MAX_SIDE)

    async def thumbnail(
        self, gallery: Gallery, row: Rows, size: int, state: GalleryState
    ) -> tuple[str, bytes]:
        """Return the media type and bytes of a thumbnail, at most ``size`` pixels wide and high.

        Args:
            gallery: of the item.
            row: the item.
            size: maximum width and height.
            state: of the row's gallery; a thumbnail is cached for one state.

        Raises:
            ImageError: the image cannot be read.
        """
        key = state, row.ids[0], size
        if (thumbnail := self._thumbnails.get(key)) is None:
            async with self._read_slot():
                stored = await self._in_thread(read_item_image, gallery, row)
                thumbnail = await self._thumbnail(stored, row.ids[0], size)
            self._thumbnails.put(key, thumbnail)
        return thumbnail

    async def _thumbnail(self, stored: StoredImage, row_id: str, size: int) -> tuple[str, bytes]:
        return await self._decoders.thumbnail(
            stored.content, row_id, size, options=stored.options, page=stored.page
        )

    @contextlib.asynccontextmanager
    async def _read_slot(self) -> AsyncIterator[None]:
        if self._reads >= _MAX_READS:
            raise too_many_requests(f"{self._reads} images are being read")
        self._reads += 1
        try:
            yield
        finally:
            self._reads -= 1


class _Cache:
    """A cache of images by least recent use, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._images: OrderedDict[Any, tuple[str, bytes]] = OrderedDict()

    def get(self, key: Any) -> tuple[str, bytes] | None:
        if key in self._images:
            self._images.move_to_end(key)
        return self._images.get(key)

    def put(self, key: Any, image: tuple[str, bytes]) -> None:
        if key in self._images:
            return
        self._images[key] = image
        self._size += len(image[1])
        while self._size > self._max_bytes:
            _, (_, evicted) = self._images.popitem(last=False)
            self._size -= len(evicted)


def read_item_image(gallery: Gallery, row: Rows) -> StoredImage:
    """Read the image of an item, the only row of ``row``.

    Raises:
        ImageError: the image cannot be read; the message has the item's id but not its location.
    """
    try:
        (item,) = gallery.open_rows(row.records())
        return StoredImage(item.read(), item.options, item.page)
    except (OSError, ImageError, SourceError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ImageError(
            f"{row.ids[0]}: the image file cannot be read any more ({reason})"
        ) from error


def _encode_png(image: ImageArray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
