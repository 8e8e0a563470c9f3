"""Queries of requests, and what they cost."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_letters, digits

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.search.query import QueryRegion
from lookalike.search.search import SearchOptions

_RERANKING_COST = 2
_GEOMETRIC_COST = 8
_MULTI_CROP_COST = 3
_PER_HITS = 100

_PIECE = 1 << 18
_MAX_PADDING = 100
_NOT_BASE64 = bytes(set(range(256)) - set(f"{ascii_letters}{digits}+/".encode()))


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
            return b"".join(_base64_pieces(self.base64 or ""))
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


def _base64_pieces(text: str) -> Iterator[bytes]:
    """Yield decoded base64 piece by piece: nothing else can run while one is decoded.

    What follows the padding is ignored.

    Raises:
        ValueError: it is not base64.
    """
    if not text.isascii():
        raise ValueError("it has other characters than ASCII")
    end = text.find("=") if "=" in text else len(text)
    rest = b""
    for place in range(0, end, _PIECE):
        check_cancelled()
        letters = rest + text[place : min(place + _PIECE, end)].encode().translate(
            None, _NOT_BASE64
        )
        whole = len(letters) // 4 * 4
        yield b64decode(letters[:whole])
        rest = letters[whole:]
    yield b64decode(rest + text[end : end + _MAX_PADDING].encode())


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
