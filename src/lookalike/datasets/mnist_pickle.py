"""Read MNIST from Nielsen's pickle: three (images, labels) pairs of numpy arrays.

A pickle can run arbitrary code, so this unpickler allows only the three names that numpy arrays
need. It is the only pickle that lookalike reads; it writes none.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import FetchError

_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise FetchError(f"the pickle refers to {module}.{name}; only numpy arrays are allowed")
        return _ALLOWED[module, name]


def idx_files_from_pickle(packed: bytes) -> Mapping[str, bytes]:
    """Return MNIST's four IDX files, by name, from the gzipped pickle.

    The pickle holds 50,000 + 10,000 training and 10,000 test images as float32 in [0, 1), each
    pixel divided by 256. The caller verifies the pinned checksums.

    Raises:
        FetchError: not this pickle.
    """
    try:
        pairs = _ArraysOnly(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
        (train, train_labels), (valid, valid_labels), (test, test_labels) = pairs
        splits = {
            "train": (
                np.concatenate([train, valid]),
                np.concatenate([train_labels, valid_labels]),
            ),
            "t10k": (test, test_labels),
        }
        return {
            name: data
            for stem, (images, labels) in splits.items()
            for name, data in _idx_files(stem, images, labels).items()
        }
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError) as error:
        raise FetchError(f"not the expected pickle of MNIST ({error})") from error


def _idx_files(stem: str, images: NDArray[Any], labels: NDArray[Any]) -> Mapping[str, bytes]:
    pixels = np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28)
    return {
        f"{stem}-images-idx3-ubyte": _idx(pixels),
        f"{stem}-labels-idx1-ubyte": _idx(labels.astype(np.uint8)),
    }


def _idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()
