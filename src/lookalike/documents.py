"""JSON documents that somebody else may have written: bounded parsing and typed fields.

Every JSON file that lookalike reads and that is not metadata of images is parsed by
:func:`parse_json` or :func:`read_json`, and its fields are read through :class:`Fields`. Whatever a
document holds, the result is a value of the expected type and range, or one error that names the
file and the next step.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from lookalike.errors import ArtifactError, LookalikeError
from lookalike.files import open_regular
from lookalike.texts import repeated

MAX_DEPTH = 60
"""Objects and lists inside each other."""

SMALL = 16_000_000
"""Bytes of a manifest or a file of settings."""

LARGE = 2_000_000_000
"""Bytes of a document that has something about each image of a gallery."""

_BYTES_PER_VALUE = 16
"""Bytes for each value that a document may have on top of :data:`_FREE_VALUES`; ``[],`` needs
three, and 64 in memory."""

_FREE_VALUES = 4_000_000
_MAX_NAMED = 60
"""Characters of a value that a message repeats."""

REQUIRED: Final = object()
"""The default of fields that have none."""


def read_json(
    path: Path,
    *,
    place: str = "",
    hint: str = "",
    error: type[LookalikeError] = ArtifactError,
    limit: int = SMALL,
    follow: bool = True,
) -> Any:
    """Return the content of a JSON file.

    Args:
        path: a regular file, in UTF-8.
        place: names the file in messages; its path by default.
        hint: what to do about a broken file, as the last part of a message.
        error: raised for whatever is wrong with it.
        limit: of its size, in bytes.
        follow: read it also if it is a link; not for files inside an artifact.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it cannot be read or is no document as described (or ``error``).
    """
    place = place or str(path)
    try:
        with open_regular(path, follow=follow) as file:
            is_small = os.fstat(file.fileno()).st_size <= limit  # it may take nothing on the disk
            data = file.read(limit + 1) if is_small else None
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"{place}: cannot be read ({reason}){_then(hint)}") from problem
    if data is None:
        raise error(f"{place}: cannot be read ({_too_large(limit)}){_then(hint)}")
    return parse_json(data, place, hint=hint, error=error, limit=limit)


def parse_json(
    data: bytes,
    place: str,
    *,
    hint: str = "",
    error: type[LookalikeError] = ArtifactError,
    limit: int = SMALL,
) -> Any:
    """Return the values of a JSON document; the arguments are those of :func:`read_json`.

    It is in UTF-8 and strict: no key twice in an object, no NaN or infinity, no half of a pair of
    surrogates, at most :data:`MAX_DEPTH` levels and 4,300 digits in a number.

    Raises:
        ArtifactError: it is not (or ``error``).
    """
    try:
        return _parse(data, limit)
    except _InvalidError as problem:
        raise error(f"{place}: cannot be read ({problem}){_then(hint)}") from None


def _too_large(limit: int) -> str:
    return f"larger than {limit / 1e6:,.0f} MB"


class _InvalidError(ValueError):
    """What is wrong with a document."""


def _parse(data: bytes, limit: int) -> Any:
    if len(data) > limit:
        raise _InvalidError(_too_large(limit))
    containers = data.count(b"[") + data.count(b"{")
    if containers + data.count(b",") > _FREE_VALUES + len(data) // _BYTES_PER_VALUE:
        raise _InvalidError("too many values")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as problem:
        raise _InvalidError(f"not UTF-8 at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise _InvalidError(f"not valid JSON: {problem.msg} at {where}") from None
    except RecursionError:
        raise _InvalidError(f"more than {MAX_DEPTH} levels deep") from None
    except _InvalidError:
        raise
    except ValueError:  # Python's limit for texts of integers
        raise _InvalidError("a number of more than 4,300 digits") from None
    if containers > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise _InvalidError(f"more than {MAX_DEPTH} levels deep")
    if b"\\u" in data and not _is_unicode(value):
        raise _InvalidError("text with half of a surrogate pair")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields, each of another name."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise _InvalidError(f"key {_brief(twice)} twice in an object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise _InvalidError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _InvalidError(f"number {_brief(text)} out of range")
    return number


def _is_deeper(value: object, levels: int) -> bool:
    """Return whether lists and objects are nested in more levels; without recursion."""
    level: list[Any] = [value] if isinstance(value, list | dict) else []
    for _ in range(levels):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _then(hint: str) -> str:
    return f"; {hint}" if hint else ""


def _brief(value: object) -> str:
    """Return a value for a message, in at most 60 characters of one line."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = _MAX_NAMED
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else brief.repr(value)
    return text if len(text) <= _MAX_NAMED else text[: _MAX_NAMED - 3] + "..."


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of an object in a document, by name, each of the type that is asked for.

    Args:
        values: as they were parsed.
        place: names the file in messages.
        hint: what to do about a broken file.
        error: raised for a field that is missing, of another type or out of range.
        path: of the object in the document, such as ``parts[0].``; empty for the document.
    """

    values: Mapping[str, Any]
    place: str
    hint: str = ""
    error: type[LookalikeError] = ArtifactError
    path: str = ""

    @classmethod
    def of(
        cls,
        value: object,
        place: str,
        *,
        hint: str = "",
        error: type[LookalikeError] = ArtifactError,
    ) -> Fields:
        """Return the fields of a document.

        Raises:
            ArtifactError: it is not an object (or ``error``).
        """
        if not isinstance(value, dict):
            raise error(f"{place}: must be a JSON object, not {_brief(value)}{_then(hint)}")
        return cls(value, place, hint, error)

    def invalid(self, name: str, expected: str) -> LookalikeError:
        """Return the error that a field is not what is expected, such as "a whole number"."""
        label = _brief(self.path + name)
        if name not in self.values:
            return self.error(f"{self.place}: field {label} is missing{_then(self.hint)}")
        value = _brief(self.values[name])
        return self.error(
            f"{self.place}: field {label} must be {expected}, not {value}{_then(self.hint)}"
        )

    def has(self, name: str) -> bool:
        """Return whether there is such a field, other than null."""
        return self.values.get(name) is not None

    def only(self, names: Collection[str]) -> None:
        """Refuse fields of other names."""
        unknown = [name for name in self.values if name not in names]
        if unknown:
            raise self.error(
                f"{self.place}: unknown field {_brief(self.path + unknown[0])}; fields: "
                f"{', '.join(names)}{_then(self.hint)}"
            )

    def text(self, name: str, default: Any = REQUIRED, *, allowed: Collection[str] = ()) -> str:
        """Return a text, one of those that are allowed if any are given."""
        value = self._get(name, default)
        if value is default and default is not REQUIRED:
            return str(default)
        if not isinstance(value, str):
            raise self.invalid(name, "a text")
        if allowed and value not in allowed:
            raise self.invalid(name, f"one of {', '.join(allowed)}")
        return value

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.invalid(name, "true or false")
        return value

    def integer(self, name: str, low: int, high: int, default: Any = REQUIRED) -> int:
        """Return a whole number from ``low`` to ``high``."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.invalid(name, f"a whole number from {low:,} to {high:,}")
        return value

    def number(self, name: str, low: float, high: float, default: Any = REQUIRED) -> float:
        """Return a number from ``low`` to ``high``, an int if it was written as one."""
        value = self._get(name, default)
        if not _is_number(value) or not low <= value <= high:
            raise self.invalid(name, f"a number from {low:,g} to {high:,g}")
        number: float = value
        return number

    def numbers(self, name: str, low: float, high: float) -> tuple[float, ...]:
        """Return a list of numbers from ``low`` to ``high``, ints if they were written as such."""
        values = self._get(name, REQUIRED)
        if not isinstance(values, list) or not all(
            _is_number(value) and low <= value <= high for value in values
        ):
            raise self.invalid(name, f"a list of numbers from {low:,g} to {high:,g}")
        return tuple(values)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """Return a list of whole numbers from ``low`` to ``high``."""
        values = self._get(name, REQUIRED)
        if not isinstance(values, list) or not _all_integers(values, low, high):
            raise self.invalid(name, f"a list of whole numbers from {low:,} to {high:,}")
        return tuple(values)

    def integer_lists(self, name: str, low: int, high: int) -> tuple[tuple[int, ...], ...]:
        """Return a list of lists of whole numbers from ``low`` to ``high``."""
        values = self._get(name, REQUIRED)
        if not isinstance(values, list) or not all(
            isinstance(each, list) and _all_integers(each, low, high) for each in values
        ):
            raise self.invalid(name, f"a list of lists of whole numbers from {low:,} to {high:,}")
        return tuple(map(tuple, values))

    def texts(self, name: str, default: Any = REQUIRED) -> tuple[str, ...]:
        """Return a list of texts."""
        values = self._get(name, default)
        if not isinstance(values, list | tuple) or not _all_texts(values):
            raise self.invalid(name, "a list of texts")
        return tuple(values)

    def mapping(self, name: str, default: Any = REQUIRED) -> dict[str, Any]:
        """Return an object, its values as they were parsed."""
        value = self._get(name, default)
        if not isinstance(value, dict):
            raise self.invalid(name, "an object")
        return dict(value)

    def text_mapping(self, name: str, default: Any = REQUIRED) -> dict[str, str]:
        """Return an object of texts."""
        value = self.mapping(name, default)
        if not _all_texts(value.values()):
            raise self.invalid(name, "an object of texts")
        return value

    def texts_mapping(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return an object of lists of texts."""
        value = self.mapping(name)
        if not all(isinstance(each, list) and _all_texts(each) for each in value.values()):
            raise self.invalid(name, "an object of lists of texts")
        return {key: tuple(texts) for key, texts in value.items()}

    def object(self, name: str, default: Any = REQUIRED) -> Fields:
        """Return the fields of an object."""
        return replace(self, values=self.mapping(name, default), path=f"{self.path}{name}.")

    def items(self, name: str) -> list[Any]:
        """Return a list, its values as they were parsed."""
        values = self._get(name, REQUIRED)
        if not isinstance(values, list):
            raise self.invalid(name, "a list")
        return [*values]

    def objects(self, name: str) -> list[Fields]:
        """Return the fields of each object in a list."""
        values = self._get(name, REQUIRED)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.invalid(name, "a list of objects")
        return [
            replace(self, values=value, path=f"{self.path}{name}[{place}].")
            for place, value in enumerate(values)
        ]

    def _get(self, name: str, default: Any) -> Any:
        if name in self.values:
            return self.values[name]
        if default is REQUIRED:
            raise self.invalid(name, "")
        return default


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_integers(values: Iterable[object], low: int, high: int) -> bool:
    return all(type(value) is int and low <= value <= high for value in values)


def _all_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
