r"""What can be stored as metadata of an image: one rule for services, sources and labels.

Metadata are JSON objects, by column. They are nested at most 20 levels and have at most 1,000
columns and 100 kB as JSON; integers have at most 1,000 digits, numbers are finite, and texts have
neither lone surrogates nor NUL. Whatever keeps to this can be read by every interface.

:func:`check_metadata` refuses what does not; :func:`storable_metadata` changes it until it does, as
for sources, where one value must not cost an image; :func:`parse_metadata` reads what was stored,
also by older versions or by somebody else, and never fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from numbers import Real
from typing import Any, NoReturn

from lookalike.errors import InputError
from lookalike.files import valid_text

MAX_LEVELS = 20
"""Levels of lists and objects inside a column's value."""

MAX_COLUMNS = 1_000
MAX_BYTES = 100_000
"""Size as JSON, in UTF-8."""

MAX_DIGITS = 1_000
"""Digits of an integer."""

ESCAPED = "metadata with characters that cannot be stored, escaped"
LEFT_OUT = "metadata values that cannot be stored, left out"
SHORTENED = f"metadata of over {MAX_BYTES // 1000} kB, shortened"

_TOO_LONG = 10**MAX_DIGITS
_FEW_COLUMNS = 300

_CUT = 4_000
"""Characters that are left of a text that is too long."""


