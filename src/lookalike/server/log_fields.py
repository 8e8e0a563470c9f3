"""Log messages that consist of fields: one line of ``name=value``, or one object of JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

_MAX_CHARACTERS = 500
_PLAIN = re.compile(r"[A-Za-z0-9._:/@%&?*+,;~{}\[\]=-]+")


class LogFields(dict[str, object]):
    """Fields of a message, in their order. Their text is ``name=value``, without empty ones.

    Values with other characters than those of URLs are written as JSON does, in ASCII.
    """

    def __str__(self) -> str:
        return " ".join(
            f"{name}={_text(value)}" for name, value in _flat(self) if value is not None
        )


def log_fields(logger: logging.Logger, fields: Mapping[str, object], *, each: bool = True) -> None:
    """Log fields at the level INFO; long texts are shortened.

    Args:
        logger: whose handlers write them.
        fields: by name; a value may be a mapping to numbers.
        each: whether none may be left out in a flood.
    """
    short = LogFields({name: _shorten(value) for name, value in fields.items()})
    logger.info("%s", short, extra={"fields": short, "each": each})


def _flat(fields: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return names and values; those of a mapping by both names, ``stages_decode``."""
    pairs: list[tuple[str, object]] = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            pairs += [(f"{name}_{key}", each) for key, each in value.items()]
        else:
            pairs.append((name, value))
    return pairs


def _text(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)


def _shorten(value: object) -> object:
    return value[:_MAX_CHARACTERS] if isinstance(value, str) else value
