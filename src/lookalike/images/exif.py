"""What EXIF tags say of a photograph, as columns of metadata with typed values.

Exif 2.32 (CIPA DC-008), sections 4.6.4 to 4.6.6. A tag that is broken is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lookalike.files import valid_text
from lookalike.formatting import printable

EXIF_COLUMNS = (
    *("date_taken", "camera_make", "camera_model", "lens", "focal_length"),
    *("aperture", "exposure_time", "iso", "width", "height"),
)
"""Columns of the facts of a photograph: date by the camera's clock (ISO 8601), focal length in mm,
f-number, exposure time in seconds, and the size in pixels, upright."""

GPS_COLUMNS = ("latitude", "longitude")
"""Columns of the place, in degrees, north and east positive."""

Value = str | int | float

_DATES = (0x9003, 0x9004, 0x0132)
"""DateTimeOriginal, DateTimeDigitized and DateTime."""

_DATE = "%Y:%m:%d %H:%M:%S"

_TEXTS = {"camera_make": 0x010F, "camera_model": 0x0110, "lens": 0xA434}
_NUMBERS = {
    "focal_length": 0x920A,
    "aperture": 0x829D,
    "exposure_time": 0x829A,
    "iso": 0x8827,
}
_LONGEST = 200
"""Characters of a text."""

_DIGITS = 6
"""Significant digits of a number: those that the fractions of cameras have."""


def capture_date(tags: Mapping[int, Any]) -> datetime | None:
    """Return when a photograph was taken, by the camera's clock, without a time zone."""
    for tag in _DATES:
        try:
            return datetime.strptime(str(tags[tag]).strip("\0 ")[:19], _DATE)
        except (KeyError, ValueError):
            continue
    return None


def exif_columns(tags: Mapping[int, Any], gps: Mapping[int, Any]) -> dict[str, Value]:
    """Return what tags say, by column.

    Args:
        tags: of the image and its Exif directory, by number.
        gps: of its GPS directory.
    """
    columns: dict[str, Value | None] = {}
    date = capture_date(tags)
    columns["date_taken"] = None if date is None else date.isoformat()
    columns |= {name: _text(tags.get(tag)) for name, tag in _TEXTS.items()}
    columns |= {name: _positive(tags.get(tag)) for name, tag in _NUMBERS.items()}
    columns |= _position(gps)
    return {name: value for name, value in columns.items() if value is not None}


def _text(value: object) -> str | None:
    """Return a text without padding and characters that cannot be shown."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    text = " ".join(valid_text(value.partition("\0")[0]).split())
    return printable(text)[:_LONGEST] or None


def _positive(value: object) -> int | float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _number(value: object) -> int | float | None:
    """Return a number, of several the first one; None if it is not finite."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = value[0] if value else None
    try:
        number = float(f"{float(value):.{_DIGITS}g}")  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _position(gps: Mapping[int, Any]) -> dict[str, Value | None]:
    """Return latitude and longitude: both, or neither."""
    latitude = _degrees(gps.get(2), gps.get(1), "NS", 90)
    longitude = _degrees(gps.get(4), gps.get(3), "EW", 180)
    if latitude is None or longitude is None:
        return {}
    return {"latitude": latitude, "longitude": longitude}


def _degrees(value: object, reference: object, sides: str, most: int) -> float | None:
    """Return an angle of degrees, minutes and seconds, and a letter for its side."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return None
    try:
        whole, minutes, seconds = map(float, value)
        degrees = whole + minutes / 60 + seconds / 3600
    except (TypeError, ValueError, ArithmeticError):
        return None
    side = (_text(reference) or " ")[0].upper()
    if not (side in sides and 0 <= degrees <= most):
        return None
    return round(-degrees if side == sides[1] else degrees, _DIGITS)
