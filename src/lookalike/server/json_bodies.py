"""Request bodies in JSON, which are parsed in threads: large ones take long."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

_SMALL = 1 << 14
_STEP = 1 << 20


class JsonRoute(APIRoute):
    """A route whose body is limited in the number of its JSON values, and parsed in a thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handle = super().get_route_handler()

        async def with_own_parser(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return with_own_parser


class _JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= _SMALL:
            return json.loads(body)
        service = self.app.state.service
        return await service.in_thread(_parse, body, service.settings.limits.json_values)


def _parse(body: bytes, max_values: int) -> Any:
    """Parse JSON; its values are counted first, since each takes much more memory than its text.

    Raises:
        HTTPException: there are too many values.
        ValueError: it is not JSON.
    """
    count = 0
    for place in range(0, len(body), _STEP):
        piece = body[place : place + _STEP]
        count += sum(piece.count(separator) for separator in (b",", b"[", b"{"))
        if count > max_values:
            detail = f"the JSON has more than {max_values:,} values, the limit"
            raise HTTPException(413, detail)
    return json.loads(body)
