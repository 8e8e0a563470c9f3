"""The images of a gallery's rows, whole and small, and the thumbnails asked for last."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from PIL import Image

from lookalike.errors import ImageError, SourceError
from lookalike.images.decode import media_type
from lookalike.server.decoder_pool import Decoders
from lookalike.server.problems import too_busy
from lookalike.sources import open_items
from lookalike.stores.base import Rows
from lookalike.types import ImageArray

_THUMBNAILS_BYTES = 64 << 20
_WAITING = 512

Thread = Callable[..., Awaitable[Any]]
"""Does work that takes a while in a thread."""


class Pictures:
    """Reads images of rows. More than 512 at a time are turned away."""

    def __init__(self, decoders: Decoders, thread: Thread) -> None:
        self._decoders = decoders
        self._thread = thread
        self._waiting = 0
        self._thumbnails = _Cache(_THUMBNAILS_BYTES)

    async def whole(self, row: Rows) -> tuple[str, bytes]:
        """Return the media type and bytes of a row's image: its file, or a PNG of its pixels.

        Raises:
            ImageError: it cannot be read any more.
        """
        async with self._one_more():
            data = await self._thread(read, row.uris[0], row.ids[0])
            if not isinstance(data, bytes):
                return "image/png", await self._thread(_as_png, data)
            kind = media_type(data)
            if kind is None:
                raise ImageError(f"{row.ids[0]}: is no image any more")
            return kind, data

    async def small(self, row: Rows, side: int) -> tuple[str, bytes]:
        """Return the media type and bytes of a small version of a row's image.

        Raises:
            ImageError: it cannot be read any more.
        """
        key = row.hashes[0], side
        if (found := self._thumbnails.get(key)) is None:
            async with self._one_more():
                data = await self._thread(read, row.uris[0], row.ids[0])
                found = await self._decoders.thumbnail(data, row.ids[0], side)
            self._thumbnails.put(key, found)
        return found

    @contextlib.asynccontextmanager
    async def _one_more(self) -> AsyncIterator[None]:
        if self._waiting >= _WAITING:
            raise too_busy(f"{self._waiting} pictures are being read")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


class _Cache:
    """The answers used last, up to some bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._kept: OrderedDict[Any, tuple[str, bytes]] = OrderedDict()

    def get(self, key: Any) -> tuple[str, bytes] | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Any, answer: tuple[str, bytes]) -> None:
        if key in self._kept:
            return
        self._kept[key] = answer
        self._size += len(answer[1])
        while self._size > self._most:
            _, (_, gone) = self._kept.popitem(last=False)
            self._size -= len(gone)


def read(uri: str, name: str) -> bytes | ImageArray:
    """Return the file or pixels of a row's image; errors name the row, not where its file lies."""
    try:
        return open_items([uri])[0].read()
    except (OSError, ImageError, SourceError) as error:
        said = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ImageError(f"{name}: its image cannot be read any more ({said})") from error


def _as_png(image: ImageArray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
