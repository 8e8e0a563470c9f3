"""The interface of a source: a named sequence of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lookalike.errors import ImageError
from lookalike.images.decode import decode
from lookalike.types import Failure, ImageArray, Metadata


def no_signature() -> str:
    """Return an empty signature: only reading the item shows whether it has changed."""
    return ""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not yet read.

    ``id`` begins with the source's name and is stable when the source moves; ``uri`` is the current
    location; ``read`` returns a file's bytes or an array. ``signature`` returns a cheap fingerprint
    of the content, such as a file's size and modification time: if it is unchanged, so is the
    image. If it is empty, the image has to be read to know.
    """

    id: str
    uri: str
    metadata: Metadata
    read: Callable[[], bytes | ImageArray] = field(repr=False)
    signature: Callable[[], str] = field(default=no_signature, repr=False)

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return the decoded image, ``(H, W)`` or ``(H, W, 3)`` uint8.

        ``full_size`` is that of :func:`lookalike.images.decode.decode`.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        try:
            return decode(self.read(), name=self.uri, full_size=full_size)
        except OSError as error:
            raise ImageError(f"{self.uri}: cannot be read ({error.strerror or error})") from error


class Source(Protocol):
    """A named sequence of items; ``spec`` opens it again with :func:`open_source`.

    Its name has no colon; an item's id is the source's name, a colon and a key.
    """

    @property
    def name(self) -> str:
        """The prefix of its items' ids, without the colon."""
        ...

    @property
    def spec(self) -> str:
        """The argument of :func:`open_source` that opens it again; paths are absolute."""
        ...

    @property
    def base(self) -> str:
        """Its location: ``spec`` without a slice."""
        ...

    @property
    def problems(self) -> Sequence[Failure]:
        """Parts that could not be listed and table rows without an image, with reasons."""
        ...

    @property
    def unlisted_prefixes(self) -> Sequence[str]:
        """Id prefixes of items that may exist but could not be listed."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class ItemSource:
    """A source made of a list of items, such as the rows of a gallery."""

    name: str
    spec: str
    items: Sequence[Item]
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()

    @property
    def base(self) -> str:
        """The same as ``spec``."""
        return self.spec

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def source_name(text: str) -> str:
    """Return a valid source name: not empty, colons replaced."""
    return text.replace(":", "_") or "root"
