"""Code that sends a request of each operation: in curl, JavaScript and Python.

All of it is made of the OpenAPI document: its paths, and the examples of its parameters and bodies.
What these leave open is in one table, :data:`_CHOICES`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

SERVICE = "http://127.0.0.1:8000"
"""The service in the code, where it is by default."""

KEY = "YOUR_KEY"
"""Stands for an API key."""

IMAGE_FILE = "photos/cats/1.jpg"
_MEDIA_TYPE = "image/jpeg"

_METHODS = ("get", "put", "post", "delete", "patch")
_REFERENCE = "#/components/schemas/"
_JSON = "application/json"
_SAVED = re.compile(r"image/.+")


class _File:
    """Stands for the image file in a body of JSON, where it is in base64."""


_FILE = _File()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A request of an operation, as far as the document leaves it open.

    Args:
        title: what is special about it; empty for the first one of an operation.
        query: parameters in the URL, beside those that are required.
        body: in JSON; by default the first example of the document.
        form: fields of a form, instead of JSON where that is a file in base64.
    """

    title: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    form: Sequence[tuple[str, str | _File]] = ()


_NEW = {"id": "api:new-1"}
_CHOICES: Mapping[str, Sequence[_Choice]] = {
    "search": (
        _Choice(),
        _Choice(
            title="several examples with files",
            body={
                "like": [{"image": _FILE}, {"id": "photos:cats/2.jpg"}],
                "unlike": [{"id": "photos:dogs/1.jpg"}],
                "k": 20,
            },
            form=(
                ("image", _FILE),
                ("id", "photos:cats/2.jpg"),
                ("unlike_id", "photos:dogs/1.jpg"),
                ("k", "20"),
            ),
        ),
        _Choice(title="keywords and a filter", body={"keywords": "cats", "where": "year >= 2020"}),
    ),
    "search_image": (_Choice(query={"k": "20", "where": "year >= 2020"}),),
    "search_batch": (
        _Choice(body={"queries": [{"id": "photos:cats/1.jpg"}, {"text": "dogs"}], "k": 5}),
    ),
    "share_query": (_Choice(),),
    "get_shared_query_image": (_Choice(),),
    "put_item": (_Choice(query={"id": "new-1", "metadata": '{"label": "cats"}'}),),
    "update_item_metadata": (_Choice(query=_NEW, body={"metadata": {"label": "tabby"}}),),
    "delete_item": (_Choice(query=_NEW),),
    "add_items": (
        _Choice(
            body={"items": [{"id": "new-1", "image": _FILE, "metadata": {"label": "cats"}}]},
            form=(("image", _FILE), ("ids", '["new-1"]'), ("metadata", '{"label": "cats"}')),
        ),
    ),
    "list_items": (_Choice(query={"sort": "-year", "limit": "50"}),),
    "get_facets": (_Choice(query={"where": "year >= 2020"}),),
    "get_groups": (_Choice(query={"sort": "-date", "by": "month"}),),
    "list_ids": (_Choice(query={"limit": "1000"}),),
    "sample_items": (_Choice(query={"count": "12"}),),
    "get_item_thumbnail": (_Choice(query={"size": "256"}),),
    "get_item_neighbors": (_Choice(query={"k": "20"}),),
    "estimate_label_coverage": (
        _Choice(body={"labels": {"photos:cats/1.jpg": ["cat"], "photos:dogs/1.jpg": ["dog"]}}),
    ),
}


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that is to be sent.

    Args:
        method: in capitals.
        url: with its parameters.
        accepts: media type of the answer; empty if it has none.
        needs_key: whether an API key is sent.
        body: in JSON; None for none.
        form: fields of a form; none for others.
        sends_file: whether the body is the image file.
    """

    method: str
    url: str
    accepts: str
    needs_key: bool
    body: Any = None
    form: Sequence[tuple[str, str | _File]] = ()
    sends_file: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The headers beside those of the body."""
        return {"Authorization": f"Bearer {KEY}"} if self.needs_key else {}

    @property
    def saves(self) -> bool:
        """Whether the answer is a file."""
        return _SAVED.fullmatch(self.accepts) is not None


