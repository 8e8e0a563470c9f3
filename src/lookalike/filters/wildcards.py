"""Wildcard patterns, matched in time linear in the text, whatever the pattern.

A pattern is cut at each ``%``. The first piece must begin the text, the last one end it, and those
between follow one another, each at its first place: no place is tried twice, unlike in a regular
expression, which backtracks. A piece with ``_`` is searched by its longest literal part, then by
the Shift-And algorithm (Baeza-Yates and Gonnet 1992, "A new approach to text searching"): one bit
per character of the piece, so that a text of n characters takes n steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.cancellation import check_cancelled
from lookalike.texts import folded

ANY, ONE = "%", "_"
"""Any characters, and exactly one."""

_CHECK = 4_096
"""Characters between checks whether the work was cancelled."""

_TOGETHER = 32
"""Texts that are searched together for the longest literal part of a pattern."""


class Wildcards:
    """A pattern for texts without case: ``%`` is any characters, ``_`` is one."""

    def __init__(self, pattern: str) -> None:
        pieces = [_Piece.of(each) for each in folded(pattern).split(ANY)]
        self._first, self._last = pieces[0], pieces[-1]
        self._between = [each for each in pieces[1:-1] if each.text]
        self._is_whole = len(pieces) == 1
        self._length = sum(len(each.text) for each in pieces)
        self._literal = max((each.literal for each in pieces), key=len)

    def matching(self, texts: Sequence[str]) -> list[bool]:
        """Return which of several texts the pattern matches.

        Texts in ASCII none of which has the longest literal part are left out together.
        """
        matching: list[bool] = []
        for start in range(0, len(texts), _TOGETHER):
            part = texts[start : start + _TOGETHER]
            together = "\n".join(part)
            if together.isascii() and self._literal not in together.lower():
                matching += [False] * len(part)
            else:
                matching += map(self.matches, part)
        return matching

    def matches(self, text: str) -> bool:
        """Return whether the pattern matches the whole of a text."""
        if len(text) >= _CHECK:
            check_cancelled()
        text = folded(text)
        if self._is_whole:
            return len(text) == len(self._first.text) and self._first.is_at(text, 0)
        end = len(text) - len(self._last.text)
        if len(text) < self._length:
            return False
        if self._first.text and not self._first.is_at(text, 0):
            return False
        if self._last.text and not self._last.is_at(text, end):
            return False
        place = len(self._first.text)
        for piece in self._between:
            place = piece.find(text, place, end)
            if place < 0:
                return False
            place += len(piece.text)
        return place <= end


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a pattern, of characters and ``_``.

    ``literal`` is its longest part without ``_``, which starts at ``offset``. ``bits`` has for each
    character the places in the piece where it fits; ``wild`` those where any one does.
    """

    text: str
    literal: str
    offset: int
    bits: dict[str, int]
    wild: int

    @classmethod
    def of(cls, text: str) -> _Piece:
        """Prepare a part of a pattern."""
        literals = [(match[0], match.start()) for match in re.finditer(f"[^{ONE}]+", text)]
        literal, offset = max(literals, key=lambda pair: len(pair[0]), default=("", 0))
        wild, bits = 0, dict[str, int]()
        if literal != text:
            wild = sum(1 << place for place, each in enumerate(text) if each == ONE)
            for place, character in enumerate(text):
                if character != ONE:
                    bits[character] = bits.get(character, wild) | 1 << place
        return cls(text, literal, offset, bits, wild)

    def is_at(self, text: str, place: int) -> bool:
        """Return whether the piece matches at a place, from which the text is long enough."""
        if self.literal == self.text:
            return text.startswith(self.text, place)
        part = text[place : place + len(self.text)]
        return len(part) == len(self.text) and all(
            own in (ONE, other) for own, other in zip(self.text, part, strict=True)
        )

    def find(self, text: str, start: int, end: int) -> int:
        """Return the first place from ``start`` where the piece matches before ``end``; or -1."""
        if start + len(self.text) > end:
            return -1
        if not self.literal:
            return start
        found = text.find(self.literal, start + self.offset, end)
        if found < 0 or self.literal == self.text:
            return found
        last, state = 1 << len(self.text) - 1, 0
        for place in range(found - self.offset, end):
            if place % _CHECK == 0:
                check_cancelled()
            state = (state << 1 | 1) & self.bits.get(text[place], self.wild)
            if state & last:
                return place - len(self.text) + 1
        return -1
