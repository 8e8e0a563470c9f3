"""The HTTP API, version 1."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from lookalike import uploads
from lookalike.errors import LookalikeError
from lookalike.facets import facets
from lookalike.server import schemas as s
from lookalike.server.problems import MEDIA_TYPE, problem_of
from lookalike.server.service import Ask, Served, Service
from lookalike.server.telemetry import MEDIA_TYPE as METRICS
from lookalike.server.telemetry import Stages
from lookalike.types import Hits

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
    501: "A package for this is not installed",
    502: "The address did not give an image",
    503: "The gallery cannot be read",
    507: "The gallery cannot be written",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe answers that are problems, for the API's document."""
    always = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)
    return {
        status: {
            "description": _ERRORS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}},
        }
        for status in (*always, *statuses)
    }


def _picture(what: str) -> dict[int | str, dict[str, Any]]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        200: {"description": what, "content": {"image/*": binary}},
        304: {"description": "It is what you have."},
    }


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE = {
    "requestBody": {
        "description": "An image file.",
        "required": True,
        "content": {"application/octet-stream": _BINARY, "image/*": _BINARY},
    }
}

router = APIRouter()
v1 = APIRouter(prefix="/v1")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]


def _named(gallery: str, service: TheService) -> Served:
    return service.served(gallery)


TheGallery = Annotated[Served, Depends(_named)]
TheId = Annotated[
    str, Query(alias="id", min_length=1, max_length=2_000, examples=["photos:cats/1.jpg"])
]


@router.get("/healthz", tags=["service"])
async def health() -> s.State:
    """Say that the process answers; costs nothing."""
    return s.State()


@router.get("/readyz", tags=["service"], responses=errors())
async def ready(service: TheService) -> s.State:
    """Encode an image and search with it in every gallery."""
    await service.check_ready()
    return s.State()


@router.get(
    "/metrics",
    tags=["service"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **errors()},
)
async def metrics(service: TheService) -> Response:
    """Return counters and times, for Prometheus."""
    return Response(service.telemetry.text(), media_type=METRICS)


@v1.get("/galleries", tags=["galleries"], responses=errors())
async def galleries(service: TheService) -> list[s.GalleryOut]:
    """List the galleries with their facts."""
    return [s.GalleryOut(**await _facts(service, each)) for each in service]


@v1.get("/galleries/{gallery}", tags=["galleries"], responses=errors())
async def gallery_facts(served: TheGallery, service: TheService) -> s.GalleryFacts:
    """Return a gallery's facts and the columns of its metadata."""
    found = await service.thread(lambda: facets(served.gallery.store.columns()))
    columns = [
        s.FacetOut(
            column=each.column,
            kind=each.kind,
            rows=each.rows,
            distinct=each.distinct,
            values=None if each.values is None else list(each.values.items()),
            low=each.low,
            high=each.high,
        )
        for each in found
    ]
    return s.GalleryFacts(**await _facts(service, served), columns=columns)


@v1.post("/galleries/{gallery}/search", tags=["search"], responses=errors(501, 502))
async def search(
    served: TheGallery, service: TheService, body: s.SearchBody, response: Response
) -> s.HitsOut:
    """Search with an id, words, an address, or an image as base64 text."""
    return await _search(served, service, body.ask(), body, response)


@v1.post(
    "/galleries/{gallery}/search/image",
    tags=["search"],
    responses=errors(501),
    openapi_extra=_FILE,
)
async def search_by_image(
    served: TheGallery,
    service: TheService,
    request: Request,
    response: Response,
    options: Annotated[s.AddressOptions, Query()],
) -> s.HitsOut:
    """Search with an image file, which is the body of the request."""
    ask = Ask(image=await request.body())
    return await _search(served, service, ask, options.options(), response)


@v1.post("/galleries/{gallery}/search/batch", tags=["search"], responses=errors(501, 502))
async def search_batch(
    served: TheGallery, service: TheService, body: s.BatchBody, response: Response
) -> s.BatchOut:
    """Search with several queries; what is wrong with one is its answer."""
    stages = Stages(service.telemetry)
    asks = [query.ask() for query in body.queries]
    search = body.search(served.gallery.metric)
    found = await service.search_all(served, asks, body.look(), search, stages)
    response.headers["server-timing"] = stages.header()
    return s.BatchOut(answers=[_answer(served, each) for each in found])


@v1.get("/galleries/{gallery}/item", tags=["items"], responses=errors())
async def item(served: TheGallery, service: TheService, row_id: TheId) -> s.ItemOut:
    """Return an item and its metadata."""
    row = await service.row(served, row_id)
    return s.ItemOut(
        id=row_id,
        metadata=dict(row.metadata[0]),
        content_hash=row.hashes[0],
        changeable=row_id.startswith(f"{uploads.SOURCE}:"),
        **_links(served, row_id),
    )


