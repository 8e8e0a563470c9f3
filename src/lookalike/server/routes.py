"""What the routes of the API share: errors as described, what is asked about, how hits go out."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response

from lookalike.server import schemas as s
from lookalike.server.metrics import Stages
from lookalike.server.problems import MEDIA_TYPE
from lookalike.server.service import GalleryHandle, SearchQuery, Service
from lookalike.types import Hits

_BINARY = {"schema": {"type": "string", "format": "binary"}}

_ERRORS = {
    400: "The request is not well-formed",
    401: "An API key is needed",
    403: "Not allowed",
    404: "There is no such gallery or item",
    408: "The request took too long to arrive",
    409: "Another process is writing the gallery",
    413: "The request is too large",
    421: "The service does not go by this name",
    422: "The request or the image cannot be used",
    429: "The service has enough to do; try again after the seconds in Retry-After",
    431: "The address and headers are too large together",
    501: "A package for this is not installed",
    502: "The address did not give an image",
    503: "The gallery cannot be read",
    507: "The gallery cannot be written",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe answers that are problems, for the API's document."""
    always = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)
    found: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _ERRORS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}},
        }
        for status in (*always, *statuses)
    }
    found[401]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    found[429]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    return {**found, 431: {"description": _ERRORS[431]}}


def leads(row_id: str, *operations: str) -> dict[int | str, dict[str, Any]]:
    """Describe what can be asked about an item that an answer holds, for the API's document.

    ``row_id`` is where its id stands, as an OpenAPI runtime expression.
    """
    parameters = {"path.gallery": "$request.path.gallery", "query.id": row_id}
    return {200: {"links": {o: {"operationId": o, "parameters": parameters} for o in operations}}}


READS = ("item", "item_image", "item_thumbnail", "item_neighbors")
OPEN: dict[str, Any] = {"security": []}
"""For routes that need no key."""


def picture(what: str) -> dict[int | str, dict[str, Any]]:
    """Describe an answer that is an image, for the API's document."""
    return {
        200: {"description": what, "content": {"image/*": _BINARY}},
        304: {"description": "It is what you have."},
    }


IMAGE_FILE = {
    "requestBody": {
        "description": "An image file.",
        "required": True,
        "content": {"application/octet-stream": _BINARY, "image/*": _BINARY},
    }
}


async def _service(request: Request) -> Service:  # else FastAPI takes a thread for it
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


async def _named(gallery: str, service: TheService) -> GalleryHandle:
    return service.served(gallery)


TheGallery = Annotated[GalleryHandle, Depends(_named)]
TheId = Annotated[
    str, Query(alias="id", min_length=1, max_length=2_000, examples=["photos:cats/1.jpg"])
]


async def search_with(
    served: GalleryHandle,
    service: Service,
    ask: SearchQuery,
    options: s.Options,
    response: Response,
) -> s.HitsOut:
    """Answer one query, and say in a header how long each stage took."""
    stages = Stages(service.telemetry)
    search = options.search(served.gallery.metric)
    found = await service.search(served, ask, options.look(), search, stages)
    response.headers["server-timing"] = stages.header()
    return hits_out(served, found)


def hits_out(served: GalleryHandle, found: Hits) -> s.HitsOut:
    """Return hits as they go out: where pictures are, by id."""
    return s.HitsOut(
        query=found.query,
        metric=found.metric.value,
        hits=[
            s.HitOut(
                rank=hit.rank,
                id=hit.id,
                distance=hit.distance,
                metadata=dict(hit.metadata),
                **links(served, hit.id),
            )
            for hit in found
        ],
    )


def links(served: GalleryHandle, row_id: str) -> dict[str, str]:
    """Return where an item's pictures are; by id, never by where its file lies."""
    base = f"/v1/galleries/{served.name}/item"
    asked = f"?id={quote(row_id, safe='')}"
    return {"image": f"{base}/image{asked}", "thumbnail": f"{base}/thumbnail{asked}"}
