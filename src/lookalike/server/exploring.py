"""The HTTP API, version 1: the map of a gallery, and labels from a few to all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from lookalike.explore import load_map
from lookalike.labels.session import FILE, SURE, Round, kept_round
from lookalike.server.problems import ProblemError
from lookalike.server.routes import TheGallery, TheService, errors
from lookalike.server.schemas import LONGEST, Model
from lookalike.server.service import GalleryHandle, Service

exploring = APIRouter(prefix="/v1/galleries/{gallery}", tags=["exploring"])


class ClusterOut(BaseModel):
    """Images that lie together on a map; ``medoid`` is the number of the one in their middle."""

    number: int
    name: str
    size: int
    medoid: int
    label: str | None
    share: float | None


class ColorOut(BaseModel):
    """A column to color by: base64 of a 16-bit place among its values for each item, -1 none."""

    name: str
    values: list[str]
    codes: str


class MapOut(BaseModel):
    """A map. Arrays are base64 of little-endian numbers, for each item in the order of ``ids``.

    ``points`` are two 16-bit numbers each, ``numbers`` the 16-bit number of its cluster or -1,
    ``lof_scores`` a 32-bit float, ``near`` 32-bit numbers of its nearest ``neighbors`` others.
    """

    format: int
    made: str
    fingerprint: str
    method: str
    stale: bool
    trustworthiness: float
    kept: float
    judged: int
    ids: list[str]
    points: str
    numbers: str
    clusters: list[ClusterOut]
    lof_scores: str
    neighbors: int
    near: str
    columns: list[ColorOut]


class LabelingOut(BaseModel):
    """Ids of images to name next, in groups that look alike, and labels given before."""

    made: str
    images: int
    stale: bool
    groups: list[list[str]]
    given: dict[str, list[str]]


Label = Annotated[str, Field(min_length=1, max_length=200)]


class LabelsBody(Model):
    """Labels by id."""

    labels: dict[
        Annotated[str, Field(max_length=LONGEST)],
        Annotated[list[Label], Field(min_length=1, max_length=20)],
    ] = Field(max_length=10_000, examples=[{"photos:cats/1.jpg": ["cat"]}])


class LabelReach(BaseModel):
    """How many images a label was given to, and how many it surely reaches."""

    label: str
    given: int
    sure: int


class ReachOut(BaseModel):
    """How far labels reach: ``sure`` images have ``least`` of what reaches them for one label."""

    images: int
    labeled: int
    sure: int
    least: float
    labels: list[LabelReach]


@exploring.get("/map", response_class=JSONResponse, responses={200: {"model": MapOut}, **errors()})
async def gallery_map(served: TheGallery, service: TheService) -> Response:
    """Return the map of a gallery, as ``lookalike explore map`` made it last."""
    found = await service.thread(load_map, served.gallery)
    if found is None:
        raise ProblemError(
            404,
            "no-map",
            "The gallery has no map yet",
            "whoever keeps it can draw one with lookalike explore map GALLERY",
        )
    return await service.thread(lambda: JSONResponse(found.document()))


@exploring.get("/labeling", responses=errors())
async def labeling(served: TheGallery, service: TheService, request: Request) -> LabelingOut:
    """Return which images to name next, as ``lookalike label suggest --save`` chose them last."""
    found = await _round(served, service, request)
    return LabelingOut(
        made=found.made,
        images=len(found.graph),
        stale=found.stale,
        groups=[[found.graph.ids[row] for row in group] for group in found.groups],
        given={row_id: list(labels) for row_id, labels in found.given.items()},
    )


@exploring.post("/labeling/reach", responses=errors())
async def labeling_reach(
    served: TheGallery, service: TheService, request: Request, body: LabelsBody
) -> ReachOut:
    """Say how far labels reach along the neighbor graph. Nothing is written."""
    found = await _round(served, service, request)
    labels = {row_id: tuple(dict.fromkeys(of)) for row_id, of in body.labels.items()}
    async with service.turn():
        reach = await service.thread(found.reach, labels)
    return ReachOut(
        images=reach.images,
        labeled=reach.labeled,
        sure=reach.sure,
        least=SURE,
        labels=[
            LabelReach(label=label, given=given, sure=sure)
            for label, (given, sure) in reach.labels.items()
        ],
    )


async def _round(served: GalleryHandle, service: Service, request: Request) -> Round:
    rounds: dict[str, tuple[object, Round | None]] = request.app.state.rounds
    stamp, found = await service.thread(_newest, served, rounds.get(served.name))
    rounds[served.name] = stamp, found
    if found is None:
        raise ProblemError(
            404,
            "nothing-suggested",
            "No images are suggested yet",
            "whoever keeps the gallery can do so with lookalike label suggest GALLERY --save",
        )
    return found


def _newest(
    served: GalleryHandle, known: tuple[object, Round | None] | None
) -> tuple[object, Round | None]:
    """Read the kept round, unless neither it nor the gallery changed since it was read."""
    file = served.gallery.path / FILE
    stamp = (
        file.stat().st_mtime_ns if file.exists() else None,
        id(served.gallery.store.columns()),
    )
    return known if known is not None and known[0] == stamp else (stamp, kept_round(served.gallery))
