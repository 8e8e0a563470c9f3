"""The texts of web pages in several languages, all of them in ``languages.json``.

A text may have places such as ``{n}``; one that depends on a number of things has a form for each
plural category of its language (CLDR: ``one`` and ``other`` in those that there are).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files

Text = str | Mapping[str, str]
Translate = Callable[..., str]

DEFAULT_LANGUAGE = "en"

TEXTS: Mapping[str, Mapping[str, Text]] = json.loads(
    (files("lookalike") / "languages.json").read_text(encoding="utf-8")
)
"""Texts by language (ISO 639-1) and key."""

_THOUSANDS = {"de": "."}
_PERCENT = {"de": "\u00a0%"}


def choose_language(accept: str) -> str:
    """Return the language that an ``Accept-Language`` header prefers (RFC 9110, section 12.5.4)."""
    best, best_quality = DEFAULT_LANGUAGE, 0.0
    for part in accept[:1_000].split(","):
        tag, _, parameter = part.strip().partition(";")
        language = tag.strip().lower().partition("-")[0]
        quality = _quality(parameter)
        if language in TEXTS and quality > best_quality:
            best, best_quality = language, quality
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def translate(language: str) -> Translate:
    """Return a function from a key, and values for its places, to a text in a language."""
    texts = TEXTS[language]

    def text_of(key: str, **values: object) -> str:
        text = texts[key]
        if not isinstance(text, str):
            text = text["one" if values.get("n") == 1 else "other"]
        return text.format_map({name: _shown(value, language) for name, value in values.items()})

    return text_of


def format_number(value: int, language: str) -> str:
    """Return a whole number with a separator of thousands."""
    return f"{value:,}".replace(",", _THOUSANDS.get(language, ","))


def format_percent(share: float, language: str) -> str:
    """Return a share in per cent; similarities below 0 are shown as 0."""
    return f"{max(0, round(100 * share))}{_PERCENT.get(language, '%')}"


def _shown(value: object, language: str) -> str:
    return format_number(value, language) if isinstance(value, int) else str(value)
