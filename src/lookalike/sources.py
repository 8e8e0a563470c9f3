"""Where images come from: a folder, an IDX pair or a named data set, as a sequence of items."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike import idx
from lookalike.datasets import open_dataset
from lookalike.errors import ImageError, SourceError
from lookalike.images import SUFFIXES, decode
from lookalike.types import ImageArray, Metadata, ProgressCallback, ignore_progress

DATASET_PREFIX = "dataset:"


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not yet read.

    ``id`` begins with the source's name and stays the same when the source moves; ``uri`` says
    where the image is now; ``read`` returns a file's bytes or an array.
    """

    id: str
    uri: str
    metadata: Metadata
    read: Callable[[], bytes | ImageArray] = field(repr=False)

    def image(self) -> ImageArray:
        """Return the decoded image, ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        try:
            return decode(self.read(), name=self.uri)
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

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The image files below a folder, by suffix in any case; a sub-folder's name is the label.

    Hidden files and folders are left out, links to folders are not followed.
    """

    root: Path
    files: Sequence[str]

    @classmethod
    def scan(cls, root: Path) -> FolderSource:
        """List the image files below ``root``, in sorted order.

        Raises:
            SourceError: no image file is there.
        """
        found = []
        for folder, folders, names in os.walk(root, onerror=_unreadable):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            below = Path(folder).relative_to(root)
            found += [
                (below / name).as_posix()
                for name in sorted(names)
                if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
            ]
        if not found:
            suffixes = " ".join(sorted(SUFFIXES))
            raise SourceError(f"{root}: the folder has no image files ({suffixes})")
        return cls(root.absolute(), found)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name.replace(":", "_") or "root"

    @property
    def spec(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    @property
    def base(self) -> str:
        """The folder's absolute path."""
        return self.spec

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        relative = self.files[index]
        path = self.root / relative
        label = Path(relative).parent.name
        return Item(
            id=f"{self.name}:{relative}",
            uri=str(path),
            metadata={"label": label} if label else {},
            read=path.read_bytes,
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Images held as one array, with labels: IDX pairs and data sets.

    ``images`` are ``(n, H, W)`` grey or ``(n, H, W, 3)`` RGB, uint8. Each of ``columns`` holds
    ``n`` texts, which join the label in the items' metadata.
    """

    name: str
    spec: str
    images: NDArray[np.uint8]
    labels: Sequence[str] | None
    base: str
    first: int = 0
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        number = self.first + index
        label = {} if self.labels is None else {"label": self.labels[index]}
        return Item(
            id=f"{self.name}:{number}",
            uri=f"{self.base}#{number}",
            metadata={**label, **{name: texts[index] for name, texts in self.columns.items()}},
            read=lambda: self.images[index],
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def cut(self, start: int | None, stop: int | None) -> ArraySource:
        """Return the items of a slice, their ids unchanged."""
        spec = f"{self.spec}[{'' if start is None else start}:{'' if stop is None else stop}]"
        part = slice(start, stop)
        first, last, _ = part.indices(len(self))
        if first >= last:
            raise SourceError(f"{spec}: the slice is empty; there are {len(self):,} images")
        labels = None if self.labels is None else self.labels[part]
        columns = {name: texts[part] for name, texts in self.columns.items()}
        return ArraySource(self.name, spec, self.images[part], labels, self.base, first, columns)


@dataclass(frozen=True, slots=True)
class ItemSource:
    """Items that are already at hand, such as the rows of a gallery."""

    name: str
    spec: str
    items: Sequence[Item]

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


def open_source(spec: str | Path, on_progress: ProgressCallback = ignore_progress) -> Source:
    """Open a source of images.

    Args:
        spec: a folder; the images file of an IDX pair (its labels are found beside it); or
            ``dataset:NAME/SPLIT``, with an optional slice as in ``dataset:mnist/train[:5000]``.
        on_progress: told of downloads.

    Raises:
        SourceError: the path is missing, empty, or neither folder nor IDX file.
        UnknownNameError: no such data set or split.
        FetchError: the data set could not be had.
    """
    text = str(spec)
    if text.startswith(DATASET_PREFIX):
        return _open_dataset(text, on_progress)
    path = Path(spec).expanduser()
    if path.is_dir():
        return FolderSource.scan(path)
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder")
    if idx.is_idx(path):
        return _open_idx(path)
    raise SourceError(
        f"{path}: is neither a folder nor an IDX file of images; "
        "give the folder that holds the images, or dataset:NAME/SPLIT"
    )


def open_items(uris: Sequence[str], on_progress: ProgressCallback = ignore_progress) -> list[Item]:
    """Open items by their uris, each source only once.

    A uri is a file's path, or ``SOURCE#INDEX`` as in ``dataset:mnist/test#17``. An item opened so
    has its uri as its id where it is a file.

    Raises:
        SourceError: no such source, or an index outside it. A missing file is an error when read.
    """
    opened: dict[str, Source] = {}
    items = []
    for uri in uris:
        base, mark, number = uri.rpartition("#")
        if not mark or not number.isdigit() or (not base.startswith(DATASET_PREFIX) and _file(uri)):
            if uri.startswith(DATASET_PREFIX):
                raise SourceError(
                    f"{uri}: expected dataset:NAME/SPLIT#INDEX, as dataset:mnist/test#17"
                )
            items.append(Item(uri, uri, {}, Path(uri).read_bytes))
            continue
        if base not in opened:
            opened[base] = open_source(base, on_progress)
        source = opened[base]
        if int(number) >= len(source):
            raise SourceError(f"{uri}: {base} has images 0 to {len(source) - 1}")
        items.append(source[int(number)])
    return items


def _file(path: str) -> bool:
    return Path(path).is_file()


def _open_dataset(text: str, on_progress: ProgressCallback) -> Source:
    match = re.fullmatch(r"dataset:([^/#\[\]]+)/([^/#\[\]]+)(?:\[(\d*):(\d*)\])?", text)
    if match is None:
        raise SourceError(
            f"{text}: expected dataset:NAME/SPLIT, as in dataset:mnist/train, "
            "or a slice, as in dataset:mnist/train[:5000]"
        )
    name, split, start, stop = match.groups()
    loaded = open_dataset(name).load(split, on_progress)
    labels = [loaded.classes[label] for label in loaded.labels]
    spec = f"{DATASET_PREFIX}{name}/{split}"
    source = ArraySource(
        f"{name}/{split}", spec, loaded.images, labels, spec, columns=loaded.columns
    )
    if start is None and stop is None:
        return source
    return source.cut(int(start) if start else None, int(stop) if stop else None)


def _open_idx(path: Path) -> ArraySource:
    images = idx.parse(idx.read_bytes(path), dims=3, name=str(path))
    labels_path = idx.labels_beside(path)
    labels = None
    if labels_path is not None:
        values = idx.parse(idx.read_bytes(labels_path), dims=1, name=str(labels_path))
        if len(values) != len(images):
            raise SourceError(
                f"{labels_path}: has {len(values):,} labels for the {len(images):,} images "
                f"of {path.name}"
            )
        labels = [str(value) for value in values]
    if not len(images):
        raise SourceError(f"{path}: holds no images")
    spec = str(path.absolute())
    return ArraySource(path.name.removesuffix(".gz").replace(":", "_"), spec, images, labels, spec)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename}: cannot be read ({error.strerror})") from error
