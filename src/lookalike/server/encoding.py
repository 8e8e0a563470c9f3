"""The steps from a query to its embeddings in a service: in its processes, threads and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lookalike.encoders.base import Encoder
from lookalike.gallery.searching import query_rows
from lookalike.search.query import QueryVectors, encode_queries
from lookalike.search.region import QueryRegion
from lookalike.search.request import Example, SearchRequest, SentImage
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.handles import OpenGallery
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError
from lookalike.server.settings import ServeSettings
from lookalike.server.thumbnails import ItemImages
from lookalike.server.workers import Workers
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, ImageArray
from lookalike.url_fetch import FetchOptions, fetch


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """Encodes queries for the galleries of a service."""

    settings: ServeSettings
    workers: Workers
    decoders: DecoderPool
    item_images: ItemImages

    async def vectors(
        self, opened: OpenGallery, request: SearchRequest, stages: Stages
    ) -> QueryVectors:
        """Return the embeddings of the query of a request, and its image where that is needed.

        Raises:
            LookalikeError: the query is invalid, or the gallery is gone.
            ProblemError: the service does not fetch URLs.
        """
        steps = _Steps(self, opened, stages)
        [vectors] = await encode_queries(request.queries, request, steps)
        return vectors

    async def fetch(self, url: str) -> bytes:
        """Return the file at a URL.

        Raises:
            ProblemError: the service does not fetch URLs.
            InputError: it cannot be fetched.
        """
        if not self.settings.allow_urls:
            raise ProblemError(
                403,
                "forbidden",
                "upload the image instead, or start the service with: lookalike serve GALLERY "
                "--allow-urls",
            )
        limits = self.settings.limits
        options = FetchOptions(
            timeout=limits.fetch_seconds,
            max_bytes=limits.upload_bytes,
            max_redirects=limits.redirects,
        )
        return await self.workers.fetching.run(fetch, url, options)


@dataclass(slots=True)
class _Steps:
    """The steps in one gallery; while one waits, other requests are served.

    The gallery may have changed since it was opened; rows are those that it has now.
    """

    encoder: QueryEncoder
    opened: OpenGallery
    stages: Stages

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.opened.gallery.store.dim

    @property
    def supports_text(self) -> bool:
        """Whether the encoder embeds texts."""
        return self.opened.batcher.encoder.supports_text

    @property
    def batch_size(self) -> int:
        """One image at a time: the memory of decoded images is shared by all requests."""
        return 1

    async def rows(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""

        def read() -> tuple[OpenGallery, Rows]:
            now = self.opened.now()
            return now, query_rows(now.gallery.store, ids)

        self.opened, rows = await self.encoder.workers.short.run(read)
        return rows

    async def crops(
        self, examples: Sequence[Example], rows: Sequence[Rows | None], region: QueryRegion
    ) -> list[list[ImageArray]]:
        """Decode images in processes; their main object and crops are cut out in a thread."""
        results = []
        rest = replace(region, box=None)
        for example, row in zip(examples, rows, strict=True):
            image = await self._image(example, row, region)
            if rest.is_whole_image:
                results.append([image])
            else:
                results.append(await self.encoder.workers.long.run(rest.crops, image))
        return results

    async def _image(self, example: Example, row: Rows | None, region: QueryRegion) -> ImageArray:
        """Return the pixels of an image, of which the box is cut out."""
        if row is not None:
            with self.stages("decode"):
                return await self.encoder.item_images.image(self.opened.gallery, row, region.box)
        if example.image is not None:
            sent = example.image
            if isinstance(sent, SentImage) and isinstance(sent.data, bytes):
                data = sent.data
            else:  # base64 of megabytes, which takes long
                data = await self.encoder.workers.short.run(sent.file_bytes)
        else:
            with self.stages("fetch"):
                data = await self.encoder.fetch(str(example.url))
        with self.stages("decode"):
            return await self.encoder.decoders.image(data, example.name, region.box)

    async def encode_images(self, images: Sequence[ImageArray]) -> Embeddings:
        """Encode images, in a batch with those of other requests."""
        with self.stages("encode"):
            return await self.opened.batcher.encode(images)

    async def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Encode texts in a thread."""
        encoder: Encoder = self.opened.batcher.encoder
        with self.stages("encode"):
            return await self.encoder.workers.short.run(encoder.encode_text, texts)
