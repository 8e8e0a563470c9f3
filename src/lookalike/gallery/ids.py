"""Ids of rows: how they are passed, looked up, suggested and made."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral

from lookalike.errors import InputError, MissingRowError
from lookalike.files import valid_text

UPLOADS = "api"
"""Name of the source of images that were added one by one, and the prefix of their ids."""

_PREFIX = f"{UPLOADS}:"

_MAX_KEY = 500

_COMPARED = 2_000
"""Ids at the beginning and around an id that are compared to suggest one."""

_FORMS = "expected an id, such as 'photos:a.jpg', or a list of ids"


def id_text(value: object) -> object:
    """Return an id of a list as a text if it is an integer; anything else as it is."""
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    return str(value) if is_number else value


def upload_id(key: object) -> str:
    """Return the id of an uploaded image; its key may have the prefix ``api:`` already.

    Raises:
        InputError: it is no text, empty, too long, or has characters that cannot be printed.
    """
    if not isinstance(key, str):
        raise InputError(f"id {key!r:.80}: must be a text, not {type(key).__name__}")
    key = key.removeprefix(_PREFIX)
    if not key or len(key) > _MAX_KEY or not key.isprintable():
        raise InputError(f"id {key[:80]!r}: must be 1 to {_MAX_KEY} printable characters")
    return f"{_PREFIX}{key}"


def upload_ids(ids: object, hashes: Sequence[str]) -> list[str]:
    """Return the ids of images that are added.

    Args:
        ids: as they are given, one per image; None to make them.
        hashes: content hashes of the images. Equal images get different ids, by a number.

    Raises:
        InputError: their number is not that of the images, one is invalid, or one occurs twice.
    """
    if ids is None:
        seen: Counter[str] = Counter()
        chosen = []
        for digest in hashes:
            seen[digest] += 1
            number = f"-{seen[digest]}" if seen[digest] > 1 else ""
            chosen.append(f"{_PREFIX}{digest[:32]}{number}")
        return chosen
    if isinstance(ids, str | bytes | Mapping | Set) or not isinstance(ids, Iterable):
        raise InputError(f"ids: expected a list of texts, one per image, got {ids!r:.80}")
    chosen = [upload_id(id_text(each)) for each in ids]
    if len(chosen) != len(hashes):
        raise InputError(f"ids: got {len(chosen):,} for {len(hashes):,} images; expected one each")
    check_distinct(chosen)
    return chosen


def check_distinct(ids: Sequence[str]) -> None:
    """Refuse ids of which one occurs twice.

    Raises:
        InputError: the first that does.
    """
    if len(set(ids)) == len(ids):
        return
    twice = next(each for each, count in Counter(ids).items() if count > 1)
    raise InputError(f"ids: {twice[:80]!r} occurs twice; ids must be distinct")


def as_ids(ids: object) -> list[str]:
    """Return one or many ids as a list.

    Raises:
        InputError: they are no texts.
    """
    if isinstance(ids, str):
        return [ids]
    is_table = isinstance(ids, bytes | Mapping) or hasattr(ids, "columns")
    if is_table or not isinstance(ids, Iterable):
        raise InputError(f"ids: {_FORMS}; got {type(ids).__name__}")
    chosen = list(ids)
    for each in chosen:
        if not isinstance(each, str):
            raise InputError(f"ids: {_FORMS}; got a list with {type(each).__name__}")
    return chosen


def as_id(value: object) -> str:
    """Return an id.

    Raises:
        InputError: it is no text.
    """
    if not isinstance(value, str):
        raise InputError(f"id: expected a text, such as 'photos:a.jpg', got {type(value).__name__}")
    return value


def can_be_id(text: str) -> bool:
    """Return whether a row can have an id: others cannot be stored, so there is none."""
    return bool(text) and "\0" not in text and valid_text(text) == text


def possible_ids(row_id: str) -> tuple[str, ...]:
    """Return the ids that one stands for, best first: itself, and that of an uploaded image."""
    return (row_id,) if row_id.startswith(_PREFIX) else (row_id, f"{_PREFIX}{row_id}")


def similar_ids(wanted: str, ids: Sequence[str]) -> list[str]:
    """Return a few of many sorted ids among which the one that was meant may be."""
    near = list(ids[:_COMPARED])
    for each in possible_ids(wanted):
        place = bisect_left(ids, each)
        near += ids[max(0, place - _COMPARED // 2) : place + _COMPARED // 2]
    return list(dict.fromkeys(near))


def missing_row_error(wanted: str, ids: Iterable[str] = ()) -> MissingRowError:
    """Return the error that there is no row with an id; it suggests the nearest of ``ids``."""
    import difflib  # seldom needed

    candidates = list(ids)
    near = [each for each in candidates if each.endswith(f":{wanted}")]  # it lacks its source
    near += difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    error = MissingRowError(f"there is no row with the id {wanted[:200]!r}{hint}")
    error.row_id = wanted
    return error
