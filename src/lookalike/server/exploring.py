"""The HTTP API, version 1: the map of a gallery, and labels from a few to all."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from lookalike.explore import kept_atlas
from lookalike.label.rounds import FILE, SURE, Round, kept_round
from lookalike.server import schemas as s
from lookalike.server.problems import ProblemError
from lookalike.server.routes import TheGallery, TheService, errors
from lookalike.server.service import Served, Service

exploring = APIRouter(prefix="/v1/galleries/{gallery}", tags=["exploring"])


@exploring.get(
    "/map", response_class=JSONResponse, responses={200: {"model": s.MapOut}, **errors()}
)
async def gallery_map(served: TheGallery, service: TheService) -> Response:
    """Return the map of a gallery, as ``lookalike explore map`` made it last."""
    found = await service.thread(kept_atlas, served.gallery)
    if found is None:
        raise ProblemError(
            404,
            "no-map",
            "The gallery has no map yet",
            "whoever keeps it can draw one with lookalike explore map GALLERY",
        )
    return await service.thread(lambda: JSONResponse(found.document()))


@exploring.get("/labelling", responses=errors())
async def labelling(served: TheGallery, service: TheService, request: Request) -> s.LabellingOut:
    """Return which images to name next, as ``lookalike label suggest --keep`` chose them last."""
    found = await _round(served, service, request)
    return s.LabellingOut(
        made=found.made,
        images=len(found.graph),
        stale=found.stale,
        groups=[[found.graph.ids[row] for row in group] for group in found.groups],
        given={row_id: list(labels) for row_id, labels in found.given.items()},
    )


@exploring.post("/labelling/reach", responses=errors())
async def labelling_reach(
    served: TheGallery, service: TheService, request: Request, body: s.LabelsBody
) -> s.ReachOut:
    """Say how far labels reach along the neighbour graph. Nothing is written."""
    found = await _round(served, service, request)
    labels = {row_id: tuple(dict.fromkeys(of)) for row_id, of in body.labels.items()}
    async with service.turn():
        reach = await service.thread(found.reach, labels)
    return s.ReachOut(
        images=reach.images,
        labelled=reach.labelled,
        sure=reach.sure,
        least=SURE,
        labels=[
            s.LabelReach(label=label, given=given, sure=sure)
            for label, (given, sure) in reach.labels.items()
        ],
    )


async def _round(served: Served, service: Service, request: Request) -> Round:
    rounds: dict[str, tuple[object, Round | None]] = request.app.state.rounds
    stamp, found = await service.thread(_newest, served, rounds.get(served.name))
    rounds[served.name] = stamp, found
    if found is None:
        raise ProblemError(
            404,
            "nothing-suggested",
            "No images are suggested yet",
            "whoever keeps the gallery can do so with lookalike label suggest GALLERY --keep",
        )
    return found


def _newest(
    served: Served, known: tuple[object, Round | None] | None
) -> tuple[object, Round | None]:
    """Read the kept round, unless neither it nor the gallery changed since it was read."""
    file = served.gallery.path / FILE
    stamp = (
        file.stat().st_mtime_ns if file.exists() else None,
        id(served.gallery.store.columns()),
    )
    return known if known is not None and known[0] == stamp else (stamp, kept_round(served.gallery))
