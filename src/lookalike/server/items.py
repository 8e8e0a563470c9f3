"""HTTP API, version 1: items of a gallery."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from lookalike.gallery.ids import upload_id
from lookalike.search import request as search
from lookalike.server import schemas
from lookalike.server.caching import ONE_HOUR, accepts_webp, cache_headers, is_fresh
from lookalike.server.dependencies import GalleryDep, ItemId, SearchedGalleryDep, ServiceDep
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.links import DEFAULT_SIZE, ThumbnailSize
from lookalike.server.multipart import image_of
from lookalike.server.openapi import (
    ITEM_BODY,
    ITEM_READS,
    SIGNED_URL,
    error_responses,
    image_response,
    item_links,
)
from lookalike.server.responses import dumps, item, item_parts, json_in_parts, run_search
from lookalike.server.sending import FileResponse

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["items"], route_class=JsonRoute)


_PUT_LINKS = item_links(
    "$response.body#/id", *ITEM_READS, "put_item", "update_item_metadata", "delete_item"
)[200]


@router.get(
    "/item",
    summary="Get an item",
    response_model=schemas.Item,
    responses={**item_links("$response.body#/id", *ITEM_READS[1:]), **error_responses()},
)
async def get_item(opened: GalleryDep, service: ServiceDep, row_id: ItemId) -> Response:
    """Return an item and its metadata."""
    row = await service.row(opened, row_id)
    return Response(dumps(item(opened, row, 0)), media_type="application/json")


@router.get(
    "/item/embedding",
    summary="Get the embedding of an item",
    responses={**item_links("$response.body#/id", *ITEM_READS), **error_responses()},
)
async def get_item_embedding(
    opened: GalleryDep, service: ServiceDep, row_id: ItemId
) -> schemas.ItemEmbedding:
    """Return the embedding of an item, as 32-bit floating-point numbers."""
    row = await service.row(opened, row_id)
    return schemas.ItemEmbedding(id=row.ids[0], embedding=row.embeddings[0].tolist())


@router.get(
    "/sample",
    summary="Get a random sample of items",
    response_model=list[schemas.Item],
    responses={**item_links("$response.body#/0/id", *ITEM_READS), **error_responses()},
)
async def sample_items(
    opened: GalleryDep,
    service: ServiceDep,
    count: Annotated[int, Query(ge=1, le=1_000, description="Maximum number of items.")] = 24,
    seed: Annotated[
        int, Query(ge=0, le=2**32, description="Random seed; the same seed draws the same items.")
    ] = 0,
) -> Response:
    """Return distinct items drawn at random; all of them if the gallery is small."""
    rows = await service.sample(opened, count, seed)
    return await json_in_parts(service, lambda: item_parts(opened, rows))


@router.get(
    "/item/image",
    summary="Get the image of an item",
    response_class=Response,
    responses={**image_response("The image."), **error_responses(410)},
    openapi_extra=SIGNED_URL,
)
async def get_item_image(
    opened: GalleryDep, service: ServiceDep, request: Request, row_id: ItemId
) -> Response:
    """Return the image file without EXIF, GPS and comments; a PNG for items that are not files."""
    row = await service.row(opened, row_id)
    variant = "original" if service.settings.originals else "stripped"
    headers = cache_headers(request, opened, row, variant, current=ONE_HOUR)
    if is_fresh(request, headers):
        return Response(status_code=304, headers=headers)
    image = await service.item_images.full(opened.gallery, row)
    return FileResponse(
        image.file,
        image.size,
        quota=service.quotas.files,
        in_thread=service.workers.reading.run,
        media_type=image.media_type,
        headers=headers,
    )


@router.get(
    "/item/thumbnail",
    summary="Get a thumbnail of an item",
    response_class=Response,
    responses={**image_response("The thumbnail."), **error_responses(410)},
    openapi_extra=SIGNED_URL,
)
async def get_item_thumbnail(
    opened: GalleryDep,
    service: ServiceDep,
    request: Request,
    row_id: ItemId,
    size: ThumbnailSize = DEFAULT_SIZE,
    format: Annotated[  # noqa: A002 - the parameter's name
        Literal["webp", "jpeg"] | None,
        Query(description="File format; by default WebP if the Accept header has it, else JPEG."),
    ] = None,
) -> Response:
    """Return a small version of the image, as WebP, or as JPEG or, if tiny, PNG.

    It is never enlarged. With the parameter v of links in items and hits, it can be cached for
    good, as they change with the gallery.
    """
    row = await service.row(opened, row_id)
    webp = accepts_webp(request) if format is None else format == "webp"
    headers = cache_headers(request, opened, row, f"{size} {webp}")
    if format is None:
        headers["vary"] = "Accept"
    if is_fresh(request, headers):
        return Response(status_code=304, headers=headers)
    media_type, data = await service.item_images.thumbnail(
        opened.gallery, row, size, opened.state, webp=webp
    )
    return Response(data, media_type=media_type, headers=headers)


@router.get(
    "/item/neighbors",
    summary="Find items similar to an item",
    response_model=schemas.SearchResult,
    responses={**item_links("$response.body#/hits/0/id", *ITEM_READS), **error_responses(410, 501)},
)
async def get_item_neighbors(
    opened: SearchedGalleryDep,
    service: ServiceDep,
    parameters: Annotated[schemas.NeighborParameters, Query()],
) -> Response:
    """Return a page of the nearest neighbors of an item, without the item itself.

    It is a search with the item as the only example. For the next page, pass `next` as `cursor`
    with the same parameters.
    """
    query = search.Query.of(id=parameters.id, place="id")
    request = parameters.options().request(query)
    return await run_search(opened, service, request, parameters.cursor)


@router.put(
    "/item",
    summary="Add or replace an item",
    responses={
        200: {"description": "Replaced", **_PUT_LINKS},
        201: {"description": "Added", "model": schemas.PutResult, **_PUT_LINKS},
        **error_responses(409, 507),
    },
    openapi_extra=ITEM_BODY,
)
async def put_item(
    opened: GalleryDep,
    service: ServiceDep,
    request: Request,
    response: Response,
    row_id: ItemId,
    metadata: Annotated[
        str | None,
        Query(
            max_length=20_000,
            description="Metadata of the item, as a JSON object; none by default.",
            examples=['{"label": "shoe"}'],
        ),
    ] = None,
) -> schemas.PutResult:
    """Store the image in the request body, or in the field image of a form.

    The ID gets the prefix api: if it has none. The status is 201 if the item is new, and 200 if it
    was replaced.
    """
    data = image_of(await request.body(), request.headers.get("content-type", ""))
    replaced = await service.put(opened, row_id, data, _metadata(metadata))
    response.status_code = 200 if replaced else 201
    return schemas.PutResult(id=upload_id(row_id), created=not replaced)


@router.patch(
    "/item", summary="Update the metadata of an item", responses=error_responses(409, 507)
)
async def update_item_metadata(
    opened: GalleryDep, service: ServiceDep, row_id: ItemId, body: schemas.ItemMetadata
) -> schemas.ItemMetadata:
    """Change columns of an item's metadata; return all of its metadata.

    Null removes a column. An image from a folder keeps what is set here when it is indexed again;
    null takes that back, to the value that the folder has.
    """
    metadata = await service.update_metadata(opened, row_id, body.metadata)
    return schemas.ItemMetadata(metadata=metadata)


@router.delete(
    "/item", summary="Delete an item", status_code=204, responses=error_responses(409, 507)
)
async def delete_item(opened: GalleryDep, service: ServiceDep, row_id: ItemId) -> None:
    """Delete an item.

    The file of an image from a folder stays, and index jobs leave it out from then on.
    """
    await service.remove(opened, row_id)


def _metadata(text: str | None) -> dict[str, Any]:
    """Parse metadata in a URL.

    Raises:
        RequestValidationError: it is not a JSON object that can be stored.
    """
    if text is None:
        return {}
    try:
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("must be a JSON object")
        return schemas.storable(metadata)
    except (ValueError, RecursionError) as error:
        details = {"type": "json", "loc": ("query", "metadata"), "msg": str(error), "input": None}
        raise RequestValidationError([details]) from None
