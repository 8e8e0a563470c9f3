"""Names that files of others have for items: ids, paths, file names, with or without a suffix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from lookalike.files import normalize_name

_OTHER_SPELLING = 10
"""Added to the rank of names that are spelled otherwise."""

_ID, _OWN_ID, _PATH = 0, 1, 2


def item_names(
    item_id: str, suffixes: Collection[str], uri: str = "", own_id: object = None
) -> Iterator[tuple[int, str]]:
    """Yield the names of an item with their rank, 0 for the one with precedence.

    They are its id; its metadata column ``id``; its id without the source's name, the file name,
    and the file name without one of the ``suffixes`` of images.
    """
    yield _ID, item_id
    if own_id is not None:
        yield _OWN_ID, str(own_id)
    key = item_id.partition(":")[2] or item_id
    yield _PATH, key
    # The end of a URL beside an id is a shop's own number more often than a file's name.
    paths = [key] if uri.startswith(("http://", "https://")) else [key, uri]
    for file in {path.rpartition("/")[2] for path in paths}:
        yield _PATH, file
        stem, dot, suffix = file.rpartition(".")
        if f"{dot}{suffix}".lower() in suffixes:
            yield _PATH, stem


def resolve_names(
    names: Collection[str], items: Iterable[tuple[str, Iterable[tuple[int, str]]]]
) -> dict[str, list[str]]:
    """Return the ids that each name stands for: one, or several if it is ambiguous.

    Names that match nothing are left out. A name in another Unicode form (NFC, NFD), or with
    backslashes, matches last.

    Args:
        names: the names; looking one up must be fast.
        items: the id of each item, and its names (:func:`item_names`).
    """
    matches: dict[str, tuple[int, dict[str, None]]] = {}
    spellings = {normalize_name(name): name for name in names}
    for item_id, own in items:
        for own_rank, spelling in own:
            name = spelling if spelling in names else spellings.get(normalize_name(spelling))
            if name is None:
                continue
            rank = own_rank + (0 if name == spelling else _OTHER_SPELLING)
            best, ids = matches.setdefault(name, (rank, {}))
            if rank < best:
                matches[name] = (rank, {item_id: None})
            elif rank == best:
                ids[item_id] = None
    return {name: list(ids) for name, (_, ids) in matches.items()}
