"""Items and sources: what every collection of images looks like to the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lookalike.errors import ImageError
from lookalike.images.decode import decode
from lookalike.types import Failure, ImageArray, Metadata


def unsigned() -> str:
    """Say nothing of whether an item is unchanged."""
    return ""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not yet read.

    ``id`` begins with the source's name and stays the same when the source moves; ``uri`` says
    where the image is now; ``read`` returns a file's bytes or an array. ``signature`` returns a
    cheap sign of the content, a file's size and time: equal ones mean that it is unchanged, and
    an empty one that it must be read to know.
    """

    id: str
    uri: str
    metadata: Metadata
    read: Callable[[], bytes | ImageArray] = field(repr=False)
    signature: Callable[[], str] = field(default=unsigned, repr=False)

    def image(self, *, whole: bool = False) -> ImageArray:
        """Return the decoded image, ``(H, W)`` or ``(H, W, 3)`` uint8.

        ``whole`` is that of :func:`lookalike.images.decode.decode`.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        try:
            return decode(self.read(), name=self.uri, whole=whole)
        except OSError as error:
            raise ImageError(f"{self.uri}: cannot be read ({error.strerror or error})") from error


class Source(Protocol):
    """A named sequence of items; ``spec`` opens it again with :func:`open_source`.

    Its name holds no colon, and an item's id is the source's name, a colon and a key within it.
    """

    @property
    def name(self) -> str:
        """What its items' ids begin with."""
        ...

    @property
    def spec(self) -> str:
        """The text that opens it again, with any path made absolute."""
        ...

    @property
    def base(self) -> str:
        """Where it lies: ``spec`` without a slice."""
        ...

    @property
    def problems(self) -> Sequence[Failure]:
        """Parts that could not be listed and rows that name no image, with reasons."""
        ...

    @property
    def unread(self) -> Sequence[str]:
        """What the ids of items begin with that may be there but could not be listed."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class ItemSource:
    """Items that are already at hand, such as the rows of a gallery."""

    name: str
    spec: str
    items: Sequence[Item]
    problems: Sequence[Failure] = ()
    unread: Sequence[str] = ()

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
    """Return text as the name of a source: without colons, not empty."""
    return text.replace(":", "_") or "root"
