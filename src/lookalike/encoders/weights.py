"""Learned arrays of an encoder, as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lookalike.errors import ArtifactError

WEIGHTS_FILE = "model.safetensors"


def write_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> Mapping[str, bytes]:
    """Return arrays as the one file that holds them, by file name."""
    # safetensors writes memory as it lies: columns first would be read back as rows.
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return {WEIGHTS_FILE: save_tensors(tensors)}


def read_arrays(
    description: Mapping[str, Any], files: Mapping[str, bytes]
) -> Mapping[str, NDArray[np.float32]]:
    """Return the arrays that :func:`write_arrays` wrote.

    Args:
        description: of the encoder; its name appears in messages.
        files: of the encoder, by name.

    Raises:
        ArtifactError: the file is missing or broken.
    """
    name = description["name"]
    if WEIGHTS_FILE not in files:
        raise ArtifactError(f"encoder {name!r}: its weights {WEIGHTS_FILE} are missing")
    try:
        return dict(load_tensors(files[WEIGHTS_FILE]))
    except SafetensorError as error:
        raise ArtifactError(
            f"encoder {name!r}: its weights {WEIGHTS_FILE} are broken ({error})"
        ) from error
