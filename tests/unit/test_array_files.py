"""Files of NumPy of others: the array, or ValueError, and no more memory than the file has."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.array_files import read_archive, read_array


def header(shape: str, descr: str = "'<f4'", body: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(["a", "ü"]),
        np.zeros((0, 5), np.uint8),
        np.float64(3),
    ],
    ids=["rows", "columns", "texts", "empty", "number"],
)
def test_arrays_are_read_as_they_were_saved(array: Any, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(saved(array))
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), array)
    np.savez_compressed(tmp_path / "a.npz", first=array)
    np.testing.assert_array_equal(read_archive(tmp_path / "a.npz")["first"], array)


@pytest.mark.parametrize(
    "data",
    [
        header("(1000000000000,)"),
        header("(1 << 62, 4)"),
        header("(-4,)", body=bytes(16)),
        header("(4,)", body=bytes(15)),
        header("(4,)", body=bytes(17)),
        header("(2,)", "'|O'", bytes(16)),
        header("(2,)", "[('a', '<f4')]", bytes(8)),
        header("'x'"),
        b"\x93NUMPY\x09\x00",
        b"",
        saved(np.array([{"a": 1}], object)),
    ],
)
def test_damaged_and_hostile_arrays_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"\S"):
        read_array(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("first.npy", data)
    with pytest.raises(ValueError, match=r"\S"):
        read_archive(tmp_path / "a.npz")


def test_archives_that_are_cut_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", first=np.arange(1_000))
    data = (tmp_path / "a.npz").read_bytes()
    for end in range(0, len(data) - 1, 29):
        (tmp_path / "a.npz").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"\S"):
            read_archive(tmp_path / "a.npz")
