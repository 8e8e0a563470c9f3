"""HTTP API, version 1: the service, galleries and searches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from lookalike.errors import ArtifactError, LookalikeError, UnreachableError
from lookalike.evaluation.saved import SavedEvaluation, load_saved_evaluation
from lookalike.gallery.state import GalleryState
from lookalike.report.page import render_page
from lookalike.search import request as search_request
from lookalike.server import schemas
from lookalike.server.dependencies import GalleryDep, SearchedGalleryDep, ServiceDep
from lookalike.server.field_errors import BODY, with_locations
from lookalike.server.handles import GalleryHandle, OpenGallery
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.metrics import MEDIA_TYPE as METRICS
from lookalike.server.metrics import Stages
from lookalike.server.openapi import (
    FORM_BODY,
    IMAGE_BODY,
    ITEM_READS,
    PUBLIC,
    error_responses,
    item_links,
)
from lookalike.server.problems import ProblemError
from lookalike.server.responses import (
    batch_parts,
    facet_column,
    json_in_parts,
    json_response,
    run_search,
)
from lookalike.server.search_forms import SearchRoute
from lookalike.server.service import Answer, Service

router = APIRouter()
v1 = APIRouter(prefix="/v1", route_class=JsonRoute)
searches = APIRouter(prefix="/v1/galleries/{gallery}", tags=["search"], route_class=SearchRoute)

_FACTS_SECONDS = 5.0
"""How long the list of galleries waits for one of them."""

_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""Content-Security-Policy of a report, which contains its figures and styles."""


@router.get("/healthz", tags=["service"], summary="Check liveness", openapi_extra=PUBLIC)
async def get_health() -> schemas.Status:
    """Return at once if the process is running."""
    return schemas.Status()


@router.get(
    "/readyz",
    tags=["service"],
    summary="Check readiness",
    responses=error_responses(),
    openapi_extra=PUBLIC,
)
async def get_readiness(service: ServiceDep) -> schemas.Readiness:
    """Encode an image, search with it in every gallery and read a row.

    It is an error if no gallery can be searched. Successes are reused for 2 s, unless the gallery
    has changed.
    """
    errors = await service.readiness.check()
    problems = [error for error in errors.values() if error is not None]
    if problems and len(problems) == len(errors):
        raise problems[0]
    return schemas.Readiness(
        status="degraded" if problems else "ok",
        galleries=len(errors),
        ready=len(errors) - len(problems),
    )


@router.get(
    "/metrics",
    tags=["service"],
    summary="Get Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus text format.", "content": {"text/plain": {}}},
        **error_responses(),
    },
)
async def get_metrics(service: ServiceDep) -> Response:
    """Return counters, gauges and histograms in Prometheus' text format."""
    return Response(await service.in_thread(service.metrics.text), media_type=METRICS)


@v1.get("/galleries", tags=["galleries"], summary="List galleries", responses=error_responses())
async def list_galleries(service: ServiceDep) -> list[schemas.GallerySummary]:
    """Return all galleries of the service, also those that cannot be read at present."""
    return [schemas.GallerySummary(**facts) for facts in await all_gallery_facts(service)]


@v1.get(
    "/galleries/{gallery}",
    tags=["galleries"],
    summary="Get a gallery",
    response_model=schemas.GalleryDetails,
    responses=error_responses(),
)
async def get_gallery(opened: GalleryDep, service: ServiceDep) -> Response:
    """Return a gallery with the columns of its metadata."""
    described = await service.read(opened, lambda each: each.store.facets(), long=True)
    facts = await gallery_facts(service, opened)
    return await json_response(
        service,
        lambda: schemas.GalleryDetails(**facts, columns=list(map(facet_column, described))),
    )


@v1.get(
    "/galleries/{gallery}/evaluation",
    tags=["galleries"],
    summary="Get the saved evaluation of a gallery",
    response_model=schemas.EvaluationReport,
    responses=error_responses(),
)
async def get_evaluation(opened: GalleryDep, service: ServiceDep) -> Response:
    """Return the metrics that ``lookalike evaluate --save`` saved last."""
    saved = await _saved_evaluation(opened, service)
    return await json_response(
        service,
        lambda: schemas.EvaluationReport(
            created_at=saved.origin.created_at,
            rows=saved.rows,
            fingerprint=saved.fingerprint,
            summary=saved.verdict,
            stale=saved.origin.stale,
            changes=saved.origin.changes,
            evaluation=dict(saved.evaluation),
        ),
        long=True,
    )


@v1.get(
    "/galleries/{gallery}/evaluation/report",
    tags=["galleries"],
    summary="Get the saved evaluation report as HTML",
    response_class=HTMLResponse,
    responses={200: {"description": "A self-contained HTML page."}, **error_responses()},
)
async def get_evaluation_report(opened: GalleryDep, service: ServiceDep) -> HTMLResponse:
    """Return the report that ``lookalike evaluate --save`` saved last, with its figures."""
    saved = await _saved_evaluation(opened, service)
    page = await service.in_thread(render_page, saved.page, long=True)
    return HTMLResponse(page, headers={"content-security-policy": _REPORT_POLICY})


