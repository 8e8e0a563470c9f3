"""Learned arrays of an encoder, as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lookalike.documents import Fields
from lookalike.encoders.base import require_file
from lookalike.errors import ArtifactError

WEIGHTS_FILE = "model.safetensors"


def write_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> Mapping[str, bytes]:
    """Return arrays as the one file that holds them, by file name."""
    # safetensors writes memory as it lies: columns first would be read back as rows.
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return {WEIGHTS_FILE: save_tensors(tensors)}


def read_arrays(
    description: Fields, files: Mapping[str, bytes], shapes: Mapping[str, tuple[int | None, ...]]
) -> Mapping[str, NDArray[np.float32]]:
    """Return the arrays that :func:`write_arrays` wrote.

    Args:
        description: of the encoder; its name appears in messages.
        files: of the encoder, by name.
        shapes: of the arrays, by name; None where any length will do.

    Raises:
        ArtifactError: the file or an array is missing or broken, or has another shape or type, or
            numbers that are not finite.
    """
    data = require_file(description, files, WEIGHTS_FILE)
    try:
        arrays = dict(load_tensors(data))
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _broken(description, str(error)) from error
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None or array.dtype != np.float32 or array.ndim != len(shape):
            raise _broken(description, f"no array {name} of float32 with {len(shape)} dimensions")
        if any(wanted not in (None, size) for wanted, size in zip(shape, array.shape, strict=True)):
            raise _broken(description, f"{name} has the shape {array.shape}")
        if not np.isfinite(array).all():
            raise _broken(description, f"{name} has numbers that are not finite")
    return {name: arrays[name] for name in shapes}


def _broken(description: Fields, reason: str) -> ArtifactError:
    name = description.text("name")
    return ArtifactError(
        f"{description.place}: the weights {WEIGHTS_FILE} of encoder {name!r} are broken "
        f"({' '.join(reason.split())[:200]}); {description.hint}"
    )
