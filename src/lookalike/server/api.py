"""The HTTP API, version 1: the service, galleries and searches."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from lookalike.errors import LookalikeError
from lookalike.evaluation.saved import SavedEvaluation, load_saved_evaluation
from lookalike.gallery.facets import facets
from lookalike.report.page import rendered
from lookalike.server import schemas as s
from lookalike.server.metrics import MEDIA_TYPE as METRICS
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError, problem_of
from lookalike.server.routes import (
    IMAGE_FILE,
    OPEN,
    READS,
    TheGallery,
    TheService,
    errors,
    hits_out,
    leads,
    search_with,
)
from lookalike.server.service import GalleryHandle, SearchQuery, Service
from lookalike.types import Hits

router = APIRouter()
v1 = APIRouter(prefix="/v1")

_ALONE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""What a report may do: it holds its pictures and its style, and needs nothing else."""


@router.get("/healthz", tags=["service"], openapi_extra=OPEN)
async def health() -> s.State:
    """Say that the process answers; costs nothing."""
    return s.State()


@router.get("/readyz", tags=["service"], responses=errors(), openapi_extra=OPEN)
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
    return [s.GalleryOut(**await facts_of(service, each)) for each in service]


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
    return s.GalleryFacts(**await facts_of(service, served), columns=columns)


@v1.get("/galleries/{gallery}/evaluation", tags=["galleries"], responses=errors())
async def evaluation(served: TheGallery, service: TheService) -> s.EvaluationOut:
    """Return how good the answers are, as ``lookalike evaluate --save`` measured it last."""
    found = await _kept(served, service)
    names = ("created_at", "rows", "fingerprint", "verdict", "stale", "evaluation")
    return s.EvaluationOut(**{name: getattr(found, name) for name in names})


@v1.get(
    "/galleries/{gallery}/evaluation/report",
    tags=["galleries"],
    response_class=HTMLResponse,
    responses={200: {"description": "A page that needs no other."}, **errors()},
)
async def evaluation_report(served: TheGallery, service: TheService) -> HTMLResponse:
    """Return the report of that evaluation, with its figures, as one HTML page."""
    page = rendered((await _kept(served, service)).page)
    return HTMLResponse(page, headers={"content-security-policy": _ALONE})


@v1.post(
    "/galleries/{gallery}/search",
    tags=["search"],
    responses={**leads("$response.body#/hits/0/id", *READS), **errors(501, 502)},
)
async def search(
    served: TheGallery, service: TheService, body: s.SearchBody, response: Response
) -> s.HitsOut:
    """Search with an id, words, an address, or an image as base64 text."""
    return await search_with(served, service, body.ask(), body, response)


@v1.post(
    "/galleries/{gallery}/search/image",
    tags=["search"],
    responses={**leads("$response.body#/hits/0/id", *READS), **errors(501)},
    openapi_extra=IMAGE_FILE,
)
async def search_by_image(
    served: TheGallery,
    service: TheService,
    request: Request,
    response: Response,
    options: Annotated[s.AddressOptions, Query()],
) -> s.HitsOut:
    """Search with an image file, which is the body of the request."""
    ask = SearchQuery(image=await request.body())
    return await search_with(served, service, ask, options.options(), response)


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


async def facts_of(service: Service, served: GalleryHandle) -> dict[str, Any]:
    """Return the facts of a gallery, as :class:`GalleryOut` has them."""
    info = await service.thread(served.gallery.info)
    return {
        "name": served.name,
        **{name: info[name] for name in ("rows", "dim", "metric", "encoder", "fingerprint")},
        "supports_text": service.takes_words(served),
        "writable": service.settings.write or any(key.write for key in service.settings.keys),
    }


async def _kept(served: GalleryHandle, service: Service) -> SavedEvaluation:
    found = await service.thread(load_saved_evaluation, served.gallery)
    if found is None:
        raise ProblemError(
            404,
            "no-evaluation",
            "The gallery was not evaluated",
            "whoever keeps it can do so with lookalike evaluate GALLERY --save",
        )
    return found


def _answer(served: GalleryHandle, found: Hits | LookalikeError) -> s.BatchAnswer:
    if isinstance(found, LookalikeError):
        return s.BatchAnswer(problem=s.ProblemOut(**problem_of(found).as_dict()))
    return s.BatchAnswer(found=hits_out(served, found))
