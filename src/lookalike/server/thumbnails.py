"""Images of gallery items: files to send, thumbnails with a cache, and pixels.

Files of items are opened again for each request. By then they may be anything: only regular files
are read, of a limited size, by threads of their own; images at URLs are fetched within a total
time. Nothing is decoded or encoded in the service's own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Generic, TypeVar

from lookalike.cancellation import Cancellation, cancellable, check_cancelled
from lookalike.errors import FetchError, ImageError, SourceError, TimeLimitError
from lookalike.files import is_url, open_regular
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.images.formats import HEADER_BYTES, Format, detect_format
from lookalike.images.metadata_stripping import open_parts, size_of, strip_metadata
from lookalike.images.options import DecodeOptions
from lookalike.search.hits import ImageReader
from lookalike.server.admission import Quota, SharedBytes, current_client
from lookalike.server.decoder_pool import DecoderPool, Priority
from lookalike.server.decoder_process import MAX_SIDE
from lookalike.server.problems import too_many_requests
from lookalike.server.settings import ServeSettings
from lookalike.server.workers import Workers
from lookalike.sources import Item
from lookalike.stores.base import Record, Rows
from lookalike.types import Hit, ImageArray

T = TypeVar("T")

_CACHE_BYTES = 64 << 20
_MAX_READS = 256
"""Images of one client that are read at a time; twice as many of all clients."""

MAX_FILE_BYTES = 128 << 20
"""Largest file or array that is read."""

_READ_BYTES = 128 << 20
"""Files and arrays that are in memory at a time, to be sent to the decoders."""

_READ_SECONDS = 20.0
"""How long a file waits for that memory."""

_READ_AHEAD = 4
"""Images of one search that are read and decoded at a time."""

_IN_MEMORY = 1 << 20
"""Larger images that are not files are written to a temporary file before they are sent."""

_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The file or the pixels of an item's image, and how its file is decoded."""

    content: bytes | ImageArray
    options: DecodeOptions
    page: int


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An open file to send, of ``size`` bytes; whoever gets it closes it."""

    media_type: str
    size: int
    file: BinaryIO


class ItemImages:
    """Reads images of items; too many reads at a time are refused.

    Args:
        decoders: decode and encode them.
        workers: threads that read files, and others that fetch from URLs.
        settings: limits, and whether files are sent with their metadata.
    """

    def __init__(self, decoders: DecoderPool, workers: Workers, settings: ServeSettings) -> None:
        self._decoders = decoders
        self._workers = workers
        self._settings = settings
        self._reads = Quota(_MAX_READS, "images that are read", total=2 * _MAX_READS)
        self._room = _Room(_READ_BYTES)
        self._thumbnails: _Cache[tuple[str, bytes]] = _Cache(_CACHE_BYTES)
        self._reduced: _Cache[ImageArray] = _Cache(_CACHE_BYTES // 2)

    async def full(self, gallery: Gallery, row: Rows) -> ImageFile:
        """Return an item's file without its metadata, or a PNG of its pixels.

        With ``ServeSettings.originals``, the file is as it is. Files that browsers do not show, and
        those whose metadata cannot be told from the image, are returned as JPEG, at most 2,048
        pixels a side.

        Raises:
            ImageError: the image cannot be read.
            FetchError: it could not be fetched.
        """
        with self._reads.take():
            item = await self._open(gallery, _record(row))
            if item.path is not None:
                image = await self._workers.reading.run(self._file_to_send, item)
                if image is not None:
                    return image
            async with self._stored(item) as stored:
                return await self._image_to_send(item, stored)

    async def thumbnail(
        self, gallery: Gallery, row: Rows, size: int, state: GalleryState, *, webp: bool = False
    ) -> tuple[str, bytes]:
        """Return the media type and bytes of a thumbnail, at most ``size`` pixels wide and high.

        Args:
            gallery: of the item.
            row: the item.
            size: maximum width and height.
            state: of the row's gallery; a thumbnail is cached for one state.
            webp: as WebP; else as JPEG or, if it is tiny, PNG.

        Raises:
            ImageError: the image cannot be read.
            FetchError: it could not be fetched.
        """
        key = state, row.ids[0], size, webp
        if (thumbnail := self._thumbnails.get(key)) is None:
            with self._reads.take():
                item = await self._open(gallery, _record(row))
                async with self._stored(item) as stored:
                    thumbnail = await self._thumbnail(item.id, stored, size, webp=webp)
            self._thumbnails.put(key, thumbnail, len(thumbnail[1]))
        return thumbnail

    async def image(
        self,
        gallery: Gallery,
        row: Rows,
        box: Sequence[int] | None = None,
        *,
        side: int = MAX_SIDE,
        priority: Priority = Priority.QUERY,
    ) -> ImageArray:
        """Return the pixels of an item's image, at most ``side`` wide and high.

        Args:
            gallery: of the item.
            row: the item.
            box: crops the image first.
            side: maximum width and height.
            priority: among the images of the same client.

        Raises:
            ImageError: the image cannot be read.
            FetchError: it could not be fetched.
        """
        with self._reads.take():
            item = await self._open(gallery, _record(row))
            async with self._stored(item) as stored:
                return await self._decoders.image(
                    stored.content,
                    item.id,
                    box,
                    options=stored.options,
                    page=stored.page,
                    side=side,
                    priority=priority,
                )

    async def content(self, gallery: Gallery, row: Rows) -> bytes:
        """Return the bytes of :meth:`full`.

        Raises:
            ImageError, FetchError: as of :meth:`full`.
        """
        image = await self.full(gallery, row)
        with image.file:
            async with self._room.hold(image.size):
                return await self._workers.reading.run(image.file.read)

    def reader(
        self, gallery: Gallery, state: GalleryState, loop: asyncio.AbstractEventLoop | None = None
    ) -> ImageReader:
        """Return what reads the images of hits in the thread of a search, for local features.

        It is called in the event loop, or with it. What it returns waits in its thread until the
        images were decoded and reduced by the decoders; one that cannot be read is None. Reduced
        images are cached for one state of the gallery.
        """
        loop = loop or asyncio.get_running_loop()
        return lambda hits: _wait_for(loop, self._reduced_images(gallery, hits, state))

    async def _reduced_images(
        self, gallery: Gallery, hits: Sequence[Hit], state: GalleryState
    ) -> list[ImageArray | None]:
        """Return what local features need of the images of hits."""
        free = asyncio.Semaphore(_READ_AHEAD)

        async def read(hit: Hit) -> ImageArray | None:
            async with free:
                if (image := self._reduced.get((state, hit.id))) is not None:
                    return image
                try:
                    item = await self._open(gallery, hit)
                    async with self._stored(item) as stored:
                        image = await self._decoders.features(
                            stored.content, item.id, options=stored.options, page=stored.page
                        )
                except (ImageError, FetchError):
                    return None
                self._reduced.put((state, hit.id), image, image.nbytes)
                return image

        reads = [asyncio.create_task(read(hit)) for hit in hits]
        try:
            return list(await asyncio.gather(*reads))
        finally:
            for each in reads:
                each.cancel()

    async def _open(self, gallery: Gallery, row: Record | Hit) -> Item:
        public_only = not self._settings.allow_private_urls
        return await self._workers.reading.run(_open_item, gallery, row, public_only)

    @contextlib.asynccontextmanager
    async def _stored(self, item: Item) -> AsyncIterator[StoredImage]:
        """Read an item's image, which counts as memory during the block."""
        held: BinaryIO | None = None
        content: bytes | ImageArray
        if is_url(item.uri):
            content = await self._fetch(item)
        else:
            held, content = await self._workers.reading.run(_open_content, item)
        with contextlib.ExitStack() as closing:
            size = len(content) if isinstance(content, bytes) else content.nbytes
            if held is not None:
                closing.enter_context(held)
                size = os.fstat(held.fileno()).st_size
            _check_size(item, size)
            async with self._room.hold(size):
                if held is not None:
                    content = await self._workers.reading.run(_read_at_most, item, held, size)
                    closing.close()
                yield StoredImage(content, item.options, item.page)

    async def _fetch(self, item: Item) -> bytes:
        """Return the bytes of an image at a URL.

        Raises:
            FetchError: they did not arrive in time; the message has the item's id but not its URL.
        """
        seconds = self._settings.limits.fetch_seconds
        limit = Cancellation(seconds)

        def read() -> bytes:
            with cancellable(limit):
                limit.check()
                content = item.content()
            assert isinstance(content, bytes)
            return content

        late = f"{item.id}: its host took longer than {seconds:g} s"
        try:
            async with asyncio.timeout(seconds):
                return await self._workers.fetching.run(read)
        except (TimeoutError, TimeLimitError):
            check_cancelled()
            raise FetchError(late) from None
        except ImageError as error:
            raise FetchError(f"{item.id}: the image could not be fetched") from error
        finally:
            limit.cancel()

    def _file_to_send(self, item: Item) -> ImageFile | None:
        """Open an item's file without its metadata; None if it has to be encoded anew."""
        with _errors_of(item.id), contextlib.ExitStack() as closing:
            assert item.path is not None
            file = closing.enter_context(_open_file(item.path))
            _check_size(item, os.fstat(file.fileno()).st_size)
            image = self._without_metadata(item, file)
            if image is not None:
                closing.pop_all()
            return image

    def _without_metadata(self, item: Item, file: BinaryIO) -> ImageFile | None:
        """Return a file without its metadata, None if it has to be encoded anew."""
        kind = _format_of(item, file.read(HEADER_BYTES))
        if not kind.web:
            return None
        if self._settings.originals:
            size = file.seek(0, io.SEEK_END)
            return ImageFile(kind.media_type, size, open_parts(file, [range(size)]))
        parts = strip_metadata(file, kind.name)
        if parts is None:
            return None
        return ImageFile(kind.media_type, size_of(parts), open_parts(file, parts))

    async def _image_to_send(self, item: Item, stored: StoredImage) -> ImageFile:
        """Return an image as a file that browsers show."""
        if not isinstance(stored.content, bytes):
            data = await self._decoders.png(stored.content, item.id)
            return await self._workers.reading.run(_file_with, "image/png", data)
        work = partial(self._without_metadata, item, io.BytesIO(stored.content))
        image = None if item.path is not None else await self._workers.reading.run(work)
        if image is None:
            _format_of(item, stored.content[:HEADER_BYTES])
            encoded = await self._thumbnail(item.id, stored, MAX_SIDE)
            return await self._workers.reading.run(_file_with, *encoded)
        if image.size <= _IN_MEMORY:
            return image
        data = await self._workers.reading.run(image.file.read)
        return await self._workers.reading.run(_file_with, image.media_type, data)

    async def _thumbnail(
        self, row_id: str, stored: StoredImage, size: int, *, webp: bool = False
    ) -> tuple[str, bytes]:
        return await self._decoders.thumbnail(
            stored.content, row_id, size, options=stored.options, page=stored.page, webp=webp
        )


