"""The IDX format, and IDX pairs as sources."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import SourceError
from lookalike.images import idx
from lookalike.sources import open_source


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([7, 8, 9], np.uint8)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    (tmp_path / "my-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
    (tmp_path / "my-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS)))
    return tmp_path / "my-images-idx3-ubyte"


def test_an_idx_pair_is_a_labeled_source(pair: Path) -> None:
    source = open_source(pair)
    assert [item.metadata["label"] for item in source] == ["7", "8", "9"]
    assert source[1].id == "my-images-idx3-ubyte:1"
    np.testing.assert_array_equal(source[2].image(), IMAGES[2])


def test_an_idx_file_without_labels_file_is_unlabeled(pair: Path) -> None:
    (pair.parent / "my-labels-idx1-ubyte.gz").unlink()
    assert open_source(pair)[0].metadata == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "not an IDX file"),
        (idx_bytes(IMAGES)[:-1], "implies 76 bytes, the file has 75"),
        (idx_bytes(IMAGES) + b"x", "implies 76 bytes, the file has 77"),
        (idx_bytes(LABELS), "has 1 dimension, images have 3"),
        (idx_bytes(IMAGES)[:9], "corrupt IDX file"),
    ],
)
def test_errors_of_corrupt_files_name_file_and_cause(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        idx.parse(data, dims=3, name="broken-file")
    assert str(caught.value).startswith("broken-file: ")


def test_a_broken_gzip_stream_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES))[:-9])
    with pytest.raises(SourceError, match=r"x-images-idx3-ubyte\.gz: cannot be read"):
        idx.read_bytes(path)


def test_numbers_of_labels_and_images_must_match(pair: Path) -> None:
    (pair.parent / "my-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:2]))
    with pytest.raises(SourceError, match="2 labels for the 3 images"):
        open_source(pair)
