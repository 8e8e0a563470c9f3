"""Keyword search in names and metadata of rows: queries, and the fusion of rankings.

The index is the store's, or one in memory (:mod:`lookalike.stores.full_text`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lookalike.errors import InputError
from lookalike.stores.words import MAX_CHARACTERS, MAX_WORDS, parse_keywords

FUSION = 60
"""The constant of reciprocal rank fusion (Cormack et al. 2009, section 3)."""

_TIE = 1e-9
"""Relative difference of scores below which they are equal."""

_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "at", "by", "for", "from", "in", "is"),
        *("it", "its", "of", "on", "or", "that", "the", "this", "to", "with"),
    )
)
"""Words of a text in English that say nothing about an image."""


def keywords_of_text(text: str) -> str:
    """Return the keywords that stand for a text where there is no image-text encoder.

    Those are its words without articles and prepositions (of English), the first 50.

    Raises:
        InputError: it has no word.
    """
    words = [word for word in re.split(r'[\s"\0,;]+', text) if any(map(str.isalnum, word))]
    if not words:
        raise InputError("{text} has no word to search for", text=text[:40])
    content_words = [word for word in words if word.strip(".,;:!?").casefold() not in _STOP_WORDS]
    return " ".join(list(dict.fromkeys(content_words or words))[:MAX_WORDS])[:MAX_CHARACTERS]


def with_text(keywords: str | None, text: str | None) -> str:
    """Return keywords with those of a text, as many as may be searched for at once.

    Args:
        keywords: that were passed as such.
        text: the words of a text, as of :func:`keywords_of_text`.
    """
    if not keywords or not text:
        return keywords or text or ""
    words = text.split()[: max(0, MAX_WORDS - len(parse_keywords(keywords)))]
    while words and len(keywords) + sum(len(word) + 1 for word in words) > MAX_CHARACTERS:
        words.pop()
    return " ".join([keywords, *words])


def fuse_rankings(by_image: Sequence[str], by_text: Sequence[tuple[str, float]]) -> list[str]:
    """Return ids ordered by reciprocal rank fusion: the sum of 1 / (60 + rank) in both rankings.

    Args:
        by_image: ids, best first.
        by_text: ids and scores, best first. Equal scores share a rank, so that the image ranking
            decides among them.
    """
    total = {row_id: 1 / (FUSION + rank) for rank, row_id in enumerate(by_image, 1)}
    rank, last = 0, None
    for place, (row_id, score) in enumerate(by_text, 1):
        if last is None or score < last - _TIE * abs(last):
            rank, last = place, score
        total[row_id] = total.get(row_id, 0.0) + 1 / (FUSION + rank)
    place_of = {row_id: place for place, row_id in enumerate(by_image)}
    return sorted(total, key=lambda i: (-total[i], place_of.get(i, len(place_of)), i))
