"""The IDX file format of MNIST: a magic number, big-endian sizes, then raw bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SourceError
from lookalike.files import open_regular
from lookalike.formatting import format_count
from lookalike.images.memory import BUDGET

_UINT8 = 0x08
_MAGIC_BYTES = 4
_GZIP_MAGIC = b"\x1f\x8b"


def is_idx(path: Path) -> bool:
    """Return whether a file, gzipped or not, begins like an IDX file of bytes."""
    try:
        return _magic(path)[:3] == bytes([0, 0, _UINT8])
    except OSError:
        return False


def _magic(path: Path) -> bytes:
    with open_regular(path) as file:
        start = file.read(_MAGIC_BYTES)
        if start[:2] == _GZIP_MAGIC:
            file.seek(0)
            try:
                with gzip.open(file) as unpacked:
                    return unpacked.read(_MAGIC_BYTES)
            except (EOFError, zlib.error):
                return b""
    return start


def read_bytes(path: Path) -> bytes:
    """Return the decompressed bytes of a file, gzipped or not.

    Of an IDX file these are as many as its header implies, and one more if it has more.

    Raises:
        SourceError: the file cannot be read, its gzip stream is broken, or its header implies more
            than fits into memory.
    """
    try:
        with open_regular(path) as file:
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            with gzip.open(file) if is_packed else file as unpacked:
                return _read_implied(unpacked, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    except MemoryError:
        raise SourceError(f"{path}: cannot be read (not enough memory)") from None


def _read_implied(file: BinaryIO | gzip.GzipFile, name: str) -> bytes:
    start, limit = file.read(_MAGIC_BYTES), BUDGET.limit()
    if len(start) < _MAGIC_BYTES or start[:3] != bytes([0, 0, _UINT8]):
        data = start + file.read(limit)
        if len(data) > limit:
            raise SourceError(f"{name}: larger than the memory that may be used")
        return data
    start += file.read(4 * start[3])
    implied = math.prod(_shape(start))
    if implied > limit:
        raise SourceError(
            f"{name}: its header implies {implied // 10**6:,} MB, more than the "
            f"{limit // 10**6:,} MB of memory that may be used"
        )
    return start + file.read(implied + 1)


def _shape(header: bytes) -> tuple[int, ...]:
    sizes = header[_MAGIC_BYTES:]
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))


def parse(data: bytes, *, dims: int, name: str) -> NDArray[np.uint8]:
    """Return the array in an IDX file.

    Args:
        data: the whole file, decompressed.
        dims: expected number of dimensions: 3 for images ``(n, H, W)``, 1 for labels ``(n,)``.
        name: the file's name in errors.

    Returns:
        uint8, in the shape of the header.

    Raises:
        SourceError: another data type or number of dimensions, or a length that contradicts the
            header.
    """
    if len(data) < _MAGIC_BYTES or data[:3] != bytes([0, 0, _UINT8]):
        raise SourceError(
            f"{name}: not an IDX file of bytes (it begins with {data[:4].hex() or 'nothing'}, "
            f"expected 000008{dims:02x})"
        )
    if data[3] != dims:
        kind = "images" if dims == 3 else "labels"
        raise SourceError(f"{name}: has {format_count(data[3], 'dimension')}, {kind} have {dims}")
    start = _MAGIC_BYTES + 4 * dims
    shape = _shape(data[:start])
    expected = start + math.prod(shape)
    if len(shape) != dims or len(data) != expected:
        raise SourceError(
            f"{name}: corrupt IDX file: its header {shape} implies {expected:,} bytes, "
            f"the file has {len(data):,}"
        )
    try:
        return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
    except ValueError:  # no bytes at all, in as many rows and columns as numpy cannot count
        raise SourceError(f"{name}: corrupt IDX file: its header {shape} is impossible") from None


def find_labels_file(images: Path) -> Path | None:
    """Return the labels file beside an images file, by its name, if it exists."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images.name:
        return None
    stem = name.removesuffix(".gz")
    return next(
        (path for n in (name, stem, stem + ".gz") if (path := images.with_name(n)).is_file()), None
    )
