"""Shards: tar files (WebDataset) and Parquet files of image bytes, as img2dataset writes them."""

from __future__ import annotations

import io
import os
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from lookalike.errors import ImageError, SettingError, SourceError
from lookalike.files import escape_name, open_regular
from lookalike.formatting import format_count
from lookalike.images.formats import supported_suffixes
from lookalike.images.memory import BUDGET
from lookalike.metadata import json_values, plain
from lookalike.sources import skipping
from lookalike.sources.base import Item, source_name, source_repr
from lookalike.sources.folder import file_signature
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.parquet import image_column, open_parquet
from lookalike.sources.skipping import SkipCounter, Skipped, reason_to_skip
from lookalike.sources.tables import MAX_ROW, Table, read_table
from lookalike.types import Failure, Metadata

if TYPE_CHECKING:
    import tarfile

TAR = ".tar"
PARQUET = ".parquet"

UNREAD = "metadata of a shard that cannot be read, left out"

_KEY_COLUMNS = ("key", "id")
_MAX_HEADER = 16 << 20
"""Bytes of a tar header; only long names and attributes have more than 512."""


class Shard(Protocol):
    """One file of images."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def broken(self) -> str:
        """Why it could not be read to the end; empty if it could."""
        ...

    @property
    def problems(self) -> Sequence[Failure]:
        """Its rows that could not be read, and why."""
        ...

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the images that are taken, among all that it has."""
        ...

    @property
    def skipped_keys(self) -> frozenset[str]:
        """Keys of images that it has but that are not taken."""
        ...

    def key(self, number: int) -> str:
        """Return the key of an image, unique within the shard."""
        ...

    def metadata(self, number: int) -> tuple[Metadata, tuple[str, ...]]:
        """Return the metadata of an image, and what of it could not be read."""
        ...

    def size(self, number: int) -> int:
        """Return the bytes of an image, 0 if that is not known."""
        ...

    def read(self, number: int) -> bytes:
        """Return an image's bytes.

        Raises:
            ImageError: the row has no image.
            OSError: the file cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False)
class ShardSource:
    """The images of one shard, or of all those in a folder, in sorted order.

    An item's key is the shard's name, a slash and the key within it. ``named`` tells whether the
    caller chose the name.
    """

    path: Path
    shards: Sequence[Shard]
    ends: Sequence[int]
    problems: Sequence[Failure]
    unlisted_prefixes: Sequence[str]
    name: str
    skipped: Sequence[Skipped] = ()
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS
    named: bool = False

    @classmethod
    def of(
        cls,
        path: Path,
        shards: Sequence[Shard],
        counter: SkipCounter,
        options: SourceOptions = DEFAULT_SOURCE_OPTIONS,
        unread: Mapping[Path, str] = MappingProxyType({}),
    ) -> ShardSource:
        """Return the images of some shards; ``path`` is the only shard or their folder.

        ``counter`` has what is skipped in them, ``unread`` why others could not be read.
        """
        path = path.absolute()
        name = source_name(path.resolve().name if path.is_dir() else path.stem)
        broken = {shard.path: shard.broken for shard in shards if shard.broken} | dict(unread)
        return cls(
            path,
            shards,
            list(accumulate(len(shard.numbers) for shard in shards)),
            [
                *(Failure(escape_name(str(file)), reason) for file, reason in broken.items()),
                *(problem for shard in shards for problem in shard.problems),
            ],
            [f"{name}:{escape_name(file.stem)}/" for file in broken],
            name,
            counter.result(),
            options,
        )

    @property
    def spec(self) -> str:
        """The absolute path."""
        return escape_name(str(self.path))

    @property
    def base(self) -> str:
        """The absolute path."""
        return self.spec

    def has_file(self, item_id: str) -> bool:
        """Return whether a shard has an image of this ID that is not taken."""
        stem, _, key = item_id.removeprefix(f"{self.name}:").partition("/")
        return any(
            key in shard.skipped_keys
            for shard in self.shards
            if escape_name(shard.path.stem) == stem
        )

    def __repr__(self) -> str:
        return source_repr(self)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        place = bisect_right(self.ends, index)
        shard = self.shards[place]
        before = self.ends[place - 1] if place else 0
        return self._item(shard, shard.numbers[index - before])

    def at_number(self, number: int) -> Item:
        """Return the image with this number in the only shard, whether it is taken or not.

        Raises:
            IndexError: there is none.
        """
        [shard] = self.shards
        return self._item(shard, number)

    def _item(self, shard: Shard, number: int) -> Item:
        metadata, notes = shard.metadata(number)
        return Item(
            id=f"{self.name}:{escape_name(shard.path.stem)}/{shard.key(number)}",
            uri=f"{escape_name(str(shard.path))}#{number}",
            metadata=metadata,
            read=partial(shard.read, number),
            signature=partial(_signature, shard.path, number),
            options=self.options.decoding,
            size=partial(shard.size, number),
            notes=notes,
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


@dataclass(slots=True)
class _Member:
    """Offset and size of the files of one key in a tar."""

    image: tuple[int, int] | None = None
    metadata: tuple[int, int] | None = None
    caption: tuple[int, int] | None = None


class TarShard:
    """A tar of images; files that differ only in their suffix belong together (WebDataset).

    ``.json`` holds the metadata of an image and ``.txt`` its caption. Opening reads the headers
    only; images are read by offset, on access. What is not taken is counted.
    """

    problems: Sequence[Failure] = ()

    def __init__(self, path: Path, counter: SkipCounter, options: SourceOptions) -> None:
        self.path = path.absolute()
        self.broken = ""
        self._counter, self._options = counter, options
        self._readable = supported_suffixes()
        members: dict[str, _Member] = {}
        skipped: set[str] = set()
        import tarfile  # which takes a while

        try:
            with (
                open_regular(self.path) as file,
                tarfile.open(mode="r:", fileobj=_Headers(file)) as tar,
            ):
                for member in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep all
                    self._add(member, members, skipped)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # noqa: BLE001 - tarfile has many for broken headers
            reason = str(error) or type(error).__name__
            if not members:
                raise SourceError(f"{path}: not a readable tar file ({reason})") from None
            self.broken = (
                f"damaged after {format_count(len(members), 'image')} ({reason}); those are used"
            )
        self._members = {key: member for key, member in members.items() if member.image}
        for key in members.keys() - self._members.keys():
            parts = (members[key].metadata, members[key].caption)
            counter.add(skipping.ORPHAN, key, count=sum(part is not None for part in parts))
        self._keys = tuple(self._members)
        self.numbers: Sequence[int] = [n for n, key in enumerate(self._keys) if key not in skipped]
        self.skipped_keys = frozenset(skipped)
        self._file = os.open(self.path, os.O_RDONLY)
        self._end = os.fstat(self._file).st_size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def key(self, number: int) -> str:
        """Return the path within the tar, without its suffix."""
        return self._keys[number]

    def metadata(self, number: int) -> tuple[Metadata, tuple[str, ...]]:
        """Return the fields of the ``.json`` and, as ``caption``, the text of the ``.txt``."""
        member = self._members[self._keys[number]]
        fields: dict[str, Any] = {}
        unread: dict[str, None] = {}
        for extent, parse in ((member.caption, _caption), (member.metadata, _fields)):
            if extent is None:
                continue
            try:
                fields |= parse(self._bytes(*extent, limit=MAX_ROW))
            except (OSError, ValueError):
                unread[UNREAD] = None
        filled = {name: value for name, value in fields.items() if value not in (None, "")}
        return filled, tuple(unread)

    def size(self, number: int) -> int:
        """Return the bytes of an image."""
        image = self._members[self._keys[number]].image
        return 0 if image is None else image[1]

    def read(self, number: int) -> bytes:
        """Return an image's bytes."""
        image = self._members[self._keys[number]].image
        assert image is not None
        return self._bytes(*image, limit=BUDGET.limit())

    def _bytes(self, offset: int, size: int, limit: int) -> bytes:
        missing = offset + size - self._end
        if missing > 0:
            raise OSError(f"the tar file ends {missing:,} bytes too early")
        if size > limit:
            raise OSError(f"has {size:,} bytes, more than {limit:,}")
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise OSError(f"the tar file ends {size - len(data):,} bytes too early")
        return data

    def _add(self, member: tarfile.TarInfo, members: dict[str, _Member], skipped: set[str]) -> None:
        """Add a member to those of its key, or count it as skipped."""
        if member.isdir():
            return
        name = str(plain(escape_name(member.name)))
        folder, _, base = name.rpartition("/")
        stem, _, rest = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        reason, hint = self._reason_to_skip(member, name)
        if reason:
            self._counter.add(reason, name, hint)
            if reason != skipping.EXCLUDED and not reason.startswith("unsupported"):
                return
        entry = members.setdefault(key, _Member())
        extent = (member.offset_data, member.size)
        suffix = f".{rest.lower()}"
        if suffix == ".json":
            entry.metadata = extent
        elif suffix == ".txt":
            entry.caption = extent
        elif entry.image is None or (key in skipped and not reason):
            entry.image = extent
            (skipped.add if reason else skipped.discard)(key)
        elif not reason:
            self._counter.add(skipping.SECOND, name)

    def _reason_to_skip(self, member: tarfile.TarInfo, name: str) -> tuple[str, str | None]:
        """Return why a member is not used, and a hint; empty if it is."""
        stem, dot, rest = name.rpartition("/")[2].partition(".")
        if not member.isfile() or member.issparse():
            return skipping.NOT_REGULAR, None
        if not stem:
            return skipping.HIDDEN, None
        if not dot or "." in rest:  # WebDataset's key ends at the first dot
            return skipping.NOT_IMAGE, None
        if rest.lower() in ("json", "txt"):
            return "", None
        skipped = reason_to_skip(f"{stem}.{rest}", self._readable)
        if skipped is not None and not skipped[0].startswith("unsupported"):
            return skipped
        return skipped or ("", None) if self._options.takes(name) else (skipping.EXCLUDED, None)


