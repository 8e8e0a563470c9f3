"""FastAPI dependencies of the routes: the service, the gallery in the path, an item's id."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from lookalike.server.handles import OpenGallery
from lookalike.server.schemas import MAX_TEXT
from lookalike.server.service import Service


async def _service(request: Request) -> Service:  # async, or FastAPI would use a thread
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def _opened(
    gallery: Annotated[str, Path(description="Name of the gallery.", examples=["photos"])],
    service: ServiceDep,
) -> OpenGallery:
    return await service.open(service.handle(gallery))


GalleryDep = Annotated[OpenGallery, Depends(_opened)]
"""The gallery in the path as it is when the request arrives."""


async def _opened_last(
    gallery: Annotated[str, Path(description="Name of the gallery.", examples=["photos"])],
    service: ServiceDep,
) -> OpenGallery:
    handle = service.handle(gallery)
    return handle.last or await service.open(handle)


SearchedGalleryDep = Annotated[OpenGallery, Depends(_opened_last)]
"""The gallery in the path as it was opened last, for what takes its rows from
:meth:`OpenGallery.now`, as searches do: they need not wait for a thread before."""

ItemId = Annotated[
    str,
    Query(
        alias="id",
        min_length=1,
        max_length=MAX_TEXT,
        description="ID of the item.",
        examples=["photos:cats/1.jpg"],
    ),
]
