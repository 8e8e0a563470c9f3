"""ASGI middleware for all requests: access, body, quotas, time limit and sending."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lookalike.server.access import check_access, is_audited, is_free
from lookalike.server.admission import client_of
from lookalike.server.audit import audit
from lookalike.server.bodies import TIMED_OUT, Body, drain_before_end
from lookalike.server.pages import is_page_request, problem_page
from lookalike.server.problems import MEDIA_TYPE, ProblemError
from lookalike.server.request_ids import request_id
from lookalike.server.running import ClientDisconnected
from lookalike.server.sending import ResponseSender, get_instead_of_head
from lookalike.server.service import Service


class Middleware:
    """Checks requests and reads their bodies before the application sees them.

    The application runs as long as the client waits, up to the time limit of requests.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        original, scope = scope, get_instead_of_head(scope)
        service = self._service
        limits, quotas, metrics = service.settings.limits, service.quotas, service.metrics
        sender = ResponseSender(scope, send, quotas.responses, metrics, problem_response)
        sender.is_embeddable = bool(service.settings.origins)
        body = Body(scope, limits, quotas.bodies)
        try:
            check_access(scope, service.settings)
            await body.read(receive)
            with contextlib.ExitStack() as work:
                if not is_free(scope):
                    work.enter_context(quotas.requests.take())
                    sender.on_start = work.close
                await service.running.run(self._app, scope, body.take, receive, sender)
        except ProblemError as problem:
            metrics.failures.labels(problem.kind).inc()
            body.release()
            response = problem_response(problem, scope)
            unread = not body.is_read and problem.status != TIMED_OUT
            seconds = limits.body_seconds if unread else 0
            await response(scope, receive, drain_before_end(sender, receive, seconds))
        except ClientDisconnected:
            return
        finally:
            body.release()
            if "route" in scope:
                original["route"] = scope["route"]
            if is_audited(scope):
                audit(scope, client_of(scope), sender.status)


def problem_response(problem: ProblemError, scope: Scope) -> Response:
    """Return a problem as a page where a page was requested, else as a problem document."""
    headers = Headers(scope=scope)
    if is_page_request(scope["method"], scope["path"], headers.get("accept", "")):
        return problem_page(problem, headers.get("accept-language", ""))
    return _ProblemResponse(
        {**problem.as_dict(), "request_id": request_id(scope)},
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


class _ProblemResponse(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()  # ASCII: a detail may quote invalid Unicode
