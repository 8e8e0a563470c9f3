"""Queries: images, rows or texts, turned into query vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, InputError
from lookalike.images.decode import ImageInput, decode
from lookalike.images.foreground import FOREGROUND_MARGIN, Box, find_foreground
from lookalike.sources import Item
from lookalike.sources.opening import native_path
from lookalike.stores.base import Record, RowReader
from lookalike.types import Embeddings, ImageArray

Query = ImageInput | Item
"""A path, a file's bytes, a PIL image, an array, or an item of a source."""

_CROPS = ((2 / 3, 2), (1 / 2, 3))
"""Crops of a multi-crop query: the share of each side, and crops per side."""


def decode_query(
    query: Query | None, *, full_size: bool = False
) -> tuple[str, str | None, ImageArray]:
    """Return a query's name, its uri if it has one, and its image.

    Args:
        query: the image.
        full_size: decode at full resolution, also where a smaller image would do.

    Raises:
        InputError: the query is None.
        ImageError: it cannot be decoded.
    """
    if isinstance(query, Item):
        return query.uri, query.uri, query.image(full_size=full_size)
    if query is None:
        raise InputError("no query image")
    uri = str(query) if isinstance(query, str | Path) else None
    name = uri or f"query {type(query).__name__}"
    image = native_path(query) if isinstance(query, str) else query
    return name, uri, decode(image, name=name, full_size=full_size)


class OpenedGallery(Protocol):
    """Rows and their encoder."""

    @property
    def store(self) -> RowReader:
        """The rows."""
        ...

    @property
    def encoder(self) -> Encoder:
        """Their encoder."""
        ...


RowOpener = Callable[[Iterable[Record]], Sequence[Item]]


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """A query as vectors ``(v, dim)`` float32: one per crop, none for keywords alone.

    Each row counts with its nearest vector. ``row_id`` is the id of the row that is the query
    itself, which is never a hit; ``image`` is the image that geometric verification compares.
    """

    name: str
    uri: str | None
    embeddings: Embeddings
    row_id: str | None = None
    image: ImageArray | None = None


@dataclass(frozen=True, slots=True)
class QueryRegion:
    """The region of a query image to search for.

    Args:
        box: crop to this box first.
        foreground: crop to the main object, if one is detected.
        multi_crop: also search with 13 overlapping crops (2 x 2 of two thirds of each side, 3 x 3
            of one half); each row counts with its nearest crop. Finds small objects in cluttered
            photos.
    """

    box: Box | None = None
    foreground: bool = False
    multi_crop: bool = False

    @property
    def is_whole_image(self) -> bool:
        """Whether the query is the image as it is."""
        return self == QueryRegion()

    def encode_image(self, query: Query | None, encoder: Encoder) -> QueryVectors:
        """Encode an image.

        Raises:
            ImageError: it cannot be decoded, or the encoder refuses it.
            InputError: the box is not inside the image.
        """
        name, uri, image = decode_query(query, full_size=self.box is not None)
        crops = self.crops(image)
        try:
            embeddings = encoder.encode_batch(crops)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        row_id = query.id if isinstance(query, Item) else None
        return QueryVectors(name, uri, embeddings, row_id, crops[0])

    def encode_row(
        self, row_id: str, gallery: OpenedGallery, open_rows: RowOpener, needs_image: bool
    ) -> QueryVectors:
        """Return a row as the query: its stored embedding, or its image encoded again.

        Args:
            row_id: the row.
            gallery: where it is; its encoder is opened for a region only.
            open_rows: opens its image, see :meth:`lookalike.Gallery.open_rows`.
            needs_image: a re-ranking reads the query's image.

        Raises:
            MissingRowError: there is no row with this id.
            ImageError: its image is needed and cannot be read.
            SourceError: its image is needed and its source is missing.
        """
        row = gallery.store.get([row_id])
        if self.is_whole_image and not needs_image:
            return QueryVectors(row_id, row.uris[0], row.embeddings, row_id)
        (item,) = open_rows(row.records())
        vectors = self.encode_image(item, gallery.encoder)
        embeddings = row.embeddings if self.is_whole_image else vectors.embeddings
        return replace(vectors, name=row_id, embeddings=embeddings, row_id=row_id)

    def encode_text(self, text: str, encoder: Encoder) -> QueryVectors:
        """Encode a text.

        Raises:
            InputError: the encoder supports images only, or a region is set.
        """
        self._refuse_region("a text query")
        return QueryVectors(text, None, encode_text(encoder, [text]))

    def without_image(self, keywords: str, dim: int) -> QueryVectors:
        """Return the query of a search by keywords alone, which has no vectors.

        Raises:
            InputError: a region is set.
        """
        self._refuse_region("a search by keywords alone")
        return QueryVectors(keywords, None, np.empty((0, dim), np.float32))

    def crops(self, image: ImageArray) -> list[ImageArray]:
        """Return the crops of an image to encode; the first holds all the others."""
        region = image if self.box is None else self.box.crop(image)
        if self.foreground:
            region = find_foreground(region).box(FOREGROUND_MARGIN).crop(region)
        if not self.multi_crop:
            return [region]
        return [region, *(box.crop(region) for box in multi_crop_boxes(region))]

    def _refuse_region(self, what: str) -> None:
        if not self.is_whole_image:
            raise InputError(
                f"{what} has no image to crop; remove {{box}}, {{foreground}} and {{multi_crop}}",
                box=None,
                foreground=None,
                multi_crop=None,
            )


def multi_crop_boxes(image: ImageArray) -> list[Box]:
    """Return 2 x 2 boxes of two thirds of the sides and 3 x 3 of one half."""
    height, width = image.shape[:2]
    boxes = []
    for share, count in _CROPS:
        high, wide = max(1, round(height * share)), max(1, round(width * share))
        tops, lefts = (
            [round(step * (whole - part) / (count - 1)) for step in range(count)]
            for whole, part in ((height, high), (width, wide))
        )
        boxes += [Box(left, top, wide, high) for top in tops for left in lefts]
    return boxes


def encode_text(encoder: Encoder, texts: Sequence[str]) -> Embeddings:
    """Return ``(n, dim)`` embeddings of texts.

    Raises:
        InputError: the encoder supports images only.
    """
    encode = getattr(encoder, "encode_text", None)
    if encode is None:
        raise InputError(
            f"encoder {encoder.name!r} supports images only; for text queries index with a CLIP or "
            "SigLIP model: lookalike index GALLERY SOURCE --encoder transformers:NAME"
        )
    embeddings: Embeddings = encode(texts)
    return embeddings
