"""The HTTP API, version 1: items."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from lookalike.gallery import uploads
from lookalike.server import schemas as s
from lookalike.server.routes import (
    IMAGE_FILE,
    READS,
    TheGallery,
    TheId,
    TheService,
    errors,
    leads,
    links,
    picture,
    search_with,
)
from lookalike.server.service import GalleryHandle, SearchQuery
from lookalike.stores.base import Rows

items = APIRouter(prefix="/v1/galleries/{gallery}")


@items.get(
    "/item", tags=["items"], responses={**leads("$response.body#/id", *READS[1:]), **errors()}
)
async def item(served: TheGallery, service: TheService, row_id: TheId) -> s.ItemOut:
    """Return an item and its metadata."""
    return _out(served, await service.row(served, row_id), 0)


@items.get(
    "/sample", tags=["items"], responses={**leads("$response.body#/0/id", *READS), **errors()}
)
async def sample(
    served: TheGallery,
    service: TheService,
    count: Annotated[int, Query(ge=1, le=1_000, description="How many, at most.")] = 24,
    seed: Annotated[int, Query(ge=0, le=2**32, description="The same gives the same items.")] = 0,
) -> list[s.ItemOut]:
    """Return items drawn at random."""
    rows = await service.sample(served, count, seed)
    return [_out(served, rows, place) for place in range(len(rows))]


@items.get(
    "/item/image",
    tags=["items"],
    response_class=Response,
    responses={**picture("The image."), **errors()},
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


@items.get(
    "/item/thumbnail",
    tags=["items"],
    response_class=Response,
    responses={**picture("A small version of the image."), **errors()},
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


@items.get(
    "/item/neighbors",
    tags=["items"],
    responses={**leads("$response.body#/hits/0/id", *READS), **errors(501)},
)
async def item_neighbors(
    served: TheGallery,
    service: TheService,
    row_id: TheId,
    response: Response,
    k: Annotated[int, Query(ge=1, le=1_000)] = 7,
) -> s.HitsOut:
    """Return the items that look most like an item; it is not among them."""
    options = s.Options(k=k)
    return await search_with(served, service, SearchQuery(id=row_id), options, response)


@items.put(
    "/item",
    tags=["items"],
    responses={
        **leads("$response.body#/id", *READS, "put_item", "patch_item", "delete_item"),
        **errors(409, 507),
    },
    openapi_extra=IMAGE_FILE,
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


@items.patch("/item", tags=["items"], responses=errors(409, 507))
async def patch_item(
    served: TheGallery, service: TheService, row_id: TheId, body: s.MetadataBody
) -> s.MetadataBody:
    """Change columns of an item's metadata, its label among them."""
    return s.MetadataBody(metadata=await service.describe(served, row_id, body.metadata))


@items.delete("/item", tags=["items"], status_code=204, responses=errors(409, 507))
async def delete_item(served: TheGallery, service: TheService, row_id: TheId) -> None:
    """Delete an item that was put."""
    await service.remove(served, row_id)


def _out(served: GalleryHandle, row: Rows, place: int) -> s.ItemOut:
    row_id = row.ids[place]
    return s.ItemOut(
        id=row_id,
        metadata=dict(row.metadata[place]),
        content_hash=row.hashes[place],
        editable=row_id.startswith(f"{uploads.SOURCE}:"),
        **links(served, row_id),
    )


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
