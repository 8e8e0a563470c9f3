"""Cursors of pages: a place in an order of a gallery's items, as an opaque text.

A cursor is checked, not secret: whatever it holds could be asked for without one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from lookalike.gallery.state import GalleryState

MAX_CURSOR = 500
"""Characters of a cursor."""

_CHECK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in an order of items.

    Args:
        state: of the gallery.
        query: digest of what the order depends on, see :func:`digest_of`.
        offset: items before the page.
        first: items of the first page, if an approximate search may have chosen them.
    """

    state: GalleryState
    query: str
    offset: int
    first: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor of a text.

        Raises:
            ValueError: it is none of this service, or was changed.
        """
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (ValueError, binascii.Error):
            data = b""
        content = data[_CHECK_BYTES:]
        if _encoded(content) != text:
            raise ValueError("is not a cursor of this service; pass the next of a page unchanged")
        identity, revision, query, *numbers = json.loads(content)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("is not a cursor of this service")
        return cls(GalleryState(identity, revision), query, *numbers)

    def __str__(self) -> str:
        numbers = [self.offset, self.first] if self.first else [self.offset]
        fields = [self.state.identity, self.state.revision, self.query, *numbers]
        return _encoded(json.dumps(fields, separators=(",", ":")).encode())


def _encoded(content: bytes) -> str:
    check = hashlib.blake2b(content, digest_size=_CHECK_BYTES, person=b"item cursor").digest()
    return base64.urlsafe_b64encode(check + content).rstrip(b"=").decode()


def digest_of(parameters: Mapping[str, object]) -> str:
    """Return a short text that differs between the parameters of different orders."""
    text = json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
