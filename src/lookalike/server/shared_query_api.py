"""HTTP API, version 1: query images that are stored for some days, for links to results."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from lookalike.server import schemas
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.multipart import image_of
from lookalike.server.openapi import ITEM_BODY, error_responses, image_response
from lookalike.server.sending import FileResponse
from lookalike.server.shared_queries import StoredQuery

router = APIRouter(
    prefix="/v1/galleries/{gallery}/shared-queries", tags=["search"], route_class=JsonRoute
)

QueryId = Annotated[
    str,
    Path(
        alias="id",
        max_length=schemas.MAX_SHARED_ID,
        description="ID of the shared query.",
        examples=["f02f3c10-5d1e0b7a9c3f4e2d8b6a1c0f9e7d5b3a"],
    ),
]

_LINKS: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Stored",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Its image_url."}},
        "links": {
            "get_shared_query_image": {
                "operationId": "get_shared_query_image",
                "parameters": {
                    "path.gallery": "$request.path.gallery",
                    "path.id": "$response.body#/id",
                },
            }
        },
    }
}


@router.post(
    "",
    summary="Share a query image",
    status_code=201,
    responses={**_LINKS, **error_responses(507)},
    openapi_extra=ITEM_BODY,
)
async def share_query(
    opened: GalleryDep, service: ServiceDep, request: Request, response: Response
) -> schemas.SharedQuery:
    """Store the image in the request body, or in the field image of a form, for some days.

    Whoever may search can use it as the example `{"shared": ID}` until then. It is stored without
    EXIF, GPS and comments. Whoever serves the gallery decides whether images are stored, and for
    how long; the oldest make room for new ones.
    """
    data = image_of(await request.body(), request.headers.get("content-type", ""))
    stored = await service.share(opened, data)
    shared = _shared_query(opened.name, stored)
    response.headers["location"] = shared.image_url
    return shared


@router.get(
    "/{id}/image",
    summary="Get the image of a shared query",
    response_class=Response,
    responses={**image_response("The image."), **error_responses(410)},
)
async def get_shared_query_image(
    opened: GalleryDep, service: ServiceDep, query_id: QueryId
) -> Response:
    """Return the image file of a shared query, as it is stored."""
    work = service.sharing().open_image
    media_type, file = await service.workers.reading.run(work, opened.name, query_id)
    return FileResponse(
        file,
        os.fstat(file.fileno()).st_size,
        quota=service.quotas.files,
        in_thread=service.workers.reading.run,
        media_type=media_type,
        headers={"cache-control": "private, max-age=3600"},
    )


def _shared_query(gallery: str, stored: StoredQuery) -> schemas.SharedQuery:
    return schemas.SharedQuery(
        id=stored.id,
        expires_at=stored.expires_at,
        image_url=f"/v1/galleries/{gallery}/shared-queries/{stored.id}/image",
        page_url=f"/g/{gallery}?shared={stored.id}",
    )