def add_code_samples(document: dict[str, Any]) -> None:
    """Add ``x-codeSamples`` to all operations of an OpenAPI document, in each language.

    Each has ``lang``, ``label`` and ``source``. The service is :data:`SERVICE` there, an API key
    :data:`KEY`, an image file that is sent :data:`IMAGE_FILE`.
    """
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                operation["x-codeSamples"] = [*_samples(document, path, method, operation)]


def _samples(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    for choice in _CHOICES.get(operation["operationId"], (_Choice(),)):
        request = _request(document, path, method, operation, choice)
        after = f": {choice.title}" if choice.title else ""
        for language, label, write in (
            ("Shell", "curl", _curl),
            ("JavaScript", "JavaScript", _javascript),
            ("Python", "Python", _python),
        ):
            yield {"lang": language, "label": f"{label}{after}", "source": write(request)}


def _request(
    document: Mapping[str, Any],
    path: str,
    method: str,
    operation: Mapping[str, Any],
    choice: _Choice,
) -> _Request:
    parameters = operation.get("parameters", ())
    query: dict[str, str] = {}
    for each in parameters:
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", quote(_example(each), safe=""))
        elif each.get("required") and each["in"] == "query":
            query[each["name"]] = _example(each)
    query |= choice.query
    content = operation.get("requestBody", {}).get("content", {})
    body = choice.body
    if body is None and _JSON in content:
        body = _body_example(document, content[_JSON]["schema"])
    return _Request(
        method.upper(),
        SERVICE + path + (f"?{urlencode(query, quote_via=quote, safe='/:')}" if query else ""),
        _media_type(operation),
        needs_key="security" in document and operation.get("security") != [],
        body=body,
        form=choice.form,
        sends_file=bool(content) and _JSON not in content,
    )


def _example(parameter: Mapping[str, Any]) -> str:
    """Return the example of a required parameter; its name if it has none."""
    return str((parameter["schema"].get("examples") or [parameter["name"]])[0])


def _body_example(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """Return the first example of a body, or that of its fields."""
    name = schema.get("$ref", "").removeprefix(_REFERENCE)
    resolved = document["components"]["schemas"][name] if name else schema
    if resolved.get("examples"):
        return resolved["examples"][0]
    fields = resolved.get("properties", {})
    return {each: fields[each]["examples"][0] for each in fields if fields[each].get("examples")}


def _media_type(operation: Mapping[str, Any]) -> str:
    for status, response in operation["responses"].items():
        if status[0] == "2":
            return next(iter(response.get("content", ())), "")
    return ""


# ---- curl ----------------------------------------------------------------------------------------


def _curl(request: _Request) -> str:
    words = ["curl"]
    default = "POST" if request.form or request.body is not None or request.sends_file else "GET"
    options: list[list[str]] = []
    if request.sends_file and request.method == "PUT":
        options.append(["-T", IMAGE_FILE])
    elif request.method != default:
        words += ["-X", request.method]
    for name, value in request.headers.items():
        options.append(["-H", f"{name}: {value}"])
    if request.sends_file:
        options.append(["-H", f"Content-Type: {_MEDIA_TYPE}"])
        if request.method != "PUT":
            options.append(["--data-binary", f"@{IMAGE_FILE}"])
    elif request.form:
        for name, part in request.form:
            value = f"@{IMAGE_FILE}" if isinstance(part, _File) else part
            options.append(["-F", f"{name}={value}"])
    elif request.body is not None:
        options.append(["--json", json.dumps(request.body)])
    if request.saves:
        options.append(["-o", "image"])
    lines = [shlex.join([*words, request.url]), *map(shlex.join, options)]
    return " \\\n  ".join(lines)


# ---- JavaScript ----------------------------------------------------------------------------------


def _javascript(request: _Request) -> str:
    lines: list[str] = []
    options = {} if request.method == "GET" else {"method": json.dumps(request.method)}
    headers = request.headers
    if request.sends_file or request.form:
        lines.append('const [file] = document.querySelector("input[type=file]").files;')
    if request.form:
        lines.append("const form = new FormData();")
        lines += [
            f"form.append({json.dumps(name)}, "
            f"{'file' if isinstance(part, _File) else json.dumps(part)});"
            for name, part in request.form
        ]
        options["body"] = "form"
    elif request.sends_file:
        options["body"] = "file"
    elif request.body is not None:
        headers = {**headers, "Content-Type": _JSON}
        options["body"] = f"JSON.stringify({_indented(request.body)})"
    if headers:
        options["headers"] = json.dumps(headers)
    arguments = json.dumps(request.url)
    if options:
        fields = "".join(f"  {name}: {value},\n" for name, value in options.items())
        arguments += f", {{\n{fields}}}"
    lines += [
        f"const response = await fetch({arguments});",
        "if (!response.ok) throw new Error((await response.json()).detail);",
    ]
    return "\n".join([*lines, *_javascript_answer(request)])


def _javascript_answer(request: _Request) -> list[str]:
    if request.saves:
        return ["const image = await response.blob();"]
    if request.accepts:
        method = "json" if request.accepts == _JSON else "text"
        return [f"console.log(await response.{method}());"]
    return []


def _indented(value: Any) -> str:
    """Return JSON that is indented within the options of a call."""
    return json.dumps(value, indent=2).replace("\n", "\n  ")


# ---- Python --------------------------------------------------------------------------------------


def _python(request: _Request) -> str:
    imports = ["from urllib.request import Request, urlopen"]
    headers = request.headers
    arguments = [json.dumps(request.url)]
    before: list[str] = []
    if request.sends_file:
        before = [f'with open({json.dumps(IMAGE_FILE)}, "rb") as file:', "    image = file.read()"]
        headers = {**headers, "Content-Type": _MEDIA_TYPE}
        arguments.append("data=image")
    elif request.body is not None:
        imports.insert(0, "import json")
        if _has_file(request.body):
            imports.insert(0, "import base64")
            before = [
                f'with open({json.dumps(IMAGE_FILE)}, "rb") as file:',
                "    image = base64.b64encode(file.read()).decode()",
            ]
        before.append(f"body = {_python_value(request.body)}")
        headers = {**headers, "Content-Type": _JSON}
        arguments.append("data=json.dumps(body).encode()")
    if headers:
        arguments.append(f"headers={_python_value(headers, 1)}")
    if request.method != "GET":
        arguments.append(f"method={json.dumps(request.method)}")
    after = ["    print(response.status)"]
    if request.saves:
        after = ['    with open("image", "wb") as file:', "        file.write(response.read())"]
    elif request.accepts == _JSON:
        imports = imports if "import json" in imports else ["import json", *imports]
        after = ["    print(json.load(response))"]
    elif request.accepts:
        after = ["    print(response.read().decode())"]
    call = "".join(f"    {each},\n" for each in arguments)
    return "\n".join(
        [
            *imports,
            "",
            *before,
            f"request = Request(\n{call})",
            "with urlopen(request) as response:",
            *after,
        ]
    )


def _has_file(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_file, value.values()))
    return isinstance(value, _File) or (isinstance(value, list) and any(map(_has_file, value)))


def _python_value(value: Any, indent: int = 0) -> str:
    """Return a value of JSON in Python, in which the image file is the variable ``image``."""
    if isinstance(value, _File):
        return "image"
    if isinstance(value, Mapping) and indent < 1:
        pad = "    " * (indent + 1)
        pairs = (
            f"{pad}{json.dumps(k)}: {_python_value(v, indent + 1)},\n" for k, v in value.items()
        )
        return f"{{\n{''.join(pairs)}}}"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(k)}: {_python_value(v, indent)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_python_value(each, indent) for each in value)}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