class _Headers(io.RawIOBase):
    """A tar file of which headers are read; none is that large unless it means harm."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"a header has over {_MAX_HEADER:,} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def _caption(data: bytes) -> dict[str, Any]:
    return {"caption": data.decode("utf-8", "replace").strip()}


def _fields(data: bytes) -> dict[str, Any]:
    """Return the metadata in a JSON file.

    Raises:
        ValueError: it is no JSON object.
    """
    content = json_values(data)
    if not isinstance(content, dict):
        raise ValueError("no object")
    return {str(plain(key)): plain(value) for key, value in content.items()}


class ParquetShard:
    """A Parquet file with the bytes of an image in each row; the other columns are metadata.

    Rows are read sequentially in small batches; the latest batches stay in memory for the threads
    that read ahead.
    """

    broken = ""
    skipped_keys: frozenset[str] = frozenset()
    _BATCH = 64
    _CACHED_BATCHES = 8

    def __init__(self, path: Path, column: str) -> None:
        self.path = path.absolute()
        self._column = column
        self._table: Table = read_table(self.path, without=[column])
        self.problems: Sequence[Failure] = self._table.problems
        self._key = next((name for name in _KEY_COLUMNS if name in self._table.names), None)
        self._lock = Lock()
        self._recent: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._batches: Iterator[Any] = iter(())
        self._next = -1, 0
        with open_parquet(self.path) as file:
            groups = range(file.metadata.num_row_groups)
            sizes = [file.metadata.row_group(group).num_rows for group in groups]
            schema = file.metadata.schema
            leaves = [schema.column(i).path for i in range(len(schema))]
        self._ends = list(accumulate(sizes))
        self._leaves = [leaf for leaf in leaves if leaf.split(".")[0] == column]
        self.numbers: Sequence[int] = self._rows_in_file()
        if self._key is not None:
            keys = [row.get(self._key) for row in self._table.only(self._key)]
            if len(set(map(str, keys))) < len(keys) or None in keys:
                self._key = None

    def _rows_in_file(self) -> Sequence[int]:
        """Return the numbers of the rows whose other columns could be read.

        Without any other columns, that is all.
        """
        if not self._table.names:
            return range(self._ends[-1] if self._ends else 0)
        return [number - 1 for number in self._table.numbers or ()]

    def _row(self, number: int) -> Mapping[str, Any]:
        """Return the other columns of a row."""
        if not self._table.names:
            return {}
        place = bisect_left(self.numbers, number)
        known = place < len(self.numbers) and self.numbers[place] == number
        return self._table.rows[place] if known else {}

    def key(self, number: int) -> str:
        """Return the row's ``key`` or ``id`` if these are unique, else its number."""
        return str(plain(str(number if self._key is None else self._row(number)[self._key])))

    def metadata(self, number: int) -> tuple[Metadata, tuple[str, ...]]:
        """Return the other columns."""
        return {k: v for k, v in self._row(number).items() if k != self._key}, ()

    def size(self, number: int) -> int:
        """Return 0: only reading it tells."""
        del number
        return 0

    def read(self, number: int) -> bytes:
        """Return an image's bytes."""
        group = bisect_right(self._ends, number)
        place = number - (self._ends[group - 1] if group else 0)
        with self._lock:
            value = self._batch(group, place // self._BATCH)[place % self._BATCH].as_py()
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            status = self._row(number).get("status")
            detail = f" (status {status})" if status else ""
            raise ImageError(f"{self.path}#{number}: the row has no image{detail}")
        return value

    def _batch(self, group: int, number: int) -> Any:
        """Return the column of images in a batch of a row group.

        Raises:
            ArrowException: it, or one before it in the group, is broken.
        """
        wanted = group, number
        if wanted not in self._recent:
            if self._next[0] != group or number < self._next[1]:
                self._batches, self._next = self._read(group), (group, 0)
            while self._next <= wanted:
                self._recent[self._next] = next(self._batches)
                self._next = group, self._next[1] + 1
                while len(self._recent) > self._CACHED_BATCHES:
                    self._recent.popitem(last=False)
        return self._recent[wanted]

    def _read(self, group: int) -> Iterator[Any]:
        options = {"read_dictionary": self._leaves}  # an image that is repeated is kept once
        with open_parquet(self.path, **options) as file:
            for batch in file.iter_batches(self._BATCH, [group], [self._column], use_threads=False):
                yield batch.column(0)


def _with_suffix(files: Sequence[Path], suffix: str, given: Path) -> list[Path]:
    return [
        file
        for file in files
        if file.suffix.lower() == suffix and (file.is_file() or file == given)
    ]


def _open_parquet_shard(path: Path) -> Shard | None:
    column = image_column(path)
    return None if column is None else ParquetShard(path, column)


def _open_each(
    given: Path,
    files: Sequence[Path],
    open_shard: Callable[[Path], Shard | None],
    unread: dict[Path, SourceError],
) -> list[Shard]:
    """Open shards; of a folder, one that is broken is put in ``unread`` and costs no other."""
    shards = []
    for file in files:
        try:
            shard = open_shard(file)
        except SourceError as error:
            if file == given:
                raise
            unread[file.absolute()] = error
            continue
        if shard is not None:
            shards.append(shard)
    return shards


def open_shards(path: Path, options: SourceOptions) -> ShardSource | None:
    """Open a tar file or Parquet file of image bytes, or those in a folder; None if there is none.

    Of a folder with tar files, Parquet files are not read.

    Raises:
        SourceError: one cannot be read, or patterns are given for a Parquet file.
    """
    counter = SkipCounter()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    unread: dict[Path, SourceError] = {}

    def tar(file: Path) -> Shard:
        return TarShard(file, counter, options)

    shards = _open_each(path, _with_suffix(files, TAR, path), tar, unread)
    if not shards:
        shards = _open_each(path, _with_suffix(files, PARQUET, path), _open_parquet_shard, unread)
        if shards and (options.include or options.exclude):
            raise SettingError(
                "{include} and {exclude} are for files; the rows of a Parquet file have no names",
                include=None,
                exclude=None,
            )
    if unread and not shards:
        raise next(iter(unread.values()))
    used = {*(shard.path for shard in shards), *unread}
    for file in files:
        if file.absolute() not in used and not file.is_dir():
            hidden = file.name.startswith(".")
            counter.add(skipping.HIDDEN if hidden else skipping.NOT_IMAGE, file.name)
    reasons = {file: str(error).removeprefix(f"{file}: ") for file, error in unread.items()}
    return ShardSource.of(path, shards, counter, options, reasons) if shards else None


def _signature(path: Path, index: int) -> str:
    signature = file_signature(path)
    return signature and f"{signature}-{index}"
