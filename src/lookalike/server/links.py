"""Links from items and hits in JSON to their images and thumbnails."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated
from urllib.parse import quote

from fastapi import Query
from pydantic import BeforeValidator
from starlette.datastructures import QueryParams

from lookalike._version import __version__
from lookalike.gallery.state import GalleryState
from lookalike.server.handles import OpenGallery
from lookalike.server.problems import ProblemError
from lookalike.server.signatures import FULL, THUMBNAIL_SIZES, Target, current_signer

DEFAULT_SIZE = 256
"""Size of a thumbnail unless another one is asked for."""

_BY_TEXT = {str(size): size for size in THUMBNAIL_SIZES}
_LARGEST = THUMBNAIL_SIZES[-1]
_SIZES = ", ".join(map(str, THUMBNAIL_SIZES))
_SIGNED = "signed if the service requires API keys, so that it works without one for a limited time"

IMAGE_URL = f"Path of the item's image on this service; {_SIGNED}."
THUMBNAIL_URL = (
    f"Path of the item's thumbnail of at most {DEFAULT_SIZE} pixels a side on this service; "
    f"{_SIGNED}."
)
THUMBNAIL_TEMPLATE = (
    "Path of the item's thumbnails in all sizes: replace {size} by one of "
    f"{_SIZES}, for the srcset of an <img> for instance. Smaller images are not enlarged."
)


def item_urls(gallery: OpenGallery, row_id: str) -> dict[str, str]:
    """Return the paths of an item's image and thumbnails.

    They change with every commit to the gallery, so that thumbnails can be cached for long, and are
    signed if the request had an API key.
    """
    name, signer = gallery.name, current_signer()
    base = f"/v1/galleries/{name}/item"
    query = f"id={quote(row_id, safe='')}&v={version_of(gallery.state)}"

    full = small = largest = query
    if signer is not None:
        full, small, largest = (
            f"{query}&{signer.parameters(Target(name, row_id, size))}"
            for size in (FULL, DEFAULT_SIZE, _LARGEST)
        )
    return {
        "image_url": f"{base}/image?{full}",
        "thumbnail_url": f"{base}/thumbnail?size={DEFAULT_SIZE}&{small}",
        "thumbnail_url_template": f"{base}/thumbnail?size={{size}}&{largest}",
    }


def image_target(gallery: str, kind: str, parameters: QueryParams) -> Target:
    """Return what a URL of an image is of, so far as it can be told.

    Args:
        gallery: its name in the path.
        kind: ``image`` or ``thumbnail``, in the path.
        parameters: of the query; each may occur once, so that all readers see the same.

    Raises:
        ProblemError: one occurs twice.
    """
    if len(parameters) != len(parameters.multi_items()):
        detail = "a parameter occurs twice in a signed URL"
        raise ProblemError(422, "invalid-request", detail)
    size = FULL
    if kind == "thumbnail":  # an unknown size is refused later, as an invalid parameter
        size = _BY_TEXT.get(parameters.get("size", str(DEFAULT_SIZE)), _LARGEST)
    return Target(gallery, parameters.get("id", ""), size)


def _known_size(value: object) -> int:
    """Return a size of thumbnails, which may be a text in a URL.

    Raises:
        ValueError: there is no thumbnail of that size.
    """
    size = _BY_TEXT.get(str(value))
    if size is None:
        raise ValueError(f"must be one of {_SIZES}")
    return size


ThumbnailSize = Annotated[
    int,
    BeforeValidator(_known_size),
    Query(
        description="Maximum width and height, in pixels; smaller images are not enlarged.",
        json_schema_extra={"enum": list(THUMBNAIL_SIZES)},
    ),
]


@lru_cache(maxsize=64)
def version_of(state: GalleryState) -> str:
    """Return a short text that changes with the rows of a gallery, and with the software."""
    text = "\n".join((state.identity, state.revision, __version__))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
