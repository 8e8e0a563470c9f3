"""What a search may be asked with."""

from __future__ import annotations

from pathlib import Path

from lookalike.errors import InputError
from lookalike.images import ImageInput, decode
from lookalike.sources import Item
from lookalike.types import ImageArray

Query = ImageInput | Item
"""A path, a file's bytes, a PIL image, an array, or an item of a source."""


def decode_query(query: Query | None) -> tuple[str, str | None, ImageArray]:
    """Return a query's name, its uri if it has one, and its image.

    Raises:
        InputError: there is none.
        ImageError: it cannot be decoded.
    """
    if isinstance(query, Item):
        return query.uri, query.uri, query.image()
    if query is None:
        raise InputError("no query was given")
    uri = str(query) if isinstance(query, str | Path) else None
    name = uri or f"query {type(query).__name__}"
    return name, uri, decode(query, name=name)
