"""What a QUERY of the command line is: an image, all images of a folder, or words."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.errors import ImageError, InputError
from lookalike.formatting import shorten

if TYPE_CHECKING:
    from lookalike.sources import Item, Source

STDIN = "-"
"""The query that is read from stdin."""

_PIECE = 1 << 20
"""Bytes that are read from stdin at a time."""

_SHOWN = 200
"""Characters of a query in a message."""

_SUFFIX = re.compile(r"\S*[^\s.]\.[A-Za-z0-9]{2,5}")
"""A name with a suffix, as of a file, in one word."""

_OUTPUTS = (".csv", ".json", ".jsonl", ".txt")
"""Suffixes of files that results may be meant to go to."""


@dataclass(frozen=True, slots=True)
class OneQuery:
    """One query.

    Args:
        image: what :meth:`lookalike.Gallery.search` takes; None for words.
        text: words.
        label: of the image, if it has one.
    """

    image: Any = None
    text: str | None = None
    label: object = None


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of a command, of which those of folders are opened one by one.

    Args:
        parts: single queries, and sources of which each image is one.
        failures: arguments that are none.
    """

    parts: Sequence[OneQuery | Source]
    failures: Sequence[InputError]

    @property
    def are_words(self) -> bool:
        """Whether there are several, each a single word, as of a text that was not quoted."""
        texts = [part.text for part in self.parts if isinstance(part, OneQuery)]
        are_single = all(text is not None and len(text.split()) == 1 for text in texts)
        return len(texts) == len(self.parts) > 1 and are_single and not self.failures

    def __len__(self) -> int:
        return sum(1 if isinstance(part, OneQuery) else len(part) for part in self.parts)

    def __iter__(self) -> Iterator[OneQuery]:
        for part in self.parts:
            if isinstance(part, OneQuery):
                yield part
            else:
                yield from map(_of_item, part)


def _of_item(item: Item) -> OneQuery:
    return OneQuery(item, label=item.metadata.get("label"))


def read_queries(
    arguments: Sequence[str], *, folder: str | None = None, allow_private_urls: bool = False
) -> Queries:
    """Return the queries that arguments are; stdin is read at once, files are not.

    Args:
        arguments: files, folders, URLs, items of data sets, ``-`` for stdin, or words.
        folder: that is searched, in which a file may have been meant.
        allow_private_urls: fetch URLs from private networks too.
    """
    parts: list[OneQuery | Source] = []
    failures: list[InputError] = []
    if list(arguments).count(STDIN) > 1:
        raise InputError(f"{STDIN}: stdin has one image; name other queries by their files")
    for argument in arguments:
        try:
            parts.append(_query(argument, folder, allow_private_urls))
        except InputError as error:
            failures.append(error)
    return Queries(parts, failures)


def _query(argument: str, folder: str | None, allow_private_urls: bool) -> OneQuery | Source:
    from lookalike.files import is_url
    from lookalike.sources import DATASET_PREFIX, SourceOptions, open_items, open_source
    from lookalike.sources.opening import native_path

    if argument == STDIN:
        return OneQuery(_stdin())
    if is_url(argument):
        options = SourceOptions(allow_private_urls=allow_private_urls)
        return OneQuery(open_items([argument], options=options)[0])
    if argument.startswith(DATASET_PREFIX):
        return _of_item(open_items([argument])[0])
    path = native_path(argument)
    if os.path.isdir(path):  # noqa: PTH112 - Path() would refuse some texts
        _refuse_gallery(argument)
        return open_source(path, progress=False)
    if os.path.lexists(path) or _is_page(argument):
        return OneQuery(argument)
    if not looks_like_file(argument):
        return OneQuery(text=argument)
    raise _missing_file(argument, folder)


def _stdin() -> Any:
    """Return the image on stdin.

    Raises:
        InputError: nothing is piped into the command.
    """
    from lookalike.images.memory import BUDGET
    from lookalike.sources.inputs import as_images

    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            f"{STDIN}: reads an image from stdin; pipe one into the command, as in "
            "lookalike search photos - < query.jpg"
        )
    limit = BUDGET.limit()
    data = bytearray()
    try:
        while piece := sys.stdin.buffer.read(_PIECE):
            data += piece
            if len(data) > limit:
                raise ImageError(f"{STDIN}: stdin has more than the {limit / 1e9:.1f} GB that fit")
    except MemoryError:  # less may be allowed than there is
        size, data = len(data), bytearray()
        raise ImageError(f"{STDIN}: stdin has more than fits: over {size / 1e9:.1f} GB") from None
    if not data:
        raise ImageError(f"{STDIN}: stdin is empty; pipe an image into the command")
    return as_images(bytes(data), argument="stdin")[0]


def _refuse_gallery(argument: str) -> None:
    from lookalike.sources.path_kinds import PathKind, kind_of_path

    if kind_of_path(argument) is PathKind.GALLERY:
        raise InputError(
            f"{argument}: is a gallery, no query; the gallery to search comes first, the images "
            "to search for after it"
        )


def _is_page(argument: str) -> bool:
    """Return whether an argument is that of a page of a file, or of an image in one."""
    base, mark, number = argument.rpartition("#")
    return bool(mark) and number.isdecimal() and os.path.isfile(base)  # noqa: PTH113 - a text


def looks_like_file(argument: str) -> bool:
    """Return whether an argument that is no file is meant as one, not as words."""
    from lookalike.images.formats import format_of_suffix

    separators = {os.sep, os.altsep or os.sep, "/"}
    if not argument.strip() or any(each in argument for each in separators):
        return True
    suffix = os.path.splitext(argument)[1]  # noqa: PTH122 - a text
    return format_of_suffix(suffix) is not None or _SUFFIX.fullmatch(argument) is not None


def _missing_file(argument: str, folder: str | None) -> ImageError:
    """Return the error that a file is missing; what may be meant is suggested."""
    if folder is not None and not os.path.isabs(argument):  # noqa: PTH117 - a text
        inside = os.path.join(folder, argument)  # noqa: PTH118 - a text
        if argument.strip() and os.path.isfile(inside):  # noqa: PTH113
            return ImageError(f"{argument}: there is no such file; did you mean {inside}?")
    if os.path.splitext(argument)[1].lower() in _OUTPUTS:  # noqa: PTH122 - a text
        return ImageError(
            f"{argument}: there is no such file; to save the results in it: > {argument}"
        )
    name = shorten(argument, _SHOWN) if argument.strip() else repr(argument)
    return ImageError(
        f"{name}: there is no such file; for the ID of an indexed image use "
        "{id}, for words {text}",
        id=None,
        text=None,
    )