@searches.post(
    "/search",
    summary="Search with items, images, texts, URLs, vectors, keywords or a filter",
    response_model=schemas.SearchResult,
    responses={
        **item_links("$response.body#/hits/0/id", *ITEM_READS),
        **error_responses(410, 415, 501, 502),
    },
    openapi_extra=FORM_BODY,
)
async def search(
    opened: SearchedGalleryDep, service: ServiceDep, body: schemas.SearchRequest
) -> Response:
    """Return a page of the most similar items, or of those with the keywords, or that match.

    Keywords alone rank items by relevance; a filter alone lists them by ID. For the next page, send
    the same request with `next` as `cursor`. The Server-Timing header has the duration of each
    stage.
    """
    query = body.query(body, service.open_shared(opened))
    return await run_search(opened, service, body.request(query), body.cursor)


@searches.post(
    "/search/image",
    summary="Search with an image file",
    response_model=schemas.SearchResult,
    responses={**item_links("$response.body#/hits/0/id", *ITEM_READS), **error_responses(410, 501)},
    openapi_extra=IMAGE_BODY,
)
async def search_image(
    opened: SearchedGalleryDep,
    service: ServiceDep,
    request: Request,
    parameters: Annotated[schemas.UrlParameters, Query()],
) -> Response:
    """Return a page of the items most similar to the image in the request body."""
    image = search_request.SentImage(await request.body())
    options = parameters.options().request(search_request.Query.of(image=image, place=BODY))
    return await run_search(opened, service, options, parameters.cursor)


@v1.post(
    "/galleries/{gallery}/search/batch",
    tags=["search"],
    summary="Search with several queries",
    response_model=schemas.BatchResponse,
    responses=error_responses(415, 501, 502),
)
async def search_batch(
    opened: SearchedGalleryDep, service: ServiceDep, request: Request, body: schemas.BatchRequest
) -> Response:
    """Return one result per query; a query that fails has a problem instead of a result.

    For the next page of one of them, send it as a search of its own, with its `next` as `cursor`.
    """
    stages = Stages(service.metrics)
    open_shared = service.open_shared(opened)
    queries = [_query_or_error(query, body, open_shared) for query in body.queries]
    valid = [query for query in queries if not isinstance(query, LookalikeError)]
    answers: Iterator[Answer | LookalikeError] = iter(())
    if valid:
        answers = iter(await service.search_all(opened, body.request(*valid), stages))
    merged: list[tuple[search_request.SearchRequest, Answer] | ProblemError] = []
    for number, query in enumerate(queries):
        result = query if isinstance(query, LookalikeError) else next(answers)
        if isinstance(result, LookalikeError):
            problem = service.problem_of(result)
            merged.append(with_locations(problem, request.scope, f"queries/{number}"))
        elif not isinstance(query, LookalikeError):
            merged.append((body.request(query), result))
    return await json_in_parts(service, lambda: batch_parts(merged), stages)


def _query_or_error(
    query: schemas.Query, options: schemas.BodyParameters, open_shared: schemas.OpenShared
) -> search_request.Query | LookalikeError:
    try:
        return query.query(options, open_shared)
    except LookalikeError as error:
        return error


async def gallery_facts(service: Service, opened: OpenGallery) -> dict[str, Any]:
    """Return the fields of a :class:`GallerySummary`."""
    keys = service.settings.keys
    return {
        **_lasting_facts(opened.handle, opened.state),
        "rows": await service.read(opened, len),
        "supports_text": opened.batcher.encoder.supports_text,
        "writable": service.settings.allow_writes or any(key.write for key in keys),
    }


async def all_gallery_facts(service: Service) -> list[dict[str, Any]]:
    """Return the facts of all galleries; of those that cannot be read, the last ones."""
    return await asyncio.gather(*(_facts_or_problem(service, handle) for handle in service))


async def _facts_or_problem(service: Service, handle: GalleryHandle) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_FACTS_SECONDS):
            return await gallery_facts(service, await service.open(handle))
    except (ArtifactError, UnreachableError) as error:
        problem = service.problem_of(error).detail
    except TimeoutError:
        problem = f"it did not answer within {_FACTS_SECONDS:g} s"
    unknown = {"rows": 0, "supports_text": False, "writable": False}
    return {**_lasting_facts(handle, handle.facts.state), **unknown, "problem": problem}


def _lasting_facts(handle: GalleryHandle, state: GalleryState) -> dict[str, Any]:
    """Return the facts that need no reading."""
    facts = handle.facts
    return {
        "name": handle.name,
        "identity": state.identity,
        "revision": state.revision,
        "dim": facts.dim,
        "metric": facts.metric,
        "encoder": facts.encoder,
        "fingerprint": facts.fingerprint,
        "problem": None,
    }


async def _saved_evaluation(opened: OpenGallery, service: Service) -> SavedEvaluation:
    saved = await service.read(opened, load_saved_evaluation, long=True)
    if saved is None:
        raise ProblemError(
            404,
            "evaluation-not-found",
            "the gallery has not been evaluated yet; run: lookalike evaluate GALLERY --save",
        )
    return saved
