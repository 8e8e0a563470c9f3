"""Request bodies in JSON, which are parsed and checked in threads: large ones take long."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope

from lookalike.metadata import MAX_DIGITS

_SMALL, _MEDIUM = 1 << 14, 1 << 18
"""Smaller bodies are parsed at once, larger ones one at a time: nothing else runs meanwhile."""

_STEP = 1 << 20
_LABELS = "/labeling/coverage"


class JsonRoute(APIRoute):
    """A route whose body is limited in the number of its JSON values, and parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handle = super().get_route_handler()

        async def with_own_parser(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive, check))

        def check(value: Any) -> Any:
            """Return the model of a value; the value if it is invalid, which is reported later."""
            if self.body_field is None:
                return value
            model, errors = self.body_field.validate(value, loc=("body",))
            return value if errors else model

        return with_own_parser


class _JsonRequest(Request):
    def __init__(self, scope: Scope, receive: Receive, check: Callable[[Any], Any]) -> None:
        super().__init__(scope, receive)
        self._check = check

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= _SMALL:
            return json.loads(body)
        service = self.app.state.service
        limits = service.settings.limits
        has_labels = self.url.path.endswith(_LABELS)
        max_values = limits.label_values if has_labels else limits.json_values
        parse = partial(_parse, body, max_values, limits.json_escapes)
        workers = service.workers
        pool = workers.short if len(body) <= _MEDIUM else workers.parsing
        return await pool.run(lambda: self._check(parse()))


def _parse(body: bytes, max_values: int, max_escapes: int) -> Any:
    """Parse JSON whose text has a bounded number of everything that takes long to parse.

    Values are counted before, since each takes much more memory than its text.

    Raises:
        HTTPException: there are too many values or escaped characters.
        ValueError: it is not JSON, or has a number of too many digits.
    """
    values = escapes = 0
    for place in range(0, len(body), _STEP):
        piece = body[place : place + _STEP]
        values += sum(piece.count(separator) for separator in (b",", b"[", b"{"))
        escapes += piece.count(b"\\")
        for count, limit, what in (
            (values, max_values, "values"),
            (escapes, max_escapes, "escaped characters"),
        ):
            if count > limit:
                raise HTTPException(413, f"the JSON has more than {limit:,} {what}, the limit")
    return json.loads(body, parse_int=_integer)


def _integer(text: str) -> int:
    """Return an integer; parsing a long one takes time that is not linear."""
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a number has over {MAX_DIGITS:,} digits")
    return int(text)
