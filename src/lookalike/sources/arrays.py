"""Sources in memory: IDX pairs and public data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SourceError
from lookalike.files import escape_name
from lookalike.images import idx
from lookalike.sources.base import Item, source_name, source_repr
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.skipping import Skipped
from lookalike.types import Failure, ProgressCallback

DATASET_PREFIX = "dataset:"


@dataclass(frozen=True, slots=True, repr=False)
class ArraySource:
    """A source of images in one array: an IDX pair or a data set.

    ``images`` are ``(n, H, W)`` gray or ``(n, H, W, 3)`` RGB, uint8. ``labels`` and each of
    ``columns`` hold ``n`` texts, which become the items' metadata. ``first`` is the index of the
    first image in the unsliced source.
    """

    name: str
    spec: str
    images: NDArray[np.uint8]
    labels: Sequence[str] | None
    base: str
    first: int = 0
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS

    def has_file(self, item_id: str) -> bool:
        """Return False: what is outside the slice is not in the source."""
        del item_id
        return False

    def __repr__(self) -> str:
        return source_repr(self)

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

    def subset(self, start: int | None, stop: int | None) -> ArraySource:
        """Return the items of a slice, with their ids unchanged."""
        spec = f"{self.spec}[{'' if start is None else start}:{'' if stop is None else stop}]"
        part = slice(start, stop)
        first, last, _ = part.indices(len(self))
        if first >= last:
            raise SourceError(
                f"{spec}: the slice is empty; there are {len(self):,} images in total"
            )
        labels = None if self.labels is None else self.labels[part]
        columns = {name: texts[part] for name, texts in self.columns.items()}
        return ArraySource(self.name, spec, self.images[part], labels, self.base, first, columns)


def load_dataset(text: str, on_progress: ProgressCallback) -> ArraySource:
    """Load ``dataset:NAME/SPLIT``, optionally with a slice as in ``dataset:mnist/train[:5000]``.

    Raises:
        SourceError: not of this form, or an empty slice.
        UnknownNameError: no such data set or split.
        FetchError: the data set could not be fetched.
    """
    from lookalike.datasets import open_dataset  # loads what downloads them

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
    return source.subset(int(start) if start else None, int(stop) if stop else None)


def load_idx(path: Path) -> ArraySource:
    """Load an IDX file of images and, if there is one beside it, its labels file.

    Raises:
        SourceError: a file is corrupt or empty, or the numbers of images and labels differ.
    """
    images = idx.parse(idx.read_bytes(path), dims=3, name=str(path))
    labels_path = idx.find_labels_file(path)
    labels = None
    if labels_path is not None:
        values = idx.parse(idx.read_bytes(labels_path), dims=1, name=str(labels_path))
        if len(values) != len(images):
            raise SourceError(
                f"{labels_path}: {len(values):,} labels for the {len(images):,} images of "
                f"{path.name}; they must match"
            )
        labels = [str(value) for value in values]
    if not images.size:
        raise SourceError(f"{path}: has no images")
    spec = escape_name(str(path.absolute()))
    return ArraySource(source_name(path.name.removesuffix(".gz")), spec, images, labels, spec)
