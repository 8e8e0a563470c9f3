"""``/docs``: the OpenAPI document as a page, rendered here, without scripts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from lookalike.server.caching import is_fresh
from lookalike.server.dependencies import ServiceDep
from lookalike.server.rendering import new_environment
from lookalike.server.responses import dumps
from lookalike.server.service import Service

DOCS_PATH = "/docs"
router = APIRouter(include_in_schema=False)

_METHODS = ("get", "post", "put", "patch", "delete")
_REFERENCE = "#/components/schemas/"
_CODE = re.compile("(``?)(.+?)\\1")
_templates = new_environment()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text; ``kind`` is ``code``, ``schema`` (with that name) or empty."""

    text: str
    kind: str = ""


Text = Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a property of an object."""

    name: str
    place: str
    type: Text
    limits: str
    required: bool
    default: str | None
    description: Sequence[Text]


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request or response: its media types, its type and its properties."""

    media_types: str
    type: Text
    fields: Sequence[Field] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, by its status."""

    status: str
    description: Sequence[Text]
    contents: Sequence[Content]


@dataclass(frozen=True, slots=True)
class Sample:
    """Code that sends a request."""

    title: str
    source: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    id: str
    method: str
    path: str
    summary: str
    description: Sequence[Text]
    needs_key: bool
    parameters: Sequence[Field]
    body: Sequence[Content]
    answers: Sequence[Answer]
    errors: Sequence[Answer]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Schema:
    """A named schema."""

    name: str
    type: Text
    description: Sequence[Text]
    fields: Sequence[Field]


class ApiDocs:
    """The page of a service, rendered when it is first asked for."""

    def __init__(self) -> None:
        self._page = b""
        self._tag = ""

    async def page(self, request: Request, service: Service) -> tuple[bytes, str]:
        """Return the page and its ETag."""
        if not self._page:
            document = request.app.openapi()
            page = (await service.in_thread(render_docs, document)).encode()
            self._page, self._tag = page, f'"{hashlib.sha256(page).hexdigest()[:32]}"'
        return self._page, self._tag


@router.get(DOCS_PATH)
async def show_docs(request: Request, service: ServiceDep) -> Response:
    """Show the OpenAPI document as a page."""
    page, tag = await request.app.state.api_docs.page(request, service)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if is_fresh(request, headers):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(page, headers=headers)


def render_docs(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document (version 3.1)."""
    components = document["components"]
    schemas = components["schemas"]
    groups: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method in (each for each in _METHODS if each in item):
            operation = _operation(method, path, item[method], document)
            groups.setdefault(item[method]["tags"][0], []).append(operation)
    named = [_schema(name, schema, schemas) for name, schema in sorted(schemas.items())]
    return _templates.get_template("docs.html").render(
        info=document["info"],
        groups=groups,
        schemas=named,
        schemes=[
            _paragraphs(each["description"])
            for each in components.get("securitySchemes", {}).values()
        ],
        needs_key="security" in document,
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> Operation:
    schemas = document["components"]["schemas"]
    body = operation.get("requestBody", {}).get("content", {})
    answers = [
        Answer(status, _paragraphs(each["description"]), _contents(each.get("content"), schemas))
        for status, each in operation["responses"].items()
    ]
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=_paragraphs(operation.get("description", "")),
        needs_key="security" in document and operation.get("security") != [],
        parameters=[_parameter(each) for each in operation.get("parameters", ())],
        body=_contents(body, schemas),
        answers=[each for each in answers if each.status[0] in "23"],
        errors=[each for each in answers if each.status[0] not in "23"],
        samples=[
            Sample(each.get("label") or each["lang"], each["source"])
            for each in operation.get("x-codeSamples", ())
        ],
    )


