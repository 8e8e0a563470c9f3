"""Bodies of type ``multipart/form-data`` (RFC 7578), as browsers and ``curl -F`` send them.

The whole body is in memory already; its parts are places in it, which are copied one at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lookalike.server.problems import ProblemError

FORM = "multipart/form-data"

_MAX_HEADERS = 8_192
"""Bytes of the headers of a part."""

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([!-~]{1,70}?))\s*(?:;|$)', re.IGNORECASE)
_HEADER = re.compile(rb"([!-9;-~]+):[ \t]*([^\r\n]*?)[ \t]*(?:\r\n|$)")
_PARAMETER = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n", '\\"': '"', "\\\\": "\\"}
_ESCAPE = re.compile(r'%22|%0D|%0A|\\"|\\\\')


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a form.

    Args:
        name: of the field.
        filename: of a file; None for a text.
        content_type: as it was sent, in lower case; empty if it was not.
    """

    name: str
    filename: str | None
    content_type: str
    _body: memoryview = field(repr=False)

    def __len__(self) -> int:
        return len(self._body)

    def data(self) -> bytes:
        """Return a copy of the content."""
        return bytes(self._body)

    def text(self) -> str:
        """Return the content as text.

        Raises:
            ProblemError: it is not UTF-8.
        """
        try:
            return str(self._body, "utf-8")
        except UnicodeDecodeError:
            raise malformed(f"the field {self.name!r} is not UTF-8") from None


def is_form(content_type: str) -> bool:
    """Return whether a body is a form with files."""
    return content_type.partition(";")[0].strip().lower() == FORM


def parse_form(body: bytes, content_type: str, max_parts: int) -> list[Part]:
    """Return the fields of a form, in order.

    Args:
        body: of the request.
        content_type: its header, with the boundary.
        max_parts: fields that it may have.

    Raises:
        ProblemError: it is malformed, or has more fields.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise malformed("the Content-Type has no boundary; let the browser or curl set it")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode()
    view, parts = memoryview(body), list[Part]()
    place = len(delimiter) - 2 if body.startswith(delimiter[2:]) else -1
    if place < 0:  # a preamble, which is ignored
        place = body.find(delimiter)
        if place < 0:
            raise malformed("the body does not begin with its boundary")
        place += len(delimiter)
    while not body.startswith(b"--", place):
        if len(parts) == max_parts:
            raise ProblemError(
                413,
                "request-too-large",
                f"the form has more than {max_parts:,} fields, the limit",
            )
        if not body.startswith(b"\r\n", place):
            raise malformed(f"field {len(parts) + 1} does not begin with a line end")
        end = body.find(delimiter, place)
        if end < 0:
            raise malformed(f"field {len(parts) + 1} does not end with the boundary")
        parts.append(_part(body, view, place + 2, end, len(parts) + 1))
        place = end + len(delimiter)
    return parts


def image_of(body: bytes, content_type: str) -> bytes:
    """Return the image file that a body is: as it is, or the field ``image`` of a form.

    Raises:
        ProblemError: a form is malformed, or has something else than one image.
    """
    if not is_form(content_type):
        return body
    parts = parse_form(body, content_type, 1)
    if not parts or parts[0].name != "image":
        raise malformed("it must have one field, image, with the file")
    return parts[0].data()


def _part(body: bytes, view: memoryview, start: int, end: int, number: int) -> Part:
    """Return the part between two places."""
    if body.startswith(b"\r\n", start):
        headers, content = b"", start + 2
    else:
        blank = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEADERS))
        if blank < 0:
            raise malformed(f"field {number} has no end of its headers")
        headers, content = body[start:blank], blank + 4
    fields = {name.lower(): value for name, value in _HEADER.findall(headers)}
    disposition = fields.get(b"content-disposition", b"").decode("utf-8", "replace")
    parameters = {
        key.lower(): _ESCAPE.sub(lambda match: _ESCAPES[match[0]], value)
        for key, value in _PARAMETER.findall(disposition)
    }
    if "name" not in parameters or not disposition.lower().startswith("form-data"):
        raise malformed(f"field {number} has no name")
    kind = fields.get(b"content-type", b"").decode("latin-1").lower()
    return Part(parameters["name"], parameters.get("filename"), kind, view[content:end])


def malformed(reason: str) -> ProblemError:
    """Return the problem of a form that cannot be read."""
    return ProblemError(400, "malformed-request", f"multipart form: {reason}")
