"""Numbers and names as people read them: counts with their nouns, distances; without numpy."""

from __future__ import annotations

import re
from collections.abc import Mapping

_METADATA_CHARACTERS = 200

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, separators of lines, changes of the writing direction, lone surrogates."""


def printable(text: str) -> str:
    """Return a name with the characters escaped that would break a line or steer a terminal."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, characters: int = 120) -> str:
    """Return a text of at most so many characters, with an ellipsis in its middle."""
    if len(text) <= characters:
        return text
    end = (characters - 1) // 2
    return f"{text[: characters - 1 - end]}…{text[len(text) - end :]}"


def format_metadata(metadata: Mapping[str, object]) -> str:
    """Return metadata in one line, shortened, for a repr."""
    return shorten(printable(str(dict(metadata))), _METADATA_CHARACTERS)


_URL = re.compile(r"\b((?:https?|ftp|milvus|milvus\+tls)://)([^\s'\"<>]+)", re.IGNORECASE)


def without_url_secrets(text: str) -> str:
    """Return a text whose URLs have no user, password, query and fragment."""
    return _URL.sub(_without_secrets, text)


def _without_secrets(match: re.Match[str]) -> str:
    address = re.split("[?#]", match[2], maxsplit=1)[0]
    host, slash, path = address.partition("/")
    return match[1] + host.rpartition("@")[2] + slash + path


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: "1 row", "1,200 rows"; ``plural`` where no s is added."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_distance(distance: float) -> str:
    """Return a distance for people: four decimals, and no minus sign before zero.

    The distance of an image to itself is zero only up to rounding, such as -2e-15. JSON and CSV
    have the unrounded distance.
    """
    return f"{distance:z.4f}"
