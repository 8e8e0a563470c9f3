"""What a search may be asked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, InputError, SourceError
from lookalike.images.decode import ImageInput, decode
from lookalike.images.foreground import AROUND, Box, foreground
from lookalike.sources import Item, open_items
from lookalike.sources.sampling import each_in_threads
from lookalike.stores.base import VectorStore
from lookalike.types import Embeddings, Hit, ImageArray

Query = ImageInput | Item
"""A path, a file's bytes, a PIL image, an array, or an item of a source."""


def decode_query(query: Query | None, *, whole: bool = False) -> tuple[str, str | None, ImageArray]:
    """Return a query's name, its uri if it has one, and its image; ``whole``, in all its pixels.

    Raises:
        InputError: there is none.
        ImageError: it cannot be decoded.
    """
    if isinstance(query, Item):
        return query.uri, query.uri, query.image(whole=whole)
    if query is None:
        raise InputError("no query was given")
    uri = str(query) if isinstance(query, str | Path) else None
    name = uri or f"query {type(query).__name__}"
    return name, uri, decode(query, name=name, whole=whole)


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """A query as it is searched for: one or several embeddings ``(v, dim)``.

    Of several views of one query, each row counts with the nearest. ``own`` is the id of the row
    that is the query itself, which is never a hit; ``image`` is what spatial verification sees.
    """

    name: str
    uri: str | None
    embeddings: Embeddings
    own: str | None = None
    image: ImageArray | None = None


@dataclass(frozen=True, slots=True)
class QueryRegion:
    """Which part of a query image is searched for.

    Args:
        box: this part only.
        foreground: of it, the part that holds its item, where one is found.
        multi_crop: besides, 13 overlapping parts of two and three to a side; each row counts with
            the nearest. It finds a small item in a cluttered photograph.
    """

    box: Box | None = None
    foreground: bool = False
    multi_crop: bool = False

    def encode_image(self, query: Query | None, encoder: Encoder) -> QueryVectors:
        """Encode an image.

        Raises:
            ImageError: it cannot be decoded, or the encoder does not take it; it is named.
            InputError: the box is not inside the image.
        """
        name, uri, image = decode_query(query, whole=self.box is not None)
        crops = self.crops(image)
        try:
            embeddings = encoder.encode(crops)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        own = query.id if isinstance(query, Item) else None
        return QueryVectors(name, uri, embeddings, own, crops[0])

    def encode_row(
        self, row_id: str, store: VectorStore, encoder: Callable[[], Encoder], needs_image: bool
    ) -> QueryVectors:
        """Take a row as the query: its embedding or, where that is not enough, its image.

        Raises:
            InputError: no row has the id.
            ImageError: its image is needed and cannot be read.
            SourceError: its image is needed and where it came from is gone.
        """
        row = store.get([row_id])
        if self == QueryRegion() and not needs_image:
            return QueryVectors(row_id, row.uris[0], row.embeddings, row_id)
        (item,) = open_items(row.uris)
        views = self.encode_image(item, encoder())
        embeddings = row.embeddings if self == QueryRegion() else views.embeddings
        return replace(views, name=row_id, embeddings=embeddings, own=row_id)

    def encode_text(self, text: str, encoder: Encoder) -> QueryVectors:
        """Encode words.

        Raises:
            InputError: the encoder takes images only, or a part of an image is asked for.
        """
        if self != QueryRegion():
            raise InputError(
                "a part of an image was asked for, and the query is words; leave out one of both"
            )
        return QueryVectors(text, None, encode_text(encoder, [text]))

    def without_image(self, keywords: str, dim: int) -> QueryVectors:
        """Return the views of no image, where only words are looked for.

        Raises:
            InputError: a part of an image is asked for.
        """
        if self != QueryRegion():
            raise InputError("a part of an image was asked for, and there is only words, no image")
        return QueryVectors(keywords, None, np.empty((0, dim), np.float32))

    def crops(self, image: ImageArray) -> list[ImageArray]:
        """Return the views of an image, the whole of what is looked at first."""
        crops = image if self.box is None else self.box.cut(image)
        if self.foreground:
            crops = foreground(crops).box(AROUND).cut(crops)
        return (
            [crops, *(part.cut(crops) for part in parts_of(crops))] if self.multi_crop else [crops]
        )


def parts_of(image: ImageArray) -> list[Box]:
    """Return 2 x 2 parts of two thirds of the sides and 3 x 3 of one half."""
    height, width = image.shape[:2]
    found = []
    for share, count in _PARTS:
        high, wide = max(1, round(height * share)), max(1, round(width * share))
        tops, lefts = (
            [round(step * (whole - part) / (count - 1)) for step in range(count)]
            for whole, part in ((height, high), (width, wide))
        )
        found += [Box(left, top, wide, high) for top in tops for left in lefts]
    return found


_PARTS = ((2 / 3, 2), (1 / 2, 3))


def read_images(hits: Sequence[Hit]) -> list[ImageArray | None]:
    """Return the images of hits; None where one cannot be read."""
    return list(each_in_threads(_image_of, [hit.uri for hit in hits]))


def _image_of(uri: str) -> ImageArray | None:
    try:
        return open_items([uri])[0].image()
    except (ImageError, SourceError):
        return None


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