def check_metadata(metadata: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Return metadata unchanged if they can be stored.

    Args:
        metadata: JSON values by column.
        what: names the metadata in messages.

    Raises:
        InputError: they cannot be stored; the message names the column.
    """
    if len(metadata) > MAX_COLUMNS:
        raise InputError(f"{what}: has {len(metadata):,} columns; the limit is {MAX_COLUMNS:,}")
    for name, value in metadata.items():
        problem = _problem(name, 0) or _problem(value, 0)
        if problem:
            shown = valid_text(str(name))[:80]
            raise InputError(f"{what}: column {shown!r} {problem}")
    size = _size(metadata)
    if size > MAX_BYTES:
        largest = max(metadata, key=lambda name: _size(metadata[name]))
        raise InputError(
            f"{what}: has {size:,} bytes, most of them in column {largest[:80]!r}; the limit is "
            f"{MAX_BYTES:,}"
        )
    return dict(metadata)


def _problem(value: object, level: int) -> str:
    """Return why a value cannot be stored, as the end of a sentence; empty if it can be."""
    problem = ""
    if isinstance(value, str):
        if "\0" in value or valid_text(value) != value:
            problem = "has characters that cannot be stored (NUL or half of a surrogate pair)"
    elif isinstance(value, float):
        problem = "" if math.isfinite(value) else "is NaN or infinite"
    elif isinstance(value, int):
        problem = "" if -_TOO_LONG < value < _TOO_LONG else f"has over {MAX_DIGITS:,} digits"
    elif isinstance(value, Mapping | list | tuple):
        if level >= MAX_LEVELS:
            return f"is nested over {MAX_LEVELS} levels deep"
        parts = (*value, *value.values()) if isinstance(value, Mapping) else value
        problem = next(filter(None, (_problem(part, level + 1) for part in parts)), "")
    elif value is not None:
        problem = f"is no JSON value but {type(value).__name__}"
    return problem


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def storable_metadata(metadata: Mapping[Any, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return metadata that can be stored, and notes on what was changed.

    Texts are escaped, values without a form in JSON and what is nested too deep are left out, and
    what is too large is cut. Missing values (None, NaN) are left out without a note.
    """
    cleaner = _Cleaner()
    cleaned: dict[str, Any] = {}
    for name, value in metadata.items():
        if len(cleaned) == MAX_COLUMNS:
            cleaner.notes[LEFT_OUT] = None
            break
        kept = cleaner.value(value)
        if kept is not None:
            cleaned[cleaner.name(name, cleaned)] = kept
    if _may_be_large(cleaned) and _size(cleaned) > MAX_BYTES:
        cleaner.notes[SHORTENED] = None
        _shorten(cleaned)
    return cleaned, tuple(cleaner.notes)


def plain(value: object) -> Any:
    """Return a value as a JSON value that can be stored; None if there is none."""
    return _Cleaner().value(value)


class _Cleaner:
    """Makes values storable, and notes what that changed."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def value(self, value: object, level: int = 0) -> Any:
        """Return a JSON value that can be stored, None if there is none."""
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, int):
            return value if -_TOO_LONG < value < _TOO_LONG else self._left_out()
        if isinstance(value, Mapping | list | tuple):
            return self._nested(value, level)
        return self._other(value)

    def name(self, name: object, taken: Mapping[str, Any]) -> str:
        """Return the name of a column that no other one has."""
        text = self._text(str(name))
        while text in taken:
            text += "_"
        return text

    def _text(self, text: str) -> str:
        if text.isascii() and "\0" not in text:
            return text
        escaped = valid_text(text).replace("\0", "\\x00")
        if escaped != text:
            self.notes[ESCAPED] = None
        return escaped

    def _nested(self, value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], level: int) -> Any:
        if level >= MAX_LEVELS:
            return self._left_out()
        if not isinstance(value, Mapping):
            return [self.value(each, level + 1) for each in value]
        inner: dict[str, Any] = {}
        for name, each in value.items():
            inner[self.name(name, inner)] = self.value(each, level + 1)
        return inner

    def _other(self, value: object) -> Any:
        """Return what stands for a value that JSON does not have."""
        from decimal import Decimal  # seldom needed

        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, Decimal):
            if not value.is_finite() or abs(value.adjusted()) > MAX_DIGITS:
                return None if value.is_nan() else self._left_out()
            whole = value == value.to_integral_value()
            return self.value(int(value) if whole else float(value))
        return self._left_out()

    def _left_out(self) -> None:
        self.notes[LEFT_OUT] = None


def _may_be_large(metadata: Mapping[str, Any]) -> bool:
    """Return False for metadata that are small for sure, which most are."""
    if len(metadata) > _FEW_COLUMNS:
        return True
    longest = MAX_BYTES // (10 * (len(metadata) + 1))
    for name, value in metadata.items():
        if len(name) > longest or not isinstance(value, str | float | int):
            return True
        if isinstance(value, str) and len(value) > longest:
            return True
    return False


def _shorten(metadata: dict[str, Any]) -> None:
    """Cut the longest texts of metadata, and leave out other large values, until they fit."""
    sizes = {name: len(json.dumps(name)) + _size(value) + 4 for name, value in metadata.items()}
    excess = _size(metadata) - MAX_BYTES
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if excess <= 0:
            return
        value = metadata[name]
        if isinstance(value, str) and len(value) > _CUT and len(name) < _CUT:
            metadata[name] = value[:_CUT] + "…"
            excess -= sizes[name] - _size(metadata[name]) - _size(name) - 4
        else:
            del metadata[name]
            excess -= _size(name) + _size(value)


def parse_metadata(text: str) -> dict[str, Any]:
    """Return metadata that were stored as JSON text.

    What breaks the rules is changed as by :func:`storable_metadata`, but not shortened; what is no
    JSON object becomes empty metadata.
    """
    [metadata] = parse_metadata_rows((text,))
    return metadata


def parse_metadata_rows(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the metadata of rows, as :func:`parse_metadata` does."""
    joined = texts[0] if len(texts) == 1 else "\n".join(texts)
    levels = joined.count("[") + joined.count("{") - len(texts)  # more than each text has
    if levels < MAX_LEVELS and "\\u" not in joined and "\0" not in joined:
        try:
            rows = list(map(_DECODER.raw_decode, texts))
        except (ValueError, RecursionError):
            pass
        else:
            if all(
                type(value) is dict and end == len(text)
                for (value, end), text in zip(rows, texts, strict=True)
            ):
                return [value for value, _ in rows]
    return list(map(_parse_carefully, texts))


def _parse_carefully(text: str) -> dict[str, Any]:
    """Return metadata that may break the rules."""
    try:
        value = _Cleaner().value(json_values(text), -1)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _storable_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(_NOT_STORABLE)
    return value


def _storable_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(_NOT_STORABLE)
    return int(digits)


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError(_NOT_STORABLE)


_NOT_STORABLE = "a number that cannot be stored"
_DECODER = json.JSONDecoder(
    parse_float=_storable_float, parse_int=_storable_integer, parse_constant=_refuse_constant
)


class NestingError(ValueError):
    """JSON is nested too deep to be parsed."""


def json_values(text: str | bytes) -> Any:
    """Parse JSON with integers of any length: those of over 1,000 digits stay texts.

    Raises:
        NestingError: it is nested too deep to be parsed.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise NestingError("nested too deep") from None


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else digits


def metadata_rows(value: object, count: int, *, of: str) -> list[dict[str, Any]]:
    """Return an argument ``metadata`` as one JSON object per row.

    Args:
        value: None; a sequence of mappings; or a table of pandas, polars or arrow, with a row each.
            Missing values of tables are left out, dates become texts.
        count: number of rows.
        of: what the rows are, in messages.

    Raises:
        InputError: it has another form, or another number of rows.
    """
    if value is None:
        return [{} for _ in range(count)]
    rows = _table_rows(value)
    is_table = rows is not None
    if rows is None:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise InputError(
                f"metadata: expected a mapping for each of the {of}, or a table of pandas or "
                f"arrow, got {type(value).__name__}"
            )
        rows = list(value)
    if len(rows) != count:
        raise InputError(f"metadata: has {len(rows):,} rows for {count:,} {of}; expected one each")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"metadata[{number}]: expected a mapping of columns to JSON values, got "
                f"{type(row).__name__}"
            )
        for name in () if is_table else row:
            if not isinstance(name, str):
                raise InputError(
                    f"metadata[{number}]: the column {name!r} must have a text as name"
                )
    native = [{name: _native(each) for name, each in row.items()} for row in rows]
    if not is_table:
        return native
    return [_table_row(row, number) for number, row in enumerate(native)]


def _table_row(row: Mapping[Any, Any], number: int) -> dict[str, Any]:
    """Return a row of a table as JSON values, without those that are missing.

    Raises:
        InputError: a value has no form in JSON.
    """
    cleaner = _Cleaner()
    cleaned: dict[str, Any] = {}
    for name, value in row.items():
        if is_missing(value):
            continue
        kept = cleaner.value(value)
        if kept is None or LEFT_OUT in cleaner.notes:
            raise InputError(
                f"metadata[{number}]: column {str(name)[:80]!r} has a value that cannot be stored, "
                f"{str(value)[:80]!r} ({type(value).__name__}); make it a text or a number"
            )
        cleaned[cleaner.name(name, cleaned)] = kept
    return cleaned


def is_missing(value: object) -> bool:
    """Return whether a value of a table is missing: None, NaN, or NA or NaT of pandas."""
    is_nan = isinstance(value, Real) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def metadata_changes(value: object) -> Mapping[str, Any]:
    """Return an argument ``metadata`` of changes to one row: values by column, None to remove it.

    Raises:
        InputError: it is no mapping of texts.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"metadata: expected a mapping of columns to JSON values, got {type(value).__name__}"
        )
    return {name: _native(each) for name, each in value.items()}


def _table_rows(value: Any) -> list[Any] | None:
    """Return the rows of a table of pandas, polars or arrow as mappings; None for other values."""
    if not hasattr(value, "columns") or isinstance(value, Mapping):
        return None
    names = list(getattr(value, "column_names", value.columns))  # those of arrow are its data
    if len(set(names)) < len(names):
        raise InputError("metadata: two columns of the table have the same name")
    if callable(getattr(value, "to_pylist", None)):  # arrow
        return list(value.to_pylist())
    if callable(getattr(value, "to_dicts", None)):  # polars
        return list(value.to_dicts())
    if callable(getattr(value, "to_dict", None)):  # pandas
        return list(value.to_dict("records"))
    return None


def _native(value: Any, level: int = 0) -> Any:
    """Return a value without types of numpy and pandas; None for their missing values."""
    if level > MAX_LEVELS:  # it will be refused
        return value
    if isinstance(value, Mapping):
        return {name: _native(each, level + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_native(each, level + 1) for each in value]
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return value.tolist()
    return None if type(value).__name__ in ("NAType", "NaTType") else value
