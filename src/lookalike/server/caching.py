"""Caching of images by browsers: ETags, how long an answer is fresh, and formats by ``Accept``."""

from __future__ import annotations

import hashlib
import json

from starlette.requests import Request

from lookalike.server.handles import OpenGallery
from lookalike.server.links import version_of
from lookalike.stores.base import Rows

_YEAR = 365 * 24 * 3600
_IMMUTABLE = f"private, max-age={_YEAR}, immutable"
ONE_HOUR = "private, max-age=3600"
"""For what also depends on options of the service, which are not in the version."""

_CHECKED = "private, no-cache"


def cache_headers(
    request: Request, opened: OpenGallery, row: Rows, variant: str, *, current: str = _IMMUTABLE
) -> dict[str, str]:
    """Return the headers of an item's image, which is valid for one state of the gallery.

    With the version of that state in its URL it need not be requested again; else browsers ask each
    time whether it has changed.

    Args:
        request: for the image.
        opened: the gallery.
        row: the item.
        variant: how the image is sent, such as the size and format of a thumbnail.
        current: how long it is fresh, if its URL has the version of this state.
    """
    version = version_of(opened.state)
    parts = [version, row.ids[0], row.hashes[0], variant]
    tag = f'"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"'
    is_current = request.query_params.get("v") == version
    return {"etag": tag, "cache-control": current if is_current else _CHECKED}


def is_fresh(request: Request, headers: dict[str, str]) -> bool:
    """Return whether the client has what these headers are of (RFC 9110, section 13.1.2)."""
    tags = request.headers.get("if-none-match", "")
    names = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
    return "*" in names or headers["etag"] in names


def accepts_webp(request: Request) -> bool:
    """Return whether a client names WebP among what it accepts; ``*/*`` is not enough."""
    for part in request.headers.get("accept", "").lower().split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        if name == "image/webp":
            return not any(each.replace(" ", "") in _REFUSED for each in parameters)
    return False


_REFUSED = ("q=0", "q=0.0", "q=0.00", "q=0.000")