class _Room:
    """Memory for files and pixels, in which a client waits for what it holds itself."""

    def __init__(self, size: int) -> None:
        self._held = SharedBytes(size)
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold so many bytes during the block; alone, also more than there is.

        Raises:
            ProblemError: not enough was released in time.
        """
        client, end = current_client(), time.monotonic() + _READ_SECONDS
        while not self._held.fits(client, size):
            check_cancelled()
            if time.monotonic() > end:
                raise too_many_requests("the memory for images is full")
            self._released.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._released.wait()
        self._held.add(client, size)
        try:
            yield
        finally:
            self._held.add(client, -size)
            self._released.set()


class _Cache(Generic[T]):
    """A cache of images by least recent use, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._images: OrderedDict[Any, tuple[T, int]] = OrderedDict()

    def get(self, key: Any) -> T | None:
        if key not in self._images:
            return None
        self._images.move_to_end(key)
        return self._images[key][0]

    def put(self, key: Any, image: T, size: int) -> None:
        if key in self._images:
            return
        self._images[key] = image, size
        self._size += size
        while self._size > self._max_bytes:
            _, (_, evicted) = self._images.popitem(last=False)
            self._size -= evicted


def _wait_for(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """Return the result of a coroutine that runs in an event loop; called in another thread.

    Raises:
        CancelledError: the work of this thread was cancelled, or its time is over.
    """
    running = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                return running.result(None if running.done() else _POLL_SECONDS)
            check_cancelled()
    finally:
        running.cancel()


def _record(row: Rows) -> Record:
    """Return the only row of some rows."""
    (record,) = row.records()
    return record


def _open_item(gallery: Gallery, row: Record | Hit, public_only: bool) -> Item:
    """Open an item of a gallery.

    Raises:
        ImageError: its source is missing; the message has the item's id but not its location.
    """
    with _errors_of(row.id):
        (item,) = gallery.open_rows([row], public_only=public_only)
        return item


def _open_content(item: Item) -> tuple[BinaryIO | None, bytes | ImageArray]:
    """Open the file of an item, or read what is not a whole file."""
    with _errors_of(item.id):
        return (None, item.content()) if item.path is None else (_open_file(item.path), b"")


class _File(io.FileIO):
    """A file that is closed when nobody has it: its client may have left while it was opened."""

    def __del__(self) -> None:
        self.close()


def _open_file(path: str) -> BinaryIO:
    with open_regular(path) as file:
        return io.BufferedReader(_File(os.dup(file.fileno())))


def _read_at_most(item: Item, file: BinaryIO, size: int) -> bytes:
    """Read a file, which may have become longer."""
    with _errors_of(item.id):
        return file.read(size)


def _check_size(item: Item, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{item.id}: its file has {size:,} bytes; only files up to {MAX_FILE_BYTES >> 20} MiB "
            "are shown"
        )


def _format_of(item: Item, head: bytes) -> Format:
    """Return the format of a file by its first bytes.

    Raises:
        ImageError: it is none that is read.
    """
    kind = detect_format(head, item.uri)
    if kind is None or not kind.is_readable:
        raise ImageError(f"{item.id}: the file is not an image any more")
    return kind


def _file_with(media_type: str, data: bytes) -> ImageFile:
    """Return a file to send with some content; large ones are not kept in memory."""
    file: BinaryIO = io.BytesIO(data)
    if len(data) > _IN_MEMORY:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.write(data)
        file.seek(0)
    return ImageFile(media_type, len(data), file)


@contextlib.contextmanager
def _errors_of(row_id: str) -> Iterator[None]:
    """Turn errors of reading into errors with the item's id but without its location."""
    try:
        yield
    except (OSError, ValueError, ImageError, SourceError) as error:
        if isinstance(error, ImageError) and str(error).startswith(f"{row_id}: "):
            raise
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        message = f"{row_id}: the image file cannot be read any more ({reason})"
        raise ImageError(message) from error
