"""From a query to its embeddings: fetched, decoded, cropped and encoded."""

from __future__ import annotations

from dataclasses import replace

from lookalike.errors import ImageError
from lookalike.search.query import QueryRegion, QueryVectors
from lookalike.search.search import SearchOptions
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.handles import OpenGallery
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError
from lookalike.server.queries import SearchQuery
from lookalike.server.settings import ServeSettings
from lookalike.server.thumbnails import ItemImages
from lookalike.server.workers import Workers
from lookalike.types import Embeddings, ImageArray
from lookalike.url_fetch import FetchOptions, fetch


class QueryEncoder:
    """Encodes queries for the galleries of a service."""

    def __init__(
        self,
        settings: ServeSettings,
        workers: Workers,
        decoders: DecoderPool,
        item_images: ItemImages,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._decoders = decoders
        self._item_images = item_images

    async def vectors(
        self,
        opened: OpenGallery,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> QueryVectors:
        """Return the embeddings of a query, and its image where the search needs it.

        Raises:
            LookalikeError: the query is invalid, or the gallery is gone.
            ProblemError: the service does not fetch URLs.
        """
        if query.is_empty:
            return region.without_image(str(search.keywords), opened.gallery.store.dim)
        if query.text is not None:
            with stages("encode"):
                encoder = opened.batcher.encoder
                return await self._workers.short.run(region.encode_text, query.text, encoder)
        if query.id is not None:
            return await self._encode_item(opened, query.id, region, search.needs_image, stages)
        if query.url is not None:
            data, name = await self._fetch(query.url, stages), query.url
        else:
            data, name = query.image or b"", "the image"
            if query.base64 is not None:
                data = await self._workers.short.run(query.image_data)
        with stages("decode"):
            image = await self._decoders.image(data, name, region.box)
        crops = await self._crops(image, region)
        embeddings = await _encode_crops(opened, crops, name, stages)
        return QueryVectors(name, None, embeddings, None, crops[0])

    async def _encode_item(
        self,
        opened: OpenGallery,
        row_id: str,
        region: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        """Use an item as the query: its stored embedding unless a part of its image is searched."""
        row = await self._workers.short.run(opened.gallery.store.get, [row_id])
        uri, embeddings = row.uris[0], row.embeddings
        if region == QueryRegion() and not needs_image:
            return QueryVectors(row_id, uri, embeddings, row_id)
        with stages("decode"):
            image = await self._item_images.image(opened.gallery, row, region.box)
        crops = await self._crops(image, region)
        if region != QueryRegion():
            embeddings = await _encode_crops(opened, crops, row_id, stages)
        return QueryVectors(row_id, uri, embeddings, row_id, crops[0])

    async def _crops(self, image: ImageArray, region: QueryRegion) -> list[ImageArray]:
        """Return the crops to encode of an image, of which the box is cut out already."""
        rest = replace(region, box=None)
        return [image] if rest == QueryRegion() else await self._workers.long.run(rest.crops, image)

    async def _fetch(self, url: str, stages: Stages) -> bytes:
        if not self._settings.allow_urls:
            raise ProblemError(
                403,
                "forbidden",
                "Fetching URLs is disabled",
                "upload the image instead, or start the service with: lookalike serve --allow-urls",
            )
        limits = self._settings.limits
        options = FetchOptions(
            timeout=limits.fetch_seconds,
            max_bytes=limits.upload_bytes,
            max_redirects=limits.redirects,
        )
        with stages("fetch"):
            return await self._workers.fetching.run(fetch, url, options)


async def _encode_crops(
    opened: OpenGallery, crops: list[ImageArray], name: str, stages: Stages
) -> Embeddings:
    with stages("encode"):
        try:
            return await opened.batcher.encode(crops)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
