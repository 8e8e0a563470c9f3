"""The HTTP API, version 1: the map of a gallery, and its labeling session."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from lookalike.explore import load_map
from lookalike.labels.session import FILE, MIN_CONFIDENCE, LabelingSession, load_session
from lookalike.server.problems import ProblemError
from lookalike.server.routes import TheGallery, TheService, errors
from lookalike.server.schemas import LONGEST, Model
from lookalike.server.service import GalleryHandle, Service

exploring = APIRouter(prefix="/v1/galleries/{gallery}", tags=["exploring"])


class ClusterOut(BaseModel):
    """A cluster of a map; ``medoid`` is the number of the item nearest to its center."""

    number: int
    name: str
    size: int
    medoid: int
    label: str | None
    share: float | None


class ColorOut(BaseModel):
    """A column to color by; ``codes`` is base64 of 16-bit indices into ``values``, -1 for none."""

    name: str
    values: list[str]
    codes: str


class MapOut(BaseModel):
    """A map. Arrays are base64 of little-endian numbers, for each item in the order of ``ids``.

    ``points`` are two unsigned 16-bit numbers each, ``membership`` the 16-bit number of the
    cluster or -1, ``lof_scores`` 32-bit floats, and ``neighbors`` the unsigned 32-bit numbers of
    the ``k`` nearest items.
    """

    format: int
    created_at: str
    fingerprint: str
    method: str
    stale: bool
    trustworthiness: float
    neighborhood_preservation: float
    sampled: int
    ids: list[str]
    points: str
    membership: str
    clusters: list[ClusterOut]
    lof_scores: str
    k: int
    neighbors: str
    columns: list[ColorOut]


class LabelingOut(BaseModel):
    """Ids of images to label next, in groups of similar ones, and the labels so far."""

    created_at: str
    images: int
    stale: bool
    groups: list[list[str]]
    labels: dict[str, list[str]]


Label = Annotated[str, Field(min_length=1, max_length=200)]


class LabelsBody(Model):
    """Labels by id."""

    labels: dict[
        Annotated[str, Field(max_length=LONGEST)],
        Annotated[list[Label], Field(min_length=1, max_length=20)],
    ] = Field(max_length=10_000, examples=[{"photos:cats/1.jpg": ["cat"]}])


class LabelCountOut(BaseModel):
    """How many images have a label, and how many it covers by propagation."""

    label: str
    labeled: int
    covered: int


class CoverageOut(BaseModel):
    """How many images labels cover by propagation with a confidence of ``min_confidence``."""

    images: int
    labeled: int
    covered: int
    min_confidence: float
    labels: list[LabelCountOut]


@exploring.get("/map", response_class=JSONResponse, responses={200: {"model": MapOut}, **errors()})
async def gallery_map(served: TheGallery, service: TheService) -> Response:
    """Return the map of a gallery, as ``lookalike explore map`` made it last."""
    found = await service.thread(load_map, served.gallery)
    if found is None:
        raise ProblemError(
            404,
            "no-map",
            "The gallery has no map yet",
            "run: lookalike explore map GALLERY",
        )
    return await service.thread(lambda: JSONResponse(found.as_dict()))


@exploring.get("/labeling", summary="Get the images to label next", responses=errors())
async def labeling(served: TheGallery, service: TheService, request: Request) -> LabelingOut:
    """Return the labeling session that ``lookalike label suggest --save`` created last."""
    session = await _session(served, service, request)
    return LabelingOut(
        created_at=session.created_at,
        images=len(session.graph),
        stale=session.stale,
        groups=[[session.graph.ids[row] for row in group] for group in session.groups],
        labels={row_id: list(labels) for row_id, labels in session.labels.items()},
    )


@exploring.post("/labeling/coverage", summary="Compute label coverage", responses=errors())
async def labeling_coverage(
    served: TheGallery, service: TheService, request: Request, body: LabelsBody
) -> CoverageOut:
    """Count the images that labels cover along the neighbor graph. Nothing is written."""
    session = await _session(served, service, request)
    labels = {row_id: tuple(dict.fromkeys(each)) for row_id, each in body.labels.items()}
    async with service.turn():
        coverage = await service.thread(session.coverage, labels)
    return CoverageOut(
        images=coverage.images,
        labeled=coverage.labeled,
        covered=coverage.covered,
        min_confidence=MIN_CONFIDENCE,
        labels=[
            LabelCountOut(label=each.label, labeled=each.labeled, covered=each.covered)
            for each in coverage.labels
        ],
    )


async def _session(served: GalleryHandle, service: Service, request: Request) -> LabelingSession:
    sessions: dict[str, tuple[object, LabelingSession | None]] = request.app.state.labeling_sessions
    revision, session = await service.thread(_newest, served, sessions.get(served.name))
    sessions[served.name] = revision, session
    if session is None:
        raise ProblemError(
            404,
            "no-suggestions",
            "No suggestions yet",
            "run: lookalike label suggest GALLERY --save",
        )
    return session


def _newest(
    served: GalleryHandle, cached: tuple[object, LabelingSession | None] | None
) -> tuple[object, LabelingSession | None]:
    """Load the session, unless neither it nor the gallery has changed since the cached one."""
    file = served.gallery.path / FILE
    revision = (
        file.stat().st_mtime_ns if file.exists() else None,
        id(served.gallery.store.columns()),
    )
    if cached is not None and cached[0] == revision:
        return cached
    return revision, load_session(served.gallery)
