"""Search results as the API returns them."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Response

from lookalike.server import schemas
from lookalike.server.metrics import Stages
from lookalike.server.service import OpenGallery, SearchQuery, Service
from lookalike.types import Hits


async def run_search(
    gallery: OpenGallery,
    service: Service,
    query: SearchQuery,
    options: schemas.BodyParameters,
    response: Response,
) -> schemas.SearchResult:
    """Run one query and set the ``Server-Timing`` header to the duration of each stage."""
    stages = Stages(service.metrics)
    search = options.search(gallery.gallery.metric)
    hits = await service.search(gallery, query, options.region(), search, stages)
    response.headers["server-timing"] = stages.header()
    return search_result(gallery, hits)


def search_result(gallery: OpenGallery, hits: Hits) -> schemas.SearchResult:
    """Return hits as a response; images are referred to by item id, never by location."""
    return schemas.SearchResult(
        query=hits.query,
        metric=hits.metric.value,
        hits=[
            schemas.Hit(
                rank=hit.rank,
                id=hit.id,
                distance=hit.distance,
                metadata=dict(hit.metadata),
                **item_urls(gallery, hit.id),
            )
            for hit in hits
        ],
    )


def item_urls(gallery: OpenGallery, row_id: str) -> dict[str, str]:
    """Return the paths of an item's image and thumbnail."""
    base = f"/v1/galleries/{gallery.name}/item"
    query = f"?id={quote(row_id, safe='')}"
    return {"image_url": f"{base}/image{query}", "thumbnail_url": f"{base}/thumbnail{query}"}
