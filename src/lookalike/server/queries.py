"""Queries of requests, and what they cost."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass

from lookalike.errors import InputError
from lookalike.search.query import QueryRegion
from lookalike.search.search import SearchOptions

_RERANKING_COST = 2
_GEOMETRIC_COST = 8
_MULTI_CROP_COST = 3
_PER_HITS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A query: an image file (its bytes or base64), the id of an item, a text, or an image's URL.

    Exactly one is set, or none for a search by keywords alone.
    """

    image: bytes | None = None
    base64: str | None = None
    id: str | None = None
    text: str | None = None
    url: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither image, id, text nor URL."""
        return all(value is None for value in self._values)

    @property
    def _values(self) -> tuple[bytes | str | None, ...]:
        return self.image, self.base64, self.id, self.text, self.url

    def image_data(self) -> bytes:
        """Return the image file that is encoded as base64.

        Raises:
            InputError: it is not base64.
        """
        try:
            return b64decode(self.base64 or "")
        except ValueError as error:
            raise InputError(f"image: not base64 ({error})") from None

    def validate(self, search: SearchOptions) -> None:
        """Check that there is exactly one query, or none for a search by keywords.

        Raises:
            InputError: there are several, or none.
        """
        if self.is_empty and search.keywords is not None:
            return
        if sum(value is not None for value in self._values) != 1:
            raise InputError("a search needs exactly one of image, id, text and url, or keywords")


def cost_of(region: QueryRegion, search: SearchOptions) -> int:
    """Return what one query costs; a plain search costs 1."""
    cost = 1 + search.k // _PER_HITS
    cost += _MULTI_CROP_COST * region.multi_crop
    cost += _RERANKING_COST * len(search.rerankings)
    return cost + _GEOMETRIC_COST * search.needs_image


def is_long(region: QueryRegion, search: SearchOptions) -> bool:
    """Return whether the search for one query may take much longer than a plain one."""
    options = (search.rerankings, search.keywords, search.filter, region.multi_crop)
    return any(bool(option) for option in options)
