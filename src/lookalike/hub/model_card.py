"""The license that a model card states: the front matter at the start of README.md.

The front matter is YAML; of it, only the keys of the license are read, in the forms that the hub's
own editor writes.
"""

from __future__ import annotations

import re

from lookalike.formatting import printable, shorten

_FENCE = re.compile(r"---[ \t]*")
_KEY = re.compile(r"(license|license_name|license_link):(?:[ \t]+(.*))?[ \t]*")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)")
_MAX_LINES = 5_000
_LONGEST = 100


def license_of(card: bytes) -> str:
    """Return the license that a model card states, empty if it states none.

    One that has no identifier of its own is returned with its name, as in ``other (apple-amlr)``.

    Args:
        card: the bytes of README.md.
    """
    lines = card.decode("utf-8", "replace").lstrip("\ufeff").splitlines()[:_MAX_LINES]
    if not lines or not _FENCE.fullmatch(lines[0]):
        return ""
    values: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if _FENCE.fullmatch(line):
            break
        if (match := _KEY.fullmatch(line)) is not None:
            key = match[1]
            values[key] = _items(match[2] or "")
        elif key and (item := _ITEM.fullmatch(line)) is not None:
            values[key] += _items(item[1])
        elif line.strip() and not line.startswith((" ", "\t", "#")):
            key = ""
    license_ = ", ".join(values.get("license", []))
    named = ", ".join(values.get("license_name", []))
    if license_ in ("", "other") and not named:
        named = ", ".join(values.get("license_link", []))
    if named and named != license_:
        license_ = f"{license_ or 'other'} ({named})"
    return shorten(printable(license_), _LONGEST)


def _items(text: str) -> list[str]:
    """Return the values of a scalar or a list in brackets."""
    text = re.sub(r"(?:^|[ \t])#.*", "", text).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        parts = text.split(",")
    else:
        parts = [text]
    return [value for part in parts if (value := part.strip().strip("'\"").strip())]
