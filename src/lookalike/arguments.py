"""Arguments of a wrong type, for all public functions alike."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np

from lookalike.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")

LARGEST_SEED = 2**32 - 1


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function by its annotations, before it runs.

    Parameters that are numbers, flags, texts, paths, metrics, lists of texts or numbers, or one of
    several of these, are checked; others are left to the function. It gets numbers and lists of
    Python, whatever library they come from. Ranges are its own matter, but for ``seed``.

    Raises:
        SettingError: an argument is of another type; the message names it.
    """
    signature = inspect.signature(function)
    options = {
        name: type(parameter.default)
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.default)
    }
    kinds = {
        name: found
        for name, parameter in signature.parameters.items()
        if (found := _kinds_of(parameter.annotation))
    }

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # says what is wrong with the call
        for name, value in bound.arguments.items():
            if name in options and not isinstance(value, options[name]):
                expected, kind = options[name].__name__, type(value).__name__
                raise SettingError(f"{{{name}}} must be {expected}, not {kind}", **{name: None})
            if name in kinds:
                bound.arguments[name] = _checked(name, value, kinds[name])
        return function(*bound.args, **bound.kwargs)

    return call


def check_fields(options: Any) -> None:
    """Check the fields of a frozen dataclass as :func:`checked` checks arguments.

    Raises:
        SettingError: one is of another type.
    """
    for each in fields(options):
        if kinds := _kinds_of(each.type):
            value = _checked(each.name, getattr(options, each.name), kinds)
            object.__setattr__(options, each.name, value)


def as_flag(name: str, value: object) -> bool:
    """Return an option that is True or False.

    Raises:
        SettingError: it is something else.
    """
    return value if isinstance(value, bool) else bool(_checked(name, value, ("bool",)))


def as_texts(name: str, values: object) -> tuple[str, ...]:
    """Return an option of several texts as a tuple.

    Raises:
        SettingError: it is one text, of which each character would be one, or something else.
    """
    return tuple(_checked(name, values, ("Sequence[str]",)))


_OTHER = object()


def _whole(value: object) -> object:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool | np.bool_)
    return int(value) if is_whole else _OTHER  # type: ignore[call-overload]


def _number(value: object) -> object:
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return _OTHER
    try:
        number = float(value)
    except OverflowError:
        return _OTHER
    if isinstance(value, int | np.integer) and abs(number) < 2**53:
        return int(value)
    return number


def _flag(value: object) -> object:
    return bool(value) if isinstance(value, bool | np.bool_) else _OTHER


def _text(value: object) -> object:
    return value if isinstance(value, str) else _OTHER


def _path(value: object) -> object:
    return value if isinstance(value, str | os.PathLike) else _OTHER


def _list_of(each: Callable[[object], object]) -> Callable[[object], object]:
    def read(values: object) -> object:
        unordered = isinstance(values, str | bytes | Mapping | Set) or hasattr(values, "columns")
        if unordered or not isinstance(values, Iterable):
            return _OTHER
        try:
            read = [each(value) for value in values]
        except TypeError:  # an array without an axis
            return _OTHER
        return _OTHER if _OTHER in read else tuple(read)

    return read


_KINDS: Mapping[str, tuple[Callable[[object], object], str]] = {
    "int": (_whole, "a whole number"),
    "float": (_number, "a number"),
    "bool": (_flag, "True or False"),
    "str": (_text, "a text"),
    "Path": (_path, "a path"),
    "Metric": (_text, "l2 or cosine"),
    "Sequence[str]": (_list_of(_text), "a list of texts"),
    "Sequence[float]": (_list_of(_number), "a list of numbers"),
    "Sequence[str | Path]": (_list_of(_path), "a list of paths"),
}
"""By annotation: returns a value of this type, or ``_OTHER``; and how messages call it."""

_IMPLIED = {"Path": "str", "Metric": "str"}
"""Kinds that take texts, too."""


def _kinds_of(annotation: object) -> tuple[str, ...]:
    """Return the kinds of an annotation, none if it is not one of kinds alone."""
    text = str(annotation)
    if text in _KINDS:
        return (text,)
    names = text.split(" | ")
    if not all(name == "None" or name in _KINDS for name in names):
        return ()
    implied = {_IMPLIED.get(name) for name in names}
    return tuple(name for name in names if name not in implied)


def _checked(name: str, value: object, kinds: tuple[str, ...]) -> Any:
    """Return an argument as one of some kinds.

    Raises:
        SettingError: it is none of them.
    """
    if value is None and "None" in kinds:
        return None
    for kind in kinds:
        if kind != "None" and (read := _KINDS[kind][0](value)) is not _OTHER:
            if name == "seed" and isinstance(read, int) and not 0 <= read <= LARGEST_SEED:
                raise SettingError(f"{{seed}} must be from 0 to {LARGEST_SEED:,}", seed=read)
            return read
    forms = " or ".join(_KINDS[kind][1] for kind in kinds if kind != "None")
    shown = value if isinstance(value, int | float | str) and len(repr(value)) <= 80 else None
    got = "" if shown is not None else f", not {type(value).__name__}"
    raise SettingError(f"{{{name}}} must be {forms}{got}", **{name: shown})