@v1.get(
    "/galleries/{gallery}/item/image",
    tags=["items"],
    response_class=Response,
    responses={**_picture("The image."), **errors()},
)
async def item_image(
    served: TheGallery, service: TheService, request: Request, row_id: TheId
) -> Response:
    """Return an item's image: its file as it is, or a PNG of its pixels."""
    row = await service.row(served, row_id)
    tag = f'"{row.hashes[0]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=_cached(tag))
    kind, data = await service.pictures.whole(row)
    return Response(data, media_type=kind, headers=_cached(tag))


@v1.get(
    "/galleries/{gallery}/item/thumbnail",
    tags=["items"],
    response_class=Response,
    responses={**_picture("A small version of the image."), **errors()},
)
async def item_thumbnail(
    served: TheGallery,
    service: TheService,
    request: Request,
    row_id: TheId,
    side: Annotated[int, Query(ge=16, le=1024, description="Pixels a side, at most.")] = 256,
) -> Response:
    """Return a small version of an item's image."""
    row = await service.row(served, row_id)
    tag = f'"{row.hashes[0]}-{side}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=_cached(tag))
    kind, data = await service.pictures.small(row, side)
    return Response(data, media_type=kind, headers=_cached(tag))


@v1.get("/galleries/{gallery}/item/neighbours", tags=["items"], responses=errors(501))
async def item_neighbours(
    served: TheGallery,
    service: TheService,
    row_id: TheId,
    response: Response,
    n: Annotated[int, Query(ge=1, le=1_000)] = 7,
) -> s.HitsOut:
    """Return the items that look most like an item; it is not among them."""
    options = s.Options(n=n)
    return await _search(served, service, Ask(id=row_id), options, response)


@v1.put(
    "/galleries/{gallery}/item",
    tags=["items"],
    responses=errors(409, 507),
    openapi_extra=_FILE,
)
async def put_item(
    served: TheGallery,
    service: TheService,
    request: Request,
    row_id: TheId,
    metadata: Annotated[
        str | None, Query(max_length=20_000, examples=['{"label": "shoe"}'])
    ] = None,
) -> s.PutOut:
    """Add an item, or replace it. Its image file is the body; its id begins with ``api:``."""
    there = await service.put(served, row_id, await request.body(), _metadata(metadata))
    return s.PutOut(id=uploads.row_id(row_id), created=not there)


@v1.patch("/galleries/{gallery}/item", tags=["items"], responses=errors(409, 507))
async def patch_item(
    served: TheGallery, service: TheService, row_id: TheId, body: s.MetadataBody
) -> s.MetadataBody:
    """Change columns of an item's metadata, its label among them."""
    return s.MetadataBody(metadata=await service.describe(served, row_id, body.metadata))


@v1.delete("/galleries/{gallery}/item", tags=["items"], status_code=204, responses=errors(409, 507))
async def delete_item(served: TheGallery, service: TheService, row_id: TheId) -> None:
    """Delete an item that was put."""
    await service.remove(served, row_id)


async def _facts(service: Service, served: Served) -> dict[str, Any]:
    info = await service.thread(served.gallery.info)
    return {
        "name": served.name,
        **{name: info[name] for name in ("rows", "dim", "metric", "encoder", "fingerprint")},
        "takes_text": service.takes_words(served),
        "writable": service.settings.write or any(key.write for key in service.settings.keys),
    }


async def _search(
    served: Served, service: Service, ask: Ask, options: s.Options, response: Response
) -> s.HitsOut:
    stages = Stages(service.telemetry)
    search = options.search(served.gallery.metric)
    found = await service.search(served, ask, options.look(), search, stages)
    response.headers["server-timing"] = stages.header()
    return _hits(served, found)


def _hits(served: Served, found: Hits) -> s.HitsOut:
    return s.HitsOut(
        query=found.query,
        metric=found.metric.value,
        hits=[
            s.HitOut(
                rank=hit.rank,
                id=hit.id,
                distance=hit.distance,
                metadata=dict(hit.metadata),
                **_links(served, hit.id),
            )
            for hit in found
        ],
    )


def _answer(served: Served, found: Hits | LookalikeError) -> s.BatchAnswer:
    if isinstance(found, LookalikeError):
        return s.BatchAnswer(problem=s.ProblemOut(**problem_of(found).as_dict()))
    return s.BatchAnswer(found=_hits(served, found))


def _links(served: Served, row_id: str) -> dict[str, str]:
    """Return where an item's pictures are; by id, never by where its file lies."""
    base = f"/v1/galleries/{served.name}/item"
    asked = f"?id={quote(row_id, safe='')}"
    return {"image": f"{base}/image{asked}", "thumbnail": f"{base}/thumbnail{asked}"}


def _cached(tag: str) -> dict[str, str]:
    return {"etag": tag, "cache-control": "private, no-cache"}


def _metadata(text: str | None) -> dict[str, Any]:
    """Read metadata given in an address.

    Raises:
        RequestValidationError: it is no JSON object that can be kept.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("must be a JSON object")
        return s.storable(found)
    except (ValueError, RecursionError) as error:
        said = {"type": "json", "loc": ("query", "metadata"), "msg": str(error), "input": None}
        raise RequestValidationError([said]) from None
