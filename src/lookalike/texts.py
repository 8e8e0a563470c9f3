"""Unicode texts in one form, and repeated texts, in time linear in their length.

``unicodedata.normalize`` sorts the combining marks of a character by insertion: 10,000 of them,
which a stranger can send as one text, take a second of the interpreter.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")
"""Normalization forms: accents composed with their letters, and after them."""

_PART = 200
"""Characters that are normalized at a time: few enough that the square of their number is small."""

_JAMO = range(0x1160, 0x1200)
"""Vowels and final consonants of Hangul, which join the letter before them."""


def normalized(form: Form, text: str) -> str:
    """Return a text in a normalization form of Unicode.

    Texts of ordinary writing are normalized as ``unicodedata.normalize`` does; over 100 combining
    marks in a row may keep their order.
    """
    if text.isascii():
        return text
    if len(text) <= _PART:
        return unicodedata.normalize(form, text)
    return "".join(unicodedata.normalize(form, part) for part in _parts(text))


def folded(text: str) -> str:
    """Return a text without case, with accents stored in one way."""
    return normalized("NFC", text.casefold())


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of a text, which begin where a character joins none before it."""
    start = 0
    while start < len(text):
        stop = end = start + _PART
        while stop < len(text) and end - stop < _PART // 2 and _joins(text[stop]):
            stop -= 1
        yield text[start:stop]
        start = stop


def _joins(character: str) -> bool:
    """Return whether a character may combine with the one before it."""
    return unicodedata.category(character)[0] == "M" or ord(character) in _JAMO


def repeated(texts: Iterable[str]) -> str | None:
    """Return the first text that occurs a second time; None if all are different."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None
