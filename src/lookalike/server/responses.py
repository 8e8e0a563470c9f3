"""Responses of the API in JSON, which are built in threads: large ones take long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from starlette.responses import Response

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.filters.facets import Facet
from lookalike.search.request import SearchRequest
from lookalike.server import schemas
from lookalike.server.handles import OpenGallery
from lookalike.server.links import item_urls
from lookalike.server.metrics import Stages
from lookalike.server.problems import ProblemError
from lookalike.server.search_pages import check_state, next_cursor, resume
from lookalike.server.service import Answer, Service
from lookalike.stores.base import Rows

_MEDIA_TYPE = "application/json"
_FEW = 20
"""Results that are written at once, which takes less time than a thread; metadata of up to 100 kB
each takes some milliseconds."""


async def run_search(
    gallery: OpenGallery, service: Service, request: SearchRequest, cursor: str | None = None
) -> Response:
    """Run one query; the ``Server-Timing`` header has the duration of each stage.

    Raises:
        SettingError: the cursor is invalid.
        ProblemError: it is of another state of the gallery.
    """
    stages = Stages(service.metrics)
    if cursor is not None:
        gallery = await service.open(gallery.handle)
        request = resume(request, cursor, gallery.state)
    answer = await service.search(gallery, request, stages)
    if cursor is not None:
        check_state(gallery.state, answer.gallery.state)

    if len(answer.hits) <= _FEW:
        return _json(dumps(_head(request, answer) | {"hits": list(_hits(answer))}), stages)
    return await json_in_parts(service, lambda: _result_parts(request, answer), stages)


async def json_response(
    service: Service, build: Callable[[], BaseModel | list[Any]], *, long: bool = False
) -> Response:
    """Return what ``build`` returns as JSON; ``long`` if that may take seconds."""
    data = await service.in_thread(lambda: dumps(build()), long=long)
    return Response(data, media_type=_MEDIA_TYPE)


async def json_in_parts(
    service: Service, parts: Callable[[], Iterable[bytes]], stages: Stages | None = None
) -> Response:
    """Return a JSON document that is made of parts.

    Raises:
        InputError: it is larger than a response may be.
    """
    data = await service.in_thread(join_parts, parts, service.settings.limits.response_bytes)
    return _json(data, stages)


def _json(data: bytes, stages: Stages | None) -> Response:
    headers = {} if stages is None else {"server-timing": stages.header()}
    return Response(data, media_type=_MEDIA_TYPE, headers=headers)


def batch_parts(
    results: Iterable[tuple[SearchRequest, Answer] | ProblemError],
) -> Iterator[bytes]:
    """Yield the JSON of a batch search: of each query, as a request of its own, or its problem."""
    separator = b'{"results":['
    for result in results:
        yield separator
        separator = b","
        if isinstance(result, ProblemError):
            yield dumps({"result": None, "problem": result.as_dict()})
        else:
            yield b'{"result":'
            yield from _result_parts(*result)
            yield b',"problem":null}'
    yield b"]}"


def item_parts(gallery: OpenGallery, rows: Rows) -> Iterator[bytes]:
    """Yield the JSON of a list of items."""
    separator = b"["
    for place in range(len(rows)):
        yield separator
        separator = b","
        yield dumps(item(gallery, rows, place))
    yield b"]" if len(rows) else b"[]"


def facet_column(facet: Facet) -> schemas.Column:
    """Return a column of the metadata as it is described to clients."""
    return schemas.Column(
        column=facet.column,
        kind=facet.kind,
        rows=facet.rows,
        distinct=facet.distinct,
        values=None if facet.values is None else list(facet.values.items()),
        min=facet.low,
        max=facet.high,
    )


def item(gallery: OpenGallery, rows: Rows, place: int) -> dict[str, Any]:
    """Return the fields of a :class:`schemas.Item`."""
    row_id = rows.ids[place]
    return {
        "id": row_id,
        "metadata": dict(rows.metadata[place]),
        "content_hash": rows.hashes[place],
        **item_urls(gallery, row_id),
    }


def dumps(value: object) -> bytes:
    """Return JSON in UTF-8; numbers that are not finite are null."""
    if isinstance(value, BaseModel) or (
        isinstance(value, list) and any(isinstance(each, BaseModel) for each in value)
    ):
        value = to_jsonable_python(value)
    try:
        text = _encode(value, ensure_ascii=False)
        return text.encode()
    except UnicodeEncodeError:  # half a character
        return _encode(value, ensure_ascii=True).encode()


def _encode(value: object, *, ensure_ascii: bool) -> str:
    try:
        return _encoder(ensure_ascii, False).encode(value)
    except ValueError:
        return _encoder(ensure_ascii, True).encode(_finite(value))


@cache
def _encoder(ensure_ascii: bool, allow_nan: bool) -> json.JSONEncoder:
    return json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        allow_nan=allow_nan,
        separators=(",", ":"),
        default=to_jsonable_python,
    )


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _head(request: SearchRequest, answer: Answer) -> dict[str, Any]:
    """Return the fields of a search result but for its hits."""
    hits, gallery = answer.hits, answer.gallery
    return {
        "query": hits.query,
        "metric": hits.metric.value,
        "ranked_by": hits.ranked_by,
        "note": hits.note,
        "revision": gallery.state.revision,
        "offset": request.offset,
        "total": hits.total,
        "next": next_cursor(request, hits, gallery.state),
    }


def _hits(answer: Answer) -> Iterator[dict[str, Any]]:
    """Yield the hits; images are referred to by item id, never by location."""
    for hit in answer.hits:
        fields = answer.hits.hit_as_dict(hit)
        del fields["uri"]
        yield fields | item_urls(answer.gallery, hit.id)


def _result_parts(request: SearchRequest, answer: Answer) -> Iterator[bytes]:
    """Yield the JSON of a search result."""
    yield dumps(_head(request, answer))[:-1] + b',"hits":['
    separator = b""
    for hit in _hits(answer):
        yield separator
        separator = b","
        yield dumps(hit)
    yield b"]}"


def join_parts(parts: Callable[[], Iterable[bytes]], limit: int) -> bytes:
    """Return a response that is made of parts.

    Raises:
        InputError: it is larger than ``limit`` bytes.
    """
    pieces, size = [], 0
    for part in parts():
        check_cancelled()
        size += len(part)
        if size > limit:
            raise InputError(
                f"the response would have more than {limit / 1e6:g} MB, the limit; ask for fewer "
                "results"
            )
        pieces.append(part)
    return b"".join(pieces)
