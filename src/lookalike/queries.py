"""What a search may be asked with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lookalike.encoders.base import Encoder
from lookalike.errors import InputError
from lookalike.images import ImageInput, decode
from lookalike.sources import Item
from lookalike.types import Embeddings, ImageArray

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


def encode_text(encoder: Encoder, texts: Sequence[str]) -> Embeddings:
    """Return ``(n, dim)`` embeddings of texts.

    Raises:
        InputError: the encoder takes images only.
    """
    encode = getattr(encoder, "encode_text", None)
    if encode is None:
        raise InputError(
            f"encoder {encoder.name!r} takes images only; for searches by words make a gallery "
            "with --encoder transformers:NAME of a CLIP or SigLIP model"
        )
    found: Embeddings = encode(texts)
    return found
