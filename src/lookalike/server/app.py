"""The FastAPI application."""

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
from starlette.types import ASGIApp

from lookalike._version import __version__
from lookalike.errors import LookalikeError
from lookalike.gallery.gallery import Gallery
from lookalike.server import (
    api,
    api_docs,
    exploring,
    item_batches,
    items,
    job_api,
    listing,
    pages,
    shared_query_api,
)
from lookalike.server.access_log import AccessLog
from lookalike.server.api_keys import KeyFile
from lookalike.server.browsing import Browsing
from lookalike.server.field_errors import validation_problem, with_locations
from lookalike.server.metrics import Metrics
from lookalike.server.middleware import Middleware, problem_response
from lookalike.server.openapi import customize_document
from lookalike.server.problems import ProblemError
from lookalike.server.service import Service
from lookalike.server.settings import ServeSettings

log = logging.getLogger(__name__)

_EXPOSED = ("etag", "link", "location", "retry-after", "server-timing", "x-request-id")
"""Headers that scripts of allowed origins may read, besides those that all may."""

_DESCRIPTIONS = f'<{api_docs.DOCS_PATH}>; rel="service-doc", </openapi.json>; rel="service-desc"'
"""The Link header with descriptions of the service (RFC 8631)."""

_HTTP_PROBLEMS = {
    400: "malformed-request",
    404: "endpoint-not-found",
    405: "method-not-allowed",
    413: "request-too-large",
}


def create_app(galleries: Mapping[str, Gallery], settings: ServeSettings) -> FastAPI:
    """Return the ASGI application that serves galleries, by their names in the service.

    Raises:
        ArtifactError: an encoder is missing or broken.
        FingerprintError: the rows of a gallery were made with another encoder.
    """
    metrics = Metrics()
    if isinstance(keys := settings.keys, KeyFile):
        metrics.key_file_valid.set_function(lambda: keys.is_valid)
    service = Service(galleries, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            tasks = [
                asyncio.create_task(app.state.browsing.warm_up()),
                asyncio.create_task(service.remove_expired_queries()),
            ]
            yield
            for task in tasks:
                task.cancel()

    app = _LoggedApp(
        title="lookalike",
        summary="Image similarity search.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.state.browsing = Browsing(service)
    app.state.saved_files = exploring.SavedFiles()
    app.state.api_docs = api_docs.ApiDocs()
    app.include_router(api.searches)  # first, since a path is looked for in each in turn
    app.include_router(api.router)
    app.include_router(api.v1)
    modules = (items, item_batches, listing, shared_query_api, job_api, exploring, api_docs, pages)
    for module in modules:
        app.include_router(module.router)
    for kind in (
        LookalikeError,
        ProblemError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, _handle_error)
    customize_document(app)
    app.add_middleware(Middleware, service=service)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=_EXPOSED,
        )
    return app


class _LoggedApp(FastAPI):
    """An application whose access log is around all middleware, also what reports bugs."""

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        stack = super().build_middleware_stack()
        return AccessLog(stack, service.metrics, service.settings.trusted_proxies)


async def _handle_error(request: Request, error: Exception) -> Response:
    """Report an error as a problem document, count it, and log server errors."""
    service: Service = request.app.state.service
    problem = with_locations(_problem(error, service, request), request.scope)
    if problem.status == 405:
        problem = replace(problem, headers={"allow": ", ".join(_methods(request))})
    service.metrics.failures.labels(problem.kind).inc()
    if problem.status >= 500 and problem.kind != "internal-error":  # uvicorn logs those
        log.error("%s %s: %s", request.method, request.url.path, error)
    return problem_response(problem, request.scope)


def _methods(request: Request) -> list[str]:
    """Return the methods of a path; Starlette only reports those of the first matching route."""
    methods = {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] == Match.FULL
    }
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _problem(error: Exception, service: Service, request: Request) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, LookalikeError):
        return service.problem_of(error)
    if isinstance(error, RequestValidationError):
        return validation_problem(error.errors(), request.scope)
    if isinstance(error, HTTPException):
        kind = _HTTP_PROBLEMS.get(error.status_code, "refused")
        headers, detail = dict(error.headers or {}), str(error.detail)
        if kind == "endpoint-not-found":
            detail = f"nothing is here; the API is described at {api_docs.DOCS_PATH}"
            headers["link"] = _DESCRIPTIONS
        return ProblemError(error.status_code, kind, detail, headers)
    return ProblemError(500, "internal-error", "a bug in the service; see the service's log")
