"""Shards: tar files (WebDataset) and Parquet files of image bytes, as img2dataset writes them."""

from __future__ import annotations

import json
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

from lookalike.errors import ImageError, SourceError
from lookalike.images.decode import supported_suffixes
from lookalike.sources.base import Item, source_name
from lookalike.sources.folder import file_signature
from lookalike.sources.tables import Table, plain, read_table
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

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Return the key of an image, unique within the shard."""
        ...

    def metadata(self, index: int) -> Metadata:
        """Return the metadata of an image."""
        ...

    def read(self, index: int) -> bytes:
        """Return an image's bytes.

        Raises:
            ImageError: the row has no image.
            OSError: the file cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class ShardSource:
    """The images of one shard, or of all those in a folder, in sorted order.

    An item's key is the shard's name, a slash and the key within it.
    """

    path: Path
    shards: Sequence[Shard]
    ends: Sequence[int]
    problems: Sequence[Failure]
    unlisted_prefixes: Sequence[str]
    name: str

    @classmethod
    def of(cls, path: Path, shards: Sequence[Shard]) -> ShardSource:
        """Return the images of some shards; ``path`` is the only shard or their folder."""
        path = path.absolute()
        name = source_name(path.resolve().name if path.is_dir() else path.stem)
        broken = [shard for shard in shards if shard.broken]
        return cls(
            path,
            shards,
            list(accumulate(map(len, shards))),
            [Failure(str(shard.path), shard.broken) for shard in broken],
            [f"{name}:{shard.path.stem}/" for shard in broken],
            name,
        )

    @property
    def spec(self) -> str:
        """The absolute path."""
        return str(self.path)

    @property
    def base(self) -> str:
        """The absolute path."""
        return self.spec

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        number = bisect_right(self.ends, index)
        shard = self.shards[number]
        within = index - (self.ends[number - 1] if number else 0)
        return Item(
            id=f"{self.name}:{shard.path.stem}/{shard.key(within)}",
            uri=f"{shard.path}#{within}",
            metadata=shard.metadata(within),
            read=partial(shard.read, within),
            signature=partial(_signature, shard.path, within),
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
    only; images are read by offset, on access.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.broken = ""
        members: dict[str, _Member] = {}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        self._add(member, members)
        except (tarfile.TarError, EOFError) as error:
            if not members:
                raise SourceError(f"{path}: not a readable tar file ({error})") from None
            self.broken = f"damaged after {len(members):,} images ({error}); those are used"
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
        self._members = {key: member for key, member in members.items() if member.image}
        self._keys = tuple(self._members)
        self._file = os.open(self.path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the path within the tar, without its suffix."""
        return self._keys[index]

    def metadata(self, index: int) -> Metadata:
        """Return the fields of the ``.json`` and, as ``caption``, the text of the ``.txt``."""
        member = self._members[self._keys[index]]
        fields: dict[str, Any] = {}
        if member.caption:
            fields["caption"] = self._bytes(*member.caption).decode("utf-8", "replace").strip()
        if member.metadata:
            try:
                content = json.loads(self._bytes(*member.metadata))
            except ValueError:
                content = None
            if isinstance(content, dict):
                fields |= {key: plain(value) for key, value in content.items()}
        return {key: value for key, value in fields.items() if value is not None and value != ""}

    def read(self, index: int) -> bytes:
        """Return an image's bytes."""
        image = self._members[self._keys[index]].image
        assert image is not None
        return self._bytes(*image)

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise OSError(f"the tar file ends {size - len(data):,} bytes too early")
        return data

    def _add(self, member: tarfile.TarInfo, members: dict[str, _Member]) -> None:
        folder, _, base = member.name.rpartition("/")
        stem, dot, rest = base.partition(".")
        if not dot or not stem:
            return
        key = f"{folder}/{stem}" if folder else stem
        suffix = f".{rest.lower()}"
        extent = (member.offset_data, member.size)
        if suffix in supported_suffixes():
            entry = members.setdefault(key, _Member())
            if entry.image is not None:
                raise SourceError(f"{self.path}: two images with the key {key!r}")
            entry.image = extent
        elif suffix == ".json":
            members.setdefault(key, _Member()).metadata = extent
        elif suffix == ".txt":
            members.setdefault(key, _Member()).caption = extent


class ParquetShard:
    """A Parquet file with the bytes of an image in each row; the other columns are metadata.

    Rows are read sequentially in small batches; the latest batches stay in memory for the threads
    that read ahead.
    """

    broken = ""
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

    def __len__(self) -> int:
        return len(self._table.rows)

    def key(self, index: int) -> str:
        """Return the row's ``key`` or ``id`` if these are unique, else its number."""
        return str(index if self._key is None else self._table.rows[index][self._key])

    def metadata(self, index: int) -> Metadata:
        """Return the other columns."""
        return {k: v for k, v in self._table.rows[index].items() if k != self._key}

    def read(self, index: int) -> bytes:
        """Return an image's bytes."""
        with self._lock:
            value = self._batch(index // self._BATCH)[index % self._BATCH]
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            status = self._table.rows[index].get("status")
            detail = f" (status {status})" if status else ""
            raise ImageError(f"{self.path}#{index}: the row has no image{detail}")
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
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: broken Parquet ({str(error).splitlines()[0]})") from None
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    return None


def shards_in(folder: Path) -> ShardSource | None:
    """Return the shards in a folder: its tar files, or else its Parquet files of image bytes."""
    tars = sorted(folder.glob(f"*{TAR}"))
    if tars:
        return ShardSource.of(folder, [TarShard(path) for path in tars])
    files = [(path, image_column(path)) for path in sorted(folder.glob(f"*{PARQUET}"))]
    shards = [ParquetShard(path, column) for path, column in files if column is not None]
    return ShardSource.of(folder, shards) if shards else None


def _signature(path: Path, index: int) -> str:
    signature = file_signature(path)
    return signature and f"{signature}-{index}"
