"""Searches as ``multipart/form-data``: the fields of a form, as those of a request in JSON."""

from __future__ import annotations

import json
from typing import Any

from lookalike.errors import InputError
from lookalike.formatting import printable, shorten
from lookalike.search.request import SentImage
from lookalike.server.field_errors import SentBody
from lookalike.server.json_bodies import FormReader, JsonRoute
from lookalike.server.multipart import Part, parse_form
from lookalike.server.problems import ProblemError, problem_of
from lookalike.server.schemas import SearchRequest, unknown_field

KINDS = ("image", "id", "text", "url", "vector", "shared")
"""What an example is."""
UNLIKE = "unlike_"
"""Prefix of the fields of examples that results should be unlike."""

_EXAMPLES = (*KINDS, *(f"{UNLIKE}{name}" for name in KINDS))
_OPTIONS = tuple(
    name for name in SearchRequest.model_fields if name not in (*KINDS, "like", "unlike")
)
_MAX_PARTS = 100
_MAX_TEXT = 500_000
"""Characters of a text field: a vector of the largest dimension."""

_NAME = 60


def read_form(body: bytes, content_type: str) -> SentBody:
    """Return the fields of a :class:`SearchRequest`; images are files, not base64.

    Raises:
        ProblemError: it is not such a form; the problem is about a field of it.
    """
    examples: dict[str, list[dict[str, Any]]] = {"like": [], "unlike": []}
    names: dict[str, str] = {}
    options: dict[str, Any] = {}
    for part in parse_form(body, content_type, _MAX_PARTS):
        if not len(part) and not part.filename:
            continue  # an input of a form that was left empty
        try:
            if part.name not in _EXAMPLES:
                _add_option(options, part)
                continue
            kind = "like" if part.name in KINDS else "unlike"
            what = part.name.removeprefix(UNLIKE)
            names[f"{kind}/{len(examples[kind])}/{what}"] = part.name
            number = len(examples["like"]) + len(examples["unlike"])
            examples[kind].append({what: _example(what, part, number)})
        except InputError as error:
            raise _invalid(part.name, error) from None
    return SentBody(_combined(examples, options), names)


def _invalid(name: str, error: InputError) -> ProblemError:
    problem = problem_of(error)
    listed = [{"location": f"body/{name[:80]}", "message": problem.detail}]
    problem.detail = f"{name[:80]}: {problem.detail}"
    problem.extensions = {"errors": listed}
    return problem


def _combined(examples: dict[str, list[dict[str, Any]]], options: dict[str, Any]) -> dict[str, Any]:
    """Return one example as it is, several as those that are combined."""
    if len(examples["like"]) == 1 and not examples["unlike"] and "weights" not in options:
        return {**examples["like"][0], **options}
    return {**{name: each for name, each in examples.items() if each}, **options}


def _add_option(options: dict[str, Any], part: Part) -> None:
    """Add the value of an option.

    Raises:
        InputError: there is no such option, or it is there twice.
    """
    if part.name not in _OPTIONS:
        raise InputError(unknown_field(part.name, [*_EXAMPLES, *_OPTIONS]))
    if part.name in options:
        raise InputError("it is there twice, and may be once")
    options[part.name] = _option(part.name, _text(part))


def _option(name: str, text: str) -> Any:
    """Return the value of an option, which the schema converts further."""
    if name == "box":
        return text.split(",")
    if name == "weights":
        return [_number(each) for each in text.split(",")]
    return text


def _example(kind: str, part: Part, number: int) -> Any:
    if kind == "image":
        data = part.data()
        if part.filename is None and data.isascii():
            return data.decode()  # base64, as in JSON
        filename = printable((part.filename or "").replace("\\", "/").rpartition("/")[2])
        return SentImage(data, shorten(filename, _NAME) or f"image {number + 1}")
    return _json(_text(part)) if kind == "vector" else _text(part)


def _text(part: Part) -> str:
    if part.filename is not None:
        raise InputError("it must be a text, not a file")
    if len(part) > _MAX_TEXT:
        raise InputError(f"it has more than {_MAX_TEXT:,} characters")
    return part.text()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it must be JSON: {error}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text[:40]!r} is no number") from None


class SearchRoute(JsonRoute):
    """A route that takes searches as forms too."""

    @staticmethod
    def form_reader() -> FormReader:
        """Return what reads a form."""
        return read_form
