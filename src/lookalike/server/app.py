"""The application: galleries, settings and routes put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match

from lookalike._version import __version__
from lookalike.errors import LookalikeError
from lookalike.gallery.gallery import Gallery
from lookalike.server import pages
from lookalike.server.api import router, v1
from lookalike.server.browsing import Browsing
from lookalike.server.exploring import exploring
from lookalike.server.items import items
from lookalike.server.metrics import Telemetry
from lookalike.server.middleware import Gate, respond
from lookalike.server.problems import ProblemError, problem_of
from lookalike.server.schemas import ProblemOut
from lookalike.server.service import Service
from lookalike.server.settings import ServeSettings

log = logging.getLogger(__name__)

_TITLES = {
    400: ("not-well-formed", "The request is not well-formed"),
    404: ("no-such-page", "There is no such page"),
    405: ("no-such-method", "This is not done there"),
}


def create_app(galleries: Mapping[str, Gallery], settings: ServeSettings) -> FastAPI:
    """Return the service of galleries, by the names they are served under, as an ASGI application.

    Raises:
        ArtifactError: an encoder is missing or broken.
        FingerprintError: an encoder is not the one that rows were made with.
    """
    telemetry = Telemetry()
    service = Service(galleries, settings, telemetry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            warming = asyncio.create_task(app.state.browsing.warm())
            yield
            warming.cancel()

    app = FastAPI(
        title="lookalike",
        summary="Find the images that look like yours.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.state.browsing = Browsing(service)
    app.state.labeling_sessions = {}
    app.include_router(router)
    app.include_router(v1)
    app.include_router(items)
    app.include_router(exploring)
    app.include_router(pages.router)
    app.add_exception_handler(LookalikeError, _told)
    app.add_exception_handler(ProblemError, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _told)
    _describe_problems(app)
    app.add_middleware(Gate, settings=settings, telemetry=telemetry)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after", "server-timing"],
        )
    return app


async def _told(request: Request, error: Exception) -> Response:
    """Tell an error as a problem document, and count it."""
    problem = _problem(error)
    if problem.status == 405:
        problem = replace(problem, headers={"allow": ", ".join(_methods(request))})
    service: Service = request.app.state.service
    service.telemetry.failures.labels(problem.kind).inc()
    if problem.status >= 500 and problem.kind != "error":  # uvicorn logs those itself
        log.error("%s %s: %s", request.method, request.url.path, error)
    return respond(problem, request.scope)


def _methods(request: Request) -> list[str]:
    """Return the methods of a path; the router names those of the first route there only."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] == Match.FULL
    ]


def _problem(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, LookalikeError):
        return problem_of(error)
    if isinstance(error, RequestValidationError):
        wrong = [
            {"where": "/".join(map(str, each["loc"])), "what": each["msg"]}
            for each in error.errors()
        ]
        detail = "; ".join(f"{each['where']}: {each['what']}" for each in wrong[:3])
        title = "The request cannot be carried out"
        return ProblemError(422, "bad-request", title, detail, more={"errors": wrong[:20]})
    if isinstance(error, HTTPException):
        kind, title = _TITLES.get(error.status_code, ("refused", "The request was refused"))
        headers = dict(error.headers or {})
        return ProblemError(error.status_code, kind, title, str(error.detail), headers)
    return ProblemError(
        500, "error", "Something went wrong", "this is our fault; the service's log says more"
    )


def _describe_problems(app: FastAPI) -> None:
    """Have the API's document describe problems, and not FastAPI's own errors."""
    made = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            template = "#/components/schemas/{model}"
            schemas["ProblemOut"] = ProblemOut.model_json_schema(ref_template=template)
            document["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            if app.state.service.settings.keys:
                document["security"] = [{"key": []}, {"header": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
