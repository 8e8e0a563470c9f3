"""Arguments that are resolved once for a route are those that FastAPI resolves."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import pytest
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from lookalike.server.parameters import Endpoint, endpoint_of


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    k: int = Field(7, ge=1)
    sort: list[str] = Field(default_factory=list)
    fields: Annotated[list[str], Field(max_length=2)] | None = None
    where: str | None = Field(None, alias="filter")


class Body(BaseModel):
    text: Annotated[str, Field(min_length=1)]


async def number_of(number: Annotated[int, Path(ge=0)]) -> int:
    return number


Number = Annotated[int, Depends(number_of)]


async def doubled(number: Number) -> int:
    if number == 13:
        raise RequestValidationError([{"type": "unlucky", "loc": ("path",), "msg": "unlucky"}])
    return 2 * number


def answer(**values: Any) -> Response:
    return Response(json.dumps(values))


async def with_options(
    number: Number,
    twice: Annotated[int, Depends(doubled)],
    options: Annotated[Options, Query()],
    request: Request,
) -> Response:
    return answer(number=number, twice=twice, path=request.url.path, **options.model_dump())


async def with_parameters(
    number: Number,
    row_id: Annotated[str, Query(alias="id", min_length=1)],
    size: Annotated[Literal[64, 128], Query()] = 64,
    names: Annotated[list[str] | None, Query()] = None,
    exact: bool = False,
) -> Response:
    return answer(number=number, row_id=row_id, size=size, names=names, exact=exact)


def route_of(function: Any) -> APIRoute:
    app = FastAPI()
    app.add_api_route("/items/{number}", function)
    (route,) = (each for each in app.routes if isinstance(each, APIRoute))
    return route


def scope_of(number: str, query: str) -> dict[str, Any]:
    path = f"/items/{number}"
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "path_params": {"number": number},
        "headers": [],
        "root_path": "",
    }


def errors_of(error: RequestValidationError) -> list[tuple[Any, ...]]:
    return [
        (each["type"], each["loc"], each["msg"], (each.get("ctx") or {}).keys())
        for each in error.errors()
    ]


def response_of(endpoint: Endpoint, number: str, query: str) -> Any:
    try:
        response = asyncio.run(endpoint.respond(Request(scope_of(number, query))))
    except RequestValidationError as error:
        return errors_of(error)
    return json.loads(bytes(response.body))


def response_of_fastapi(route: APIRoute, number: str, query: str) -> Any:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    app = FastAPI()
    app.router.routes.append(route)
    errors: list[RequestValidationError] = []

    @app.exception_handler(RequestValidationError)
    async def keep(_: Request, error: RequestValidationError) -> Response:
        errors.append(error)
        return Response()

    asyncio.run(app(scope_of(number, query), receive, send))
    return errors_of(errors[0]) if errors else json.loads(sent[1]["body"])


QUERIES = (
    *("", "k=3", "k=0", "k=x", "k=", "k=1&k=2", "sort=a", "sort=a&sort=-b", "fields=a"),
    *("fields=a&fields=b&fields=c", "filter=x", "where=x", "kk=1", "kk=1&kk=2", "k=0&kk=1&sort="),
    *("id=a", "id=", "id=a&id=b", "id=a&size=128", "id=a&size=63", "size=63", "id=a&names=b"),
    *("id=a&names=b&names=c", "id=a&exact=true", "id=a&exact=maybe", "id=%FF&other=1", "id=%C3%A9"),
)


@pytest.mark.parametrize("number", ["5", "-1", "x", "13"])
@pytest.mark.parametrize("query", QUERIES, ids=unquote)
@pytest.mark.parametrize("function", [with_options, with_parameters])
def test_arguments_and_errors_are_those_of_fastapi(function: Any, query: str, number: str) -> None:
    route = route_of(function)
    endpoint = endpoint_of(route.dependant)
    assert endpoint is not None
    result = response_of(endpoint, number, query)
    assert result == response_of_fastapi(route, number, query)


def test_errors_of_a_body_come_after_the_others() -> None:
    async def function(number: Number, body: Body) -> Response:
        return answer(number=number, text=body.text)

    endpoint = endpoint_of(route_of(function).dependant)
    assert endpoint is not None
    wrong = [{"type": "missing", "loc": ("body", "text"), "msg": "Field required"}]
    request = Request(scope_of("-1", ""))
    with pytest.raises(RequestValidationError) as invalid:
        asyncio.run(endpoint.respond(request, {}, wrong))
    assert [each["loc"] for each in invalid.value.errors()] == [
        ("path", "number"),
        ("body", "text"),
    ]
    response = asyncio.run(endpoint.respond(Request(scope_of("1", "")), Body(text="x"), []))
    assert json.loads(bytes(response.body)) == {"number": 1, "text": "x"}


async def with_header(name: Annotated[str, Header()]) -> Response:
    return answer(name=name)


async def with_response(response: Response) -> Response:
    return response


async def with_header_below(name: Annotated[Response, Depends(with_header)]) -> Response:
    return name


async def with_model() -> Body:
    return Body(text="x")


def in_thread() -> Response:
    return Response()


@pytest.mark.parametrize(
    "function", [with_header, with_response, with_header_below, with_model, in_thread]
)
def test_what_else_fastapi_passes_or_converts_is_left_to_it(function: Any) -> None:
    assert endpoint_of(route_of(function).dependant) is None
