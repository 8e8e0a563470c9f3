"""Request bodies in JSON, which are parsed and checked in threads: large ones take long."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from lookalike.metadata import MAX_DIGITS
from lookalike.server.field_errors import SentBody, malformed_json, note_body, unsupported_type
from lookalike.server.multipart import FORM, is_form
from lookalike.server.parameters import Errors, endpoint_of
from lookalike.server.workers import Workers

JSON = "application/json"

FormReader = Callable[[bytes, str], SentBody]

_SMALL, _MEDIUM = 1 << 14, 1 << 18
"""Smaller bodies are parsed at once, larger ones one at a time: nothing else runs meanwhile."""

_STEP = 1 << 20
_LABELS = "/labeling/coverage"


class JsonRoute(APIRoute):
    """A route whose body is limited in the number of its JSON values, and parsed in a thread."""

    @staticmethod
    def form_reader() -> FormReader | None:
        """Return what returns the same of a form, by its body and Content-Type; None for none."""
        return None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests; where it can be, without FastAPI's."""
        handle = super().get_route_handler()
        endpoint = endpoint_of(self.dependant)
        if self.body_field is None:
            return handle if endpoint is None else endpoint.respond

        async def with_own_parser(request: Request) -> Response:
            body = await request.body()
            if not body:
                return await handle(request)
            value, errors = await self._value(request, body)
            if endpoint is None:
                return await handle(_ParsedRequest(request.scope, value))
            return await endpoint.respond(request, value, errors)

        return with_own_parser

    async def _value(self, request: Request, body: bytes) -> tuple[Any, Errors]:
        """Return the model of a body; its value if it is invalid, and what is wrong with it."""
        content_type = request.headers.get("content-type", "")
        has_labels = request.url.path.endswith(_LABELS)
        service = request.app.state.service
        limits = service.settings.limits
        max_values = limits.label_values if has_labels else limits.json_values
        read_form = self.form_reader()

        def parse() -> SentBody:
            if _is_json(content_type):
                return SentBody(parse_json(body, max_values, limits.json_escapes))
            if is_form(content_type) and read_form is not None:
                return read_form(body, content_type)
            forms = [] if read_form is None else [FORM]
            raise unsupported_type(content_type, [JSON, *forms])

        def work() -> tuple[Any, Errors]:
            sent = parse()
            note_body(request.scope, sent)
            assert self.body_field is not None
            model, errors = self.body_field.validate(sent.value, loc=("body",))
            return (sent.value if errors else model), errors

        if len(body) <= _SMALL:
            return work()
        workers: Workers = service.workers
        pool = workers.short if len(body) <= _MEDIUM else workers.parsing
        return await pool.run(work)


class _ParsedRequest(Request):
    """A request whose body was parsed; FastAPI takes it for one in JSON."""

    def __init__(self, scope: Scope, value: Any) -> None:
        others = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        super().__init__({**scope, "headers": [*others, (b"content-type", JSON.encode())]})
        self._value = value

    async def body(self) -> bytes:
        return b"{}"  # not empty

    async def json(self) -> Any:
        return self._value


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


def parse_json(body: bytes, max_values: int, max_escapes: int) -> Any:
    """Parse JSON whose text has a bounded number of everything that takes long to parse.

    Values are counted before, since each takes much more memory than its text.

    Raises:
        HTTPException: there are too many values or escaped characters.
        ProblemError: it is not JSON, or has a number of too many digits.
    """
    values = escapes = 0
    for place in range(0, len(body), _STEP) if len(body) > _SMALL else ():
        piece = body[place : place + _STEP]
        values += sum(piece.count(separator) for separator in (b",", b"[", b"{"))
        escapes += piece.count(b"\\")
        for count, limit, what in (
            (values, max_values, "values"),
            (escapes, max_escapes, "escaped characters"),
        ):
            if count > limit:
                raise HTTPException(413, f"the JSON has more than {limit:,} {what}, the limit")
    try:
        return json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise malformed_json(error, body) from None


def _integer(text: str) -> int:
    """Return an integer; parsing a long one takes time that is not linear."""
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a number has over {MAX_DIGITS:,} digits")
    return int(text)
