"""Where in a request an error is: the ``errors`` of a problem document (RFC 9457).

A location is ``query/NAME``, ``path/NAME``, or ``body`` with a JSON pointer (RFC 6901) into it:
``body/like/0/id``. Fields of a form are named as they were sent: ``body/unlike_image``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.datastructures import QueryParams

from lookalike.server.problems import ProblemError

BODY = "body"
MAX_ERRORS = 20
"""Errors that a problem lists."""

_OF_FIELDS = ("invalid-request", "invalid-image")
"""Kinds of problems of which some field is always the cause."""

_SCOPE = "lookalike.body"
_SHOWN = 3
_NEAR = 20
"""Characters of a malformed document that a message shows."""

_EXPECTED = {
    "Expecting value": "a value was expected",
    "Expecting property name enclosed in double quotes": "a name in double quotes was expected",
    "Illegal trailing comma before end of object": "a name was expected after the comma",
    "Illegal trailing comma before end of array": "a value was expected after the comma",
    "Expecting ':' delimiter": "a colon was expected",
    "Expecting ',' delimiter": "a comma or the closing bracket was expected",
    "Extra data": "the end was expected, since the document is complete",
    "Unterminated string starting at": "the closing quote of this string is missing",
    "Invalid control character at": "a line end or tab in a string must be escaped",
    "Invalid \\escape": "a backslash must begin an escape such as \\n or \\\\",
    "Invalid \\uXXXX escape": "four hexadecimal digits were expected after \\u",
}
"""What was expected, by the message of :mod:`json`."""


@dataclass(frozen=True, slots=True)
class SentBody:
    """A parsed body, by which errors are located.

    Args:
        value: as of JSON.
        names: the fields of a form, by their places in ``value``; empty for JSON.
    """

    value: Any
    names: Mapping[str, str] = field(default_factory=dict)

    def locate(self, place: str) -> list[str]:
        """Return the locations of a place such as ``like/0/id``; none if nothing is there."""
        fields = [name for each, name in self.names.items() if each == place or _is_in(each, place)]
        if fields:
            return [f"{BODY}/{name}" for name in dict.fromkeys(fields)]
        value = self.value
        for step in place.split("/"):
            if isinstance(value, Mapping) and value.get(step) is not None:
                value = value[step]
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return []
        return [f"{BODY}/{place}"]


def note_body(scope: MutableMapping[str, Any], body: SentBody) -> None:
    """Keep a parsed body, to locate errors in it."""
    scope[_SCOPE] = body


def with_locations(problem: ProblemError, scope: Mapping[str, Any], root: str = "") -> ProblemError:
    """Return a problem with the locations of the parameters that it is about.

    Args:
        problem: of a request.
        scope: of the request.
        root: the object of the body that it is about, such as ``queries/0``.
    """
    is_located = "errors" in problem.extensions
    if is_located or not (problem.about or problem.kind in _OF_FIELDS):
        return problem
    names = [each for name in problem.about for each in ([f"{root}/{name}"] * bool(root) + [name])]
    locations = _locations(names, scope)
    if root and locations in ([], [BODY]):
        locations = [f"{BODY}/{root}"]
    errors = [{"location": each, "message": problem.detail} for each in locations[:MAX_ERRORS]]
    if not errors:
        return problem
    return replace(problem, extensions={**problem.extensions, "errors": errors})


def _locations(names: Iterable[str], scope: Mapping[str, Any]) -> list[str]:
    """Return where parameters are; the body as a whole if they are missing."""
    body: SentBody | None = scope.get(_SCOPE)
    sent = QueryParams(scope.get("query_string", b""))
    locations: dict[str, None] = {}
    for name in names:
        in_body = [] if body is None else body.locate(name)
        if in_body:
            locations |= dict.fromkeys(in_body)
        elif name in sent:
            locations[f"query/{name}"] = None
        elif name in scope.get("path_params", {}):
            locations[f"path/{name}"] = None
        elif name == BODY:
            locations[BODY] = None
    # "like" and "unlike" are in the request, and so is the place in them that is meant
    precise = [each for each in locations if not any(_is_in(other, each) for other in locations)]
    return precise or ([] if body is None else [BODY])


def _is_in(place: str, root: str) -> bool:
    return place.startswith(f"{root}/")


def validation_problem(
    errors: Sequence[Mapping[str, Any]], scope: Mapping[str, Any]
) -> ProblemError:
    """Return the problem of a request that does not fit its schema.

    Args:
        errors: of pydantic, whose locations begin with ``body``, ``query`` or ``path``.
        scope: of the request.
    """
    fields: dict[tuple[str, str], None] = {}
    for each in errors:
        message = str(each["msg"]).removeprefix("Value error, ")
        fields[_location(each, scope), message] = None
        if len(fields) == MAX_ERRORS:
            break
    detail = "; ".join(f"{location}: {message}" for location, message in list(fields)[:_SHOWN])
    listed = [{"location": location, "message": message} for location, message in fields]
    return ProblemError(422, "invalid-request", detail, extensions={"errors": listed})


def _location(error: Mapping[str, Any], scope: Mapping[str, Any]) -> str:
    """Return the location of an error, without what pydantic adds: the branches of unions."""
    root, *path = error["loc"]
    unknown = (error.get("ctx") or {}).get("field")
    body: SentBody | None = scope.get(_SCOPE)
    if root == BODY and body is not None:
        path = _existing_path(path, body.value, keep_last=error["type"] == "missing")
    if unknown is not None:
        path = [*path, unknown]
    place = "/".join(str(each).replace("~", "~0").replace("/", "~1") for each in path)
    if root == BODY and body is not None and place in body.names:
        place = body.names[place]
    return f"{root}/{place}" if place else str(root)


def _existing_path(path: Sequence[Any], value: Any, *, keep_last: bool) -> list[Any]:
    """Return the steps of a path that lead through a value; the last one may be missing there."""
    steps = []
    for number, step in enumerate(path):
        is_place = isinstance(step, int) and isinstance(value, list) and step < len(value)
        if is_place or (isinstance(value, Mapping) and step in value):
            value = value[step]
        elif not (keep_last and number == len(path) - 1):
            continue
        steps.append(step)
    return steps


def malformed_json(error: Exception, body: bytes) -> ProblemError:
    """Return the problem of a body that is not JSON: where, and what was expected there."""
    if isinstance(error, json.JSONDecodeError):
        rest = error.doc[error.pos : error.pos + _NEAR]
        near = f", before {rest!r}" if rest else ", at the end of the document"
        if error.msg.startswith(("Unterminated", "Invalid")):
            near = f": {rest!r}"
        expected = _EXPECTED.get(error.msg, error.msg)
        return _malformed(f"{expected}{near}", (error.lineno, error.colno))
    if isinstance(error, UnicodeDecodeError):
        before = body[: error.start]
        line_start = before.rfind(b"\n") + 1
        column = len(before[line_start:].decode(errors="replace")) + 1
        return _malformed("it is not in UTF-8", (before.count(b"\n") + 1, column))
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return _malformed(reason)


def _malformed(reason: str, place: tuple[int, int] | None = None) -> ProblemError:
    entry: dict[str, Any] = {"location": BODY, "message": reason}
    where = ""
    if place is not None:
        entry |= {"line": place[0], "column": place[1]}
        where = f" at line {place[0]}, column {place[1]}"
    return ProblemError(
        400,
        "malformed-request",
        f"the body is not JSON{where}: {reason}",
        extensions={"errors": [entry]},
    )


def unsupported_type(content_type: str, accepted: Sequence[str]) -> ProblemError:
    """Return the problem of a body of a type that a route does not take."""
    names = " or ".join(accepted)
    sent = f", not {content_type.partition(';')[0].strip()[:80]!r}" if content_type else ""
    advice = "; with curl, use --json" if "urlencoded" in content_type else ""
    return ProblemError(
        415,
        "unsupported-media-type",
        f"the Content-Type must be {names}{sent}{advice}",
        {"accept": ", ".join(accepted)},
        {"errors": [{"location": "header/content-type", "message": f"must be {names}{sent}"}]},
    )
