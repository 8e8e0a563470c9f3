"""Parts of the OpenAPI document that FastAPI does not generate: problems, links, image bodies."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from lookalike.server.code_samples import add_code_samples
from lookalike.server.problems import MEDIA_TYPE
from lookalike.server.schemas import Problem, UrlParameters

_BINARY = {"schema": {"type": "string", "format": "binary"}}

_DESCRIPTIONS = {
    400: "Malformed request",
    401: "API key required",
    403: "Forbidden",
    404: "Gallery, item or shared query not found",
    408: "Request timed out",
    409: "Gallery locked by another process",
    410: "Expired: a signed URL, a shared query, or a cursor of an older revision",
    413: "Request too large",
    415: "The Content-Type is not one of those in Accept",
    421: "Host not allowed",
    422: "Invalid request or image",
    429: "Too many requests; retry after the seconds in Retry-After",
    431: "URL and headers too large",
    501: "Missing dependency",
    502: "Image could not be fetched",
    503: "Gallery or vector store unavailable",
    507: "Gallery cannot be written",
}
_COMMON = (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)

ITEM_READS = ("get_item", "get_item_image", "get_item_thumbnail", "get_item_neighbors")
"""Operations that read an item."""

PUBLIC: dict[str, Any] = {"security": []}
"""For operations that need no API key."""

IMAGE_BODY = {
    "requestBody": {
        "description": "An image file.",
        "required": True,
        "content": {"application/octet-stream": _BINARY, "image/*": _BINARY},
    }
}

_ONE_IMAGE = {
    "schema": {
        "type": "object",
        "required": ["image"],
        "additionalProperties": False,
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "The image file."}
        },
    }
}
ITEM_BODY: dict[str, Any] = {
    "requestBody": {
        **IMAGE_BODY["requestBody"],
        "content": {**IMAGE_BODY["requestBody"]["content"], "multipart/form-data": _ONE_IMAGE},  # type: ignore[dict-item]
    }
}
"""An image file, as it is or in a form."""


_FORM_FIELDS = {
    "image": "Image files",
    "id": "IDs of items",
    "text": "Texts",
    "url": "URLs of images",
    "vector": "Embeddings, each as a JSON array,",
    "shared": "IDs of shared queries",
}
_WEIGHTS = """Weights of the examples, joined by commas: in the order of the form, first those that
results should be like; 1 and 0.5 by default."""


def _form_option(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an option in a form, where nothing is null."""
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "title")}
    if kept.get("default", "") is None:
        del kept["default"]
    return {**(kinds[0] if kinds else {}), **kept}


def _one_or_several(is_file: bool) -> list[dict[str, Any]]:
    one = _BINARY["schema"] if is_file else {"type": "string"}
    return [one, {"type": "array", "items": one}]


FORM_BODY = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "Examples, each of which may be there several times, and the "
                    "options of the search.",
                    "properties": {
                        f"{prefix}{name}": {
                            "anyOf": _one_or_several(name == "image"),
                            "description": f"{what} that results should be {word}.",
                        }
                        for prefix, word in (("", "like"), ("unlike_", "unlike"))
                        for name, what in _FORM_FIELDS.items()
                    }
                    | {
                        name: _form_option(schema)
                        for name, schema in UrlParameters.model_json_schema()["properties"].items()
                    }
                    | {"weights": {"type": "string", "description": _WEIGHTS}},
                    "additionalProperties": False,
                }
            }
        }
    }
}
"""The form beside JSON."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses: those common to all operations, and more by status."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (*_COMMON, *statuses)
    }
    responses[401]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    for status in (429, 503):
        responses[status]["headers"] = {
            "Retry-After": {"schema": {"type": "integer", "minimum": 1}}
        }
    return {**responses, 431: {"description": _DESCRIPTIONS[431]}}


def item_links(row_id: str, *operations: str) -> dict[int | str, dict[str, Any]]:
    """Describe links from a response to operations on an item in it.

    ``row_id`` is an OpenAPI runtime expression for the item's id.
    """
    parameters = {"path.gallery": "$request.path.gallery", "query.id": row_id}
    links = {name: {"operationId": name, "parameters": parameters} for name in operations}
    return {200: {"links": links}}


SIGNED_URL: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": description,
        }
        for name, description in (
            (
                "v",
                "Version of the gallery in a link from an item or hit; with the "
                "current one, browsers may cache the answer.",
            ),
            ("expires", "When a signed link expires, in seconds since 1970; digits."),
            ("key", "The API key that a link was signed for; it does not tell the key."),
            ("signature", "Signature of a link, instead of an API key."),
        )
    ]
}
"""For images, whose links are signed where API keys are needed."""


def image_response(description: str) -> dict[int | str, dict[str, Any]]:
    """Describe a response that is an image."""
    return {
        200: {"description": description, "content": {"image/*": _BINARY}},
        304: {"description": "Not modified since the version in If-None-Match."},
    }


def customize_document(app: FastAPI) -> None:
    """Describe problem documents instead of FastAPI's own errors, and the ways to send a key."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            template = "#/components/schemas/{model}"
            problem = Problem.model_json_schema(ref_template=template)
            schemas |= {**problem.pop("$defs"), "Problem": problem}
            document["components"]["securitySchemes"] = {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "API key as Authorization: Bearer KEY.",
                },
                "header": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "API key as X-API-Key: KEY.",
                },
            }
            if app.state.service.settings.keys:
                document["security"] = [{"bearer": []}, {"header": []}]
            add_code_samples(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
