"""Shards: tar files (WebDataset) and Parquet files of image bytes, as img2dataset writes them."""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from lookalike.errors import ImageError, SettingError, SourceError
from lookalike.files import check_regular, escape_name, valid_text
from lookalike.formatting import format_count
from lookalike.images.formats import supported_suffixes
from lookalike.metadata import json_values, plain
from lookalike.sources import skipping
from lookalike.sources.base import Item, source_name
from lookalike.sources.folder import file_signature
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.skipping import SkipCounter, Skipped, reason_to_skip
from lookalike.sources.tables import Table, read_table
from lookalike.types import Failure, Metadata

TAR = ".tar"
PARQUET = ".parquet"

_KEY_COLUMNS = ("key", "id")


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

    def metadata(self, number: int) -> Metadata:
        """Return the metadata of an image."""
        ...

    def read(self, number: int) -> bytes:
        """Return an image's bytes.

        Raises:
            ImageError: the row has no image.
            OSError: the file cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
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
    ) -> ShardSource:
        """Return the images of some shards; ``path`` is the only shard or their folder.

        ``counter`` has what is skipped in them.
        """
        path = path.absolute()
        name = source_name(path.resolve().name if path.is_dir() else path.stem)
        broken = [shard for shard in shards if shard.broken]
        return cls(
            path,
            shards,
            list(accumulate(len(shard.numbers) for shard in shards)),
            [Failure(escape_name(str(shard.path)), shard.broken) for shard in broken],
            [f"{name}:{escape_name(shard.path.stem)}/" for shard in broken],
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
        return Item(
            id=f"{self.name}:{escape_name(shard.path.stem)}/{shard.key(number)}",
            uri=f"{escape_name(str(shard.path))}#{number}",
            metadata=shard.metadata(number),
            read=partial(shard.read, number),
            signature=partial(_signature, shard.path, number),
            options=self.options.decoding,
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

    def __init__(self, path: Path, counter: SkipCounter, options: SourceOptions) -> None:
        self.path = path.absolute()
        self.broken = ""
        self._counter, self._options = counter, options
        self._readable = supported_suffixes()
        members: dict[str, _Member] = {}
        skipped: set[str] = set()
        try:
            check_regular(self.path)
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    self._add(member, members, skipped)
        except (tarfile.TarError, EOFError) as error:
            if not members:
                raise SourceError(f"{path}: not a readable tar file ({error})") from None
            self.broken = (
                f"damaged after {format_count(len(members), 'image')} ({error}); those are used"
            )
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
        self._members = {key: member for key, member in members.items() if member.image}
        for key in members.keys() - self._members.keys():
            parts = (members[key].metadata, members[key].caption)
            counter.add(skipping.ORPHAN, key, count=sum(part is not None for part in parts))
        self._keys = tuple(self._members)
        self.numbers: Sequence[int] = [n for n, key in enumerate(self._keys) if key not in skipped]
        self.skipped_keys = frozenset(skipped)
        self._file = os.open(self.path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def key(self, number: int) -> str:
        """Return the path within the tar, without its suffix."""
        return self._keys[number]

    def metadata(self, number: int) -> Metadata:
        """Return the fields of the ``.json`` and, as ``caption``, the text of the ``.txt``."""
        member = self._members[self._keys[number]]
        fields: dict[str, Any] = {}
        if member.caption:
            fields["caption"] = self._bytes(*member.caption).decode("utf-8", "replace").strip()
        if member.metadata:
            try:
                content = json_values(self._bytes(*member.metadata))
            except ValueError:
                content = None
            if isinstance(content, dict):
                fields |= {key: plain(value) for key, value in content.items()}
        return {key: value for key, value in fields.items() if value is not None and value != ""}

    def read(self, number: int) -> bytes:
        """Return an image's bytes."""
        image = self._members[self._keys[number]].image
        assert image is not None
        return self._bytes(*image)

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise OSError(f"the tar file ends {size - len(data):,} bytes too early")
        return data

    def _add(self, member: tarfile.TarInfo, members: dict[str, _Member], skipped: set[str]) -> None:
        """Add a member to those of its key, or count it as skipped."""
        if member.isdir():
            return
        name = escape_name(member.name)
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
        if not member.isfile():
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
        self._key = next((name for name in _KEY_COLUMNS if name in self._table.names), None)
        self._lock = Lock()
        self._recent: OrderedDict[int, list[Any]] = OrderedDict()
        self._batches: Iterator[list[Any]] = iter(())
        self._next = -1
        if self._key is not None:
            keys = [row.get(self._key) for row in self._table.rows]
            if len(set(map(str, keys))) < len(keys):
                self._key = None

    @property
    def numbers(self) -> Sequence[int]:
        """All rows."""
        return range(len(self._table.rows))

    def key(self, number: int) -> str:
        """Return the row's ``key`` or ``id`` if these are unique, else its number."""
        return valid_text(str(number if self._key is None else self._table.rows[number][self._key]))

    def metadata(self, number: int) -> Metadata:
        """Return the other columns."""
        return {k: v for k, v in self._table.rows[number].items() if k != self._key}

    def read(self, number: int) -> bytes:
        """Return an image's bytes."""
        with self._lock:
            value = self._batch(number // self._BATCH)[number % self._BATCH]
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            status = self._table.rows[number].get("status")
            detail = f" (status {status})" if status else ""
            raise ImageError(f"{self.path}#{number}: the row has no image{detail}")
        return value

    def _batch(self, number: int) -> list[Any]:
        if number not in self._recent:
            if number < self._next or self._next < 0:
                self._batches, self._next = self._read(), 0
            while self._next <= number:
                self._recent[self._next] = next(self._batches)
                self._next += 1
                while len(self._recent) > self._CACHED_BATCHES:
                    self._recent.popitem(last=False)
        return self._recent[number]

    def _read(self) -> Iterator[list[Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(self._BATCH, columns=[self._column]):
                yield batch.column(0).to_pylist()


def image_column(path: Path) -> str | None:
    """Return the column of a Parquet file that holds image bytes, or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(path)
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: broken Parquet ({str(error).splitlines()[0]})") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    return None


def open_shards(path: Path, options: SourceOptions) -> ShardSource | None:
    """Open a tar file or Parquet file of image bytes, or those in a folder; None if there is none.

    Of a folder with tar files, Parquet files are not read.

    Raises:
        SourceError: one cannot be read, or patterns are given for a Parquet file.
    """
    counter = SkipCounter()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    shards: list[Shard] = [
        TarShard(file, counter, options)
        for file in files
        if file.suffix.lower() == TAR and (file.is_file() or file == path)
    ]
    if not shards:
        columns = {
            file: image_column(file)
            for file in files
            if file.suffix.lower() == PARQUET and (file.is_file() or file == path)
        }
        shards = [ParquetShard(file, column) for file, column in columns.items() if column]
        if shards and (options.include or options.exclude):
            raise SettingError(
                "{include} and {exclude} are for files; the rows of a Parquet file have no names",
                include=None,
                exclude=None,
            )
    used = {shard.path for shard in shards}
    for file in files:
        if file.absolute() not in used and not file.is_dir():
            hidden = file.name.startswith(".")
            counter.add(skipping.HIDDEN if hidden else skipping.NOT_IMAGE, file.name)
    return ShardSource.of(path, shards, counter, options) if shards else None


def _signature(path: Path, index: int) -> str:
    signature = file_signature(path)
    return signature and f"{signature}-{index}"
