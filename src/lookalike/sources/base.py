"""The interface of a source: a named sequence of items."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lookalike.errors import CancelledError, ImageError, LookalikeError
from lookalike.files import escape_name
from lookalike.formatting import format_count, format_metadata, printable
from lookalike.images.decode import DecodedImage, decode_with_notes
from lookalike.images.inline import item_html
from lookalike.images.memory import BUDGET
from lookalike.images.options import DEFAULT_OPTIONS, DecodeOptions
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.skipping import Skipped
from lookalike.types import Failure, ImageArray, Metadata


def no_signature() -> str:
    """Return an empty signature: only reading the item shows whether it has changed."""
    return ""


def no_size() -> int:
    """Return 0: it has no file of its own."""
    return 0


@dataclass(frozen=True, slots=True, repr=False)
class Item:
    """One image of a source, not yet read.

    ``id`` begins with the source's name and is stable when the source moves; ``uri`` is the current
    location; ``read`` returns a file's bytes or an array. ``signature`` returns a cheap fingerprint
    of the content, such as a file's size and modification time: if it is unchanged, so is the
    image. If it is empty, the image has to be read to know. ``page``, counted from 0, is decoded
    with ``options``. ``allow_private_urls`` tells whether a URL is fetched also from a host that is
    not on the public internet. ``size`` returns the bytes of its file, 0 if it has none of its own;
    ``notes`` say what of its metadata could not be read. ``path`` is that of the file that ``read``
    reads as a whole, as the system names it; None if it reads something else.
    """

    id: str
    uri: str
    metadata: Metadata
    read: Callable[[], bytes | ImageArray]
    signature: Callable[[], str] = no_signature
    options: DecodeOptions = DEFAULT_OPTIONS
    page: int = 0
    allow_private_urls: bool = False
    size: Callable[[], int] = no_size
    notes: tuple[str, ...] = ()
    path: str | None = None

    def __repr__(self) -> str:
        return f"<Item {printable(self.id)!r}: {format_metadata(self.metadata)}>"

    def _repr_html_(self) -> str:
        """Return its image, if it can be read, and its metadata, for a notebook."""
        try:
            image = self.image()
        except LookalikeError:
            image = None
        return item_html(image, self.id, self.metadata)

    @contextlib.contextmanager
    def in_memory(self) -> Iterator[None]:
        """Read and decode it in this block: of large files, one at a time is in memory."""
        with BUDGET.hold_file(self.size()):
            yield

    def content(self) -> bytes | ImageArray:
        """Return the bytes of the file, or the array.

        Raises:
            ImageError: it cannot be read, for whatever reason; the message has the URI.
        """
        with _image_errors(self.uri, "read"):
            return self.read()

    def decode(self, content: bytes | ImageArray, *, full_size: bool = False) -> DecodedImage:
        """Decode its :meth:`content`.

        Raises:
            ImageError: it cannot be decoded, for whatever reason; the message has the URI.
        """
        with _image_errors(self.uri, "decoded"):
            return decode_with_notes(
                content, name=self.uri, full_size=full_size, options=self.options, page=self.page
            )

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return the decoded image, ``(H, W)`` or ``(H, W, 3)`` uint8.

        ``full_size`` is that of :func:`lookalike.images.decode.decode`.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        with self.in_memory():
            return self.decode(self.content(), full_size=full_size).pixels


@contextlib.contextmanager
def _image_errors(uri: str, verb: str) -> Iterator[None]:
    """Turn whatever goes wrong with one image into an error of that image.

    Decoders raise unforeseen exceptions for broken files, and one image must not end a batch.
    """
    try:
        yield
    except (ImageError, *NO_FAILURES):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{uri}: cannot be {verb} ({reason})") from error
    except BaseException as error:
        raise ImageError(f"{uri}: cannot be {verb} ({failure_reason(error)})") from error


NO_FAILURES = (CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends all work. Anything else is the failure of one item, also what is no Exception, such as
a panic of a decoder in Rust."""


def failure_reason(error: BaseException) -> str:
    """Return why one item failed, for people."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    return f"{type(error).__name__}: {error}".rstrip(": ")


@runtime_checkable
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
    def skipped(self) -> Sequence[Skipped]:
        """What is in it but not among its items, by reason."""
        ...

    @property
    def options(self) -> SourceOptions:
        """What of it is taken, and how it is decoded."""
        ...

    @property
    def unlisted_prefixes(self) -> Sequence[str]:
        """Id prefixes of items that may exist but could not be listed."""
        ...

    def has_file(self, item_id: str) -> bool:
        """Return whether the image of an ID that is not among its items still exists."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True, repr=False)
class ItemSource:
    """A source made of a list of items, such as the rows of a gallery."""

    name: str
    spec: str
    items: Sequence[Item]
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS

    @property
    def base(self) -> str:
        """The same as ``spec``."""
        return self.spec

    def has_file(self, item_id: str) -> bool:
        """Return False: what is not among the items is not known."""
        del item_id
        return False

    def __repr__(self) -> str:
        return source_repr(self)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def source_repr(source: Source) -> str:
    """Return a source in one line: its name, size and location."""
    counts = [format_count(len(source), "image")]
    if source.problems:
        counts.append(format_count(len(source.problems), "problem"))
    if skipped := sum(each.count for each in source.skipped):
        counts.append(f"{skipped:,} skipped")
    place = printable(source.spec)
    return f"<{type(source).__name__} {source.name!r}: {', '.join(counts)}, {place}>"


def source_name(text: str) -> str:
    """Return a valid source name: valid text, not empty, colons replaced."""
    return escape_name(text).replace(":", "_") or "root"