def _schema(name: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Schema:
    description = _paragraphs(schema.get("description", ""))
    return Schema(name, _type(schema), description, _fields(schema, schemas))


def _parameter(parameter: Mapping[str, Any]) -> Field:
    schema = parameter["schema"]
    required = parameter.get("required", False)
    description = parameter.get("description") or schema.get("description", "")
    return _field(parameter["name"], parameter["in"], schema, required, description)


def _contents(content: Mapping[str, Any] | None, schemas: Mapping[str, Any]) -> list[Content]:
    """Return the bodies of a request or response; media types with the same body are one."""
    merged: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for media_type, each in (content or {}).items():
        schema = each.get("schema", {})
        merged.setdefault(repr(schema), ([], schema))[0].append(media_type)
    return [
        Content(", ".join(names), _type(schema), _fields(schema, schemas))
        for names, schema in merged.values()
    ]


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[Field]:
    """Return the properties of an object, or of the object that a schema refers to."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].removeprefix(_REFERENCE)]
    required = schema.get("required", ())
    return [
        _field(name, "", each, name in required, each.get("description", ""))
        for name, each in schema.get("properties", {}).items()
    ]


def _field(
    name: str, place: str, schema: Mapping[str, Any], required: bool, description: str
) -> Field:
    default = schema.get("default")
    return Field(
        name=name,
        place=place,
        type=_type(schema),
        limits=", ".join(_limits(schema)),
        required=required,
        default=None if default is None else _json(default),
        description=_paragraphs(description),
    )


def _type(schema: Mapping[str, Any]) -> list[Piece]:
    """Return the type of a schema in words; null is left out, since a field may be left out."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFERENCE)
        return [Piece(name, "schema")]
    if "const" in schema:
        return [Piece(_json(schema["const"]), "code")]
    if "enum" in schema:
        return _joined(([Piece(_json(each), "code")] for each in schema["enum"]), " or ")
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            kinds = [each for each in schema[several] if each.get("type") != "null"]
            return _joined(map(_type, kinds), " or ")
    kind = schema.get("type", "any value")
    if kind == "array":
        if "prefixItems" in schema:
            return [Piece("list of "), *_joined(map(_type, schema["prefixItems"]), ", ")]
        items = schema.get("items", {})
        if items.get("type") in _PLURALS and "enum" not in items:
            return [Piece(f"list of {items['type']}s")]
        return [Piece("list of "), *_type(items)]
    values = schema.get("additionalProperties")
    if kind == "object" and isinstance(values, Mapping):
        return [Piece("object of "), *_type(values)]
    form = schema.get("format")
    return [Piece(f"{kind} ({form})" if form else str(kind))]


def _joined(texts: Iterable[Text], separator: str) -> list[Piece]:
    pieces: list[Piece] = []
    for each in texts:
        pieces += [*([Piece(separator)] if pieces else ()), *each]
    return pieces


_PLURALS = ("string", "number", "integer", "boolean", "object")
_RANGES = (
    ("minimum", "maximum", ""),
    ("exclusiveMinimum", "exclusiveMaximum", " (exclusive)"),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " values"),
    ("minProperties", "maxProperties", " columns"),
)


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits of a value in words."""
    for least, most, unit in _RANGES:
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            yield f"{low:,g} to {high:,.10g}{unit}"
        elif high is not None:
            yield f"at most {high:,.10g}{unit}"
        elif low is not None:
            yield f"at least {low:,.10g}{unit}"
    for each in schema.get("anyOf", ()):
        yield from _limits(each)


def _json(value: object) -> str:
    return dumps(value).decode()


def _paragraphs(text: str) -> list[list[Piece]]:
    """Return the paragraphs of a description, with its parts in backquotes as code."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return [list(_pieces(" ".join(each.split()))) for each in paragraphs if each]


def _pieces(text: str) -> Iterator[Piece]:
    end = 0
    for match in _CODE.finditer(text):
        yield Piece(text[end : match.start()])
        yield Piece(match[2], "code")
        end = match.end()
    yield Piece(text[end:])
