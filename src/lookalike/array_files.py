"""Arrays in files of NumPy that somebody else may have written: no pickles, no more than is there.

The header of such a file says how large the array is, and NumPy allocates that much before it reads
on. Here the header must agree with the size of the file.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.files import open_regular

_SUFFIX = ".npy"
_MAX_BYTES = 8 << 30
"""Bytes of one array."""


def read_array(path: Path) -> NDArray[Any]:
    """Return the array in an ``.npy`` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is broken, or its array is not of plain numbers or texts.
    """
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _read(file, size)


def read_archive(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return the arrays in an ``.npz`` file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is broken, or an array is not of plain numbers or texts.
    """
    arrays = {}
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(_SUFFIX)] = _read(stream, member.file_size)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(str(error)) from error
    except OSError:
        raise
    except Exception as error:  # zlib.error, lzma.LZMAError, RuntimeError of encrypted members
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array from a file of so many bytes."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"format {version} of NumPy's files")
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "biufcUS":
        raise ValueError(f"an array of {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + expected != size or expected > _MAX_BYTES:
        raise ValueError(f"{size:,} bytes for an array of shape {shape}")
    data = file.read(expected)
    if len(data) != expected:
        raise ValueError("cut off")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
